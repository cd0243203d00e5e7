"""``tablecast deadletters``: look at what could not be processed, and decide what becomes of it."""

import asyncio
import contextlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ops.cluster import connected
from ops.errors import explained
from ops.moments import moment, shown
from ops.terminal import Terminal
from schemas.errors import BadInputError
from streams.logs import configure_logs
from streams.settings import Settings, load_settings

if TYPE_CHECKING:
    from ops.dead_letters.letters import Letter, Selection
    from ops.dead_letters.originals import Payload
    from ops.dead_letters.retry import Outcome

app = typer.Typer(help="Records that could not be processed: look, count, retry, discard.", no_args_is_help=True)

Names = Annotated[list[str] | None, typer.Argument(help="Names, such as users.requests/0/17.", show_default=False)]
Reason = Annotated[str | None, typer.Option(help="Only this error class, such as DecodeError.", show_default=False)]
OfTopic = Annotated[str | None, typer.Option(help="Only records of this topic.", show_default=False)]
OfStage = Annotated[str | None, typer.Option(help="Only what this stage refused.", show_default=False)]
Since = Annotated[
    str | None, typer.Option(help="First seen from here on: 2026-11-23T10:00, or 2h.", show_default=False)
]
Until = Annotated[str | None, typer.Option(help="First seen before.", show_default=False)]
Decided = Annotated[bool, typer.Option("--decided", help="Also those that were retried or discarded.")]
Everything = Annotated[bool, typer.Option("--all", help="All there are; needed where nothing else is selected.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command("list")
def list_command(
    *,
    reason: Reason = None,
    topic: OfTopic = None,
    stage: OfStage = None,
    since: Since = None,
    until: Until = None,
    decided: Decided = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List dead letters, oldest first.

    Example: tablecast deadletters list --topic users.requests --since 2h
    """
    from ops.dead_letters.letters import letters

    async def collect(settings: Settings, selection: "Selection") -> tuple[list["Letter"], int]:
        found: list[Letter] = []
        total = 0
        async for letter in letters(settings.kafka, selection):
            total += 1
            if len(found) < limit:
                found.append(letter)
        return found, total

    with explained():
        selection = _selection(None, reason, topic, stage, since, until, decided=decided)
        found, total = asyncio.run(collect(_settings(), selection))
    if as_json:
        for letter in found:
            typer.echo(json.dumps(_summary(letter), ensure_ascii=False))
        return
    table = Table("name", "first seen (UTC)", "stage", "error", "reason", "decision")
    for letter in found:
        record = letter.record
        done = "" if letter.decision is None else letter.decision.what
        table.add_row(letter.name, shown(record.first_seen), record.stage, record.error, record.reason[:200], done)
    Terminal().print(table)
    if total > len(found):
        Terminal().print(f"{total - len(found):,} more: --limit {total}")


@app.command()
def count(
    *,
    reason: Reason = None,
    topic: OfTopic = None,
    stage: OfStage = None,
    since: Since = None,
    until: Until = None,
    decided: Decided = False,
    as_json: AsJson = False,
) -> None:
    """Count dead letters by topic, stage and reason; what differs in numbers only is one reason.

    Example: tablecast deadletters count --json
    """
    from ops.dead_letters.letters import tally

    with explained():
        selection = _selection(None, reason, topic, stage, since, until, decided=decided)
        counts = asyncio.run(tally(_settings().kafka, selection))
    if as_json:
        rows = [
            {"topic": topic, "stage": stage, "error": error, "reason": reason, "count": number}
            for (topic, stage, error, reason), number in counts.most_common()
        ]
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    table = Table("count", "topic", "stage", "error", "reason", title=f"{counts.total():,} dead letters")
    for names, number in counts.most_common():
        table.add_row(f"{number:,}", *names)
    Terminal().print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A name from `deadletters list`.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: decoded as far as possible, its bytes, and what is wrong with it.

    Example: tablecast deadletters show users.requests/0/17
    """
    from ops.dead_letters.anatomy import fault, hex_dump, printable, structure, topic_named
    from ops.dead_letters.exchange import as_line

    with explained():
        settings = _settings()
        letter, payload = asyncio.run(_one(settings, name))
        record, topic = letter.record, topic_named(name.split("/")[0])
        key, value = payload or (record.key, record.value)
        now = "the record has left its topic"
        if topic is not None and payload is not None:
            now = fault(settings, topic, key, value, record.event_time) or ""
    values, end = structure(value or b"")
    decoded = [printable(value) for value in values]
    if as_json:
        typer.echo(
            json.dumps({**as_line(letter, payload), "decoded": decoded, "fault_now": now or None}, ensure_ascii=False)
        )
        return
    console = Terminal()
    table = Table("", "", show_header=False)
    rows = {
        "name": name,
        "stage": record.stage,
        "error": f"{record.error}: {record.reason}",
        "now": f"still faulty: {now}" if now else "nothing is wrong that can be seen from here: retry it",
        "first seen": f"{shown(record.first_seen)} UTC",
        "event time": f"{shown(record.event_time)} UTC",
        "key": "none" if key is None else repr(key.decode(errors="backslashreplace")),
        "value": "none" if value is None else f"{len(value):,} bytes",
        "decision": "none yet" if letter.decision is None else _decision(letter),
    }
    for title, text in rows.items():
        table.add_row(title, text)
    console.print(table)
    for each in decoded:
        console.print_json(json.dumps(each, ensure_ascii=False))
    if value is not None:
        if end < len(value):
            console.print(f"from byte {end} on it is not msgpack, or more than {len(values)} values")
        console.print(hex_dump(value), highlight=False)


@app.command()
def retry(
    names: Names = None,
    *,
    reason: Reason = None,
    topic: OfTopic = None,
    stage: OfStage = None,
    since: Since = None,
    until: Until = None,
    everything: Everything = False,
    corrected: Annotated[
        Path | None,
        typer.Option(help="What `export` wrote, corrected: these letters, with these values.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; post nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Post records once more, each at most once, however often this is run; leave alone what is still faulty.

    Example: tablecast deadletters retry --reason UnknownDomainError

    Example: tablecast deadletters retry --corrected letters.jsonl
    """
    from ops.dead_letters.exchange import corrections
    from ops.dead_letters.retry import retry as retry_letters

    with explained():
        settings = _settings()
        values = corrections(settings.kafka, corrected) if corrected else {}
        chosen = names or (list(values) if corrected else None)
        selection = _selection(chosen, reason, topic, stage, since, until)
        _must_select(selection, everything=everything)
        outcome = asyncio.run(retry_letters(settings, selection, values, dry_run=dry_run))
    _print_outcome("would be retried" if dry_run else "retried", outcome, as_json=as_json)


@app.command()
def discard(
    names: Names = None,
    *,
    reason: Reason = None,
    topic: OfTopic = None,
    stage: OfStage = None,
    since: Since = None,
    until: Until = None,
    everything: Everything = False,
    as_json: AsJson = False,
) -> None:
    """Decide that records are not to be retried: they are listed no more, and vanish with the topic's retention.

    Example: tablecast deadletters discard users.requests/0/17 users.requests/2/9
    """
    from ops.dead_letters.retry import discard as discard_letters

    with explained():
        settings = _settings()
        selection = _selection(names, reason, topic, stage, since, until)
        _must_select(selection, everything=everything)
        outcome = asyncio.run(discard_letters(settings, selection))
    _print_outcome("discarded", outcome, as_json=as_json)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="A new file; `-` is standard output.")],
    *,
    reason: Reason = None,
    topic: OfTopic = None,
    stage: OfStage = None,
    since: Since = None,
    until: Until = None,
    decided: Decided = False,
) -> None:
    """Write dead letters as JSON lines: `value` to read and correct, `value_base64` with the bytes themselves.

    Example: tablecast deadletters export letters.jsonl --topic users.requests
    """
    from ops.dead_letters.exchange import as_line
    from ops.dead_letters.letters import letters
    from ops.dead_letters.originals import Originals

    async def write(settings: Settings, selection: "Selection") -> int:
        number = 0
        with contextlib.nullcontext(sys.stdout) if str(file) == "-" else file.open("x", encoding="utf-8") as out:
            async with Originals(settings.kafka) as originals:
                async for letter in letters(settings.kafka, selection):
                    line = as_line(letter, await originals.payload(letter))
                    out.write(json.dumps(line, ensure_ascii=False) + "\n")
                    number += 1
        return number

    with explained():
        selection = _selection(None, reason, topic, stage, since, until, decided=decided)
        try:
            number = asyncio.run(write(_settings(), selection))
        except FileExistsError as error:
            raise BadInputError(f"{file} exists already") from error
        except OSError as error:
            raise BadInputError(f"{file} can't be written: {error.strerror}") from error
    typer.echo(f"{number} dead letters", err=True)


async def _one(settings: Settings, name: str) -> "tuple[Letter, Payload | None]":
    from ops.dead_letters.letters import Selection, letters
    from ops.dead_letters.originals import Originals

    async with Originals(settings.kafka) as originals:
        async for letter in letters(settings.kafka, Selection(names={name}, decided=True)):
            return letter, await originals.payload(letter)
    raise BadInputError(f"there is no dead letter {name}: `tablecast deadletters list --decided` has them all")


def _settings() -> Settings:
    configure_logs("deadletters", "error")
    return connected(load_settings())


def _selection(
    names: list[str] | None,
    reason: str | None,
    topic: str | None,
    stage: str | None,
    since: str | None,
    until: str | None,
    *,
    decided: bool = False,
) -> "Selection":
    from ops.dead_letters.letters import Selection

    return Selection(
        names=set(names) if names else None,
        error=reason,
        topic=topic,
        stage=stage,
        since=moment(since) if since else None,
        until=moment(until) if until else None,
        decided=decided,
    )


def _must_select(selection: "Selection", *, everything: bool) -> None:
    from ops.dead_letters.letters import Selection

    if selection == Selection() and not everything:
        raise BadInputError("say which: names, --reason, --topic, --stage, --since, --until, or --all")


def _summary(letter: "Letter") -> dict[str, object]:
    record = letter.record
    return {
        "name": letter.name,
        "stage": record.stage,
        "error": record.error,
        "reason": record.reason,
        "first_seen": record.first_seen,
        "event_time": record.event_time,
        "decision": None if letter.decision is None else letter.decision.what,
    }


def _decision(letter: "Letter") -> str:
    decision = letter.decision
    assert decision is not None
    return f"{decision.what} at {shown(decision.at)} UTC" + (f", as {decision.as_}" if decision.as_ else "")


def _print_outcome(what: str, outcome: "Outcome", *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({what.replace(" ", "_"): outcome.done, "left": outcome.left}, ensure_ascii=False))
        return
    from ops.dead_letters.letters import kind_of_reason

    typer.echo(f"{outcome.done} {what}")
    for reason, number in Counter(kind_of_reason(reason) for reason in outcome.left.values()).most_common():
        typer.echo(f"{number} left alone: {reason}")
