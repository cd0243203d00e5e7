"""A process of the inference stage that stood still while others took its partitions over answers nothing twice."""

import asyncio
import os
import signal
import time

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from ops.bench.campaign import campaign_on
from ops.stages import Stage
from streams.inference.answered import StoodStillError, Wakefulness
from streams.inference.app import GROUP
from streams.kafka import client_options, committed_offsets
from streams.settings import MetricsSettings

REQUESTS = 4_000
PATIENCE_SECONDS = 120.0


def test_whoever_stood_still_is_told_so_from_then_on():
    awake, asleep = Wakefulness(3600.0), Wakefulness(0.01)
    time.sleep(0.02)
    awake.check()
    for _ in range(2):
        with pytest.raises(StoodStillError):
            asleep.check()


@pytest.mark.kafka
@pytest.mark.asyncio(loop_scope="session")
async def test_a_process_that_stood_still_leaves_its_partitions_to_the_one_that_took_them(deployment, world):
    settings = deployment.settings.model_copy(update={"instance": "second", "metrics": MetricsSettings()})
    second = Stage("inference", settings, settings.data_dir / "second.log")
    admin = AIOKafkaAdminClient(**client_options(settings.kafka))
    await admin.start()

    async def committed():
        offsets = await committed_offsets(admin, settings.kafka.prefix + GROUP)
        return {partition.partition: entry.offset for partition, entry in offsets.items()}

    async def moved_on(partitions, since):
        async with asyncio.timeout(PATIENCE_SECONDS):
            now = await committed()
            while any(now.get(number, 0) <= since.get(number, 0) for number in partitions):
                await asyncio.sleep(0.05)
                now = await committed()

    try:
        await second.start()
        before = await committed()
        work = asyncio.create_task(campaign_on(deployment, world, requests=REQUESTS))
        await moved_on(range(settings.kafka.partitions), before)  # both processes are at work
        os.kill(second.pid, signal.SIGSTOP)
        await asyncio.sleep(1.0)  # for what it had sent to arrive
        stopped = await committed()
        await moved_on(range(settings.kafka.partitions), stopped)  # also the partitions of the one that stands still
        os.kill(second.pid, signal.SIGCONT)
        report = await work
        code = await asyncio.wait_for(second.wait(), PATIENCE_SECONDS)
    finally:
        await second.stop()
        await admin.close()

    assert report.faults == []
    assert report.answered == report.valid
    assert code != 0, "it went on as if nothing had happened"
