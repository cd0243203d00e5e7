"""Fixtures: running stages with a small simulated city, shared by all tests of a folder, as starting takes time."""

import time

import pytest
import pytest_asyncio

from models.export import load_shipped_encoder
from ops.bench.deployment import deployed
from ops.simulator.events import catalogue
from ops.simulator.world import build_world
from streams.settings import KafkaSettings, MetricsSettings, Settings, TracingSettings

METRICS_PORT = 20_000  # or the next that is free


@pytest.fixture(scope="session")
def exported_encoder():
    """See that the encoder's artefact is in the cache, so that no stage has to export it while a test waits."""
    load_shipped_encoder()


@pytest.fixture(scope="session")
def stage_settings(broker):
    return Settings(kafka=KafkaSettings(bootstrap=broker.bootstrap))


@pytest.fixture(scope="session")
def world():
    return build_world(3, users=200, restaurants=100)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def deployment(stage_settings, exported_encoder, world, tmp_path_factory):
    spans = str(tmp_path_factory.mktemp("traces") / "spans.jsonl")
    watched = stage_settings.model_copy(
        update={
            "metrics": MetricsSettings(port=METRICS_PORT),
            "tracing": TracingSettings(export=spans, share=0),  # what an app begins to trace, and nothing else
        }
    )
    async with deployed(watched, catalogue(world, time.time_ns() // 1_000_000)) as running:
        yield running
