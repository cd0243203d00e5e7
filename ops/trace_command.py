"""``tablecast trace``: what happened to one request, hop by hop, from the file its spans were written to."""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.terminal_theme import MONOKAI
from rich.text import Text

from ops.errors import explained
from ops.terminal import Terminal
from schemas.errors import BadInputError
from streams.settings import load_settings
from streams.tracing import REQUEST_ID, span_file

_FIELDS = {"context", "parent_id", "name", "resource", "attributes", "links", "start_time", "end_time", "status"}
QUIET_SECONDS = 0.2  # nothing happened for longer: what comes then is drawn on a scale of its own
BAR = 50
COLOURS = {"app": "magenta", "state": "cyan", "inference": "green", "trainer": "yellow"}
PICTURE = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<!-- What `tablecast trace` shows, exported by rich -->
<style>
.{unique_id}-matrix {{
  font: {char_height}px/{line_height}px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""


@dataclass(frozen=True)
class Span:
    """One span as it was exported."""

    id: str
    parent: str | None
    name: str
    stage: str
    start: float  # seconds since 1970
    end: float
    failed: bool


def trace(
    request_id: Annotated[str, typer.Argument(help="Request id, or trace id.")],
    *,
    spans: Annotated[
        Path | None, typer.Option(help="File of spans; without it, the one that tracing.export names.")
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Write the picture to this file too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the spans as JSON, first ones first.")] = False,
) -> None:
    """Show the way of one request through app, stages and trainer, as tracing has written it to a file.

    Example: TABLECAST_TRACING__EXPORT=spans.jsonl tablecast trace 8c2f0a51e7d94b36 --svg trace.svg
    """
    with explained():
        file = spans or span_file(load_settings())
        if file is None:
            raise BadInputError("tracing.export names no file: pass --spans, or ask the collector that gets the spans")
        found = spans_of(request_id, file)
        if as_json:
            typer.echo(json.dumps([vars(span) for span in found]))
            return
        picture = drawn(request_id, found)
        Terminal().print(picture)
        if svg is not None:
            console = Terminal(record=True, width=150, file=io.StringIO())
            console.print(picture)
            console.save_svg(str(svg), title="", theme=MONOKAI, code_format=PICTURE, unique_id="trace")


def spans_of(request_id: str, file: Path) -> list[Span]:
    """Return the spans of a request's trace, and of the training runs that used it, by their beginning.

    Raises:
        BadInputError: the file can't be read, or has no such request.

    """
    traces = {
        raw["context"]["trace_id"]
        for raw in _lines(file)
        if raw["attributes"].get(REQUEST_ID) == request_id or raw["context"]["trace_id"] == f"0x{request_id}"
    }
    used = {
        raw["context"]["trace_id"]
        for raw in _lines(file)
        if any(link["context"]["trace_id"] in traces for link in raw["links"])
    }
    found = [_span(raw) for raw in _lines(file) if raw["context"]["trace_id"] in traces | used]
    if not found:
        raise BadInputError(
            f"{file} has no trace of {request_id}: tracing.share may have left it out, and its spans come some seconds "
            "after it; in a request id, a user's id is replaced by its pseudonym"
        )
    return sorted(found, key=lambda span: (span.start, -span.end))


def drawn(request_id: str, spans: Sequence[Span]) -> Table:
    """Return the spans as a table, with bars on a scale for each part of the trace."""
    table = Table("stage", "span", "begins", "takes", "", title=f"request {request_id}", caption_justify="left")
    for section in sections(spans):
        start, end = section[0].start, max(span.end for span in section)
        later = start - spans[0].start
        known = {span.id: span for span in section}
        for number, span in enumerate(in_order(section)):
            table.add_row(
                Text(span.stage, COLOURS.get(span.stage, "")),
                Text("· " * _depth(span, known) + span.name).append(" failed" if span.failed else "", "red"),
                _milliseconds(span.start - spans[0].start) if number or later else "0",
                _milliseconds(span.end - span.start),
                _bar(span, start, end),
            )
        table.add_section()
    return table


def sections(spans: Iterable[Span]) -> list[list[Span]]:
    """Cut spans, by their beginning, where nothing happened for ``QUIET_SECONDS``."""
    found: list[list[Span]] = []
    until = 0.0
    for span in spans:
        if not found or span.start > until + QUIET_SECONDS:
            found.append([])
        found[-1].append(span)
        until = max(until, span.end)
    return found


def in_order(spans: Sequence[Span], parent: str | None = None) -> Iterator[Span]:
    """Yield spans, each before what it caused."""
    known = {span.id for span in spans}
    for span in spans:
        if span.parent == parent or (parent is None and span.parent not in known):
            yield span
            yield from in_order(spans, span.id)


def _depth(span: Span, known: dict[str, Span]) -> int:
    return 1 + _depth(known[span.parent], known) if span.parent in known else 0


def _bar(span: Span, start: float, end: float) -> Text:
    scale = BAR / max(end - start, 1e-9)
    left = min(int((span.start - start) * scale), BAR - 1)
    length = max(1, min(round((span.end - span.start) * scale), BAR - left))
    return Text(" " * left).append("━" * length, COLOURS.get(span.stage, ""))


def _milliseconds(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds >= 10 else f"{seconds * 1000:,.1f} ms"


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.endswith("\n"):  # else it is being written
                    try:
                        raw = json.loads(line)
                    except ValueError as error:
                        raise BadInputError(f"{file}, line {number}: {error}") from error
                    if not (isinstance(raw, dict) and raw.keys() >= _FIELDS):
                        raise BadInputError(f"{file}, line {number}: not a span as tracing.export writes them")
                    yield raw
    except OSError as error:
        raise BadInputError(f"{file} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"{file} can't be read: {error}") from error


def _span(raw: dict[str, Any]) -> Span:
    return Span(
        id=raw["context"]["span_id"],
        parent=raw["parent_id"],
        name=raw["name"],
        stage=raw["resource"]["attributes"].get("service.name", "").removeprefix("tablecast-"),
        start=datetime.fromisoformat(raw["start_time"]).timestamp(),
        end=datetime.fromisoformat(raw["end_time"]).timestamp(),
        failed=raw["status"]["status_code"] == "ERROR",
    )
