"""From errors that a person can put right to one sentence and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from aiokafka.errors import KafkaConnectionError

from schemas.errors import ExplainedError


@contextmanager
def explained() -> Iterator[None]:
    """Turn what the block raises for people into one sentence on standard error: exit code 2 for bad input, else 1.

    Anything else is a fault of the program and keeps its traceback.
    """
    try:
        yield
    except KafkaConnectionError as error:
        typer.echo(f"Kafka can't be reached ({error}): check kafka.bootstrap, or run `tablecast up`", err=True)
        raise typer.Exit(ExplainedError.exit_code) from error
    except ExplainedError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from error
