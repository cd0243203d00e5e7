"""Recorded requests, replayed by the same model, get the same answers; the running system is only read."""

import asyncio
import contextlib
import json
import time

import pytest
from typer.testing import CliRunner

from ops.bench.campaign import campaign_on
from ops.bench.deployment import end_offsets, next_record, reading
from ops.cli import app
from ops.replay.run import Plan, clean_up, compare, measure, own_settings, replay
from ops.replay.selection import Selection
from ops.stages import variables
from schemas.codec import encode
from schemas.records import Request
from schemas.topics import RECOMMENDATIONS, TOPICS, USERS_REQUESTS
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


async def test_at_twice_real_time_a_replay_halves_the_pauses_and_a_dry_run_says_so_before(deployment):
    settings, ids = deployment.settings, {f"paced-{number}" for number in range(2)}
    name = full_name(settings.kafka, USERS_REQUESTS)
    began, pause = time.time_ns() // 1_000_000 - 60_000, 3_000
    async with reading(deployment, RECOMMENDATIONS) as answers:
        for number, request_id in enumerate(sorted(ids)):
            request = encode(Request(request_id=request_id, domain="restaurant"))
            await deployment.producer.send_and_wait(name, request, b"someone", timestamp_ms=began + number * pause)
            await next_record(deployment, answers, "answer")

    chosen = [word for request_id in ids for word in ("--request-id", request_id)]
    arguments = ["replay", *chosen, "--speed", "2", "--name", "paced", "--dry-run", "--json"]
    said = await asyncio.to_thread(CliRunner().invoke, app, arguments, env=variables(settings))
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout) | {"requests": 2, "estimated_seconds": pause / 2 / 1000} == json.loads(said.stdout)
    plan = Plan("paced", "joined", Selection(request_ids=ids), speed=2)
    own = own_settings(settings, plan, settings.data_dir).kafka
    assert await existing_topics(own, [full_name(own, topic) for topic in TOPICS]) == {}

    posted = {}
    await replay(settings, plan, lambda progress: posted.setdefault(progress.posted, time.monotonic()))
    await clean_up(settings, plan)
    # Looked at every 50 ms; there is no limit above, as a machine may stand still.
    assert posted[2] - posted[1] > pause / 2 / 1000 - 0.2
