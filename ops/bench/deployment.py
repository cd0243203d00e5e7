"""Stages of one's own on topics of one's own: what campaigns run against.

A deployment has a topic prefix per run and keeps its files in a temporary folder, so a running system is neither read
nor written, and nothing of it is left afterwards, however the run ends.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

from ops.isolated import isolated
from ops.simulator.events import Event
from ops.simulator.publish import post_all
from ops.stages import Stage
from schemas.errors import ExplainedError
from schemas.topics import MIB, Topic
from streams.kafka import client_options, full_name
from streams.settings import Settings

NO_PROGRESS_SECONDS = 60  # counted in waits: a machine may stand still itself
POLL_SECONDS = 0.02
STAGES = ("state", "inference")


class StalledError(ExplainedError):
    """Nothing moved for ``NO_PROGRESS_SECONDS``; the message says what was waited for and what the stages said last."""


@dataclass(frozen=True)
class Deployment:
    """Running stages, each started again when it dies, and a producer for their topics."""

    settings: Settings
    stages: Mapping[str, Stage]
    producer: AIOKafkaProducer
    supervision: Sequence[asyncio.Task[None]]

    def partitions(self, topic: Topic) -> list[TopicPartition]:
        """Return all partitions of a topic."""
        name = full_name(self.settings.kafka, topic)
        return [TopicPartition(name, number) for number in range(topic.partitions(self.settings.kafka.partitions))]

    async def wait_until(self, what: str, count: Callable[[], int], goal: int) -> None:
        """Wait until a count has reached its goal.

        Raises:
            StalledError: the count did not change for ``NO_PROGRESS_SECONDS``.

        """
        seen, waits = count(), 0
        while seen < goal:
            await asyncio.sleep(POLL_SECONDS)
            waits += 1
            if (now := count()) != seen:
                seen, waits = now, 0
            elif waits > NO_PROGRESS_SECONDS / POLL_SECONDS or any(task.done() for task in self.supervision):
                raise self.stalled(f"{seen} of {goal} {what}, and no more")

    def stalled(self, what: str) -> StalledError:
        """Return the error that says what did not happen in time, with what the stages said last."""
        last = "\n".join(f"-- {name}:\n{stage.last_words()}" for name, stage in self.stages.items())
        for task in self.supervision:
            if task.done() and not task.cancelled():
                last += f"\na stage could not be started again: {task.exception()!r}"
        return StalledError(f"{what} for {NO_PROGRESS_SECONDS} s\n{last}")


@contextlib.asynccontextmanager
async def deployed(
    settings: Settings, items: Iterable[Event] = (), stages: Sequence[str] = STAGES
) -> AsyncIterator[Deployment]:
    """Start stages on new topics that hold ``items``, and take everything away at the end.

    Uses the cluster there is; without one, a broker runs for the time being.

    Raises:
        StageError: a stage does not start.

    """
    async with contextlib.AsyncExitStack() as stack:
        settings = await stack.enter_async_context(isolated(settings, "bench"))
        await post_all(settings, items)
        producer = AIOKafkaProducer(
            **client_options(settings.kafka),
            enable_idempotence=True,
            max_request_size=4 * MIB,
            max_batch_size=256 * 1024,
        )
        await producer.start()
        stack.push_async_callback(producer.stop)
        processes = {name: Stage(name, settings, settings.data_dir / f"{name}.log") for name in stages}
        for stage in processes.values():
            stack.push_async_callback(stage.stop)
        await asyncio.gather(*(stage.start(timeout=1800) for stage in processes.values()))
        supervision = [asyncio.create_task(stage.supervise()) for stage in processes.values()]
        try:
            yield Deployment(settings, processes, producer, supervision)
        finally:
            for task in supervision:
                task.cancel()
            await asyncio.gather(*supervision, return_exceptions=True)


@contextlib.asynccontextmanager
async def reading(
    deployment: Deployment, topic: Topic, start: Mapping[TopicPartition, int] | None = None
) -> AsyncIterator[AIOKafkaConsumer]:
    """Yield a consumer of what has been committed, from ``start``, or from the present end on."""
    consumer = AIOKafkaConsumer(
        **client_options(deployment.settings.kafka),
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 * MIB,
    )
    await consumer.start()
    try:
        partitions = deployment.partitions(topic)
        consumer.assign(partitions)
        for partition, offset in (start or await consumer.end_offsets(partitions)).items():
            consumer.seek(partition, offset)
        yield consumer
    finally:
        await consumer.stop()


async def next_record(deployment: Deployment, consumer: AIOKafkaConsumer, what: str) -> ConsumerRecord:
    """Return the next record.

    Raises:
        StalledError: none came for ``NO_PROGRESS_SECONDS``.

    """
    for _ in range(NO_PROGRESS_SECONDS):
        for records in (await consumer.getmany(timeout_ms=1_000, max_records=1)).values():
            return records[0]
    raise deployment.stalled(f"no {what} came")


async def end_offsets(deployment: Deployment, topic: Topic) -> dict[TopicPartition, int]:
    """Return where each partition of a topic ends now."""
    async with reading(deployment, topic) as consumer:
        ends: dict[TopicPartition, int] = await consumer.end_offsets(deployment.partitions(topic))
        return ends


async def committed_records(
    deployment: Deployment, topic: Topic, start: Mapping[TopicPartition, int]
) -> AsyncIterator[ConsumerRecord]:
    """Yield everything committed between ``start`` and the present end."""
    ends = await end_offsets(deployment, topic)
    async with reading(deployment, topic, start) as consumer:
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    yield record
