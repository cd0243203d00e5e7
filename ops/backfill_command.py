"""``tablecast backfill``: user state or training examples, made once more from the recorded past."""

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from ops.cluster import connected
from ops.errors import explained
from ops.progress import progress_bar
from ops.terminal import Terminal
from streams.logs import configure_logs
from streams.settings import load_settings

if TYPE_CHECKING:
    from ops.backfill import Backfill

VERDICTS = {
    "same": "as they are",
    "changed": "differ",
    "added": "not there yet",
    "removed": "not made again",
    "kept": "stay: history does not reach them",
}


def backfill(
    what: Annotated[Literal["state", "retraining"], typer.Argument(help="What to make once more.")],
    *,
    switch: Annotated[bool, typer.Option("--switch", help="Put what was made in the place of what is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Make user state, or training examples, anew from the recorded topics, and compare them with what is there.

    Writes fresh topics that are deleted in the end; the running system is only read. With --switch the live topics get
    what was made: the state stage (for retraining: the trainer) must be stopped meanwhile.

    Example: tablecast backfill state

    Example: tablecast backfill retraining --switch
    """
    from ops.backfill import backfill as make

    with explained():
        configure_logs("backfill", "error")
        settings = connected(load_settings())
        with progress_bar() as bar:
            task = bar.add_task("records", total=None)

            def watch(read: int, total: int) -> None:
                bar.update(task, completed=read, total=total)

            done = asyncio.run(make(settings, what, switch=switch, watch=watch))
    if as_json:
        typer.echo(json.dumps(vars(done)))
    else:
        _print(what, done)


def _print(what: str, done: "Backfill") -> None:
    console = Terminal()
    table = Table("topic", *VERDICTS.values(), title=f"{what}, from {done.records:,} records")
    for topic, counts in done.counts.items():
        table.add_row(topic, *(f"{counts[verdict]:,}" for verdict in VERDICTS))
    console.print(table)
    if done.leftovers:
        console.print(f"{done.leftovers} topics of a backfill that was killed have been deleted", style="yellow")
    if done.missing:
        console.print(f"retention has taken the beginning of {', '.join(done.missing)}", style="yellow")
    console.print("the live topics have it now: start the stage again" if done.switched else "nothing live was changed")
