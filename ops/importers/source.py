"""Reading other people's files line by line: plain or gzipped, with bad rows counted instead of fatal."""

import ast
import codecs
import csv
import gzip
import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from schemas.errors import BadInputError
from schemas.records import Location

Progress = Callable[[str, int, int], None]
"""Called now and then with what is being done, how much of it is done, and how much there is."""

# No format has lines of this length; a file without line breaks must not fill the memory.
LONGEST_LINE = 16 * 2**20
# So many rows without a single good one: the file is of another format, and reading on is a waste of time.
HOPELESS = 1000

# What catalog.items takes; longer names and labels are cut, longer texts too.
NAME_LENGTH, LABEL_LENGTH, TEXT_LENGTH = 300, 200, 4000

Row = TypeVar("Row")


class SourceError(BadInputError):
    """A source can't be imported. The text is one sentence that names the file."""


class BadRowError(ValueError):
    """A row is no good. The text is the reason, without the row's own values, so that reasons can be counted."""


@dataclass
class Tally:
    """How many rows of a file were good, and why the others were not."""

    path: Path
    good: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    first_bad: str = ""

    def reject(self, line: int, reason: str) -> None:
        self.first_bad = self.first_bad or f"line {line}: {reason}"
        self.bad[reason] += 1

    def check(self) -> None:
        """Raise SourceError if no row is good, or more rows are bad than good."""
        bad = self.bad.total()
        if not self.good and not bad:
            raise SourceError(f"{self.path} has no rows")
        if bad > self.good:
            share = "no row" if not self.good else f"only {self.good} of {self.good + bad} rows"
            raise SourceError(f"{self.path} is not of this format: {share} can be read ({self.first_bad})")


def rows(path: Path, parse: Callable[[bytes], Row], tally: Tally, progress: Progress) -> Iterator[Row]:
    """Stream what `parse` makes of each line; a line it refuses with BadRowError is tallied and skipped.

    Raises:
        SourceError: the file can't be read, or it is not of the format (see Tally.check).

    """
    for number, line in _lines(path, progress):
        if not line.strip():
            continue
        try:
            row = parse(_whole(line))
        except BadRowError as error:
            tally.reject(number, str(error))
            if not tally.good and tally.bad.total() == HOPELESS:
                break
            continue
        tally.good += 1
        yield row
    tally.check()


def csv_rows(
    path: Path,
    columns: Mapping[str, tuple[str, ...]],
    parse: Callable[[dict[str, str]], Row],
    *,
    optional: frozenset[str] = frozenset(),
    decode: Callable[[bytes], str],
    tally: Tally,
    progress: Progress,
) -> Iterator[Row]:
    """Stream the rows of a comma-separated file with a header.

    columns: our name -> the names the header may use, compared without case and underscores.
    parse gets our names; an optional column that the file lacks is not in the mapping.

    Raises:
        SourceError: as `rows`, or a column is missing.

    """
    position: dict[str, int] = {}

    def parse_line(line: bytes) -> Row | None:
        cells = _cells(decode(line))
        if not position:
            position.update(_header(path, cells, columns, optional))
            tally.good -= 1  # the header is not a row
            return None
        if len(cells) <= max(position.values()):
            raise BadRowError("too few columns")
        return parse({name: cells[index] for name, index in position.items()})

    return (row for row in rows(path, parse_line, tally, progress) if row is not None)


def json_object(line: bytes, shape: type[Row]) -> Row:
    """Decode a line of JSON to a msgspec type, numbers in strings included."""
    try:
        return msgspec.json.decode(line, type=shape, strict=False)
    except msgspec.ValidationError as error:
        raise BadRowError(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRowError("not JSON in UTF-8") from error


def python_literal(text: str) -> Any:
    """Evaluate a Python literal, as some data sets have instead of JSON. Nothing is executed."""
    try:
        # By way of JSON, so that what JSON can't hold (halves of surrogate pairs, sets, complex numbers) is refused.
        return msgspec.json.decode(json.dumps(ast.literal_eval(text)))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise BadRowError("not a Python literal") from error


def first_line(path: Path) -> bytes:
    """Look at the first line of a file, for telling layouts apart."""
    return next((line for _, line in _lines(path, _no_progress)), b"")


def _cells(line: str) -> list[str]:
    # A record with a line break inside quotes would be split here; none of the formats has one, and in exchange a
    # stray quote costs one row and not the rest of the file.
    try:
        return next(csv.reader([line], strict=True))
    except (csv.Error, StopIteration) as error:
        raise BadRowError("not a CSV row") from error


def _whole(line: bytes) -> bytes:
    if len(line) > LONGEST_LINE:
        raise BadRowError("longer than 16 MiB")
    return line


def utf8(line: bytes) -> str:
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise BadRowError("not UTF-8") from error


def utf8_or_latin1(line: bytes) -> str:
    """Decode text of the years when both were common. Any bytes are valid Latin-1."""
    try:
        return utf8(line)
    except BadRowError:
        return line.decode("latin-1").rstrip("\r\n")


def identifier(text: str, what: str) -> str:
    text = text.strip()
    if not text:
        raise BadRowError(f"no {what}")
    if len(text) > LABEL_LENGTH:
        raise BadRowError(f"{what} is longer than {LABEL_LENGTH} characters")
    return text


def number(text: str | float, what: str) -> float:
    """Read a finite number, or raise BadRowError naming what it should have been."""
    try:
        value = float(text)
    except ValueError as error:
        raise BadRowError(f"{what} is not a number") from error
    if not math.isfinite(value):
        raise BadRowError(f"{what} is not a number")
    return value


def location(latitude: str | float, longitude: str | float) -> Location:
    lat, lon = number(latitude, "latitude"), number(longitude, "longitude")
    if abs(lat) > 90 or abs(lon) > 180:
        raise BadRowError("coordinates are not on the globe")
    return Location(lat=lat, lon=lon)


def rating(stars: str | float, worst: float) -> float:
    """Stars as a fraction: 0 for the worst that can be given, 1 for five."""
    fraction = (number(stars, "rating") - worst) / (5 - worst)
    if not 0 <= fraction <= 1:
        raise BadRowError(f"rating is not from {worst:g} to 5")
    return round(fraction, 4)


def event_time(milliseconds: float) -> int:
    """Check that a time is after 1970 and before 2100."""
    if not 0 <= milliseconds < 4_102_444_800_000:
        raise BadRowError("time is not between 1970 and 2100")
    return int(milliseconds)


def find_file(directory: Path, *names: str) -> Path | None:
    """Find the first of these files that is there, plain or gzipped."""
    candidates = (directory / f"{name}{suffix}" for name in names for suffix in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def _no_progress(_what: str, _done: int, _total: int) -> None:
    pass


def _header(
    path: Path, cells: list[str], columns: Mapping[str, tuple[str, ...]], optional: frozenset[str]
) -> dict[str, int]:
    found = {cell.strip().lower().replace("_", ""): index for index, cell in enumerate(cells)}
    position = {
        name: next(found[spelling] for spelling in spellings if spelling in found)
        for name, spellings in columns.items()
        if any(spelling in found for spelling in spellings)
    }
    missing = [name for name in columns if name not in position and name not in optional]
    if missing:
        raise SourceError(f"{path} has no column for {' and '.join(missing)}; its header is {','.join(cells)[:200]!r}")
    return position


def _lines(path: Path, progress: Progress) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            text: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
            while line := text.readline(LONGEST_LINE + 1):
                number += 1
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                tail = line
                while len(tail) > LONGEST_LINE and not tail.endswith(b"\n"):
                    tail = text.readline(LONGEST_LINE + 1)
                yield number, line
                if number % 1000 == 0:
                    progress(path.name, file.tell(), size)
            progress(path.name, size, size)
    except (OSError, EOFError, zlib.error) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise SourceError(f"{path} can't be read after line {number}: {why}") from error
