"""Topics, a tiny model and a store for tests of the trainer."""

import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from shown_examples import ITEMS, Posted
from unit.tiny_models import tiny_encoder

from models.artefact import write_model
from models.base_model import load_base
from models.export import export_encoder
from schemas.codec import decode, encode
from schemas.records import ModelAnnouncement
from schemas.topics import CATALOG_ITEMS, MODELS, RETRAINING, Topic
from streams.kafka import full_name
from streams.settings import (
    InferenceSettings,
    KafkaSettings,
    ModelsSettings,
    PrivacySettings,
    Settings,
    TrainerSettings,
)
from streams.topic_admin import apply_topics

PARTITIONS = 2
PATIENCE_SECONDS = 500  # a machine that stands still for minutes is no failure


def tiny_model(folder: Path) -> Path:
    """Write a model of a random encoder of a few kilobytes that has no ranker yet."""
    encoder = export_encoder(load_base(str(tiny_encoder(folder / "bert"))), folder / "encoder", "fp32")
    write_model(folder / "model", name="tablecast", base="bert", encoder=encoder)
    return folder / "model"


async def trainer_settings(bootstrap: str, prefix: str, model: Path, folder: Path) -> Settings:
    """Return settings for topics of one's own, which hold a catalogue."""
    settings = Settings(
        data_dir=folder,
        kafka=KafkaSettings(bootstrap=bootstrap, prefix=prefix, partitions=PARTITIONS, keep_history=True),
        inference=InferenceSettings(model=str(model)),
        models=ModelsSettings(store=str(folder / "store")),
        privacy=PrivacySettings(key="0123456789abcdef"),
        trainer=TrainerSettings(examples=50, hours=1e6, replay=100),
    )
    await apply_topics(settings.kafka)
    async with producer(settings) as to:
        for item_id, item in ITEMS.items():
            await to.send(full_name(settings.kafka, CATALOG_ITEMS), encode(item), item_id.encode(), partition=0)
    return settings


@contextlib.asynccontextmanager
async def producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    made = AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()  # waits until everything has been acknowledged


async def post(settings: Settings, examples: Iterable[Posted]) -> None:
    """Write examples where the state stage would."""
    async with producer(settings) as to:
        for each in examples:
            await to.send(
                full_name(settings.kafka, RETRAINING),
                encode(each.example),
                each.key,
                partition=each.partition,
                timestamp_ms=each.time,
            )


async def everything_on(settings: Settings, topic: Topic) -> list[tuple[bytes, bytes]]:
    """Return key and value of everything committed on a topic."""
    partitions = [
        TopicPartition(full_name(settings.kafka, topic), number)
        for number in range(topic.partitions(settings.kafka.partitions))
    ]
    found = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    async with AIOKafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap, isolation_level="read_committed"
    ) as consumer:
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        for partition in partitions:
            while await consumer.position(partition) < ends[partition]:
                assert time.monotonic() < deadline
                records = (await consumer.getmany(partition, timeout_ms=500)).get(partition, [])
                found += [(record.key, record.value) for record in records]
    return found


async def announcements(settings: Settings) -> list[ModelAnnouncement]:
    """Return what has been announced, in order."""
    return [decode(ModelAnnouncement, value) for _, value in await everything_on(settings, MODELS)]
