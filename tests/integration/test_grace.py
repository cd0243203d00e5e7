"""What the grace of the as-of join decides, with the race held open: the context is read only when the test says so."""

import asyncio
import time

import pytest

from ops.bench.deployment import deployed, next_record, reading
from schemas.codec import decode, encode
from schemas.records import Context, JoinedRequest, Request
from schemas.topics import REQUESTS_JOINED, USERS_CONTEXT, USERS_REQUESTS
from streams.kafka import full_name
from streams.settings import KafkaSettings, Settings, StateSettings
from streams.state.app import StateApp

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="session")]

USER = b"somebody"
PATIENCE_SECONDS = 30


@pytest.mark.parametrize(("grace_ms", "weather"), [(PATIENCE_SECONDS * 1000, "rain"), (0, None)])
async def test_a_request_waits_for_a_context_that_was_posted_first_and_with_no_grace_it_does_not(
    bootstrap, grace_ms, weather
):
    settings = Settings(kafka=KafkaSettings(bootstrap=bootstrap), state=StateSettings(grace_ms=grace_ms))
    async with deployed(settings, stages=()) as deployment, reading(deployment, REQUESTS_JOINED) as joined:
        app, stop = StateApp(deployment.settings), asyncio.Event()
        running = asyncio.create_task(app.run(stop))
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await app._assigned.wait()
                app._reader.pause(*deployment.partitions(USERS_CONTEXT))
                await _post(deployment, USERS_CONTEXT, Context(weather="rain"))
                await _post(deployment, USERS_REQUESTS, Request(request_id="r", domain="restaurant"))
                if grace_ms:
                    await _read(app, deployment.partitions(USERS_REQUESTS)[0])
                    app._reader.resume(*deployment.partitions(USERS_CONTEXT))
                record = await next_record(deployment, joined, "joined request")
        finally:
            stop.set()
            await running

    assert decode(JoinedRequest, record.value).context.weather == weather


async def _post(deployment, topic, record):
    now = time.time_ns() // 1_000_000
    name = full_name(deployment.settings.kafka, topic)
    await deployment.producer.send_and_wait(name, encode(record), USER, 0, timestamp_ms=now)


async def _read(app, partition):
    while await app._reader.position(partition) < 1:
        await asyncio.sleep(0.01)
