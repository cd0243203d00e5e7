"""Retrying dead letters: the original record once more on its topic, at most once, and only where that does no harm.

One Kafka transaction carries the retried records and the decisions about their letters. The transactional id is the
same for everybody, so a second ``retry`` fences off a first one that still runs, and starts when what that left open
has been aborted; it reads the decisions after that.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import ProducerFenced

from ops.dead_letters.anatomy import fault, topic_named
from ops.dead_letters.letters import DECISIONS, Decision, Letter, Selection, letters, name_of
from ops.dead_letters.originals import Originals
from ops.recorded import Range, log_reader, partitions_of, records, whole
from schemas.codec import DecodeError, decode, encode
from schemas.errors import ExplainedError
from schemas.records import JoinedRequest, Recommendation, Request, Source
from schemas.topics import (
    CATALOG_ITEMS,
    MIB,
    MODELS,
    RECOMMENDATIONS,
    REQUESTS_JOINED,
    USERS_CONTEXT,
    USERS_ERASURE,
    USERS_FEEDBACK,
    USERS_REQUESTS,
    Topic,
)
from streams.kafka import client_options, full_name
from streams.settings import KafkaSettings, Settings

if TYPE_CHECKING:
    from aiokafka.structs import RecordMetadata

RETRIED_TOPICS = (USERS_REQUESTS, USERS_CONTEXT, USERS_FEEDBACK, USERS_ERASURE, CATALOG_ITEMS, MODELS)
AT_ONCE = 100  # letters in a transaction
AT_ONCE_BYTES = 16 * MIB


class FencedError(ExplainedError):
    """Another retry has begun; what this one had open was aborted."""


@dataclass(frozen=True)
class Original:
    """A record as it will be posted."""

    topic: Topic
    partition: int
    key: bytes | None
    value: bytes | None
    time: int  # event time, milliseconds
    source: Source | None = None  # of a request: where it lies in `users.requests`


@dataclass
class Outcome:
    """What became of each letter that was selected."""

    done: int = 0  # retried or discarded
    left: dict[str, str] = field(default_factory=dict)  # letter -> why it was left alone


Corrections = Mapping[str, Original]  # letter -> the record to post in place of the faulty one
Progress = Callable[[int], None]


async def discard(settings: Settings, selection: Selection) -> Outcome:
    """Decide that the selected letters are not to be retried.

    Raises:
        FencedError: a retry or another discard has begun meanwhile.

    """
    outcome = Outcome()
    async with _Decider(settings.kafka) as decider:
        async for letter in letters(settings.kafka, _with_named(selection)):
            if letter.decision is not None:
                outcome.left[letter.name] = f"already {letter.decision.what}"
                continue
            await decider.add(letter.name, None)
            outcome.done += 1
    return outcome


async def retry(
    settings: Settings,
    selection: Selection,
    corrections: Corrections | None = None,
    *,
    dry_run: bool = False,
    progress: Progress = lambda _: None,
) -> Outcome:
    """Post the selected letters' records once more, corrected ones where there are any, and say what became of each.

    Raises:
        FencedError: another retry has begun meanwhile; what this one has finished stays finished.

    """
    kafka, corrections, outcome = settings.kafka, corrections or {}, Outcome()
    async with _Decider(kafka, dry_run=dry_run) as decider, Originals(kafka) as originals:
        # Twice over the letters: what has been answered or replaced meanwhile is looked up for all of them at once.
        wanted: dict[str, _Identity] = {}
        async for letter in letters(kafka, _with_named(selection)):
            if letter.decision is not None:
                outcome.left[letter.name] = f"already {letter.decision.what}"
                continue
            original = corrections.get(letter.name) or await _original(originals, letter)
            if isinstance(original, str):
                outcome.left[letter.name] = original
            elif reason := fault(settings, original.topic, original.key, original.value, original.time):
                outcome.left[letter.name] = f"still faulty: {reason}"
            else:
                wanted[letter.name] = _identity(letter, original)
        outcome.left |= await _answered(kafka, wanted)
        outcome.left |= await _replaced(kafka, wanted)
        todo = wanted.keys() - outcome.left.keys()
        async for letter in letters(kafka, Selection(names=todo)):
            original = corrections.get(letter.name) or await _original(originals, letter)
            assert not isinstance(original, str)
            if not dry_run:
                await decider.add(letter.name, original)
            outcome.done += 1
            progress(outcome.done)
    return outcome


def _with_named(selection: Selection) -> Selection:
    """Return the selection with decided letters where they are named: who names one is told why it is left alone."""
    return replace(selection, decided=selection.names is not None)


@dataclass(frozen=True)
class _Identity:
    """What tells whether a record has been dealt with otherwise; small, as there is one for each letter."""

    topic: Topic
    partition: int
    time: int
    offset: int  # in `topic`
    key: bytes | None
    request_id: str | None


def _identity(letter: Letter, original: Original) -> _Identity:
    request_id = None
    if original.topic is USERS_REQUESTS:
        request_id = decode(Request, original.value).request_id
    offset = original.source.offset if original.source else letter.record.offset
    return _Identity(original.topic, original.partition, original.time, offset, original.key, request_id)


async def _answered(kafka: KafkaSettings, wanted: Mapping[str, _Identity]) -> dict[str, str]:
    """Return the letters about requests that have been answered: by other stages, or when the app asked again."""
    requests = {name: one for name, one in wanted.items() if one.topic is USERS_REQUESTS}
    if not requests:
        return {}
    by_source = {(one.partition, one.offset): name for name, one in requests.items()}
    by_id: dict[tuple[bytes | None, str | None], list[str]] = defaultdict(list)
    earliest: dict[int, int] = {}
    for name, one in requests.items():
        by_id[one.key, one.request_id].append(name)
        earliest[one.partition] = min(earliest.get(one.partition, one.time), one.time)
    found: dict[str, str] = {}
    async with log_reader(kafka) as reader:
        partitions = [TopicPartition(full_name(kafka, RECOMMENDATIONS), number) for number in earliest]
        there = await whole(reader, partitions)
        # A recommendation has its request's event time.
        starts = await reader.offsets_for_times({tp: max(0, earliest[tp.partition]) for tp in partitions})
        ranges = {tp: Range(starts[tp].offset if starts[tp] else end, end) for tp, (_, end) in there.items()}
        async for record in records(reader, ranges):
            try:
                answer = decode(Recommendation, record.value)
            except DecodeError:
                continue
            for name in by_id.get((record.key, answer.request_id), ()):
                found[name] = "its request id has been answered"
            source = answer.source
            if (asked := by_source.get((source.partition, source.offset))) is not None:
                found[asked] = "the request has been answered"
    return found


async def _replaced(kafka: KafkaSettings, wanted: Mapping[str, _Identity]) -> dict[str, str]:
    """Return the letters about compacted topics whose key has a newer record: the older one must not come back."""
    found: dict[str, str] = {}
    for topic in RETRIED_TOPICS:
        keyed: dict[bytes | None, list[tuple[int, str]]] = defaultdict(list)
        for name, one in wanted.items():
            if one.topic is topic and topic.cleanup == "compact":
                keyed[one.key].append((one.offset, name))
        if not keyed:
            continue
        oldest = min(offset for entries in keyed.values() for offset, _ in entries)
        async with log_reader(kafka) as reader:
            there = await whole(reader, await partitions_of(kafka, full_name(kafka, topic)))
            ranges = {tp: Range(max(start, oldest), end) for tp, (start, end) in there.items()}
            async for record in records(reader, ranges):
                for offset, name in keyed.get(record.key, ()):
                    if record.offset > offset:
                        found[name] = "a newer record has its key"
    return found


async def _original(originals: Originals, letter: Letter) -> Original | str:
    """Return the record to post for a letter, or why there is none."""
    record = letter.record
    topic = topic_named(letter.name.split("/")[0])
    if topic is None:
        return f"its topic {record.topic} is none of this system"
    if topic not in (*RETRIED_TOPICS, REQUESTS_JOINED):
        return f"a stage wrote it: nothing on {topic.name} is retried"
    payload = await originals.payload(letter)
    if payload is None:
        return "the record has left its topic"
    if topic is REQUESTS_JOINED:
        # Its request is retried: the inference stage answers no joined request below the highest one answered.
        try:
            joined = decode(JoinedRequest, payload.value)
        except DecodeError as error:
            return f"still faulty: {error}"
        request = encode(joined.request)
        return Original(USERS_REQUESTS, joined.source.partition, payload.key, request, record.event_time, joined.source)
    source = Source(partition=record.partition, offset=record.offset) if topic is USERS_REQUESTS else None
    return Original(topic, record.partition, payload.key, payload.value, record.event_time, source)


class _Decider:
    """Writes decisions, with the records that are retried, in transactions."""

    def __init__(self, kafka: KafkaSettings, *, dry_run: bool = False) -> None:
        self._kafka, self._dry_run = kafka, dry_run
        self._batch: list[tuple[str, Original | None]] = []
        self._bytes = 0
        self._producer = AIOKafkaProducer(
            **client_options(kafka), transactional_id=f"{kafka.prefix}deadletters", max_request_size=4 * MIB
        )

    async def __aenter__(self) -> Self:
        await partitions_of(self._kafka, full_name(self._kafka, DECISIONS))
        if not self._dry_run:
            await self._producer.start()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        if self._dry_run:
            return
        try:
            if kind is None:
                await self._commit()
        finally:
            await self._producer.stop()

    async def add(self, name: str, original: Original | None) -> None:
        """Note a letter as retried, or as discarded if there is nothing to post."""
        self._batch.append((name, original))
        self._bytes += len(original.value or b"") if original else 0
        if len(self._batch) >= AT_ONCE or self._bytes >= AT_ONCE_BYTES:
            await self._commit()

    async def _commit(self) -> None:
        batch, self._batch, self._bytes = self._batch, [], 0
        if not batch:
            return
        try:
            async with self._producer.transaction():
                posted = [await self._post(name, original) for name, original in batch if original is not None]
                places = iter(await asyncio.gather(*posted))
                await asyncio.gather(
                    *[await self._decide(name, None if original is None else next(places)) for name, original in batch]
                )
        except ProducerFenced as error:
            raise FencedError(
                "another `tablecast deadletters retry` or `discard` has begun: this one stops. Start it again "
                "afterwards; nothing is retried twice"
            ) from error

    async def _post(self, name: str, original: Original) -> "asyncio.Future[RecordMetadata]":
        sent: asyncio.Future[RecordMetadata] = await self._producer.send(
            full_name(self._kafka, original.topic),
            original.value,
            original.key,
            original.partition,
            timestamp_ms=original.time,
            headers=[("retry-of", name.encode())],
        )
        return sent

    async def _decide(self, name: str, posted: "RecordMetadata | None") -> "asyncio.Future[RecordMetadata]":
        as_ = None if posted is None else name_of(self._kafka, posted.topic, posted.partition, posted.offset)
        decision = Decision("discarded" if posted is None else "retried", int(time.time() * 1000), as_)
        sent: asyncio.Future[RecordMetadata] = await self._producer.send(
            full_name(self._kafka, DECISIONS), msgspec.msgpack.encode(decision), name.encode(), 0
        )
        return sent
