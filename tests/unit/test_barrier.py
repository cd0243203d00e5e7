"""A request waits for exactly what was posted before it, and for no longer than the grace."""

import asyncio

import pytest
from aiokafka import TopicPartition

from streams.state.barrier import Barrier, Waitlist

CONTEXT, FEEDBACK = TopicPartition("users.context", 0), TopicPartition("users.feedback", 0)
LONG = 30.0


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_nothing_to_wait_for_is_no_wait():
    barrier = Barrier(lambda _: 0)
    assert await barrier.wait({}, 0)
    assert await barrier.wait({CONTEXT: 0}, 0)


async def test_the_wait_ends_with_the_last_record_below_the_end_and_not_before():
    barrier = Barrier(lambda _: 0)
    waiting = asyncio.create_task(barrier.wait({CONTEXT: 2, FEEDBACK: 1}, LONG))
    for partition, offset in ((CONTEXT, 0), (FEEDBACK, 0)):
        barrier.applied(partition, offset)
        await settled()
        assert not waiting.done()
    barrier.applied(CONTEXT, 1)
    assert await asyncio.wait_for(waiting, 5)


async def test_several_may_wait_for_different_ends():
    barrier = Barrier(lambda _: 0)
    first, second = (asyncio.create_task(barrier.wait({CONTEXT: end}, LONG)) for end in (1, 2))
    await settled()
    barrier.applied(CONTEXT, 0)
    assert await asyncio.wait_for(first, 5)
    assert not second.done()
    barrier.applied(CONTEXT, 1)
    assert await asyncio.wait_for(second, 5)


async def test_it_is_known_whether_anybody_waits():
    barrier = Barrier(lambda _: 0)
    assert await barrier.wait({CONTEXT: 0}, LONG)
    assert not barrier.awaited.is_set()
    first, second = (asyncio.create_task(barrier.wait({CONTEXT: end}, LONG)) for end in (1, 2))
    await settled()
    assert barrier.awaited.is_set()
    barrier.applied(CONTEXT, 0)
    assert await asyncio.wait_for(first, 5)
    assert barrier.awaited.is_set()
    barrier.applied(CONTEXT, 1)
    assert await asyncio.wait_for(second, 5)
    assert not barrier.awaited.is_set()


async def test_a_wait_that_is_given_up_is_nobodys():
    barrier = Barrier(lambda _: 0)
    assert not await barrier.wait({CONTEXT: 1}, 0.01)
    assert not barrier.awaited.is_set()


async def test_the_grace_is_the_longest_wait():
    barrier = Barrier(lambda _: 0)
    assert not await barrier.wait({CONTEXT: 1}, 0.01)
    assert not await barrier.wait({CONTEXT: 1}, 0)


async def test_what_was_applied_before_this_process_started_counts():
    barrier = Barrier({CONTEXT: 5, FEEDBACK: 0}.__getitem__)
    assert await barrier.wait({CONTEXT: 5}, 0)
    assert not await barrier.wait({CONTEXT: 6}, 0)
    barrier.applied(CONTEXT, 7)
    assert barrier.position(CONTEXT) == 8
    barrier.reset()
    assert barrier.position(CONTEXT) == 5


async def test_offsets_without_a_record_count_once_the_records_before_them_have_been_applied():
    barrier = Barrier(lambda _: 0)
    barrier.read(FEEDBACK, 4, 6)  # records up to 4, a transaction marker at 5
    assert not await barrier.wait({FEEDBACK: 5}, 0)
    barrier.applied(FEEDBACK, 3)
    assert barrier.position(FEEDBACK) == 4
    waiting = asyncio.create_task(barrier.wait({FEEDBACK: 6}, LONG))
    await settled()
    barrier.applied(FEEDBACK, 4)
    assert await asyncio.wait_for(waiting, 5)
    waiting = asyncio.create_task(barrier.wait({FEEDBACK: 9}, LONG))
    await settled()
    barrier.read(FEEDBACK, None, 9)  # an aborted transaction: nothing to apply
    assert await asyncio.wait_for(waiting, 5)


async def test_a_waitlist_hands_over_all_there_is_in_order():
    waitlist: Waitlist[int] = Waitlist()
    waitlist.add(1)
    waitlist.add(2)
    assert await waitlist.take() == [1, 2]
    taking = asyncio.create_task(waitlist.take())
    await settled()
    assert not taking.done()
    waitlist.add(3)
    assert await asyncio.wait_for(taking, 5) == [3]
    waitlist.add(4)
    waitlist.clear()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waitlist.take(), 0.01)
