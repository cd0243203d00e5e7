"""Evaluation through the running stages: the same records, posted as an app would, answered by the real thing.

It uses topics and consumer groups of its own (a prefix per run) and stages of its own, so a running system is neither
read nor written. Events are posted in order; a request is posted when everything before it has been acknowledged, and
the next event when its recommendation has been read, so each request sees exactly what it saw without Kafka: the state
stage's grace waits for what was posted first.
"""

import asyncio
import contextlib
from collections.abc import Callable

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from models import dataset
from models.dataset import Dataset
from models.evaluation import catalogue_item, figures_of, posted_feedback, posted_request, timeline
from ops.isolated import isolated
from ops.stages import Stage
from schemas.codec import decode, encode
from schemas.domains import DomainPack
from schemas.records import Recommendation
from schemas.topics import CATALOG_ITEMS, MIB, RECOMMENDATIONS, USERS_FEEDBACK, USERS_REQUESTS
from streams.kafka import client_options, full_name
from streams.settings import Settings

ANSWER_SECONDS = 900.0  # the first answer waits until the whole history before it has been applied
EVENTS_IN_FLIGHT = 500


async def evaluate_through_kafka(
    settings: Settings, data: Dataset, pack: DomainPack, split: str, progress: Callable[[], None]
) -> dict[str, float]:
    """Post the dataset and return the metrics of what was recommended, and how many answers there were.

    Raises:
        TimeoutError: a request was not answered.

    """
    async with contextlib.AsyncExitStack() as stack:
        settings = _full_answers(await stack.enter_async_context(isolated(settings, "evaluate")))
        options = client_options(settings.kafka)
        producer = AIOKafkaProducer(**options, enable_idempotence=True, max_request_size=4 * MIB)
        await producer.start()
        stack.push_async_callback(producer.stop)
        await _post_items(producer, settings, data, pack)
        stages = [Stage(name, settings, settings.data_dir / f"{name}.log") for name in ("state", "inference")]
        for stage in stages:
            stack.push_async_callback(stage.stop)
        await asyncio.gather(*(stage.start(timeout=1800) for stage in stages))
        answers = AIOKafkaConsumer(
            full_name(settings.kafka, RECOMMENDATIONS),
            **options,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=4 * MIB,
        )
        await answers.start()
        stack.push_async_callback(answers.stop)
        asked, ranked = await _replay(producer, answers, settings, data, pack, split, progress)
        extra = await answers.getmany(timeout_ms=500)
        figures = figures_of(data, "streaming", split, asked, ranked)
        figures["recommendations"] = len(ranked) + sum(map(len, extra.values()))
        figures["restarts"] = sum(stage.restarts for stage in stages)
        return figures


async def _replay(
    producer: AIOKafkaProducer,
    answers: AIOKafkaConsumer,
    settings: Settings,
    data: Dataset,
    pack: DomainPack,
    split: str,
    progress: Callable[[], None],
) -> tuple[list[dataset.Request], list[list[str]]]:
    feedback_topic = full_name(settings.kafka, USERS_FEEDBACK)
    request_topic = full_name(settings.kafka, USERS_REQUESTS)
    pending: list[asyncio.Future[object]] = []
    asked, ranked = [], []
    for entry in timeline(data, split):
        key = entry.user_id.encode()
        if isinstance(entry, dataset.Interaction):
            value = encode(posted_feedback(entry, pack))
            pending.append(await producer.send(feedback_topic, value, key, timestamp_ms=entry.event_time))
            if len(pending) >= EVENTS_IN_FLIGHT:
                await asyncio.gather(*pending)
                pending.clear()
            continue
        await asyncio.gather(*pending)
        pending.clear()
        request = posted_request(entry, pack)
        await producer.send_and_wait(request_topic, encode(request), key, timestamp_ms=entry.event_time)
        async with asyncio.timeout(ANSWER_SECONDS):
            record = await answers.getone()
        answer = decode(Recommendation, record.value)
        if answer.request_id != entry.request_id:
            raise ValueError(f"request {entry.request_id} was answered by a recommendation for {answer.request_id}")
        ranked.append([item.item_id for item in answer.items])
        asked.append(entry)
        progress()
    return asked, ranked


async def _post_items(producer: AIOKafkaProducer, settings: Settings, data: Dataset, pack: DomainPack) -> None:
    topic = full_name(settings.kafka, CATALOG_ITEMS)
    sent = [
        await producer.send(topic, encode(catalogue_item(item, pack)), item.item_id.encode()) for item in data.items
    ]
    await asyncio.gather(*sent)


def _full_answers(settings: Settings) -> Settings:
    """Return settings under which every answer is a full one, as ranked, and sees all that was posted before it."""
    inference = settings.inference.model_copy(update={"budget_ms": None, "exploration": {}})
    state = settings.state.model_copy(update={"grace_ms": 1000 * int(ANSWER_SECONDS), "idle_days": 100_000})
    return settings.model_copy(update={"inference": inference, "state": state})
