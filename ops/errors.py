"""From errors that a person can put right to one sentence and an exit code."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from aiokafka.errors import KafkaConnectionError, KafkaError, NodeNotReadyError

from schemas.errors import BadInputError, ExplainedError
from streams.refusals import denied, unreachable
from streams.settings import load_settings


@contextmanager
def explained() -> Iterator[None]:
    """Turn what the block raises for people into one sentence on standard error: exit code 2 for bad input, else 1.

    Anything else is a fault of the program and keeps its traceback.
    """
    try:
        yield
    except KafkaError as error:
        kafka = load_settings().kafka
        sentence, code = denied(kafka, error), ExplainedError.exit_code
        if sentence is None and isinstance(error, KafkaConnectionError | NodeNotReadyError):
            sentence = asyncio.run(unreachable(kafka)) if kafka.bootstrap else f"Kafka can't be reached ({error})"
            code = BadInputError.exit_code
        if sentence is None:
            raise
        for clients in ("aiokafka", "asyncio"):  # what those that are given up say of themselves would hide it
            logging.getLogger(clients).setLevel(logging.CRITICAL)
        typer.echo(sentence, err=True)
        raise typer.Exit(code) from error
    except ExplainedError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from error
    except OSError as error:
        if error.filename is None:
            raise
        typer.echo(f"{error.filename}: {error.strerror}", err=True)  # a read-only folder, a file that is a folder
        raise typer.Exit(BadInputError.exit_code) from error
