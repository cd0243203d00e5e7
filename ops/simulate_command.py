"""``tablecast simulate``: let the simulated city live on the cluster, or print what it would post."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.live import Live
from rich.table import Table

from ops.cluster import connected
from ops.errors import explained
from ops.progress import progress_bar
from ops.terminal import Terminal

if TYPE_CHECKING:
    from ops.simulator.events import Event
    from ops.simulator.publish import Statistics

PRINTED_START_MS = 1_788_220_800_000  # Tuesday 2026-09-01, 08:00 in Shanghai


def simulate(
    *,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same city, people and wishes.")] = 1,
    users: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many people.")] = 3_000,
    restaurants: Annotated[int, typer.Option(min=1, max=99_999, help="How many restaurants.")] = 2_000,
    rate: Annotated[float, typer.Option(min=0.001, max=100_000, help="Requests per second.")] = 5.0,
    duration: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds; without it, until interrupted.", show_default=False)
    ] = None,
    print_only: Annotated[
        bool,
        typer.Option("--print", help="Print the records as JSON lines instead of posting them; needs no broker."),
    ] = False,
    dataset: Annotated[
        Path | None, typer.Option(help="Write the city's life into a new neutral dataset directory instead.")
    ] = None,
    days: Annotated[int, typer.Option(min=3, max=3650, help="Of life in the dataset.")] = 42,
    as_json: Annotated[bool, typer.Option("--json", help="Print the final figures as JSON.")] = False,
) -> None:
    """Simulate a city: people ask for restaurants, see what is recommended and act on it.

    Everything in it is made up. Posts to the configured cluster in real time; the figures include the true click
    rate, which only a simulation can know.

    Example: tablecast simulate --rate 20 --duration 60 --json

    Example: tablecast simulate --print --duration 10 | grep users.requests

    Example: tablecast simulate --dataset data/city --days 42
    """
    from ops.simulator.events import catalogue, events
    from ops.simulator.publish import Statistics, run_simulation
    from ops.simulator.world import build_world
    from streams.logs import configure_logs
    from streams.settings import load_settings

    if dataset is not None:
        _write(dataset, seed, users, restaurants, days, as_json=as_json)
        return
    if print_only:
        world = build_world(seed, users=users, restaurants=restaurants)
        until_ms = None if duration is None else PRINTED_START_MS + int(duration * 1000)
        _print(catalogue(world, PRINTED_START_MS))
        _print(events(world, PRINTED_START_MS, rate, until_ms=until_ms, daily_rhythm=False))
        return

    statistics = Statistics()
    terminal = Terminal(stderr=True)

    async def run() -> None:
        world = await asyncio.to_thread(build_world, seed, users=users, restaurants=restaurants)
        view = Live(console=terminal, get_renderable=lambda: _figures(statistics), refresh_per_second=2, transient=True)
        with view if terminal.is_terminal else contextlib.nullcontext():
            await run_simulation(settings, world, rate=rate, duration=duration, statistics=statistics)

    with explained():
        settings = connected(load_settings())
        configure_logs("simulator", settings.log_level)
        with contextlib.suppress(KeyboardInterrupt):  # the usual end of a run without a duration
            asyncio.run(run())
    if as_json:
        typer.echo(json.dumps(statistics.summary()))
    else:
        Terminal().print(_figures(statistics))


def _write(directory: Path, seed: int, users: int, restaurants: int, days: int, *, as_json: bool) -> None:
    from models.dataset import check_new
    from ops.simulator.dataset import write_city
    from ops.simulator.world import build_world

    with explained(), progress_bar() as bar:
        check_new(directory)
        task = bar.add_task("days", total=days)
        world = build_world(seed, users=users, restaurants=restaurants)
        meta = write_city(
            directory, world, PRINTED_START_MS, days, lambda done, of: bar.update(task, completed=done, total=of)
        )
    if as_json:
        typer.echo(json.dumps({"destination": str(directory), **msgspec.to_builtins(meta)}))
    else:
        counts = f"{meta.items:,} items, {meta.interactions:,} interactions, {meta.requests:,} requests"
        Terminal().print(f"{directory}: {counts} ({meta.protocol})")


def _print(events: Iterable["Event"]) -> None:
    try:
        for event in events:
            row = {"event_time": event.time_ms, "topic": event.topic.name, "key": event.key, "value": event.record}
            sys.stdout.buffer.write(msgspec.json.encode(row) + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # `| head` has seen enough; keep the interpreter from flushing into it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None


def _figures(statistics: "Statistics") -> Table:
    table = Table("", "simulation", show_header=False)
    for name, value in statistics.summary().items():
        shown = "-" if value is None else f"{value:,.4f}" if name.endswith("rate") else f"{value:,.0f}"
        table.add_row(name.replace("_", " "), shown)
    return table
