"""Rows of a Faust table as objects that are changed in memory and written behind.

Faust gives the table its changelog, its partitions and its recovery. Its own write path sends one changelog record for
each assignment and wants to be inside an agent; here an event changes the object only, and every changed row is written
once per flush. Nothing is lost by that, because source offsets are released after the flush and rows know which offsets
they contain.
"""

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import msgspec

Row = TypeVar("Row", bound=msgspec.Struct)
MAX_LIVE = 50_000  # decoded rows kept between flushes


class Rows(Generic[Row]):
    """A table's rows by key."""

    def __init__(self, table: Any, kind: type[Row], new: Callable[[], Row]) -> None:
        self.table = table
        self._new = new
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._encoder = msgspec.msgpack.Encoder()
        self._live: dict[bytes, Row | None] = {}  # None: deleted, and still in the table until the flush
        self._changed: dict[bytes, int] = {}  # key -> partition of the changelog

    def get(self, key: bytes) -> Row | None:
        """Return the row, or None."""
        if key in self._live:
            return self._live[key]
        raw = self.table.data.get(key)
        if raw is None:
            return None
        row = self._live[key] = self._decoder.decode(raw)
        return row

    def change(self, key: bytes, partition: int) -> Row:
        """Return the row, a new one if need be, and note that it will be written."""
        row = self.get(key)
        if row is None:
            row = self._live[key] = self._new()
        self._changed[key] = partition
        return row

    def put(self, key: bytes, partition: int, row: Row) -> None:
        """Set a row."""
        self._live[key] = row
        self._changed[key] = partition

    def delete(self, key: bytes, partition: int) -> None:
        """Remove a row; its changelog gets a tombstone."""
        if self.get(key) is not None:
            self._live[key] = None
            self._changed[key] = partition

    def drain(self) -> Iterator[tuple[int, bytes, bytes | None]]:
        """Yield (partition, key, value or tombstone) of every changed row and take it over into the table."""
        changed, self._changed = self._changed, {}
        for key, partition in changed.items():
            row = self._live.get(key)
            if row is None:
                self._live.pop(key, None)
                self.table.data.pop(key, None)
                yield partition, key, None
            else:
                value = self._encoder.encode(row)
                self.table.data[key] = value
                yield partition, key, value
        if len(self._live) > MAX_LIVE:
            self._live.clear()

    def reset(self) -> None:
        """Forget what has not been written: after a rebalance the unreleased events come again."""
        self._live.clear()
        self._changed.clear()

    def __iter__(self) -> Iterator[tuple[bytes, Row]]:
        for key, raw in list(self.table.data.items()):
            yield key, self._live.get(key) or self._decoder.decode(raw)

    def __len__(self) -> int:
        return len(self.table.data)
