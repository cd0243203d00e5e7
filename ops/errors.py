"""From exceptions that a person can do something about to one sentence and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from aiokafka.errors import KafkaConnectionError

BAD_INPUT = 2  # wrong arguments, settings or files
FAILED = 1


@contextmanager
def explained() -> Iterator[None]:
    """Turn known errors of the block into one sentence on standard error: exit code 2 for bad input, 1 for the rest."""
    try:
        yield
    except KafkaConnectionError as error:
        typer.echo(f"Kafka can't be reached ({error}): check kafka.bootstrap, or run `tablecast up`", err=True)
        raise typer.Exit(FAILED) from error
    except (ValueError, LookupError, FileNotFoundError) as error:
        typer.echo(f"{error}", err=True)
        raise typer.Exit(BAD_INPUT) from error
