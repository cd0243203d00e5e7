"""Topics with a canary on them, and a guard beside, for tests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

from aiokafka import AIOKafkaProducer
from canary_answers import CANARY, CHAMPION, PARTITIONS, Written

from models.roles import with_role
from schemas.codec import encode
from schemas.records import ModelVersion
from streams.kafka import client_options, full_name
from streams.model_roles import change_roles
from streams.privacy import load_pseudonyms
from streams.settings import KafkaSettings, PrivacySettings, Settings, TrainerSettings
from streams.topic_admin import apply_topics
from streams.trainer.guard import Guard

NAME = "tablecast"
PATIENCE_SECONDS = 120


async def guarded_settings(bootstrap: str, prefix: str, folder: Path, click_margin: float = 0.2) -> Settings:
    """Return settings for topics of one's own with a champion and a canary."""
    settings = Settings(
        data_dir=folder,
        kafka=KafkaSettings(bootstrap=bootstrap, prefix=prefix, partitions=PARTITIONS, keep_history=True),
        privacy=PrivacySettings(key="0123456789abcdef"),
        trainer=TrainerSettings(click_margin=click_margin),
    )
    await apply_topics(settings.kafka)
    for version, role in ((CHAMPION, "champion"), (CANARY, "canary")):
        announced = ModelVersion(version=version, role=role, sha256="0" * 64, share=0.5 if role == "canary" else 1.0)
        await change_roles(settings.kafka, NAME, lambda current, it=announced: with_role(current, it, "for a test"))
    return settings


async def write(settings: Settings, records: Iterable[Written]) -> None:
    """Write records where the stages would."""
    producer = AIOKafkaProducer(**client_options(settings.kafka), linger_ms=20)
    await producer.start()
    try:
        for each in records:
            topic = full_name(settings.kafka, each.topic)
            await producer.send(topic, encode(each.record), each.key, each.partition, timestamp_ms=each.time)
    finally:
        await producer.stop()  # waits until everything has been acknowledged


def group(settings: Settings) -> str:
    return f"{settings.kafka.prefix}trainer-{NAME}-guard"


def guard(settings: Settings) -> Guard:
    return Guard(settings, load_pseudonyms(settings), group(settings))


@contextlib.asynccontextmanager
async def guarding(settings: Settings) -> AsyncIterator[asyncio.Task[None]]:
    """Have a guard watch."""
    task = asyncio.create_task(guard(settings).run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(
    settings: Settings, holds: Callable[[Settings], object], task: "asyncio.Task[None] | None" = None
) -> None:
    """Wait until a question of the cluster has a true answer."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await holds(settings):  # type: ignore[misc]
            assert task is None or not task.done(), task
            await asyncio.sleep(0.1)
