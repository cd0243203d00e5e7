"""Batches in order, within a budget of tokens; a full queue makes its feeder wait."""

import asyncio

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.inference.batcher import Batcher, Waiting


def waiting(offset: int, tokens: int | None) -> Waiting:
    ids = None if tokens is None else np.zeros(tokens, np.int64)
    return Waiting(partition=0, offset=offset, time=0, key=b"u", joined=None, tokens=ids)


async def drained(batcher: Batcher) -> list[list[Waiting]]:
    batches = []
    while len(batcher):
        batches.append(await batcher.take())
    return batches


@given(st.lists(st.none() | st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 8), st.integers(1, 60))
def test_every_request_leaves_once_in_order_and_within_the_budget(costs, most, budget):
    async def run() -> list[list[Waiting]]:
        batcher = Batcher(most, budget, capacity=1000)
        await batcher.put([waiting(offset, tokens) for offset, tokens in enumerate(costs)])
        return await drained(batcher)

    batches = asyncio.run(run())
    assert [entry.offset for batch in batches for entry in batch] == list(range(len(costs)))
    for number, batch in enumerate(batches):
        cost = sum(len(entry.tokens) for entry in batch if entry.tokens is not None)
        assert 1 <= len(batch) <= most
        assert cost <= budget or len(batch) == 1
        if number + 1 < len(batches) and len(batch) < most:  # not one request fewer than would have fitted
            following = batches[number + 1][0].tokens
            assert cost + (0 if following is None else len(following)) > budget


async def test_a_full_queue_makes_its_feeder_wait_until_there_is_room():
    batcher = Batcher(2, 100, capacity=2)
    await batcher.put([waiting(0, 1), waiting(1, 1)])
    feeding = asyncio.create_task(batcher.put([waiting(2, 1)]))
    for _ in range(5):
        await asyncio.sleep(0)
    assert (feeding.done(), len(batcher)) == (False, 2)
    assert [entry.offset for entry in await batcher.take()] == [0, 1]
    await asyncio.wait_for(feeding, 5)
    assert [entry.offset for entry in await batcher.take()] == [2]


async def test_whoever_takes_from_an_empty_queue_waits_for_the_first_request():
    batcher = Batcher(8, 100, capacity=8)
    taking = asyncio.create_task(batcher.take())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not taking.done()
    await batcher.put([waiting(7, None)])
    assert [entry.offset for entry in await asyncio.wait_for(taking, 5)] == [7]
