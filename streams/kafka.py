"""What every Kafka client of Tablecast shares: connection options, topic names, the wait for an answer."""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import CoordinatorLoadInProgressError, GroupCoordinatorNotAvailableError
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.structs import OffsetAndMetadata

from schemas.errors import BadInputError
from schemas.topics import Topic
from streams.credentials import sasl_options, tls_context
from streams.settings import KafkaSettings

_partitioner = DefaultPartitioner()
COORDINATOR_ATTEMPTS = 100  # 30 seconds

REST_PER_WORK = 6.0  # reading and what follows take a seventh of a core, until there is more to do than that
LONGEST_REST_SECONDS = 0.02


def client_options(kafka: KafkaSettings) -> dict[str, Any]:
    """Return the connection arguments that all aiokafka clients take.

    Raises:
        BadInputError: no bootstrap server is set, or a credential or certificate is missing or can't be read.

    """
    if kafka.bootstrap is None:
        raise BadInputError("no Kafka cluster: set TABLECAST_KAFKA__BOOTSTRAP=host:port, or run `tablecast up`")
    options: dict[str, Any] = {"bootstrap_servers": kafka.bootstrap, "security_protocol": kafka.security_protocol}
    if kafka.security_protocol.endswith("SSL"):
        options["ssl_context"] = tls_context(kafka)
    if kafka.security_protocol.startswith("SASL"):
        options |= sasl_options(kafka)
    return options


class Pace:
    """Lets a reading loop rest between reads, in proportion to the work since the last rest.

    Under load a consumer that reads again at once fetches nearly every record alone, which costs it and the broker more
    than the record itself; a fixed rest would be the longest part of an answer's way when there is little to do.
    """

    def __init__(self) -> None:
        self._rested = time.thread_time()

    async def rest_after(
        self,
        batches: Mapping[TopicPartition, Sequence[ConsumerRecord]],
        limit: int,
        hurry: asyncio.Event | None = None,
    ) -> None:
        """Rest, unless the read brought nothing, or all it could, and no longer than until ``hurry`` is set."""
        if 0 < sum(map(len, batches.values())) < limit:
            seconds = min(REST_PER_WORK * (time.thread_time() - self._rested), LONGEST_REST_SECONDS)
            if hurry is None:
                await asyncio.sleep(seconds)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(hurry.wait(), seconds)
        self._rested = time.thread_time()


def full_name(kafka: KafkaSettings, topic: Topic) -> str:
    """Return the topic's name on the cluster."""
    return kafka.prefix + topic.name


async def committed_offsets(
    admin: AIOKafkaAdminClient, group: str, partitions: Sequence[TopicPartition] | None = None
) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return a group's committed offsets with their metadata; partitions without one are left out.

    A cluster that has just started makes its offsets topic on the first such question: that is waited for.
    """
    for attempt in range(COORDINATOR_ATTEMPTS):
        try:
            committed = await admin.list_consumer_group_offsets(group, partitions=partitions)
        except (GroupCoordinatorNotAvailableError, CoordinatorLoadInProgressError):
            if attempt == COORDINATOR_ATTEMPTS - 1:
                raise
            await asyncio.sleep(0.3)
        else:
            return {partition: entry for partition, entry in committed.items() if entry.offset >= 0}
    raise AssertionError


def partition_of(key: str, partitions: int) -> int:
    """Return the partition that producers with Kafka's default partitioner put a key into."""
    numbers = list(range(partitions))
    return int(_partitioner(key.encode(), numbers, numbers))
