"""Amazon reviews of 2014, 2018 and 2023, with the metadata file of the same category where it is there.

Item: a product that somebody reviewed. Interaction: a review is a purchase, with its stars as rating. Without
metadata, a product's text is the summaries of its reviews in train, since nothing else tells what it is.
"""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from models.dataset import Item, Meta

from .events import Events, leave_one_out, save, train_texts
from .source import (
    LABEL_LENGTH,
    NAME_LENGTH,
    TEXT_LENGTH,
    BadRowError,
    Progress,
    SourceError,
    Tally,
    csv_rows,
    event_time,
    identifier,
    json_object,
    number,
    python_literal,
    rating,
    rows,
    utf8,
)

WORST_RATING = 1
ANCIENT_MS = 1e11  # 1973, long before the first review
_COLUMNS = {
    "user": ("userid",),
    "product": ("parentasin", "asin", "itemid"),
    "rating": ("rating",),
    "timestamp": ("timestamp",),
}
_DATA_FILE = re.compile(r"\.(?:json|jsonl|csv)(?:\.gz)?$", re.IGNORECASE)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


class _Line(msgspec.Struct):
    """A line of any of the three years."""

    user_2014: str = msgspec.field(name="reviewerID", default="")
    user_2023: str = msgspec.field(name="user_id", default="")
    product: str = msgspec.field(name="asin", default="")
    parent_product: str = msgspec.field(name="parent_asin", default="")
    stars_2014: float | None = msgspec.field(name="overall", default=None)
    stars_2023: float | None = msgspec.field(name="rating", default=None)
    seconds: int | None = msgspec.field(name="unixReviewTime", default=None)
    milliseconds: int | None = msgspec.field(name="timestamp", default=None)
    summary: str | None = None
    title: str | None = None


class _Review(NamedTuple):
    user_id: str
    product_id: str
    rating: float
    time: int
    summary: str


def import_amazon(source: Path, destination: Path, progress: Progress) -> Meta:
    """Import a reviews file, or a directory with a reviews file and a meta_* file.

    Raises:
        SourceError: a file is missing, can't be read or is not of the format.
        DatasetError: the destination can't be written.

    """
    review_file, product_file = _files(source)
    tallies = [Tally(path) for path in (review_file, product_file) if path]
    events = Events()
    for review in _reviews(review_file, tallies[0], progress):
        events.add(review.user_id, review.product_id, review.time, "purchase", rating=review.rating)
    plan = leave_one_out(events)
    products: dict[str, Item] = {}
    summaries: dict[str, str] = {}
    if product_file is not None:
        for product in rows(product_file, _product, tallies[1], progress):
            if product.item_id in events.items:
                products.setdefault(product.item_id, product)
    else:
        # A second pass, since only the first one tells what is in train.
        again = _reviews(review_file, Tally(review_file), progress)
        summaries = train_texts(plan, ((review.product_id, review.summary) for review in again))
    items = (
        products.get(product_id) or Item(item_id=product_id, name="", categories=(), text=summaries.get(product_id))
        for product_id in events.items.names
    )
    return save(destination, items, events, plan, tallies=tallies, progress=progress, domain="shop", source="amazon")


def _files(source: Path) -> tuple[Path, Path | None]:
    """Find the reviews file and the metadata file."""
    if source.is_file():
        return source, None
    if not source.is_dir():
        raise SourceError(f"{source} does not exist")
    files = sorted(path for path in source.iterdir() if _DATA_FILE.search(path.name))
    products = [path for path in files if path.name.startswith("meta_")]
    reviews = [path for path in files if path not in products]
    if len(reviews) != 1 or len(products) > 1:
        names = ", ".join(path.name for path in files) or "nothing of the kind"
        raise SourceError(f"{source} should hold one reviews file and at most one meta_* file, and holds {names}")
    return reviews[0], products[0] if products else None


def _reviews(path: Path, tally: Tally, progress: Progress) -> Iterator[_Review]:
    if ".csv" in path.suffixes:
        return csv_rows(path, _COLUMNS, _review_from_csv, decode=utf8, tally=tally, progress=progress)
    return rows(path, _review, tally, progress)


def _review(line: bytes) -> _Review:
    review = json_object(line, _Line)
    stars = review.stars_2014 if review.stars_2023 is None else review.stars_2023
    if stars is None:
        raise BadRowError("no rating")
    if review.milliseconds is None and review.seconds is None:
        raise BadRowError("no time")
    return _Review(
        identifier(review.user_2023 or review.user_2014, "user"),
        identifier(review.parent_product or review.product, "product"),
        rating(stars, WORST_RATING),
        event_time((review.seconds or 0) * 1000 if review.milliseconds is None else review.milliseconds),
        html.unescape(review.summary or review.title or ""),
    )


def _review_from_csv(row: dict[str, str]) -> _Review:
    moment = number(row["timestamp"], "timestamp")
    if moment < ANCIENT_MS:  # the data of 2014 and 2018 count seconds
        moment *= 1000
    return _Review(
        identifier(row["user"], "user"),
        identifier(row["product"], "product"),
        rating(row["rating"], WORST_RATING),
        event_time(moment),
        "",
    )


def _product(line: bytes) -> Item:
    # The files of 2014 hold Python literals, those of 2018 and 2023 JSON.
    raw = python_literal(utf8(line)) if line.startswith(b"{'") else json_object(line, dict[str, Any])
    if not isinstance(raw, dict):
        raise BadRowError("not an object")
    brand = raw.get("brand") or raw.get("store")
    text = "\n".join([*_strings(raw.get("description")), *_strings(raw.get("features") or raw.get("feature"))])
    categories = dict.fromkeys(_strings([raw.get("main_category"), raw.get("categories"), raw.get("category")]))
    return Item(
        item_id=identifier(str(raw.get("parent_asin") or raw.get("asin") or ""), "product"),
        name=" ".join(_strings(raw.get("title")))[:NAME_LENGTH],
        categories=tuple(category[:LABEL_LENGTH] for category in categories)[:100],
        text=text[:TEXT_LENGTH] or None,
        price=_price(raw.get("price")),
        attributes={"brand": brand[:LABEL_LENGTH]} if isinstance(brand, str) else {},
    )


def _strings(value: Any) -> list[str]:
    """Collect the texts in a string, or in a list of lists of strings; None and anything else is no text."""
    if isinstance(value, str):
        text = " ".join(html.unescape(value).split())
        return [text] if text else []
    return [text for part in value for text in _strings(part)] if isinstance(value, list) else []


def _price(value: Any) -> float | None:
    """Read 12.5, "$1,012.50" or "from 12.50"; of a range, the lower end."""
    found = _NUMBER.search(value if isinstance(value, str) else str(value))
    price = float(found[0].replace(",", "")) if found else None
    return price if price is not None and price <= 1e9 else None
