"""The state stage stays in its group however long it runs: Faust's consumer, which holds the assignment, is at rest."""

import asyncio

import pytest
from state_in_process import joining

from schemas.records import Request
from schemas.topics import USERS_REQUESTS
from streams.settings import KafkaSettings, Settings

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="session")]

TWO_HEARTBEATS_SECONDS = 4.5
LONG_SECONDS = 30 * 24 * 3600.0


async def test_who_has_not_asked_for_records_for_a_month_is_still_a_member_and_joins_requests(bootstrap):
    async with joining(Settings(kafka=KafkaSettings(bootstrap=bootstrap))) as stage:
        generation = stage.app._generation
        subscription = stage.app.faust.consumer._thread._consumer._subscription
        assert subscription.fetcher_idle_time < LONG_SECONDS
        subscription._last_fetch_ended -= LONG_SECONDS
        await asyncio.sleep(TWO_HEARTBEATS_SECONDS)
        assert subscription.fetcher_idle_time > LONG_SECONDS
        await stage.post(USERS_REQUESTS, Request(request_id="r", domain="restaurant"))
        assert (await stage.next()).request.request_id == "r"
        assert stage.app._generation == generation
