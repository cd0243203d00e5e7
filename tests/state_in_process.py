"""The state stage in a test's own process, where the test can hold up what it reads."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from aiokafka import AIOKafkaConsumer

from ops.bench.deployment import Deployment, deployed, next_record, reading
from schemas.codec import decode, encode
from schemas.records import JoinedRequest, Record
from schemas.topics import REQUESTS_JOINED, Topic
from streams.kafka import full_name
from streams.settings import Settings
from streams.state.app import StateApp

PATIENCE_SECONDS = 60
USER = b"somebody"


class Joining:
    """A state stage that owns its partitions, and what goes in and comes out."""

    def __init__(self, deployment: Deployment, app: StateApp, joined: AIOKafkaConsumer) -> None:
        self.deployment = deployment
        self.app = app
        self._joined = joined

    async def post(self, topic: Topic, record: Record) -> None:
        """Write a record of ``USER`` and wait until the broker has it."""
        now = time.time_ns() // 1_000_000
        name = full_name(self.deployment.settings.kafka, topic)
        await self.deployment.producer.send_and_wait(name, encode(record), USER, 0, timestamp_ms=now)

    async def next(self) -> JoinedRequest:
        """Return the next joined request."""
        return decode(JoinedRequest, (await next_record(self.deployment, self._joined, "joined request")).value)


@contextlib.asynccontextmanager
async def joining(settings: Settings) -> AsyncIterator[Joining]:
    """Run a state stage on topics of its own; whatever takes longer than ``PATIENCE_SECONDS`` fails."""
    async with deployed(settings, stages=()) as deployment, reading(deployment, REQUESTS_JOINED) as joined:
        app, stop = StateApp(deployment.settings), asyncio.Event()
        running = asyncio.create_task(app.run(stop))
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await app._assigned.wait()
                yield Joining(deployment, app, joined)
        finally:
            stop.set()
            await running
