"""The neutral dataset directory: what importers write and what training and evaluation read.

    items.jsonl.gz          one Item a line
    interactions.jsonl.gz   one Interaction a line, by event time
    requests.jsonl.gz       one Request a line, each with the items that would have been right
    meta.json               one Meta

Readers ignore fields they don't know. Whatever else is wrong raises DatasetError with the file and the line.
"""

import gzip
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec

from schemas.errors import BadInputError
from schemas.records import Fraction, Location, Week

ITEMS, INTERACTIONS, REQUESTS, META = "items.jsonl.gz", "interactions.jsonl.gz", "requests.jsonl.gz", "meta.json"

Identifier = Annotated[str, msgspec.Meta(min_length=1)]
EventTime = Annotated[int, msgspec.Meta(ge=0)]
Split = Literal["train", "valid", "test"]


class DatasetError(BadInputError):
    """A dataset directory can't be read or written. The text names the file, the line and what is wrong."""


class Item(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that can be recommended. Where the source has no names, they are empty. hours: as on catalog.items."""

    item_id: Identifier
    name: str
    categories: tuple[str, ...]
    text: str | None = None
    location: Location | None = None
    price: float | None = None
    hours: Week | None = None
    attributes: dict[str, Any] = msgspec.field(default_factory=dict)


# gc=False: millions of these are held at once and none can be part of a cycle.
class Interaction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a user did with an item. event_time: milliseconds. rating: 0 worst, 1 best."""

    event_id: Identifier
    user_id: Identifier
    item_id: Identifier
    kind: Identifier
    event_time: EventTime
    session_id: str | None = None
    split: Split
    rating: Fraction | None = None
    context: dict[str, Any] = msgspec.field(default_factory=dict)


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A question to the recommender and its right answers.

    label_event_id names the interaction that shows the answer; the request comes just before it. event_time is in
    milliseconds.
    """

    request_id: Identifier
    user_id: Identifier
    event_time: EventTime
    split: Split
    text: str | None = None
    session_id: str | None = None
    context: dict[str, Any] = msgspec.field(default_factory=dict)
    relevant: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    label_event_id: str | None = None


class Meta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the directory is about. The counts, where given, must be those of the files."""

    domain: str
    source: str | None = None
    language: str | None = None
    protocol: str | None = None
    time: str | None = None
    items: int | None = None
    interactions: int | None = None
    requests: int | None = None
    rows_read: int | None = None
    rows_bad: dict[str, int] = msgspec.field(default_factory=dict)


class Dataset(NamedTuple):
    """A whole directory in memory."""

    items: list[Item]
    interactions: list[Interaction]
    requests: list[Request]
    meta: Meta


Record = TypeVar("Record", Item, Interaction, Request)


def read_items(directory: Path) -> Iterator[Item]:
    """Stream the items in file order."""
    return _read_lines(directory / ITEMS, Item)


def read_interactions(directory: Path) -> Iterator[Interaction]:
    """Stream the interactions in file order."""
    return _read_lines(directory / INTERACTIONS, Interaction)


def read_requests(directory: Path) -> Iterator[Request]:
    """Stream the requests in file order."""
    return _read_lines(directory / REQUESTS, Request)


def read_meta(directory: Path) -> Meta:
    path = directory / META
    try:
        return msgspec.json.decode(path.read_bytes(), type=Meta)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(f"{path}: {_why(error)}") from error


def read_dataset(directory: Path) -> Dataset:
    """Read a directory whole and check what its files say about each other.

    Ids are unique, interactions are sorted by time, every interaction is on a known item, every
    label_event_id is an interaction, and the counts are those of meta.json. Relevant items may be unknown: a
    request can ask for what the catalogue lacks.
    """
    meta = read_meta(directory)
    items = list(read_items(directory))
    interactions = list(_sorted_by_time(read_interactions(directory), directory / INTERACTIONS))
    requests = list(read_requests(directory))
    item_ids = _unique(directory / ITEMS, (item.item_id for item in items))
    event_ids = _unique(directory / INTERACTIONS, (event.event_id for event in interactions))
    _unique(directory / REQUESTS, (request.request_id for request in requests))
    for line, event in enumerate(interactions, 1):
        if event.item_id not in item_ids:
            raise DatasetError(f"{directory / INTERACTIONS}, line {line}: item {event.item_id!r} is not in {ITEMS}")
    for line, request in enumerate(requests, 1):
        if request.label_event_id is not None and request.label_event_id not in event_ids:
            raise DatasetError(
                f"{directory / REQUESTS}, line {line}: label event {request.label_event_id!r} is not in {INTERACTIONS}"
            )
    for name, said, found in (
        (ITEMS, meta.items, len(items)),
        (INTERACTIONS, meta.interactions, len(interactions)),
        (REQUESTS, meta.requests, len(requests)),
    ):
        if said is not None and said != found:
            raise DatasetError(f"{directory / name}: {found} lines, but {META} says {said}; is the copy complete?")
    return Dataset(items, interactions, requests, meta)


def check_new(directory: Path) -> None:
    """Raise DatasetError unless the directory is absent or empty. Ask before work that write_dataset would refuse."""
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise DatasetError(f"{directory} exists already: remove it or name another directory")
    except OSError as error:
        raise DatasetError(f"{directory}: {_why(error)}") from error


def write_dataset(
    directory: Path,
    items: Iterable[Item],
    interactions: Iterable[Interaction],
    requests: Iterable[Request],
    meta: Meta,
) -> Meta:
    """Write a new directory, all of it or nothing, and return meta with the counts filled in.

    Interactions and requests must come sorted by time; they are streamed, so that a dataset larger than memory can be
    written. The same records give the same bytes. A directory that holds something already is left as it is.

    Raises:
        DatasetError: the directory is not empty, can't be made, or the records are not sorted.

    """
    check_new(directory)
    # Renaming is atomic only within a file system, so the unfinished directory lies beside the finished one.
    unfinished = directory.absolute().with_name(f".{directory.absolute().name}.{uuid.uuid4().hex[:8]}")
    try:
        unfinished.mkdir(parents=True)
        events_by_time = _sorted_by_time(interactions, directory / INTERACTIONS)
        requests_by_time = _sorted_by_time(requests, directory / REQUESTS)
        meta = msgspec.structs.replace(
            meta,
            items=_write_lines(unfinished / ITEMS, items),
            interactions=_write_lines(unfinished / INTERACTIONS, events_by_time),
            requests=_write_lines(unfinished / REQUESTS, requests_by_time),
        )
        (unfinished / META).write_bytes(msgspec.json.format(_ENCODER.encode(meta), indent=1) + b"\n")
        unfinished.rename(directory)
    except OSError as error:
        raise DatasetError(f"{directory} can't be written: {_why(error)}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return meta


_ENCODER = msgspec.json.Encoder(order="deterministic")
Timed = TypeVar("Timed", Interaction, Request)


def _read_lines(path: Path, record: type[Record]) -> Iterator[Record]:
    decoder = msgspec.json.Decoder(record)
    line = 0
    try:
        with gzip.open(path, "rb") as lines:
            for line, content in enumerate(lines, 1):  # noqa: B007  the number is needed where the file breaks off
                yield decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(f"{path}, line {line}: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        place = f"{path}, after line {line}" if line else path
        raise DatasetError(f"{place}: {_why(error)}") from error


def _write_lines(path: Path, records: Iterable[msgspec.Struct]) -> int:
    count = 0
    # No file name and no time in the gzip header: equal records, equal bytes.
    with path.open("wb") as file, gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as lines:
        for record in records:
            lines.write(_ENCODER.encode(record) + b"\n")
            count += 1
    return count


def _sorted_by_time(records: Iterable[Timed], path: Path) -> Iterator[Timed]:
    latest = 0
    for line, record in enumerate(records, 1):
        if record.event_time < latest:
            raise DatasetError(f"{path}, line {line}: not sorted by time: {record.event_time} after {latest}")
        latest = record.event_time
        yield record


def _unique(path: Path, ids: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    for line, identifier in enumerate(ids, 1):
        if identifier in seen:
            raise DatasetError(f"{path}, line {line}: id {identifier!r} a second time")
        seen.add(identifier)
    return seen


def _why(error: Exception) -> str:
    # An OSError's own text repeats the path.
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
