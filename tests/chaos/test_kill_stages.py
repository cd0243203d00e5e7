"""A stage that is killed in the middle of its work loses nothing and answers nothing twice."""

import pytest

from ops.bench.campaign import campaign_on

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="session")]

REQUESTS = 2_000


@pytest.mark.parametrize(
    "kill", [("state",), ("inference",), ("state", "inference")], ids=["state", "inference", "both"]
)
async def test_every_request_is_answered_exactly_once_although_a_stage_is_killed(deployment, world, kill):
    report = await campaign_on(deployment, world, requests=REQUESTS, poison_fraction=0.03, kill=kill)

    assert report.faults == []
    assert sorted(entry.stage for entry in report.kills) == sorted(kill)
    assert all(0 < entry.done < entry.of for entry in report.kills), (
        "killed before or after the work, not in its middle"
    )
    assert report.answered == report.valid == REQUESTS - report.poisonous
    assert report.dead_letters == report.poisonous > 0
