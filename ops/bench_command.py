"""``tablecast bench``: latency, throughput and profile of the running system."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from ops.bench.ablations_command import ablations
from ops.bench.campaign_command import alerts, campaign, catalogue, dead_letters, race, replays
from ops.bench.learning_command import learning
from ops.bench.statistics_command import canary, off_policy
from ops.bench.strategies_command import strategies
from ops.errors import explained
from ops.terminal import Terminal

if TYPE_CHECKING:
    from ops.simulator.world import World
    from streams.settings import Settings

app = typer.Typer(help="Measure the running system, beside the floor of the bare libraries.", no_args_is_help=True)
for command in (campaign, race, catalogue, alerts, strategies, ablations, off_policy, canary, learning):
    app.command()(command)
app.command("deadletters")(dead_letters)
app.command("replay")(replays)

Requests = Annotated[int, typer.Option(min=100, max=100_000, help="Requests in a round.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
TOP = 25


@app.command()
def latency(
    *,
    rate: Annotated[float, typer.Option(min=0.1, max=10_000, help="Requests per second.")] = 20.0,
    seconds: Annotated[float, typer.Option(min=1, help="How long, at each rate.")] = 60.0,
    requests: Annotated[int, typer.Option(min=100, help="How many are posted at once first.")] = 1_000,
    as_json: AsJson = False,
) -> None:
    """Measure from request acknowledged to recommendation read, at a rate and at half of what can be answered live.

    Example: tablecast bench latency --rate 20 --seconds 60
    """
    from ops.bench.latency import measure_latency

    with explained():
        settings, world = _prepare()
        with _progress() as say:
            at_once, one_by_one, runs = asyncio.run(measure_latency(settings, world, rate, seconds, requests, say))
    results = [
        {
            "rate": run.rate,
            "asked": run.asked,
            "answered": len(run.total),
            "cpu_cores": run.cpu,
            "milliseconds": run.quantiles(),
        }
        for run in runs
    ]
    if as_json:
        _print_json({"posted_at_once_per_second": at_once, "capacity_requests_per_second": one_by_one, "runs": results})
        return
    _print_machine()
    for run in runs:
        table = Table(
            "milliseconds", "p50", "p90", "p99", title=f"{run.rate:.1f} requests a second, {run.asked:,} asked"
        )
        for name, quantiles in run.quantiles().items():
            table.add_row(name, *(f"{value:,.1f}" for value in quantiles.values()))
        Terminal().print(table)
        cores = ", ".join(f"{name} {share:.0%}" for name, share in run.cpu.items())
        Terminal().print(f"of one core: {cores}")
    Terminal().print(f"capacity: {one_by_one:,.1f} requests a second one by one, {at_once:,.1f} posted at once")


@app.command()
def throughput(
    *,
    requests: Requests = 2_000,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rounds; figures are their medians.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Measure each stage alone and the bare libraries on the same records, in turn, and then everything at once.

    Example: tablecast bench throughput --requests 2000 --rounds 3 --json
    """
    from ops.bench.throughput import measure_throughput

    with explained():
        settings, world = _prepare()
        with _progress() as say:
            result = asyncio.run(measure_throughput(settings, world, requests, rounds, say))
    if as_json:
        _print_json(result.figures())
        return
    _print_machine()
    table = Table("figure", "median", title=f"{rounds} rounds of {requests:,} requests")
    for name, value in result.figures().items():
        shown = f"{value:.1%}" if "share" in name else f"{value:,.3f}" if "ms" in name.split("_") else f"{value:,.0f}"
        table.add_row(name.replace("_", " "), shown)
    Terminal().print(table)


@app.command()
def profile(
    stage: Annotated[Literal["state", "inference"], typer.Argument(help="Which stage.")],
    *,
    requests: Requests = 1_000,
    stacks: Annotated[
        Path | None, typer.Option(help="Also write all stacks, collapsed, as flame graph tools read them.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show where a stage's time goes while it works off a backlog.

    Example: tablecast bench profile state --stacks state.stacks
    """
    from ops.bench.profile import profile_stage

    with explained():
        settings, world = _prepare()
        result = asyncio.run(profile_stage(settings, world, stage, requests))
        if stacks is not None:
            stacks.write_text(result.collapsed(), encoding="utf-8")
    shares = sorted(result.shares(), key=lambda row: -row[1])
    if as_json:
        _print_json(
            {
                "stage": stage,
                "events": result.events,
                "seconds": result.seconds,
                "samples": result.samples,
                "thread_cpu_seconds": result.thread_seconds,
                "functions": [{"function": f, "own": own, "cumulative": total} for f, own, total in shares[:TOP]],
            }
        )
        return
    _print_machine()
    for title, rows in (
        ("by own time", shares),
        ("by time with what it calls", sorted(shares, key=lambda row: -row[2])),
    ):
        table = Table("own", "cumulative", "function", title=f"{stage} stage, {title}")
        for name, own, total in rows[:TOP]:
            table.add_row(f"{own:.1%}", f"{total:.1%}", name)
        Terminal().print(table)
    threads = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in sorted(result.thread_seconds.items()))
    Terminal().print(f"{result.events:,} records in {result.seconds:.1f} s; processor time by thread: {threads}")


@app.command()
def swaps(
    *,
    times: Annotated[int, typer.Option(min=1, max=1000, help="Models to announce, one after the other.")] = 30,
    requests: Annotated[int, typer.Option(min=100, help="Requests that the capacity is measured with.")] = 1_000,
    as_json: AsJson = False,
) -> None:
    """Announce model after model at 60% of capacity; count lost and repeated answers, and compare latencies.

    Exit code 1 when a request was not answered exactly once, or p99 during swaps is more than twice that outside.

    Example: tablecast bench swaps --times 30 --json
    """
    from ops.bench.swaps import measure_swaps

    with explained():
        settings, world = _prepare()
        with _progress() as say:
            result = asyncio.run(measure_swaps(settings, world, times, requests, say))
    figures, faults = result.figures(), result.faults()
    if as_json:
        _print_json({**figures, "faults": faults})
    else:
        _print_machine()
        table = Table("figure", "", title=f"{times} swaps")
        for name, value in figures.items():
            table.add_row(name.replace("_", " "), f"{value:,.1f}" if value % 1 else f"{value:,.0f}")
        Terminal().print(table)
    for fault in faults:
        typer.echo(fault, err=True)
    if faults:
        raise typer.Exit(1)


@app.command()
def rollback(
    *,
    share: Annotated[float, typer.Option(min=0.01, max=0.9, help="Of users who get the canary.")] = 0.5,
    users: Annotated[int, typer.Option(min=1_000, help="Simulated people; each counts once.")] = 20_000,
    restaurants: Annotated[int, typer.Option(min=1, help="Simulated restaurants.")] = 2_000,
    requests: Annotated[int, typer.Option(min=200, help="Given up after so many for a canary.")] = 20_000,
    rate: Annotated[float, typer.Option(min=0.01, help="Requests per second of event time.")] = 0.25,
    as_json: AsJson = False,
) -> None:
    """Make a sabotaged model canary, then a healthy one, and see whether they are told apart without help.

    Runs stages of its own on topics of its own. Exit code 1 when either is judged wrongly, or not at all.

    Example: tablecast bench rollback --share 0.5
    """
    from ops.bench.rollback import measure_rollback
    from ops.simulator.world import build_world
    from streams.logs import configure_logs
    from streams.settings import load_settings

    with explained():
        settings = load_settings()
        configure_logs("bench", "error")
        world = build_world(users=users, restaurants=restaurants)
        with _progress() as say:
            results = asyncio.run(measure_rollback(settings, world, share, requests, rate, say))
    if as_json:
        _print_json({"canaries": [judged.figures() for judged in results]})
    else:
        _print_machine()
        table = Table("", *(judged.name for judged in results), title=f"canaries for {share:.0%} of the users")
        for name in list(results[0].figures())[1:]:
            table.add_row(name.replace("_", " "), *(str(judged.figures()[name]) for judged in results))
        Terminal().print(table)
    if any(judged.decision != judged.wanted for judged in results):
        raise typer.Exit(1)


def _prepare() -> "tuple[Settings, World]":
    from ops.simulator.world import build_world
    from streams.logs import configure_logs
    from streams.settings import load_settings

    settings = load_settings()
    configure_logs("bench", "error")
    return settings, build_world()


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Say what is going on: in one line that changes on a terminal, else in a line each."""
    console = Terminal(stderr=True)
    if not console.is_terminal:
        yield console.print
        return
    with console.status("") as status:
        yield status.update


def _print_machine() -> None:
    from ops.bench.machine import machine

    Terminal().print(", ".join(f"{name} {value}" for name, value in machine().items()), style="dim")


def _print_json(figures: dict[str, Any]) -> None:
    from ops.bench.machine import machine

    typer.echo(json.dumps({"machine": machine(), **figures}))
