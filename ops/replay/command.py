"""``tablecast replay``: recorded requests once more, beside the running system."""

import asyncio
import json
import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from ops.cluster import connected
from ops.errors import explained
from ops.moments import moment, shown
from ops.progress import progress_bar
from ops.terminal import Terminal
from schemas.errors import BadInputError
from streams.logs import configure_logs
from streams.settings import load_settings

if TYPE_CHECKING:
    from ops.replay.comparing import Comparison
    from ops.replay.run import Plan, Progress, Size

REQUESTS_PER_SECOND = 100.0  # for estimates; `tablecast bench replay` measures it


def replay(
    *,
    source: Annotated[
        Literal["joined", "raw"],
        typer.Option("--from", help="Joined requests with the state they saw (exact), or raw topics and a new state."),
    ] = "joined",
    since: Annotated[
        str | None,
        typer.Option(help="Requests of event time from here on: 2026-11-23T10:00, or 2h.", show_default=False),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Event time before.", show_default=False)] = None,
    offsets: Annotated[
        str | None, typer.Option(help="Offsets in each partition, such as 1000:2000.", show_default=False)
    ] = None,
    user: Annotated[list[str] | None, typer.Option(help="Requests of this user; may be repeated.")] = None,
    request_id: Annotated[list[str] | None, typer.Option(help="This request; may be repeated.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Another model: shipped, base, or a model's folder.", show_default=False)
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(min=0.001, help="1 is real time; without it, as fast as it goes.", show_default=False),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Compare with what was recommended then.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count and estimate; post nothing.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the replay's topics there when it is done.")] = False,
    name: Annotated[
        str | None, typer.Option(help="Of the replay; the same name goes on where it was stopped.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Answer recorded requests again, on topics and stages of their own; nothing that apps read is written.

    Example: tablecast replay --since 2h --compare

    Example: tablecast replay --from raw --since 1d --until 12h --model /models/new --compare --json
    """
    from ops.replay.run import Plan, clean_up, measure
    from ops.replay.run import compare as compare_answers
    from ops.replay.run import replay as run_replay
    from ops.replay.selection import Selection

    with explained():
        configure_logs("replay", "error")
        settings = connected(load_settings())
        selection = Selection(
            since=moment(since) if since else None,
            until=moment(until) if until else None,
            offsets=_offsets(offsets) if offsets else None,
            users=set(user) if user else None,
            request_ids=set(request_id) if request_id else None,
        )
        if name is not None and not name.replace("-", "").isalnum():
            raise BadInputError(f"{name!r} can't be a name: letters, digits and hyphens")
        plan = Plan(name or uuid.uuid4().hex[:8], source, selection, model, speed)
        size = asyncio.run(measure(settings, plan))
        if dry_run:
            _print_size(plan, size, as_json=as_json)
            return
        if not size.requests:
            raise BadInputError("nothing is selected: look with --dry-run")
        try:
            with progress_bar() as bar:
                task = bar.add_task("requests", total=size.requests)

                def watch(progress: "Progress") -> None:
                    bar.update(task, completed=progress.answered)

                done = asyncio.run(run_replay(settings, plan, watch))
        except KeyboardInterrupt as error:
            typer.echo(f"stopped; the same command with --name {plan.name} goes on", err=True)
            raise typer.Exit(1) from error
        comparison = asyncio.run(compare_answers(settings, plan)) if compare else None
        if not keep:
            asyncio.run(clean_up(settings, plan))
    if as_json:
        compared = {} if comparison is None else {"comparison": as_figures(comparison)}
        typer.echo(json.dumps({"name": plan.name, **asdict(done), **compared}, ensure_ascii=False))
        return
    typer.echo(
        f"{done.answered:,} of {done.posted:,} requests were answered"
        + (f", on topics replay-{plan.name}.*" if keep else "")
    )
    if comparison is not None:
        print_comparison(comparison)


def as_figures(comparison: "Comparison") -> dict[str, object]:
    """Return a comparison as JSON can hold it."""
    return {
        "requests": comparison.total,
        "verdicts": dict(comparison.verdicts),
        "reasons": dict(comparison.reasons),
        "models": dict(comparison.models),
        "kept": comparison.kept / comparison.total if comparison.total else 1.0,
        "examples": [asdict(example) for example in comparison.examples],
    }


def _offsets(text: str) -> tuple[int, int]:
    try:
        start, end = (int(number) for number in text.split(":"))
    except ValueError as error:
        raise BadInputError(f"{text!r} are no offsets: write 1000:2000, the end not included") from error
    return start, end


def _print_size(plan: "Plan", size: "Size", *, as_json: bool) -> None:
    span = ((size.last or 0) - (size.first or 0)) / 1000
    seconds = span / plan.speed if plan.speed else size.requests / REQUESTS_PER_SECOND
    if as_json:
        typer.echo(json.dumps({**asdict(size), "estimated_seconds": round(seconds, 1)}))
        return
    table = Table("", "", show_header=False)
    table.add_row("requests", f"{size.requests:,}")
    if plan.source == "raw":
        table.add_row("events before them, for the state", f"{size.history:,}")
        table.add_row("events among them", f"{size.events:,}")
    if size.first is not None and size.last is not None:
        table.add_row("event time (UTC)", f"{shown(size.first)} to {shown(size.last)}")
    how = "" if plan.speed else f", at {REQUESTS_PER_SECOND:.0f} requests a second"
    table.add_row("will take about", f"{seconds:,.0f} s{how}")
    Terminal().print(table)


def print_comparison(comparison: "Comparison") -> None:
    """Show on the terminal how the answers compare, with reasons and examples."""
    console = Terminal()
    table = Table("verdict", "requests", "share", title=f"{comparison.total:,} requests")
    for verdict, number in comparison.verdicts.most_common():
        table.add_row(verdict, f"{number:,}", f"{number / comparison.total:.1%}")
    console.print(table)
    for pair, number in comparison.models.most_common():
        console.print(f"{number:,} by {pair}")
    if comparison.total:
        console.print(f"of each list, {comparison.kept / comparison.total:.1%} of the items are in the other one")
    for reason, number in comparison.reasons.most_common():
        console.print(f"{number:,} because: {reason}")
    for example in comparison.examples:
        console.print(f"\n{example.request_id}: {example.verdict}, {example.reason}")
        console.print(f"  then {' '.join(example.then[:10])}")
        console.print(f"  now  {' '.join(example.now[:10])}")
        console.print(f"  largest change of a score {example.largest_score_change:.3g}")
