"""`tablecast import`: a published data set into a neutral dataset directory."""

from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from models.dataset import DatasetError, Meta, check_new
from ops.terminal import Terminal

from .importers import FORMATS, SourceError

HELP = "Turn a published data set into a directory that train and evaluate read.\n\nFormats:\n\n" + "\n\n".join(
    f"{name}: {form.description}. Example: {form.example}" for name, form in FORMATS.items()
)


def import_dataset(
    format_name: Annotated[str, typer.Argument(metavar="FORMAT", help=f"One of {', '.join(FORMATS)}.")],
    source: Annotated[Path, typer.Argument(help="File or directory, as it was downloaded and unpacked.")],
    destination: Annotated[Path, typer.Argument(help="Directory to make; absent or empty before.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    form = FORMATS.get(format_name)
    if form is None:
        fail(f"unknown format {format_name!r}; known are {', '.join(FORMATS)}")
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Terminal(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=total)

        try:
            check_new(destination)
            meta = form.run(source, destination, show)
        except (SourceError, DatasetError) as error:
            bars.stop()
            fail(str(error))
        except OSError as error:  # of looking at the source
            bars.stop()
            fail(f"{error.filename} can't be read: {error.strerror}")
    if as_json:
        summary = {"destination": str(destination), **msgspec.to_builtins(meta)}
        typer.echo(msgspec.json.encode(summary).decode())
    else:
        typer.echo(describe(destination, meta))


import_dataset.__doc__ = HELP  # which names the formats there are


def describe(destination: Path, meta: Meta) -> str:
    """Say what was written, and what was left out why, for people."""
    counts = f"{meta.items:,} items, {meta.interactions:,} interactions, {meta.requests:,} requests"
    lines = [f"{destination}: {counts} ({meta.protocol})"]
    if meta.rows_bad:
        lines.append(f"{sum(meta.rows_bad.values()):,} of {meta.rows_read:,} rows were left out:")
        lines += [f"  {count:,} x {reason}" for reason, count in sorted(meta.rows_bad.items())]
    return "\n".join(lines)


def fail(sentence: str) -> NoReturn:
    typer.echo(f"tablecast import: {sentence}", err=True)
    raise typer.Exit(2)
