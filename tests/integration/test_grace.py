"""What the grace of the as-of join decides, with the race held open: the context is read only when the test says so."""

import asyncio

import pytest
from state_in_process import PATIENCE_SECONDS, joining

from schemas.records import Context, Request
from schemas.topics import USERS_CONTEXT, USERS_REQUESTS
from streams.settings import KafkaSettings, Settings, StateSettings

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="session")]

LONGEST_GRACE_MS = PATIENCE_SECONDS * 1000


@pytest.mark.parametrize(("grace_ms", "weather"), [(LONGEST_GRACE_MS, "rain"), (0, None)])
async def test_a_request_waits_for_a_context_that_was_posted_first_and_with_no_grace_it_does_not(
    bootstrap, grace_ms, weather
):
    settings = Settings(kafka=KafkaSettings(bootstrap=bootstrap), state=StateSettings(grace_ms=grace_ms))
    async with joining(settings) as stage:
        contexts = stage.deployment.partitions(USERS_CONTEXT)
        stage.app._reader.pause(*contexts)
        await stage.post(USERS_CONTEXT, Context(weather="rain"))
        await stage.post(USERS_REQUESTS, Request(request_id="r", domain="restaurant"))
        if grace_ms:
            await _read(stage.app, stage.deployment.partitions(USERS_REQUESTS)[0])
            stage.app._reader.resume(*contexts)
        assert (await stage.next()).context.weather == weather


async def _read(app, partition):
    while await app._reader.position(partition) < 1:
        await asyncio.sleep(0.01)
