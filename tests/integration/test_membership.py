"""The state stage stays in its group however long it runs: Faust's consumer, which holds the assignment, is at rest."""

import asyncio
import time

import pytest

from ops.bench.deployment import deployed, next_record, reading
from schemas.codec import decode, encode
from schemas.records import JoinedRequest, Request
from schemas.topics import REQUESTS_JOINED, USERS_REQUESTS
from streams.kafka import full_name
from streams.settings import KafkaSettings, Settings
from streams.state.app import StateApp

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="session")]

PATIENCE_SECONDS = 60
TWO_HEARTBEATS_SECONDS = 4.5
LONG_SECONDS = 30 * 24 * 3600.0


async def test_who_has_not_asked_for_records_for_a_month_is_still_a_member_and_joins_requests(bootstrap):
    settings = Settings(kafka=KafkaSettings(bootstrap=bootstrap))
    async with deployed(settings, stages=()) as deployment, reading(deployment, REQUESTS_JOINED) as joined:
        app, stop = StateApp(deployment.settings), asyncio.Event()
        running = asyncio.create_task(app.run(stop))
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await app._assigned.wait()
                generation = app._generation
                subscription = app.faust.consumer._thread._consumer._subscription
                assert subscription.fetcher_idle_time < LONG_SECONDS
                subscription._last_fetch_ended -= LONG_SECONDS
                await asyncio.sleep(TWO_HEARTBEATS_SECONDS)
                assert subscription.fetcher_idle_time > LONG_SECONDS
                name = full_name(deployment.settings.kafka, USERS_REQUESTS)
                request = encode(Request(request_id="r", domain="restaurant"))
                now = time.time_ns() // 1_000_000
                await deployment.producer.send_and_wait(name, request, b"somebody", 0, timestamp_ms=now)
                record = await next_record(deployment, joined, "joined request")
                assert app._generation == generation
        finally:
            stop.set()
            await running
    assert decode(JoinedRequest, record.value).request.request_id == "r"
