"""The dead letters there are, each once, and what has been decided about them.

A letter is named after the record it is about: topic, partition and offset. A stage that is killed between writing a
letter and committing the offset writes it again; that is the same letter.

Decisions lie on a topic of their own, one record per letter, written in the same Kafka transaction as the retried
record. So a record is retried if and only if there is a decision that says so, whatever crashes when.
"""

import re
from collections import Counter
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Literal

import msgspec

from ops.recorded import log_reader, partitions_of, records, whole
from schemas.codec import DecodeError, decode
from schemas.records import DeadLetter, Record
from schemas.topics import DAY_MS, DEADLETTERS, Topic
from streams.kafka import full_name
from streams.settings import KafkaSettings

DECISIONS = Topic(
    "deadletters-decisions", Record, "what was decided about dead letters", "row key", "delete",
    retention_ms=2 * DEADLETTERS.retention_ms,  # a decision must outlive its letter
    fixed_partitions=1,
)  # fmt: skip
assert DECISIONS.retention_ms >= DEADLETTERS.retention_ms + DAY_MS


class Decision(msgspec.Struct, frozen=True):
    """What was done with a dead letter; the record's key is the letter's name."""

    what: Literal["retried", "discarded"]
    at: int  # wall clock, milliseconds
    as_: str | None = None  # the name that the retried record would have as a dead letter: where it lies now


@dataclass(frozen=True)
class Letter:
    """A dead letter and what was decided about it."""

    name: str  # topic/partition/offset of the record; the topic without the prefix
    record: DeadLetter
    decision: Decision | None


@dataclass(frozen=True)
class Selection:
    """Which letters; None: whichever."""

    names: Collection[str] | None = None
    error: str | None = None  # class
    topic: str | None = None  # without the prefix
    stage: str | None = None
    since: int | None = None  # first seen, milliseconds
    until: int | None = None
    decided: bool = False  # also those that were retried or discarded

    def __contains__(self, letter: Letter) -> bool:
        record = letter.record
        return (
            (self.names is None or letter.name in self.names)
            and self.error in (None, record.error)
            and self.topic in (None, letter.name.split("/")[0])
            and self.stage in (None, record.stage)
            and (self.since is None or record.first_seen >= self.since)
            and (self.until is None or record.first_seen < self.until)
            and (self.decided or letter.decision is None)
        )


def name_of(kafka: KafkaSettings, topic: str, partition: int, offset: int) -> str:
    """Return the name of the letter about a record, given its topic as the cluster calls it."""
    return f"{topic.removeprefix(kafka.prefix)}/{partition}/{offset}"


async def letters(kafka: KafkaSettings, selection: Selection) -> AsyncIterator[Letter]:
    """Yield the selected letters, oldest first, each once. Memory holds one letter and the names of all.

    Raises:
        BadInputError: the topics are not there.

    """
    known = await decisions(kafka)
    seen: set[str] = set()
    async with log_reader(kafka) as reader:
        there = await whole(reader, await partitions_of(kafka, full_name(kafka, DEADLETTERS)))
        async for found in records(reader, there):
            try:
                record = decode(DeadLetter, found.value)
            except DecodeError:
                continue  # not written by a stage
            name = name_of(kafka, record.topic, record.partition, record.offset)
            letter = Letter(name, record, known.get(name))
            if name not in seen and letter in selection:
                yield letter
            seen.add(name)


async def tally(kafka: KafkaSettings, selection: Selection) -> Counter[tuple[str, str, str, str]]:
    """Return how many letters there are by topic, stage, error class and kind of reason."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    async for letter in letters(kafka, selection):
        record = letter.record
        counts[letter.name.split("/")[0], record.stage, record.error, kind_of_reason(record.reason)] += 1
    return counts


def kind_of_reason(reason: str) -> str:
    """Return a reason without what differs from record to record: numbers."""
    return re.sub(r"\d+", "N", reason)


async def decisions(kafka: KafkaSettings) -> dict[str, Decision]:
    """Return what has been decided, by the letter's name."""
    async with log_reader(kafka) as reader:
        there = await whole(reader, await partitions_of(kafka, full_name(kafka, DECISIONS)))
        return {
            found.key.decode(): msgspec.msgpack.decode(found.value, type=Decision)
            async for found in records(reader, there)
        }
