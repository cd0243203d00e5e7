"""A stage that is stopped is noticed by a real Prometheus, and so is that it runs again."""

import shutil

import pytest

from ops.bench.alerts import RULES, alerts_on
from ops.bench.deployment import deployed
from ops.simulator.events import catalogue
from streams.settings import MetricsSettings

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed"),
]

METRICS_PORT = 21_000  # or the next that is free


async def test_an_alert_fires_for_each_stage_that_is_stopped_and_clears_when_it_runs_again(
    stage_settings, exported_encoder, world, tmp_path
):
    rules = tmp_path / "alerts.yml"
    quick = RULES.read_text("utf-8").replace("for: 1m", "for: 1s")
    assert quick != RULES.read_text("utf-8")
    rules.write_text(quick, "utf-8")
    watched = stage_settings.model_copy(update={"metrics": MetricsSettings(port=METRICS_PORT)})
    async with deployed(watched, catalogue(world, 0)) as deployment:
        report = await alerts_on(deployment, rules, scrape_seconds=1)
    assert report.faults == []
    assert report.fired_after_stop.keys() == report.cleared_after_start.keys() == {"state", "inference"}
