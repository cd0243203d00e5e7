"""A reading loop rests between reads, nothing is fetched meanwhile, and whoever waits ends the rest."""

import asyncio
from typing import Any

import pytest
from aiokafka import TopicPartition

from streams.kafka import Reading
from streams.state.barrier import Barrier

CONTEXT, FEEDBACK = TopicPartition("users.context", 0), TopicPartition("users.feedback", 0)
LONG = 30.0
MOST = 2


class Consumer:
    """Returns what it is told to, read by read, and fetches from partitions that are not paused."""

    def __init__(self, *reads: dict[TopicPartition, list[object]]) -> None:
        self._reads = iter(reads)
        self._paused: set[TopicPartition] = set()
        self.paused_at_reads: list[set[TopicPartition]] = []

    def assignment(self) -> set[TopicPartition]:
        return {CONTEXT, FEEDBACK}

    def paused(self) -> set[TopicPartition]:
        return set(self._paused)

    def pause(self, *partitions: TopicPartition) -> None:
        self._paused.update(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        self._paused.difference_update(partitions)

    async def getmany(self, **_: object) -> dict[TopicPartition, list[object]]:
        self.paused_at_reads.append(self.paused())
        return next(self._reads)


def reading(consumer: Any, hurry: asyncio.Event | None = None) -> Reading:
    return Reading(consumer, MOST, hurry)


@pytest.fixture(autouse=True)
def rests_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.kafka.LONGEST_REST_SECONDS", LONG)
    monkeypatch.setattr("streams.kafka.REST_PER_WORK", 1e9)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_nothing_is_fetched_during_a_rest_and_everything_after_it():
    hurry = asyncio.Event()
    consumer = Consumer({CONTEXT: [object()]}, {})
    reads = reading(consumer, hurry)
    assert await reads.read()
    assert consumer.paused() == consumer.assignment()
    resting = asyncio.create_task(reads.read())
    await settled()
    assert not resting.done()
    assert consumer.paused() == consumer.assignment()
    hurry.set()
    await asyncio.wait_for(resting, 5)
    assert consumer.paused_at_reads == [set(), set()]
    assert not consumer.paused()


async def test_who_waits_at_the_barrier_ends_the_rest():
    barrier = Barrier(lambda _: 0)
    reads = reading(Consumer({CONTEXT: [object()]}, {}), barrier.awaited)
    await reads.read()
    resting = asyncio.create_task(reads.read())
    await settled()
    assert not resting.done()
    waiting = asyncio.create_task(barrier.wait({CONTEXT: 1}, LONG))
    await asyncio.wait_for(resting, 5)
    barrier.applied(CONTEXT, 0)
    assert await asyncio.wait_for(waiting, 5)


@pytest.mark.parametrize("read", [{}, {CONTEXT: [object()], FEEDBACK: [object()]}])
async def test_a_read_that_brought_nothing_or_all_it_could_needs_no_rest(read: dict[TopicPartition, list[object]]):
    consumer = Consumer(read, {})
    reads = reading(consumer)
    await reads.read()
    assert not consumer.paused()
    assert await asyncio.wait_for(reads.read(), 5) == {}
