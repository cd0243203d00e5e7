"""A request sees the context that was acknowledged before it was posted."""

import pytest

from ops.bench.context_race import context_race

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="session")]

TRIES = 100
GRACE_MS = 5_000  # the wait ends when the context is there; a busy machine may need more than the default allows


async def test_a_request_sees_the_context_acknowledged_before_it(stage_settings):
    state = stage_settings.state.model_copy(update={"grace_ms": GRACE_MS})

    report = await context_race(stage_settings.model_copy(update={"state": state}), TRIES)

    assert report.misses == 0
    assert sum(result.tries for result in report.results if result.grace_ms == GRACE_MS) == TRIES
