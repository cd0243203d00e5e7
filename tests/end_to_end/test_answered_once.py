"""Every valid request gets exactly one answer, every poisonous one a dead letter that says why."""

import pytest

from ops.bench.campaign import campaign_on
from ops.simulator.poison import POISONS

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="session")]

REQUESTS = 1_000


async def test_mixed_requests_posted_at_once_are_answered_exactly_once(deployment, world):
    report = await campaign_on(deployment, world, requests=REQUESTS, poison_fraction=0.03)

    assert report.faults == []
    assert report.requests == REQUESTS
    assert report.answered == report.valid == REQUESTS - report.poisonous
    assert report.dead_letters == report.poisonous
    assert report.repeated_dead_letters == 0
    assert {name.split(":")[0] for name in report.dead_letter_reasons} == set(POISONS)
    assert report.items > 5 * report.valid  # lists, not empty records
    assert report.largest_reason_gap <= 1e-4
