"""The Yelp open dataset: businesses that serve food, reviews, and tips where they are there.

Item: a business; its text is what reviews and tips in train say about it. Interaction: a review is a rating, a tip a
visit. The stars and review counts of the business file run to the end of the data, so they would tell the future and
are left out. The check-in file names no users and is not read.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from models.dataset import Item, Meta

from .events import Events, next_event, save, train_texts
from .source import (
    LABEL_LENGTH,
    NAME_LENGTH,
    BadRowError,
    Progress,
    SourceError,
    Tally,
    event_time,
    find_file,
    identifier,
    json_object,
    location,
    python_literal,
    rating,
    rows,
)

FOOD = frozenset({"Restaurants", "Food"})
WORST_RATING = 1
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_HOURS = re.compile(r"(\d{1,2}):(\d{1,2})-(\d{1,2}):(\d{1,2})")


class _Business(msgspec.Struct):
    business_id: str
    name: str
    latitude: float
    longitude: float
    categories: str | None = None
    attributes: dict[str, Any] | None = None
    hours: dict[str, str] | None = None


class _Review(msgspec.Struct):
    """A review, or a tip, which has no stars."""

    user_id: str
    business_id: str
    date: str
    stars: float | None = None
    text: str = ""


class _Opinion(msgspec.Struct):
    user_id: str
    business_id: str
    time: int
    rating: float | None
    text: str


def import_yelp(source: Path, destination: Path, progress: Progress) -> Meta:
    """Import the unpacked directory of yelp_academic_dataset_*.json files.

    Raises:
        SourceError: a file is missing, can't be read or is not of the format.
        DatasetError: the destination can't be written.

    """
    business_file, review_file, tip_file = (
        find_file(source, f"yelp_academic_dataset_{kind}.json", f"{kind}.json")
        for kind in ("business", "review", "tip")
    )
    if business_file is None or review_file is None:
        raise SourceError(
            f"{source} has no yelp_academic_dataset_business.json with a yelp_academic_dataset_review.json"
        )
    files = [(review_file, _review)] + ([(tip_file, _tip)] if tip_file else [])
    tallies = [Tally(path) for path in (business_file, *(path for path, _ in files))]
    businesses = {
        business.item_id: business
        for business in rows(business_file, _business, tallies[0], progress)
        if FOOD.intersection(business.categories)
    }

    def opinions(tallies: list[Tally]) -> Iterator[_Opinion]:
        """Reviews, then tips, of the businesses that serve food."""
        all_files = (rows(path, parse, tally, progress) for (path, parse), tally in zip(files, tallies, strict=True))
        return (opinion for opinion in chain.from_iterable(all_files) if opinion.business_id in businesses)

    events = Events()
    for opinion in opinions(tallies[1:]):
        kind = "visit" if opinion.rating is None else "rating"
        events.add(opinion.user_id, opinion.business_id, opinion.time, kind, rating=opinion.rating)
    if not len(events):
        raise SourceError(f"{review_file} has no review of a business that serves food")
    plan = next_event(events)
    # A second pass, since only the first one tells what is in train.
    texts = train_texts(plan, ((o.business_id, o.text) for o in opinions([Tally(path) for path, _ in files])))
    items = (msgspec.structs.replace(business, text=texts.get(business.item_id)) for business in businesses.values())
    return save(
        destination, items, events, plan, tallies=tallies, progress=progress, domain="restaurant", source="yelp"
    )


def _business(line: bytes) -> Item:
    business = json_object(line, _Business)
    attributes = dict(_attributes(business.attributes or {}))
    price = attributes.pop("RestaurantsPriceRange2", None)
    return Item(
        item_id=identifier(business.business_id, "business"),
        name=business.name[:NAME_LENGTH],
        categories=tuple(c.strip()[:LABEL_LENGTH] for c in (business.categories or "").split(",") if c.strip()),
        location=location(business.latitude, business.longitude),
        price=float(price) if price in (1, 2, 3, 4) else None,
        hours=_week(business.hours) if business.hours else None,
        attributes=attributes,
    )


def _review(line: bytes) -> _Opinion:
    review = json_object(line, _Review)
    if review.stars is None:
        raise BadRowError("no stars")
    return _opinion(review, rating(review.stars, WORST_RATING))


def _tip(line: bytes) -> _Opinion:
    return _opinion(json_object(line, _Review), None)


def _opinion(review: _Review, fraction: float | None) -> _Opinion:
    try:
        moment = datetime.fromisoformat(review.date).replace(tzinfo=UTC)
    except ValueError as error:
        raise BadRowError("date is not ISO 8601") from error
    return _Opinion(
        identifier(review.user_id, "user"),
        identifier(review.business_id, "business"),
        event_time(moment.timestamp() * 1000),
        fraction,
        review.text,
    )


def _attributes(raw: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Read values such as "True", "u'free'", "{'garage': False, 'lot': True}"; of a map, the keys that are true."""
    for name, value in raw.items():
        read = value
        if isinstance(value, str):
            try:
                read = python_literal(value)
            except BadRowError:
                read = value
        if isinstance(read, dict):
            read = [key[:LABEL_LENGTH] for key, holds in read.items() if holds is True]
        elif isinstance(read, list):
            read = [str(entry)[:LABEL_LENGTH] for entry in read]
        if isinstance(read, list | str | int | float) and read not in ("none", []):
            yield name[:LABEL_LENGTH], read


def _week(hours: dict[str, str]) -> list[list[tuple[int, int]]]:
    """Read opening hours: Monday first, in minutes since midnight; closing after midnight is above 1440."""
    week: list[list[tuple[int, int]]] = [[] for _ in _DAYS]
    for index, day in enumerate(_DAYS):
        found = _HOURS.fullmatch(hours.get(day, ""))
        if not found:
            continue
        opens, closes = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
        if opens <= 1440 and closes <= 1440:
            # 0:0-0:0 is how the data say open all day.
            week[index].append((opens, closes if closes > opens else closes + 1440))
    return week
