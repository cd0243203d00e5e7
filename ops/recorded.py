"""Reading what lies on topics now: bounded ranges of their logs, without a consumer group and in constant memory."""

import contextlib
import heapq
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from schemas.errors import BadInputError
from schemas.topics import MIB
from streams.kafka import client_options
from streams.settings import KafkaSettings
from streams.topic_admin import partition_counts


class Range(NamedTuple):
    """Offsets of one partition: from ``start`` up to and without ``end``."""

    start: int
    end: int


AT_ONCE = 200  # records of one partition
Ranges = Mapping[TopicPartition, Range]


@contextlib.asynccontextmanager
async def log_reader(kafka: KafkaSettings) -> AsyncIterator[AIOKafkaConsumer]:
    """Yield a consumer of committed records that belongs to no group and is assigned to nothing."""
    consumer = AIOKafkaConsumer(
        **client_options(kafka), isolation_level="read_committed", max_partition_fetch_bytes=4 * MIB
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def partitions_of(kafka: KafkaSettings, *names: str) -> list[TopicPartition]:
    """Return the partitions of topics by their names on the cluster, in order.

    Raises:
        BadInputError: one of them is not there.

    """
    found = await partition_counts(kafka, names)
    for name in names:
        if name not in found:
            raise BadInputError(f"topic {name} does not exist on {kafka.bootstrap}: run `tablecast topics apply`")
    return [TopicPartition(name, number) for name in names for number in range(found[name])]


async def whole(reader: AIOKafkaConsumer, partitions: list[TopicPartition]) -> dict[TopicPartition, Range]:
    """Return what each partition holds now."""
    starts, ends = await reader.beginning_offsets(partitions), await reader.end_offsets(partitions)
    return {partition: Range(starts[partition], ends[partition]) for partition in partitions}


async def records(reader: AIOKafkaConsumer, ranges: Ranges) -> AsyncIterator[ConsumerRecord]:
    """Yield the records in these ranges: each partition's in order, partitions as they come."""
    todo = {partition for partition, (start, end) in ranges.items() if start < end}
    if not todo:
        return  # a consumer that is assigned to nothing hangs when it is stopped
    reader.assign(list(todo))
    for partition in todo:
        reader.seek(partition, ranges[partition].start)
    while todo:
        batches = await reader.getmany(timeout_ms=200)
        for partition, batch in batches.items():
            for record in batch:
                if record.offset < ranges[partition].end:
                    yield record
        # Where the log has gaps (compacted records, transaction markers) only the position tells how far it was read.
        done = {partition for partition in todo if await reader.position(partition) >= ranges[partition].end}
        reader.pause(*done)
        todo -= done


async def by_event_time(reader: AIOKafkaConsumer, ranges: Ranges) -> AsyncIterator[ConsumerRecord]:
    """Yield the records in these ranges merged by event time, each partition's in the order of its log.

    A record that lies behind a newer one in its partition comes when that one has come. At the same time, partitions
    come in the order of ``ranges``. Memory holds what the consumer has fetched ahead and one record a partition.
    """
    todo = {partition: bounds for partition, bounds in ranges.items() if bounds.start < bounds.end}
    if not todo:
        return  # a consumer that is assigned to nothing hangs when it is stopped
    reader.assign(list(todo))
    for partition, bounds in todo.items():
        reader.seek(partition, bounds.start)
    streams = [partition_records(reader, partition, bounds) for partition, bounds in todo.items()]
    heads: list[tuple[int, int, ConsumerRecord]] = []
    for number, stream in enumerate(streams):
        if (first := await anext(stream, None)) is not None:
            heapq.heappush(heads, (first.timestamp, number, first))
    while heads:
        newest, number, record = heads[0]
        yield record
        following = await anext(streams[number], None)
        if following is None:
            heapq.heappop(heads)
        else:
            heapq.heapreplace(heads, (max(newest, following.timestamp), number, following))


async def partition_records(
    reader: AIOKafkaConsumer, partition: TopicPartition, bounds: Range
) -> AsyncIterator[ConsumerRecord]:
    """Yield the records of one of the partitions that a reader is assigned to and has been put to the start of."""
    while await reader.position(partition) < bounds.end:
        for record in (await reader.getmany(partition, timeout_ms=200, max_records=AT_ONCE)).get(partition, ()):
            if record.offset < bounds.end:
                yield record
