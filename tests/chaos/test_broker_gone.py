"""A stage that is asked to end does so, although the broker has gone."""

import asyncio
import signal

import pytest

from ops.broker import start_broker
from ops.stages import Stage
from streams.settings import KafkaSettings, Settings
from streams.state.changelogs import CHANGELOGS
from streams.topic_admin import apply_topics

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="session")]

PATIENCE_SECONDS = 60.0


async def test_both_stages_end_when_asked_although_the_broker_has_gone(exported_encoder, tmp_path):
    with start_broker(tmp_path / "broker") as own:
        settings = Settings(kafka=KafkaSettings(bootstrap=own.bootstrap), data_dir=tmp_path)
        await apply_topics(settings.kafka, extra=CHANGELOGS)
        stages = [Stage(name, settings, tmp_path / f"{name}.log") for name in ("state", "inference")]
        await asyncio.gather(*(stage.start() for stage in stages))
        own.kill()
        await asyncio.gather(*(stage.stop(timeout=PATIENCE_SECONDS) for stage in stages))

    codes = [await stage.wait() for stage in stages]
    assert -signal.SIGKILL not in codes, "it had to be killed"
