"""Following a topic: every record of its partitions, from the beginning, without a consumer group."""

import asyncio
from collections.abc import Awaitable, Callable, Collection

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from schemas.errors import BadInputError
from schemas.topics import Topic
from streams.kafka import client_options, full_name
from streams.settings import KafkaSettings

log = structlog.get_logger(__name__)

OnRecords = Callable[[list[ConsumerRecord]], Awaitable[None]]


class Follower:
    """Hands over a topic's records in batches; knows when it has caught up with what was there at its start."""

    def __init__(
        self, kafka: KafkaSettings, topic: Topic, on_records: OnRecords, *, leave_out: Collection[int] = ()
    ) -> None:
        self._kafka = kafka
        self._leave_out = leave_out  # partition numbers
        self._name = full_name(kafka, topic)
        self._on_records = on_records
        self._task: asyncio.Task[None] | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._caught_up = asyncio.Event()

    async def start(self) -> None:
        """Begin to read in the background.

        Raises:
            BadInputError: the topic does not exist.

        """
        self._consumer = AIOKafkaConsumer(
            **client_options(self._kafka),
            isolation_level="read_committed",
            max_partition_fetch_bytes=4 * 1024 * 1024,
        )
        await self._consumer.start()
        await self._consumer._client.set_topics([self._name])  # noqa: SLF001 - else its metadata may not be loaded yet
        partitions = self._consumer.partitions_for_topic(self._name)
        if not partitions:
            raise BadInputError(f"topic {self._name} does not exist: run `tablecast topics apply`")
        assignment = [
            TopicPartition(self._name, number) for number in sorted(partitions) if number not in self._leave_out
        ]
        self._consumer.assign(assignment)
        await self._consumer.seek_to_beginning(*assignment)
        self._task = asyncio.create_task(self._run(assignment), name=f"follow {self._name}")

    async def wait_until_caught_up(self) -> None:
        """Wait until everything that was there at the start has been handed over.

        Raises:
            Exception: what ended the reading before that.

        """
        waiting = asyncio.create_task(self._caught_up.wait())
        await asyncio.wait([waiting, self.task], return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            self.task.result()

    async def stop(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._consumer is not None:
            await self._consumer.stop()

    @property
    def task(self) -> "asyncio.Task[None]":
        """The reading task; it ends only with an error or by ``stop``."""
        assert self._task is not None
        return self._task

    async def _run(self, assignment: list[TopicPartition]) -> None:
        assert self._consumer is not None
        goal = await self._consumer.end_offsets(assignment)
        while True:
            batches = await self._consumer.getmany(timeout_ms=200, max_records=512)
            for records in batches.values():
                await self._on_records(records)
            if not self._caught_up.is_set():
                positions = [await self._consumer.position(tp) for tp in assignment]
                if all(position >= goal[tp] for tp, position in zip(assignment, positions, strict=True)):
                    self._caught_up.set()
