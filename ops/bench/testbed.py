"""Where measurements run: topics, consumer groups and stages of their own, beside whatever else the cluster does."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from ops.bench.workload import Answer, Workload
from ops.isolated import isolated
from ops.simulator.events import Event, catalogue
from ops.simulator.poison import Posting
from ops.simulator.publish import post_all
from ops.simulator.world import World
from ops.stages import Stage
from schemas.errors import ExplainedError
from schemas.topics import (
    MIB,
    RECOMMENDATIONS,
    REQUESTS_JOINED,
    USERS_CONTEXT,
    USERS_FEEDBACK,
    USERS_REQUESTS,
    Topic,
)
from streams.inference.app import GROUP as INFERENCE_GROUP
from streams.kafka import client_options, committed_offsets, full_name
from streams.settings import Settings
from streams.state.changelogs import APPLICATION

STATE_INPUTS = (USERS_CONTEXT, USERS_REQUESTS, USERS_FEEDBACK, RECOMMENDATIONS)
POLL_SECONDS = 0.05
STALLED_SECONDS = 120  # without any progress: something is broken. Counted in waits: a machine may stand still itself
LAST_WORDS = 10  # lines of a stage's log
STAGE_START_SECONDS = 1800.0  # the very first start exports the language model
Offsets = dict[TopicPartition, int]


class StalledError(ExplainedError):
    """A stage did not get on with its work; the message names what is missing."""


@dataclass(frozen=True)
class Testbed:
    """Topics with a catalogue and users who have a past."""

    settings: Settings
    world: World
    workload: Workload
    folder: Path
    admin: AIOKafkaAdminClient
    consumer: AIOKafkaConsumer  # assigned to nothing; answers questions about offsets

    async def post(self, postings: Iterable[Posting | Event]) -> int:
        """Post as fast as the broker takes it and return how many."""
        return await post_all(self.settings, postings)

    @contextlib.asynccontextmanager
    async def stage(self, name: str) -> AsyncIterator[Stage]:
        """Run a stage as a process of its own."""
        stage = Stage(name, self.settings, self.folder / f"{name}.log")
        await stage.start(timeout=STAGE_START_SECONDS)
        try:
            yield stage
        finally:
            await stage.stop()

    async def ends(self, topics: Sequence[Topic]) -> Offsets:
        """Return the end offsets of some topics keyed by user."""
        numbers = range(self.settings.kafka.partitions)
        names = [full_name(self.settings.kafka, topic) for topic in topics]
        found: Offsets = await self.consumer.end_offsets([TopicPartition(name, n) for name in names for n in numbers])
        return found

    async def state_lags(self) -> Offsets:
        """Return how many records of each input partition the state stage has not committed, where there are any."""
        ends = await self.ends(STATE_INPUTS)
        committed = await committed_offsets(self.admin, self.settings.kafka.prefix + APPLICATION)
        lags = {
            partition: end - (committed[partition].offset if partition in committed else 0)
            for partition, end in ends.items()
        }
        return {partition: lag for partition, lag in lags.items() if lag > 0}

    async def state_backlog(self) -> int:
        """Return how many records of its inputs the state stage has not committed."""
        return sum((await self.state_lags()).values())

    async def inference_backlog(self) -> int:
        """Return how many joined requests the inference stage has not committed."""
        ends = await self.ends([REQUESTS_JOINED])
        committed = await committed_offsets(self.admin, self.settings.kafka.prefix + INFERENCE_GROUP)
        return sum(
            end - (committed[partition].offset if partition in committed else 0) for partition, end in ends.items()
        )

    async def state_done(self) -> None:
        """Wait until the state stage has committed everything there is.

        Raises:
            StalledError: it makes no progress.

        """
        smallest, waits = await self.state_backlog(), 0
        while smallest:
            await asyncio.sleep(POLL_SECONDS)
            backlog, waits = await self.state_backlog(), waits + 1
            if backlog < smallest:
                smallest, waits = backlog, 0
            elif waits > STALLED_SECONDS / POLL_SECONDS:
                lags = ", ".join(f"{lag} of {tp.topic}-{tp.partition}" for tp, lag in (await self.state_lags()).items())
                last_words = (self.folder / "state.log").read_text(errors="replace").splitlines()[-LAST_WORDS:]
                raise StalledError("\n".join([f"the state stage leaves {lags}; its log ends with:", *last_words]))

    @contextlib.asynccontextmanager
    async def reader(self, topic: Topic) -> AsyncIterator[AIOKafkaConsumer]:
        """Read a topic under read_committed, from its present end."""
        ends = await self.ends([topic])
        consumer = AIOKafkaConsumer(
            **client_options(self.settings.kafka),
            isolation_level="read_committed",
            max_partition_fetch_bytes=4 * MIB,
        )
        await consumer.start()
        try:
            consumer.assign(list(ends))
            for partition, offset in ends.items():
                consumer.seek(partition, offset)
            yield consumer
        finally:
            await consumer.stop()


async def read_answers(consumer: AIOKafkaConsumer, count: int) -> tuple[list[Answer], list[float]]:
    """Return so many recommendations and when each was read (monotonic clock, seconds).

    Raises:
        StalledError: no more of them come.

    """
    answers: list[Answer] = []
    moments: list[float] = []
    waits = 0
    while len(answers) < count:
        batches = await consumer.getmany(timeout_ms=1_000)
        waits = 0 if batches else waits + 1
        if waits > STALLED_SECONDS:
            raise StalledError(f"{len(answers)} of {count} requests were answered; see the logs of the stages")
        now = time.monotonic()
        for records in batches.values():
            answers += [Answer(record.timestamp, record.key.decode(), record.value) for record in records]
            moments += [now] * len(records)
    return answers, moments


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, over all its threads."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


@contextlib.asynccontextmanager
async def testbed(
    settings: Settings,
    world: World,
    began_ms: int | None = None,  # noqa: PT028 - no test
) -> AsyncIterator[Testbed]:
    """Make topics with the catalogue and the users' past, by default up to now; take them away in the end.

    Starts the embedded broker if none is configured or running. The stages have not read anything yet.
    """
    async with contextlib.AsyncExitStack() as stack:
        settings = await stack.enter_async_context(isolated(settings, "bench"))
        admin = AIOKafkaAdminClient(**client_options(settings.kafka))
        await admin.start()
        stack.push_async_callback(admin.close)
        consumer = AIOKafkaConsumer(**client_options(settings.kafka), isolation_level="read_committed")
        await consumer.start()
        stack.push_async_callback(consumer.stop)
        bed = Testbed(settings, world, Workload(world, began_ms), settings.data_dir, admin, consumer)
        await bed.post(catalogue(world, time.time_ns() // 1_000_000 if began_ms is None else began_ms))
        await bed.post(bed.workload.past())
        yield bed
