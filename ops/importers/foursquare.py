"""Check-ins: the tab-separated TSMC2014 layout, and comma-separated files with a header.

Item: one per venue, category and coordinates from its first row; the data have no venue names. Interaction: a visit.
Event times are local wall clock written as if it were UTC, since what counts about a check-in is the hour in town.
"""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from pathlib import Path
from typing import NamedTuple

from models.dataset import Item, Meta
from schemas.records import Location

from .events import TEST, TRAIN, VALID, Events, next_in_session, save
from .source import (
    LABEL_LENGTH,
    BadRowError,
    Progress,
    SourceError,
    Tally,
    csv_rows,
    event_time,
    first_line,
    identifier,
    location,
    number,
    rows,
    utf8_or_latin1,
)

_COLUMNS = {
    "user": ("userid",),
    "venue": ("poiid", "venueid"),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon", "lng"),
    "UTC time": ("utctime", "utctimestamp"),
    "category": ("poicatname", "venuecategoryname", "venuecategory", "poicategoryname"),
    "time zone": ("timezone", "timezoneoffset"),
    "local time": ("localtime",),
    "trajectory": ("trajectoryid",),
}
_OPTIONAL = frozenset({"category", "time zone", "local time", "trajectory"})
_SPLIT_IN_NAME = re.compile(r"(?:^|[^a-z])(train|val|valid|validation|test)\.(?:csv|txt)(?:\.gz)?$", re.IGNORECASE)
_SPLITS = {"train": TRAIN, "val": VALID, "valid": VALID, "validation": VALID, "test": TEST}
_MONTHS = {
    name: number
    for number, name in enumerate(
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"], start=1
    )
}


class _Visit(NamedTuple):
    user_id: str
    venue_id: str
    category: str
    location: Location
    local_time: int
    trajectory: str | None


def import_check_ins(source: Path, destination: Path, progress: Progress) -> Meta:
    """Import one file, or a directory with a file for train and others for validation and test.

    Raises:
        SourceError: the source can't be read or is not of the format.
        DatasetError: the destination can't be written.

    """
    events, items, tallies = Events(), dict[str, Item](), []
    files = _files(source)
    for path, split in files:
        tallies.append(Tally(path))
        for visit in _visits(path, tallies[-1], progress):
            session = visit.trajectory and f"{path.name.split('.')[0]}:{visit.user_id}:{visit.trajectory}"
            events.add(visit.user_id, visit.venue_id, visit.local_time, "visit", session_id=session, split=split)
            if visit.venue_id not in items:
                items[visit.venue_id] = Item(
                    item_id=visit.venue_id,
                    name="",
                    categories=(visit.category,) if visit.category else (),
                    location=visit.location,
                )
    plan = next_in_session(events, splits_given=len(files) > 1)
    return save(
        destination,
        items.values(),
        events,
        plan,
        tallies=tallies,
        progress=progress,
        domain="poi",
        source="foursquare",
        time="local wall clock as UTC",
    )


def _files(source: Path) -> list[tuple[Path, int]]:
    """List the files to read, each with its split; a file alone is split later, by time."""
    if source.is_file():
        return [(source, TRAIN)]
    if not source.is_dir():
        raise SourceError(f"{source} does not exist")
    named = [(path, found) for path in sorted(source.iterdir()) if (found := _SPLIT_IN_NAME.search(path.name))]
    files = [(path, _SPLITS[found[1].lower()]) for path, found in named]
    splits = [split for _, split in files]
    if TRAIN not in splits or len(files) < 2 or len(set(splits)) < len(splits):
        raise SourceError(
            f"{source} has no set of files like NYC_train.csv, NYC_val.csv, NYC_test.csv: name a check-in file instead"
        )
    return files


def _visits(path: Path, tally: Tally, progress: Progress) -> Iterator[_Visit]:
    return (
        rows(path, _parse_tab_separated, tally, progress)
        if b"\t" in first_line(path)
        else csv_rows(
            path,
            _COLUMNS,
            _parse_comma_separated,
            optional=_OPTIONAL,
            decode=utf8_or_latin1,
            tally=tally,
            progress=progress,
        )
    )


def _parse_tab_separated(line: bytes) -> _Visit:
    cells = utf8_or_latin1(line).split("\t")
    if len(cells) != 8:
        raise BadRowError("not 8 columns")
    user, venue, _, category, latitude, longitude, offset, time = cells
    return _Visit(
        user_id=identifier(user, "user"),
        venue_id=identifier(venue, "venue"),
        category=category.strip()[:LABEL_LENGTH],
        location=location(latitude, longitude),
        local_time=event_time(_milliseconds(time) + _minutes(offset)),
        trajectory=None,
    )


def _parse_comma_separated(row: dict[str, str]) -> _Visit:
    if row.get("local time"):
        # What follows the clock, an offset, is already in it.
        local_time = _milliseconds(row["local time"][:19])
    else:
        local_time = _milliseconds(row["UTC time"]) + _minutes(row.get("time zone") or "0")
    return _Visit(
        user_id=identifier(row["user"], "user"),
        venue_id=identifier(row["venue"], "venue"),
        category=row.get("category", "").strip()[:LABEL_LENGTH],
        location=location(row["latitude"], row["longitude"]),
        local_time=event_time(local_time),
        trajectory=identifier(row["trajectory"], "trajectory") if "trajectory" in row else None,
    )


def _minutes(offset: str) -> int:
    minutes = number(offset, "time zone")
    if abs(minutes) > 24 * 60:
        raise BadRowError("time zone is not an offset in minutes")
    return int(minutes * 60_000)


def _milliseconds(time: str) -> int:
    """Read 'Tue Apr 03 18:00:09 +0000 2012' or ISO 8601; UTC unless it says otherwise."""
    try:
        words = time.split()
        if len(words) == 6:  # by hand: strptime depends on the locale and is slow
            clock = time_of_day.fromisoformat(words[3])
            moment = datetime.combine(date(int(words[5]), _MONTHS[words[1]], int(words[2])), clock, tzinfo=UTC)
        else:
            moment = datetime.fromisoformat(time.strip())
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)
    except (ValueError, KeyError, OverflowError) as error:
        raise BadRowError("time is neither like 'Tue Apr 03 18:00:09 +0000 2012' nor ISO 8601") from error
