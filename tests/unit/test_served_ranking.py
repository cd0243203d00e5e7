"""Where a served model ranks: few requests where they are, many in its thread, and never beside a catalogue change."""

import asyncio
import threading
from typing import Any

import pytest

from streams.inference.served_model import SHORT_SECONDS, ServedModel


def served(seconds_per_list: float | None = None) -> ServedModel:
    nobody: Any = None  # neither encoder nor recommender is asked here
    model = ServedModel(nobody, nobody)
    if seconds_per_list is not None:
        model.seconds_per_list = seconds_per_list
    return model


async def test_few_requests_are_ranked_where_they_are_and_many_in_the_models_thread():
    here = threading.get_ident()
    assert await served().ranking(1, threading.get_ident) != here  # nobody knows yet how long it takes
    assert await served(SHORT_SECONDS / 4).ranking(2, threading.get_ident) == here
    assert await served(SHORT_SECONDS / 4).ranking(5, threading.get_ident) != here


async def test_the_time_of_a_list_is_learned():
    model = served()
    await model.ranking(2, lambda: threading.Event().wait(0.02))
    assert 0.01 <= model.seconds_per_list < 10


async def test_nobody_ranks_while_the_catalogue_changes():
    model = served(0.0)
    begun, go_on, done = threading.Event(), threading.Event(), []

    def change():
        begun.set()
        go_on.wait(10)
        done.append("change")

    changing = asyncio.create_task(model.in_thread(change))
    await asyncio.to_thread(begun.wait, 10)
    ranking = asyncio.create_task(model.ranking(1, lambda: done.append("rank")))
    await asyncio.sleep(0)
    assert not done
    go_on.set()
    await asyncio.wait_for(asyncio.gather(changing, ranking), 10)
    assert done == ["change", "rank"]


async def test_a_ranking_that_fails_leaves_the_catalogue_to_others():
    model = served(0.0)
    with pytest.raises(ZeroDivisionError):
        await model.ranking(1, lambda: 1 // 0)
    assert await asyncio.wait_for(model.in_thread(lambda: "free"), 10) == "free"
