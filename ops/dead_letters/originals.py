"""The records that dead letters are about: from their topics, where a letter does not hold them itself."""

import asyncio
from typing import NamedTuple, Self

from aiokafka import AIOKafkaConsumer, TopicPartition

from ops.dead_letters.letters import Letter
from streams.kafka import client_options
from streams.settings import KafkaSettings

FETCH_SECONDS = 10.0


class Payload(NamedTuple):
    """Key and value as they were posted."""

    key: bytes | None
    value: bytes | None


class Originals:
    """Reads single records by their place."""

    def __init__(self, kafka: KafkaSettings) -> None:
        # One batch is what a fetch returns at least: all that is wanted.
        self._reader = AIOKafkaConsumer(
            **client_options(kafka), isolation_level="read_committed", max_partition_fetch_bytes=1
        )

    async def __aenter__(self) -> Self:
        await self._reader.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._reader.stop()

    async def payload(self, letter: Letter) -> Payload | None:
        """Return what a letter is about, or None if it has left its topic and the letter does not have it whole."""
        record = letter.record
        if record.payload == "whole":
            return Payload(record.key, record.value)
        place = TopicPartition(record.topic, record.partition)
        starts, ends = await self._reader.beginning_offsets([place]), await self._reader.end_offsets([place])
        if not starts[place] <= record.offset < ends[place]:
            return None
        self._reader.assign([place])
        self._reader.seek(place, record.offset)
        async with asyncio.timeout(FETCH_SECONDS):
            found = await self._reader.getone()
        # A topic that was deleted and made anew has another record there.
        if (found.offset, found.timestamp) != (record.offset, record.event_time):
            return None
        return Payload(found.key, found.value)
