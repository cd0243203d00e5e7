"""Recorded requests, replayed by the same model, get the same answers; the running system is only read."""

import asyncio
import contextlib
import time

import pytest

from ops.bench.campaign import campaign_on
from ops.bench.deployment import end_offsets
from ops.replay.run import Plan, clean_up, compare, measure, own_settings, replay
from ops.replay.selection import Selection
from schemas.topics import TOPICS
from streams.kafka import full_name
from streams.topic_admin import existing_topics

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="session")]

REQUESTS = 200


async def test_a_replay_that_is_stopped_and_goes_on_gives_the_same_answers_and_writes_nowhere_else(
    deployment, world, tmp_path
):
    began = time.time_ns() // 1_000_000
    await campaign_on(deployment, world, requests=REQUESTS)
    settings = deployment.settings
    plan = Plan("test", "joined", Selection(since=began))
    size = await measure(settings, plan)
    assert size.requests >= REQUESTS
    before = {topic: await end_offsets(deployment, topic) for topic in TOPICS}

    first = asyncio.create_task(replay(settings, plan, lambda progress: progress.answered and first.cancel()))
    with contextlib.suppress(asyncio.CancelledError):
        await first
    done = await replay(settings, plan)

    assert done.posted == done.answered == size.requests
    comparison = await compare(settings, plan)
    assert comparison.verdicts == {"identical": size.requests}
    assert {topic: await end_offsets(deployment, topic) for topic in TOPICS} == before
    await clean_up(settings, plan)
    own = own_settings(settings, plan, tmp_path).kafka
    assert await existing_topics(own, [full_name(own, topic) for topic in TOPICS]) == {}


async def test_from_the_raw_topics_an_answer_differs_only_where_the_request_saw_another_state(deployment, world):
    began = time.time_ns() // 1_000_000
    await campaign_on(deployment, world, requests=REQUESTS)
    plan = Plan("raw", "raw", Selection(since=began))
    done = await replay(deployment.settings, plan)
    comparison = await compare(deployment.settings, plan)
    await clean_up(deployment.settings, plan)
    # The campaign posts everything at once, so its requests saw visits of others that come later in event time.
    assert done.answered == done.posted >= REQUESTS
    assert comparison.total >= REQUESTS  # those that were refused then and now have nothing to compare
    assert all(reason.startswith("its state: ") for reason in comparison.reasons), comparison.reasons
    assert comparison.kept > 0.9 * comparison.total
