"""Backfill: what the state stage has made of the recorded past, made once more: user state, or training examples.

The stage's own code runs over what lies on the topics, in memory, one partition after the other, up to where the
running stage has come. Requests are not joined anew: `requests.joined` has each with all it saw, and an example must
carry what was served. What comes of it goes to fresh topics under a prefix of their own and is compared with what is
there. Only ``switch`` writes to the live topics, from the fresh ones, and may be done again after it was broken off.
One backfill runs at a time, and deletes the fresh topics that an earlier one has left because it was killed.

What retention has taken can't be made again. State: rows that the rest of the history says nothing of stay as they are.
Examples: those that can't be made again are copied.
"""

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from models.item_signals import ItemRow
from models.user_state import UserState
from ops.isolated import isolated
from ops.recorded import Range, by_event_time, log_reader, partition_records, partitions_of, records, whole
from schemas.codec import decode
from schemas.errors import ExplainedError
from schemas.records import DeadLetter, JoinedRequest, TrainingExample
from schemas.topics import (
    DEADLETTERS,
    MIB,
    RECOMMENDATIONS,
    REQUESTS_JOINED,
    RETRAINING,
    USERS_CONTEXT,
    USERS_ERASURE,
    USERS_FEEDBACK,
    USERS_REQUESTS,
    Topic,
)
from streams.kafka import client_options, committed_offsets, full_name
from streams.privacy import load_pseudonyms
from streams.settings import KafkaSettings, Settings
from streams.state.changelogs import APPLICATION, CHANGELOGS
from streams.state.rows import Rows
from streams.state.stage import Inbound, Outbound, Served, StateStage
from streams.trainer.app import GROUP as TRAINER

What = Literal["state", "retraining"]
# At one event time, in this order.
INPUTS = (USERS_ERASURE, USERS_CONTEXT, REQUESTS_JOINED, RECOMMENDATIONS, USERS_FEEDBACK)
ROWS: tuple[type[msgspec.Struct], ...] = (UserState, ItemRow, Served)  # of the changelogs
ALONE = "backfill-alone"  # the consumer group whose one member a running backfill is
SESSION_MS = 10_000  # until Kafka notices that it was killed
JOIN_SECONDS = 60.0
ROWS_AT_ONCE = 10_000  # records between two writes of changed rows into the tables


class StillRunningError(ExplainedError):
    """A process still writes or reads what would be replaced."""


@dataclass
class Backfill:
    """What was made, beside what is there; rows by table, or examples."""

    records: int = 0  # read
    counts: dict[str, Counter[str]] = field(default_factory=dict)  # same, changed, added, removed, kept
    missing: list[str] = field(default_factory=list)  # topics whose beginning retention has taken
    leftovers: int = 0  # topics of an earlier backfill that was killed, which have been deleted
    switched: bool = False


@dataclass(frozen=True)
class _History:
    """What of one partition is run over."""

    ranges: Mapping[TopicPartition, Range]
    requests_end: int  # of `users.requests`, as far as the running stage has come
    since: int  # event time, milliseconds, after which lists are known with all that belongs to them; 0: from the start


async def backfill(
    settings: Settings, what: What, *, switch: bool, watch: Callable[[int, int], None] = lambda *_: None
) -> Backfill:
    """Make state rows or training examples anew and compare them with the live ones; with ``switch``, replace those.

    Args:
        settings: of the live system.
        what: to be made.
        switch: whether the live topics get what was made; only while nobody works on them.
        watch: called with the records read and the records there are to read.

    Raises:
        StillRunningError: another backfill runs; or ``switch``, and a process works on what would be replaced.
        BadInputError: topics are missing.

    """
    kafka = settings.kafka
    done = Backfill()
    async with contextlib.AsyncExitStack() as stack:
        admin = AIOKafkaAdminClient(**client_options(kafka))
        await admin.start()
        stack.push_async_callback(admin.close)
        if switch:
            await _check_stopped(settings, admin, what)
        await stack.enter_async_context(_alone(kafka, admin))
        done.leftovers = await _delete_leftovers(kafka, admin)
        fresh = await stack.enter_async_context(isolated(settings, "backfill"))
        producer = AIOKafkaProducer(**client_options(kafka), enable_idempotence=True, max_request_size=4 * MIB)
        await producer.start()
        stack.push_async_callback(producer.stop)
        reader = await stack.enter_async_context(log_reader(kafka))
        cut = await whole(reader, await partitions_of(kafka, full_name(kafka, RETRAINING)))
        histories = [await _history(settings, admin, reader, number, done) for number in range(kafka.partitions)]
        total = sum(end - start for history in histories for start, end in history.ranges.values())
        refused = await _refused(kafka, reader)
        for number, history in enumerate(histories):
            stage = _empty_stage(settings)

            def count() -> None:
                done.records += 1
                watch(done.records, total)

            examples = _run_over(stage, kafka, reader, history, refused, count)
            if what == "state":
                async for _ in examples:
                    pass  # they have been written
                await _write_rows(fresh.kafka, producer, stage, number)
            else:
                await _write_examples(kafka, fresh.kafka, producer, cut, history, examples, number)
        await producer.flush()
        if switch:
            await _check_stopped(settings, admin, what)
        for number, history in enumerate(histories):
            if what == "state":
                await _compare_rows(kafka, fresh.kafka, producer, number, history, done, switch=switch)
            else:
                await _compare_examples(kafka, fresh.kafka, cut, number, done)
                if switch:
                    await _append(kafka, fresh.kafka, producer, number)
        await producer.flush()
        if switch and what == "retraining":  # first all is there, then what it replaces goes
            ends = {partition: RecordsToDelete(bounds.end) for partition, bounds in cut.items() if bounds.end}
            await admin.delete_records(ends)
        done.switched = switch
    return done


async def _check_stopped(settings: Settings, admin: AIOKafkaAdminClient, what: What) -> None:
    name, command = (
        (APPLICATION, "state") if what == "state" else (f"{TRAINER}-{settings.inference.model_name}", "trainer")
    )
    group = settings.kafka.prefix + name
    (response,) = await admin.describe_consumer_groups([group])
    if any(entry[-1] for entry in response.groups):
        raise StillRunningError(
            f"a process works in the group {group}: stop every `tablecast {command}` first, and wait ten seconds until "
            "the group has noticed; what apps post meanwhile waits in Kafka"
        )


@contextlib.asynccontextmanager
async def _alone(kafka: KafkaSettings, admin: AIOKafkaAdminClient) -> AsyncIterator[None]:
    """Be the only backfill of this installation; one that is killed is soon none any more."""
    topic = full_name(kafka, USERS_ERASURE)  # a group needs one: this has the fewest records, which nobody reads here
    await partitions_of(kafka, topic)
    consumer = AIOKafkaConsumer(
        topic,
        **client_options(kafka),
        group_id=kafka.prefix + ALONE,
        enable_auto_commit=False,
        session_timeout_ms=SESSION_MS,
        max_poll_interval_ms=2**31 - 1,
    )
    await consumer.start()
    try:
        async with asyncio.timeout(JOIN_SECONDS):
            while not consumer.assignment():
                await asyncio.sleep(0.05)
        (response,) = await admin.describe_consumer_groups([kafka.prefix + ALONE])
        if sum(len(entry[-1]) for entry in response.groups) > 1:
            raise StillRunningError("another backfill runs: wait for its end, or for ten seconds if it was killed")
        yield
    finally:
        await consumer.stop()


async def _delete_leftovers(kafka: KafkaSettings, admin: AIOKafkaAdminClient) -> int:
    names = [name for name in await admin.list_topics() if name.startswith(f"{kafka.prefix}backfill-")]
    await admin.delete_topics(names)
    return len(names)


async def _history(
    settings: Settings, admin: AIOKafkaAdminClient, reader: AIOKafkaConsumer, number: int, done: Backfill
) -> _History:
    """Return what the running stage has applied of a partition: what it has committed, and the joins of that."""
    kafka = settings.kafka
    committed = await committed_offsets(admin, kafka.prefix + APPLICATION)
    ranges = {}
    since = 0
    for topic in INPUTS:
        partition = TopicPartition(full_name(kafka, topic), number)
        start, end = (await whole(reader, [partition]))[partition]
        if topic is not REQUESTS_JOINED:
            end = max(start, committed[partition].offset if partition in committed else 0)
        ranges[partition] = Range(start, end)
        if start:
            if topic.name not in done.missing:
                done.missing.append(topic.name)
            if topic in (REQUESTS_JOINED, RECOMMENDATIONS, USERS_FEEDBACK):
                since = max(since, await _first_time(reader, partition, ranges[partition]))
    asked = TopicPartition(full_name(kafka, USERS_REQUESTS), number)
    return _History(ranges, committed[asked].offset if asked in committed else 0, since)


async def _first_time(reader: AIOKafkaConsumer, partition: TopicPartition, bounds: Range) -> int:
    async for record in records(reader, {partition: bounds}):
        return int(record.timestamp)
    return 2**62  # nothing is left of it


async def _refused(kafka: KafkaSettings, reader: AIOKafkaConsumer) -> set[tuple[str, int, int]]:
    """Return the places of the records that the state stage has refused: what was refused then stays so."""
    there = await whole(reader, await partitions_of(kafka, full_name(kafka, DEADLETTERS)))
    letters = [decode(DeadLetter, record.value) async for record in records(reader, there)]
    return {(letter.topic, letter.partition, letter.offset) for letter in letters if letter.stage == "state"}


class _Table:
    """What ``Rows`` needs of a table."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}


def _empty_stage(settings: Settings) -> StateStage:
    return StateStage(
        settings.state,
        Rows(_Table(), UserState, UserState),
        Rows(_Table(), ItemRow, ItemRow),
        Rows(_Table(), Served, lambda: Served(0, b"", msgspec.Raw())),
        load_pseudonyms(settings),
        training_text=settings.privacy.training_text,
    )


async def _run_over(
    stage: StateStage,
    kafka: KafkaSettings,
    reader: AIOKafkaConsumer,
    history: _History,
    refused: set[tuple[str, int, int]],
    count: Callable[[], None],
) -> AsyncIterator[Outbound]:
    """Apply a partition's history and yield the training examples that come of it."""
    topics = {full_name(kafka, topic): topic for topic in INPUTS}
    handlers = {
        USERS_ERASURE: stage.on_erasure,
        USERS_CONTEXT: stage.on_context,
        RECOMMENDATIONS: stage.on_recommendation,
        USERS_FEEDBACK: stage.on_feedback,
    }
    number = 0
    async for read in by_event_time(reader, history.ranges):
        count()
        if (read.topic, read.partition, read.offset) in refused:
            continue
        topic = topics[read.topic]
        record = Inbound(topic, read.partition, read.offset, read.timestamp, read.key, read.value)
        if topic is REQUESTS_JOINED:
            stage.on_joined(record, before=history.requests_end)
        else:
            handlers[topic](record)
        stage.expire(stage.watermarks())
        for example in stage.outbox:
            yield example
        stage.outbox.clear()
        number += 1
        if number % ROWS_AT_ONCE == 0:
            _drain(stage)
    _drain(stage)


def _drain(stage: StateStage) -> None:
    for rows in stage.tables:
        for _ in rows.drain():
            pass


# -- state ------------------------------------------------------------------------------------------------------------


async def _write_rows(fresh: KafkaSettings, producer: AIOKafkaProducer, stage: StateStage, number: int) -> None:
    for topic, rows in zip(CHANGELOGS, stage.tables, strict=True):
        for key, value in rows.table.data.items():
            await producer.send(full_name(fresh, topic), value, key, number)


async def _compare_rows(
    kafka: KafkaSettings,
    fresh: KafkaSettings,
    producer: AIOKafkaProducer,
    number: int,
    history: _History,
    done: Backfill,
    *,
    switch: bool,
) -> None:
    """Compare the rows of a partition with the live ones; with ``switch``, write what differs, users' rows last."""
    whole_history = not any(start for start, _ in history.ranges.values())
    for topic, kind in reversed(list(zip(CHANGELOGS, ROWS, strict=True))):
        made, live = await _rows(fresh, topic, number), await _rows(kafka, topic, number)
        counts = done.counts.setdefault(topic.name, Counter())
        for key in made.keys() | live.keys():
            verdict = _verdict(made.get(key), live.get(key), kind, whole_history=whole_history)
            counts[verdict] += 1
            if switch and verdict in ("changed", "added", "removed"):
                await producer.send(full_name(kafka, topic), made.get(key), key, number)
        await producer.flush()


def _verdict(made: bytes | None, live: bytes | None, kind: type[Any], *, whole_history: bool) -> str:
    if made is None:
        return "removed" if whole_history else "kept"
    if live is None:
        return "added"
    same = made == live or msgspec.msgpack.decode(made, type=kind) == msgspec.msgpack.decode(live, type=kind)
    return "same" if same else "changed"


async def _rows(kafka: KafkaSettings, topic: Topic, number: int) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    async for record in _partition(kafka, topic, number):
        if record.value is None:
            found.pop(record.key, None)
        else:
            found[record.key] = record.value
    return found


# -- training examples -------------------------------------------------------------------------------------------------


async def _write_examples(
    kafka: KafkaSettings,
    fresh: KafkaSettings,
    producer: AIOKafkaProducer,
    cut: Mapping[TopicPartition, Range],
    history: _History,
    examples: AsyncIterator[Outbound],
    number: int,
) -> None:
    """Write the examples of a partition that can be made anew, and, where history is not whole, the other ones."""
    name = full_name(fresh, RETRAINING)
    ids = set()
    async for made in examples:
        example = decode(TrainingExample, made.value)
        if not history.since or decode(JoinedRequest, bytes(example.joined)).event_time > history.since:
            ids.add(example.example_id)
            await producer.send(name, made.value, made.key, number, timestamp_ms=made.time)
    if history.since:
        async for record in _partition(kafka, RETRAINING, number, cut):
            if decode(TrainingExample, record.value).example_id not in ids:
                await producer.send(name, record.value, record.key, number, timestamp_ms=record.timestamp)


async def _compare_examples(
    kafka: KafkaSettings, fresh: KafkaSettings, cut: Mapping[TopicPartition, Range], number: int, done: Backfill
) -> None:
    counts = done.counts.setdefault(RETRAINING.name, Counter())
    made = await _digests(_partition(fresh, RETRAINING, number))
    live = await _digests(_partition(kafka, RETRAINING, number, cut))
    for key in made.keys() | live.keys():
        if key not in made:
            counts["removed"] += 1
        elif key not in live:
            counts["added"] += 1
        else:
            counts["same" if made[key] == live[key] else "changed"] += 1


async def _digests(examples: AsyncIterator[ConsumerRecord]) -> dict[str, bytes]:
    """Return a digest of each example, with its key and time, by its id; of one that was written again, the last."""
    found = {}
    async for record in examples:
        whole_record = b"%b/%d/%b" % (record.key, record.timestamp, record.value)
        found[decode(TrainingExample, record.value).example_id] = hashlib.blake2b(whole_record, digest_size=16).digest()
    return found


async def _append(kafka: KafkaSettings, fresh: KafkaSettings, producer: AIOKafkaProducer, number: int) -> None:
    name = full_name(kafka, RETRAINING)
    async for record in _partition(fresh, RETRAINING, number):
        await producer.send(name, record.value, record.key, number, timestamp_ms=record.timestamp)


async def _partition(
    kafka: KafkaSettings, topic: Topic, number: int, bounds: Mapping[TopicPartition, Range] | None = None
) -> AsyncIterator[ConsumerRecord]:
    """Yield a partition's records, all that are there now unless told which."""
    partition = TopicPartition(full_name(kafka, topic), number)
    async with log_reader(kafka) as reader:
        found = (bounds or await whole(reader, [partition]))[partition]
        if found.start < found.end:
            reader.assign([partition])
            reader.seek(partition, found.start)
            async for record in partition_records(reader, partition, found):
                yield record
