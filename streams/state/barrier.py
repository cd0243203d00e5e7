"""The grace of the as-of join: a request waits until what was posted before it has been applied.

A fixed pause would be a guess. Kafka gives the exact answer: a record acknowledged before the request was posted lies
below the end offset that its partition has when the request has been read. So ask for the end offsets once (one round
trip, shared by all requests that are waiting) and wait until everything below them has been applied. The configured
grace is only the longest wait.

Offsets that carry no record (transaction markers, aborted records) count as applied once the consumer has passed them.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from aiokafka import TopicPartition

Entry = TypeVar("Entry")


class Barrier:
    """Knows how far each input partition has been applied."""

    def __init__(self, start_offset: Callable[[TopicPartition], int]) -> None:
        self._start_offset = start_offset
        self._applied: dict[TopicPartition, int] = {}
        self._read: dict[TopicPartition, tuple[int, int]] = {}  # past the last record read, next offset to fetch
        self._progress = asyncio.Event()
        self._waiting = 0
        self.awaited = asyncio.Event()  # set while anybody waits for what has not been applied

    def applied(self, partition: TopicPartition, offset: int) -> None:
        """Note that a record has been applied (or dead-lettered)."""
        self._applied[partition] = offset + 1
        self._progress.set()

    def read(self, partition: TopicPartition, last: int | None, position: int) -> None:
        """Note what a read returned: its last record's offset, None if there was none, and where it goes on."""
        past_last = self._read.get(partition, (0, 0))[0] if last is None else last + 1
        if self._read.get(partition) != (past_last, position):
            self._read[partition] = past_last, position
            self._progress.set()

    def position(self, partition: TopicPartition) -> int:
        """Return the next offset to be applied."""
        applied = max(self._applied.get(partition, 0), self._start_offset(partition))
        past_last, position = self._read.get(partition, (0, 0))
        return max(applied, position) if applied >= past_last else applied

    def reset(self) -> None:
        """Start anew, after a rebalance."""
        self._applied.clear()
        self._read.clear()

    async def wait(self, ends: Mapping[TopicPartition, int], grace: float) -> bool:
        """Wait until everything below ``ends`` has been applied, at most ``grace`` seconds; tell whether it has."""
        if not self._behind(ends):
            return True
        self._waiting += 1
        self.awaited.set()
        try:
            async with asyncio.timeout(grace):
                while self._behind(ends):
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            return False
        else:
            return True
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.awaited.clear()

    def _behind(self, ends: Mapping[TopicPartition, int]) -> bool:
        return any(self.position(partition) < end for partition, end in ends.items())


class Waitlist(Generic[Entry]):
    """Entries in order; whoever takes them takes all there are."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry) -> None:
        """Append an entry."""
        self._entries.append(entry)
        self._filled.set()

    async def take(self) -> list[Entry]:
        """Return all entries, at least one, as soon as there is one."""
        await self._filled.wait()
        entries, self._entries = self._entries, []
        self._filled.clear()
        return entries

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
        self._filled.clear()
