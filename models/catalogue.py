"""The catalogue as arrays, one row per item, changed in place while requests are answered.

Embeddings are held as whole numbers (unit vectors times ``SCALE``, rounded) in float32. Every product and every partial
sum of a dot product then stays below 2**24, where float32 is exact for whole numbers, so a score does not depend on the
order of summation, on the row's position or on what else is in the batch: replay is byte for byte. The error this adds
to a cosine is about 1e-4.

A long text has several embeddings, one of each of its chunks. Its cosine is the average of the best few: a place is
what its reviews say again and again, and the best chunk alone is often a stray remark (measured in models/TEXT.md).
"""

import hashlib
from collections.abc import Sequence
from itertools import repeat
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from models.chunks import MAX_CHUNKS
from models.lexical import LexicalIndex
from models.places import distances, unit_vector
from models.texts import item_text
from models.wishes.vocabulary import Vocabulary
from schemas.domains import UnknownDomainError, pack_for
from schemas.errors import BadInputError
from schemas.records import Item, Location

SCALE = 4000
BEST_CHUNKS = 5  # whose cosines are averaged; of a text with fewer, all
MAX_CATEGORIES = 8  # of an item that count for taste; filters see all of them
WEEK_MINUTES = 7 * 1440


class CatalogueError(BadInputError):
    """An item cannot be taken into the catalogue; the message says why."""


def whole_numbers(embeddings: np.ndarray) -> np.ndarray:
    """Return unit vectors [n, dim] as whole numbers in float32, see the module's docstring."""
    rounded: np.ndarray = np.rint(embeddings * SCALE).astype(np.float32)
    return rounded


class Catalogue:
    """All items of all domains. Row numbers are stable while an item stays; freed rows are used again."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.row_of: dict[str, int] = {}
        self.item_ids: list[str] = []
        self.items: list[Item | None] = []
        self.category_code: dict[str, int] = {}
        self.rows_in_category: dict[str, set[int]] = {}
        self.domain_code: dict[str, int] = {}
        self.time_zones: list[ZoneInfo | None] = [None]  # number 0: the request's own
        self.size = 0  # rows in use or free; arrays are longer
        self.changes = 0  # how often an item was put or removed
        self.open_masks: dict[tuple[int, ...], np.ndarray] = {}  # what is open, as ``constraints`` found since
        self._metres: tuple[Location, np.ndarray] | None = None  # how far every row is from where was asked last
        self.words = LexicalIndex()  # by row
        self.vocabularies: dict[str, Vocabulary] = {}  # domain pack -> the words of its items, for wishes
        self._free: list[int] = []
        self.chunk_embedding = np.zeros((1, dim), np.float32)  # embeddings of second and later chunks; number 0: none
        self._free_chunks: list[int] = []
        self._allocate(1024, 14)

    def _allocate(self, rows: int, intervals: int) -> None:
        self.embedding = np.zeros((rows, self.dim), np.float32)  # of the first chunk
        self.later_chunks = np.zeros((rows, MAX_CHUNKS - 1), np.int32)  # their numbers; 0 after the last
        self.available = np.zeros(rows, bool)
        self.domain = np.zeros(rows, np.int32)
        self.price = np.full(rows, np.nan)
        self.point = np.full((rows, 3), np.nan)
        self.category = np.zeros((rows, MAX_CATEGORIES), np.int32)  # 0: none
        self.hours = np.zeros((rows, intervals, 2), np.int32)  # minutes of the week, [start, end)
        self.time_zone = np.zeros(rows, np.int32)
        self.tie_break = np.zeros(rows, np.uint64)
        self.changed = np.zeros(rows, np.int64)  # the number of the row's last change

    _COLUMNS = (
        "embedding",
        "later_chunks",
        "available",
        "domain",
        "price",
        "point",
        "category",
        "hours",
        "time_zone",
        "tie_break",
        "changed",
    )

    def _grow(self, rows: int, intervals: int) -> None:
        old = {name: getattr(self, name) for name in self._COLUMNS}
        self._allocate(max(rows, len(self.available)), max(intervals, self.hours.shape[1]))
        for name, values in old.items():
            target = getattr(self, name)
            target[tuple(slice(0, length) for length in values.shape)] = values

    def __len__(self) -> int:
        return len(self.row_of)

    def put(self, item_id: str, item: Item, embeddings: np.ndarray) -> None:
        """Add or replace an item. ``embeddings`` are unit vectors [chunks, dim], or [dim] of a text of one chunk.

        Raises:
            CatalogueError: its domain or time zone is unknown.

        """
        try:
            pack = pack_for(item.domain)
            zone = ZoneInfo(item.time_zone) if item.time_zone else None
        except UnknownDomainError as error:
            raise CatalogueError(str(error)) from error
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise CatalogueError(f"time zone {item.time_zone!r} is not an IANA name like Asia/Shanghai") from error
        intervals = week_intervals(item)
        self.remove(item_id)
        row = self._free.pop() if self._free else self.size
        if row == self.size:
            self.size += 1
            self.item_ids.append(item_id)
            self.items.append(item)
        if row >= len(self.available) or len(intervals) > self.hours.shape[1]:
            self._grow(2 * len(self.available) if row >= len(self.available) else 0, len(intervals))
        self.row_of[item_id] = row
        self.item_ids[row] = item_id
        self.items[row] = item
        first, *further = whole_numbers(np.atleast_2d(embeddings))
        self.embedding[row] = first
        self._put_later_chunks(row, further)
        self.words.put(row, item_text(pack, item))
        if pack.name not in self.vocabularies:
            self.vocabularies[pack.name] = Vocabulary(pack.wishes)
        self.vocabularies[pack.name].put(row, item)
        self._note_change(row)
        self.available[row] = item.available
        self.domain[row] = self.domain_code.setdefault(pack.name, len(self.domain_code) + 1)
        self.price[row] = np.nan if item.price is None else item.price
        self.point[row] = np.nan if item.location is None else unit_vector(item.location)
        self.hours[row] = 0
        self.hours[row, : len(intervals)] = intervals or np.zeros((0, 2))
        if zone not in self.time_zones:
            self.time_zones.append(zone)
        self.time_zone[row] = self.time_zones.index(zone)
        self.tie_break[row] = int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=8).digest())
        codes = [self.category_code.setdefault(name, len(self.category_code) + 1) for name in normal_categories(item)]
        self.category[row] = 0
        self.category[row, : len(codes[:MAX_CATEGORIES])] = codes[:MAX_CATEGORIES]
        for name in normal_categories(item):
            self.rows_in_category.setdefault(name, set()).add(row)

    def remove(self, item_id: str) -> None:
        """Take an item out (a tombstone); unknown ids are no error."""
        row = self.row_of.pop(item_id, None)
        if row is None:
            return
        item = self.items[row]
        if item is not None:
            self.vocabularies[pack_for(item.domain).name].remove(row)
            for name in normal_categories(item):
                self.rows_in_category[name].discard(row)
        self.items[row] = None
        self._note_change(row)
        self.available[row] = False
        self.domain[row] = 0
        self.words.remove(row)
        self._put_later_chunks(row, [])
        self._free.append(row)

    def metres_from(self, location: Location) -> np.ndarray:
        """Return how far every row is [size], NaN where that is unknown; not to be written to.

        One answer asks several times: for a limit, for "near" and for what is told.
        """
        if self._metres is None or self._metres[0] != location:
            metres = distances(self.point[: self.size], unit_vector(location))
            metres.flags.writeable = False
            self._metres = location, metres
        return self._metres[1]

    def _note_change(self, row: int) -> None:
        self.open_masks.clear()
        self._metres = None
        self.changes += 1
        self.changed[row] = self.changes

    def _put_later_chunks(self, row: int, embeddings: Sequence[np.ndarray]) -> None:
        """Replace the embeddings of a row's second and later chunks."""
        chunks = self.later_chunks[row]
        self._free_chunks += chunks[chunks > 0].tolist()
        chunks[:] = 0
        if len(embeddings) > len(self._free_chunks):
            used = len(self.chunk_embedding)
            self.chunk_embedding = np.concatenate(
                [self.chunk_embedding, np.zeros((used + len(embeddings), self.dim), np.float32)]
            )
            self._free_chunks += range(len(self.chunk_embedding) - 1, used - 1, -1)
        for place, embedding in enumerate(embeddings):
            chunks[place] = self._free_chunks.pop()
            self.chunk_embedding[chunks[place]] = embedding

    def rows(self, item_ids: Sequence[str]) -> np.ndarray:
        """Return row numbers [n]; -1 for items that are not in the catalogue."""
        return np.fromiter(map(self.row_of.get, item_ids, repeat(-1)), np.int64, len(item_ids))

    def cosines(self, queries: np.ndarray) -> np.ndarray:
        """Return cosines [n, size] of unit vectors [n, dim] with every row, exact in the sense of this module."""
        whole = whole_numbers(queries)
        products = (whole @ self.embedding[: self.size].T).astype(np.float64)
        if len(self._free_chunks) < len(self.chunk_embedding) - 1:
            long = np.flatnonzero(self.later_chunks[: self.size, 0])
            chunks = self.later_chunks[long]
            chunks = chunks[:, : np.count_nonzero(chunks, axis=1).max()]
            of_chunks = whole @ self.chunk_embedding.T
            of_chunks[:, 0] = -np.inf
            for product, of_further in zip(products, of_chunks, strict=True):
                product[long] = _best_average(np.column_stack([product[long], of_further[chunks]]))
        products /= SCALE**2
        return products


def _best_average(values: np.ndarray) -> np.ndarray:
    """Return the average of the greatest ``BEST_CHUNKS`` of each row [n, m]; those that are -inf do not count."""
    if values.shape[1] > BEST_CHUNKS:
        values = np.partition(values, -BEST_CHUNKS, axis=1)[:, -BEST_CHUNKS:]
    counted = np.isfinite(values)
    average: np.ndarray = np.where(counted, values, 0.0).sum(axis=1) / np.count_nonzero(counted, axis=1)
    return average


def normal_categories(item: Item) -> list[str]:
    """Return an item's categories as they are compared: case does not matter."""
    return list(dict.fromkeys(name.casefold() for name in item.categories))


def week_intervals(item: Item) -> list[tuple[int, int]]:
    """Return the opening hours as minutes of the week; an interval over Sunday midnight is split.

    Raises:
        CatalogueError: an interval closes before it opens.

    """
    intervals = []
    for day, spans in enumerate(item.hours or ()):
        for opens, closes in spans:
            if closes <= opens:
                raise CatalogueError(
                    f"opening hours of day {day} (0 is Monday): {opens} to {closes}; "
                    f"a place that closes after midnight is written as closing at {closes + 1440}"
                )
            start, end = day * 1440 + opens, day * 1440 + closes
            intervals.append((start, min(end, WEEK_MINUTES)))
            if end > WEEK_MINUTES:
                intervals.append((0, end - WEEK_MINUTES))
    return intervals
