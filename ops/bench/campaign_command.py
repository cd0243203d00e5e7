"""``tablecast bench campaign | race | catalogue | deadletters | replay | alerts``: promises, put to the test."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ops.errors import explained
from ops.terminal import Terminal
from schemas.errors import ExplainedError
from streams.logs import configure_logs
from streams.settings import load_settings

AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


class KillableStage(StrEnum):
    """Stages that a campaign can kill."""

    STATE = "state"
    INFERENCE = "inference"


def campaign(
    *,
    requests: Annotated[int, typer.Option(min=100, help="Posted at once, poisonous ones included.")] = 20_000,
    kill: Annotated[
        list[KillableStage] | None,
        typer.Option(help="Kill this stage in the middle of its work; may be repeated.", show_default=False),
    ] = None,
    poison: Annotated[float, typer.Option(min=0, max=1, help="Share of the requests that is poisonous.")] = 0.01,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same city and the same poison.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Post many requests at once, poison among them, kill stages meanwhile, and count the answers.

    Runs stages of its own on topics of its own, which are deleted afterwards. Exit code 1 when a valid request was not
    answered exactly once, a poisonous one is not in `deadletters`, or anything else that was promised does not hold.

    Example: tablecast bench campaign --requests 2000

    Example: tablecast bench campaign --kill state --kill inference --json
    """
    from ops.bench.campaign import run_campaign

    with _watched("answers", requests) as progress:
        report = asyncio.run(
            run_campaign(
                load_settings(),
                requests=requests,
                poison_fraction=poison,
                kill=kill or (),
                seed=seed,
                progress=progress,
            )
        )
    _print(asdict(report), report.faults, as_json=as_json)


def race(
    *,
    tries: Annotated[int, typer.Option(min=1, help="Contexts and requests to post.")] = 1_000,
    as_json: AsJson = False,
) -> None:
    """Post a context, then at once a request that must see it, again and again; tell what the wait for it costs.

    Exit code 1 when a request did not see the context that was acknowledged before it was posted.

    Example: tablecast bench race --tries 1000
    """
    from ops.bench.context_race import context_race

    with _watched("tries", tries) as progress:
        report = asyncio.run(context_race(load_settings(), tries, progress))
    misses = report.misses
    faults = [f"{misses} of {tries} requests did not see the context posted before them"] if misses else []
    _print(asdict(report), faults, as_json=as_json)


def catalogue(
    *,
    items: Annotated[int, typer.Option(min=1, help="New items to put through all changes.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Post items, take them away, and measure how soon recommendations follow.

    Exit code 1 when a change took a second or more to show, or an item was recommended after it was gone.

    Example: tablecast bench catalogue --items 30
    """
    from ops.bench.catalogue_live import run_catalogue

    with _watched("items", items) as progress:
        report = asyncio.run(run_catalogue(load_settings(), items, progress=progress))
    _print(asdict(report), report.faults, as_json=as_json)


def dead_letters(
    *,
    letters: Annotated[int, typer.Option(min=7, help="Poisonous requests of all kinds.")] = 1_000,
    as_json: AsJson = False,
) -> None:
    """Have requests dead-lettered, count the reasons, correct and retry them twice over, and count the answers.

    Exit code 1 when a reason was counted wrong, or a corrected request was not answered exactly once.

    Example: tablecast bench deadletters --letters 1000
    """
    from ops.bench.dead_letters import run_dead_letters

    with _watched("retried", letters) as progress:
        report = asyncio.run(run_dead_letters(load_settings(), letters, progress))
    _print(asdict(report), report.faults, as_json=as_json)


def alerts(*, as_json: AsJson = False) -> None:
    """Stop and start each stage under a real Prometheus with the project's rules; tell when the alert fires and clears.

    Needs `prometheus` on the PATH; takes about four minutes. Exit code 1 when an alert does not fire, or stays.

    Example: tablecast bench alerts --json
    """
    from ops.bench.alerts import run_alerts
    from ops.bench.deployment import STAGES

    with _watched("stages", len(STAGES)) as progress:
        report = asyncio.run(run_alerts(load_settings(), progress))
    _print(asdict(report), report.faults, as_json=as_json)


def replays(
    *,
    requests: Annotated[int, typer.Option(min=20, help="Recorded live, then replayed.")] = 10_000,
    model: Annotated[str, typer.Option(help="Another model to compare with: shipped, base or a folder.")] = "base",
    as_json: AsJson = False,
) -> None:
    """Answer requests live, stages killed meanwhile, replay them in four ways, and compare: exactness, speed, memory.

    Exit code 1 when a replay of joined requests by the same model was not the same byte for byte apart from timings.

    Example: tablecast bench replay --requests 10000 --json
    """
    from ops.bench.replay import run_replays
    from ops.replay.command import print_comparison

    with _watched("replayed", requests) as progress:
        report = asyncio.run(run_replays(load_settings(), requests, model, progress))
    if not as_json:
        for name, run in report.runs.items():
            Terminal().rule(name)
            print_comparison(run.comparison)
    runs = {
        name: f"{run.requests_per_second:,} requests a second; resident, MiB: {run.megabytes}"
        for name, run in report.runs.items()
    }
    figures = report.figures() if as_json else {**vars(report), "runs": len(runs), **runs}
    _print(figures, report.faults, as_json=as_json)


def _print(figures: Mapping[str, Any], faults: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**figures, "faults": faults}, ensure_ascii=False))
    else:
        table = Table("", "", show_header=False)
        for name, value in figures.items():
            if name != "faults":
                table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int | float) else f"{value}")
        Terminal().print(table)
    for fault in faults:
        typer.echo(fault, err=True)
    if faults:
        raise typer.Exit(ExplainedError.exit_code)


@contextlib.contextmanager
def _watched(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar; yield what moves it. What goes wrong in the block is one sentence and an exit code."""
    from ops.bench.deployment import StalledError
    from ops.stages import StageError

    configure_logs("bench", "error")
    console = Terminal(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with explained(), Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task(what, total=total)
            yield lambda done: progress.update(task, completed=done)
    except (StageError, StalledError) as error:
        typer.echo(f"{error}", err=True)
        raise typer.Exit(ExplainedError.exit_code) from error
