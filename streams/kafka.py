"""What every Kafka client of Tablecast shares: connection options, topic names, the wait for an answer."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import collect_hosts
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
READ_TIMEOUT_MS = 200  # after which a read without records returns


def client_options(kafka: KafkaSettings) -> dict[str, Any]:
    """Return the connection arguments that all aiokafka clients take.

    Raises:
        BadInputError: no bootstrap server is set, or one that is none, or a credential or certificate is missing or
            can't be read.

    """
    if kafka.bootstrap is None:
        raise BadInputError("no Kafka cluster: set TABLECAST_KAFKA__BOOTSTRAP=host:port, or run `tablecast up`")
    if not _names_servers(kafka.bootstrap):
        raise BadInputError(f"kafka.bootstrap is {kafka.bootstrap!r}: write host:port, and a comma between several")
    options: dict[str, Any] = {"bootstrap_servers": kafka.bootstrap, "security_protocol": kafka.security_protocol}
    if kafka.security_protocol.endswith("SSL"):
        options["ssl_context"] = tls_context(kafka)
    if kafka.security_protocol.startswith("SASL"):
        options |= sasl_options(kafka)
    return options


def _names_servers(bootstrap: str) -> bool:
    try:
        return all(host and 0 < port < 65536 for host, port, _ in collect_hosts(bootstrap))
    except ValueError:
        return False


class Reading:
    """Reads a consumer with a rest after each read, in proportion to the work since the last rest.

    Under load a consumer that reads again at once fetches nearly every record alone, which costs it and the broker more
    than the record itself; a fixed rest would be the longest part of an answer's way when there is little to do.

    Nothing is fetched during a rest. Left to itself the consumer asks for more as soon as a read has emptied it, has
    the next record or two from the broker before the rest has begun, and asks for all that came during the rest only
    when it is over: every record would wait for two rests.
    """

    def __init__(self, consumer: AIOKafkaConsumer, most: int, hurry: asyncio.Event | None = None) -> None:
        """``most`` records are returned at a time; a rest ends when ``hurry`` is set."""
        self._consumer, self._most, self._hurry = consumer, most, hurry
        self._rested = time.thread_time()
        self._to_rest = False

    async def read(self) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Rest, unless the last read brought nothing, or all it could; return what there is then, maybe nothing."""
        if self._to_rest:
            await self._rest()
            self._consumer.resume(*self._consumer.paused())
        self._rested = time.thread_time()
        batches: dict[TopicPartition, list[ConsumerRecord]] = await self._consumer.getmany(
            timeout_ms=READ_TIMEOUT_MS, max_records=self._most
        )
        self._to_rest = 0 < sum(map(len, batches.values())) < self._most
        if self._to_rest:
            self._consumer.pause(*self._consumer.assignment())
        return batches

    async def _rest(self) -> None:
        seconds = min(REST_PER_WORK * (time.thread_time() - self._rested), LONGEST_REST_SECONDS)
        if self._hurry is None:
            await asyncio.sleep(seconds)
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), seconds)


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
