"""A trainer killed in the middle of any phase leaves nothing half-published, and its run is finished after it."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import get_args

import pytest
from shown_examples import examples
from trainer_deployment import PATIENCE_SECONDS, announcements, post, tiny_model, trainer_settings

from models.store import ModelStore
from ops.stages import variables
from schemas.topics import RETRAINING
from streams.kafka import client_options, committed_offsets, full_name
from streams.privacy import load_pseudonyms
from streams.trainer.app import TrainerApp
from streams.trainer.plan import Phase, recorded
from streams.trainer.repeat import repeat

pytestmark = pytest.mark.kafka

LISTS = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
async def settings(bootstrap, topic_prefix, model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = await trainer_settings(bootstrap, topic_prefix, model, tmp_path)
    await post(made, examples(LISTS, partitions=2))
    return made


@contextlib.asynccontextmanager
async def held_in(phase, settings):
    """Start a trainer in a process of its own, and yield it when it is in the middle of a phase; it is killed then."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("held_trainer.py")),
        phase,
        env={**os.environ, **variables(settings)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (line := await process.stdout.readline()) != b"held\n":
                assert line, "the trainer ended before it was held"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def finish(settings):
    async with asyncio.timeout(PATIENCE_SECONDS):
        await TrainerApp(settings, load_pseudonyms(settings)).run_once(asyncio.Event())


async def progress(settings):
    """Return what Kafka knows of the run in progress, and where the last one ended."""
    from aiokafka.admin import AIOKafkaAdminClient

    admin = AIOKafkaAdminClient(**client_options(settings.kafka))
    await admin.start()
    try:
        topic = full_name(settings.kafka, RETRAINING)
        committed = await committed_offsets(admin, f"{settings.kafka.prefix}trainer-tablecast")
        stood = {tp.partition: (at.offset, at.metadata) for tp, at in committed.items() if tp.topic == topic}
        return recorded(topic, stood), {number: offset for number, (offset, _) in stood.items()}
    finally:
        await admin.close()


@pytest.mark.parametrize("phase", get_args(Phase))
async def test_a_run_is_finished_after_a_kill_with_the_result_it_would_have_had(phase, settings, tmp_path):
    async with held_in(phase, settings):
        pass

    async with asyncio.timeout(PATIENCE_SECONDS):
        while (begun := (await progress(settings))[0]) is None:  # what was committed shows when its marker is written
            await asyncio.sleep(0.1)
    (run, reached), (_, ends) = begun, await progress(settings)
    assert (reached, ends) == (phase, {0: 0, 1: 0})
    store = ModelStore(settings.model_store)
    assert len(store.versions()) == (2 if phase == "announcing" else 1), "half a model can be seen"
    assert len(await announcements(settings)) == (1 if phase == "announcing" else 0)

    await finish(settings)

    assert await progress(settings) == (None, {0: LISTS, 1: LISTS})
    (announced,) = await announcements(settings)
    version = announced.versions[0].version
    assert {made.version for made in store.versions()} == {version, run.parent}
    assert store.manifest(version)[0].training["range"] == run.name
    assert list((tmp_path / "trainer").rglob("*.*")) == [], "the work of a finished run is left behind"
    assert (await repeat(settings, load_pseudonyms(settings), version)).same


async def test_a_trainer_that_was_frozen_and_has_been_replaced_changes_nothing_when_it_wakes(settings):
    async with held_in("freezing", settings) as zombie:
        zombie.send_signal(signal.SIGSTOP)
        successor = settings.model_copy(update={"instance": "1"})
        await finish(successor)
        await post(successor, examples(LISTS, partitions=2, first=LISTS, seed=2))
        await finish(successor)
        before = await announcements(settings)
        assert [each.generation for each in before] == [1, 2]

        zombie.send_signal(signal.SIGCONT)
        zombie.stdin.write(b"wake up\n")
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await zombie.wait() != 0

    assert await announcements(settings) == before
    assert await progress(settings) == (None, {0: 2 * LISTS, 1: 2 * LISTS})
