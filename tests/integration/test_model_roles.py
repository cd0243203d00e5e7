"""Two operators at once can't announce past each other; what can't be read is passed over."""

import asyncio

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer

from models.roles import RoleError, holder, promoted, with_role
from schemas.records import ModelVersion
from schemas.topics import MODELS
from streams.kafka import client_options, full_name
from streams.model_roles import change_roles, read_roles
from streams.settings import KafkaSettings
from streams.topic_admin import apply_topics, delete_topics

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(loop_scope="session")
async def kafka(bootstrap, topic_prefix):
    settings = KafkaSettings(bootstrap=bootstrap, prefix=topic_prefix)
    await apply_topics(settings)
    yield settings
    await delete_topics(settings, [MODELS])


def candidate(name):
    version = ModelVersion(version=name, role="candidate", sha256="0" * 64)
    return lambda current: with_role(current, version, f"{name} was published")


async def test_changes_follow_one_another_and_nothing_to_change_changes_nothing(kafka):
    assert await read_roles(kafka) == {}
    await change_roles(kafka, "tiny", candidate("a"))
    second = await change_roles(kafka, "tiny", lambda current: promoted(current, "a", "it is the first"))
    await change_roles(kafka, "other", candidate("x"))
    assert await change_roles(kafka, "tiny", lambda current: None) == second
    now = await read_roles(kafka)
    assert now["tiny"] == second
    assert (second.generation, holder(second, "champion").version) == (2, "a")
    assert set(now) == {"tiny", "other"}


async def test_of_two_operators_at_once_one_is_told_to_look_again(kafka):
    def overtaken(current):
        """What the first operator has read is old by now: the second one has been faster."""
        done = asyncio.run_coroutine_threadsafe(change_roles(kafka, "tiny", candidate("second")), other_loop)
        done.result(60)
        return candidate("first")(current)

    other_loop = asyncio.new_event_loop()
    running = asyncio.get_running_loop().run_in_executor(None, other_loop.run_forever)
    try:
        with pytest.raises(RoleError, match="at the same time"):
            await change_roles(kafka, "tiny", overtaken)
    finally:
        other_loop.call_soon_threadsafe(other_loop.stop)
        await running
        other_loop.close()
    now = (await read_roles(kafka))["tiny"]
    assert (now.generation, [version.version for version in now.versions]) == (1, ["second"])


async def test_what_is_not_an_announcement_is_passed_over(kafka):
    announced = await change_roles(kafka, "tiny", candidate("a"))
    async with AIOKafkaProducer(**client_options(kafka)) as producer:
        for key, value in ((b"tiny", b"\xc1"), (b"tiny", None), (b"\xff", b"\x80")):
            await producer.send_and_wait(full_name(kafka, MODELS), value, key, partition=0)
    assert await read_roles(kafka) == {"tiny": announced}
