"""The grace of the as-of join: a request waits until what was posted before it has been applied.

A fixed pause would be a guess. Kafka gives the exact answer: a record acknowledged before the request was posted lies
below the end offset that its partition has when the request has been read. So ask for the end offsets once (one round
trip, shared by all requests that are waiting) and wait until everything below them has been applied. The configured
grace is only the longest wait.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from aiokafka import TopicPartition

EndOffsets = Callable[[list[TopicPartition]], "asyncio.Future[Mapping[TopicPartition, int]]"]


class Barrier:
    """Knows how far each input partition has been applied."""

    def __init__(self, start_offset: Callable[[TopicPartition], int]) -> None:
        self._start_offset = start_offset
        self._applied: dict[TopicPartition, int] = {}
        self._progress = asyncio.Event()

    def applied(self, partition: TopicPartition, offset: int) -> None:
        """Note that a record has been applied (or dead-lettered)."""
        self._applied[partition] = offset + 1
        self._progress.set()

    def position(self, partition: TopicPartition) -> int:
        """Return the next offset to be applied."""
        return max(self._applied.get(partition, 0), self._start_offset(partition))

    def reset(self) -> None:
        """Start anew, after a rebalance."""
        self._applied.clear()

    async def wait(self, ends: Mapping[TopicPartition, int], grace: float) -> bool:
        """Wait until everything below ``ends`` has been applied, at most ``grace`` seconds; tell whether it has."""
        deadline = asyncio.get_running_loop().time() + grace
        while self._behind(ends):
            self._progress.clear()
            remaining = deadline - asyncio.get_running_loop().time()
            if remaining <= 0:
                return False
            try:
                await asyncio.wait_for(self._progress.wait(), remaining)
            except TimeoutError:
                return False
        return True

    def _behind(self, ends: Mapping[TopicPartition, int]) -> bool:
        return any(self.position(partition) < end for partition, end in ends.items())


def partitions_of(topics: Iterable[str], numbers: Iterable[int]) -> list[TopicPartition]:
    """Return the partitions of the same numbers of several topics."""
    numbers = list(numbers)
    return [TopicPartition(topic, number) for topic in topics for number in numbers]
