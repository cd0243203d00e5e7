"""A replay: recorded records onto topics of its own, through stages of its own, and a comparison with the answers then.

Two sources. From `requests.joined` a replay is exact by construction: a joined request carries the state it saw, so the
same model gives the same bytes. From the raw topics the state is built anew: everything posted before the first request
goes first, then all is posted in order of event time, and nothing that comes after a request is posted before that
request has been joined. Kafka keeps no order across topics, so where records arrived in another order than their event
times say, the state may differ from what it was; the comparison tells which requests that concerns, by the recorded
joined requests.

Where a replay is, its own topics say: each record carries its origin in a header. So a replay that was stopped or
killed goes on after the last record it has posted, and nothing but Kafka remembers anything.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

from ops.dead_letters.letters import DECISIONS
from ops.isolated import with_prefix
from ops.recorded import Range, by_event_time, log_reader, partition_records, partitions_of, whole
from ops.replay.comparing import Comparison, catalogue_difference, state_difference
from ops.replay.selection import From, Selection
from ops.stages import Stage
from schemas.codec import DecodeError, decode
from schemas.errors import ExplainedError
from schemas.records import DeadLetter, JoinedRequest, Recommendation, Record
from schemas.topics import (
    CATALOG_ITEMS,
    DEADLETTERS,
    MIB,
    MODELS,
    RECOMMENDATIONS,
    REQUESTS_JOINED,
    TOPICS,
    USERS_CONTEXT,
    USERS_ERASURE,
    USERS_FEEDBACK,
    USERS_REQUESTS,
    Topic,
)
from streams.kafka import client_options, full_name
from streams.settings import Settings, TracingSettings
from streams.state.changelogs import CHANGELOGS
from streams.topic_admin import apply_topics, delete_topics

ORIGIN = "replay-of"  # header: topic/partition/offset
RAW_INPUTS = (USERS_ERASURE, USERS_CONTEXT, USERS_FEEDBACK, USERS_REQUESTS)  # at one event time, in this order
MAX_UNANSWERED = 1_000
STALLED_SECONDS = 180.0
STAGE_START_SECONDS = 1800.0  # the very first start exports the language model
ALL_TOPICS = (*TOPICS, *CHANGELOGS, DECISIONS)

Kind = TypeVar("Kind", bound=Record)


class StalledError(ExplainedError):
    """The replay's stages do not get on; the message has what they said last."""


class ForeignTopicError(ExplainedError):
    """A replay was about to write to a topic that is not its own."""


class IsolatedProducer(AIOKafkaProducer):  # type: ignore[misc]
    """A producer that refuses every topic without its prefix."""

    def __init__(self, prefix: str, **options: Any) -> None:
        if not prefix:
            raise ForeignTopicError("a replay needs a topic prefix of its own")
        super().__init__(**options)
        self._own_prefix = prefix

    async def send(self, topic: str, *arguments: Any, **named: Any) -> Any:
        """Send as any producer does.

        Raises:
            ForeignTopicError: the topic is not the replay's own.

        """
        if not topic.startswith(self._own_prefix):
            raise ForeignTopicError(f"a replay writes to topics that begin with {self._own_prefix}, not to {topic}")
        return await super().send(topic, *arguments, **named)


@dataclass(frozen=True)
class Plan:
    """What is replayed, and how."""

    name: str  # the same name goes on where it was stopped
    source: From
    selection: Selection
    model: str | None = None  # None: as announced on `models`, else as the settings say
    speed: float | None = None  # times real time; None: as fast as it goes


@dataclass(frozen=True)
class Size:
    """What a replay would read and post."""

    requests: int
    history: int  # events before the first request, which rebuild the state
    events: int  # other events among the requests
    first: int | None  # event time of the first request, milliseconds
    last: int | None


@dataclass
class Progress:
    """How far a replay is."""

    posted: int = 0  # requests
    joined: int = 0  # or refused
    answered: int = 0  # or refused


def own_settings(settings: Settings, plan: Plan, folder: Path) -> Settings:
    """Return the settings of the replay's stages: nothing shared with the system whose records are replayed."""
    own = with_prefix(settings, f"{settings.kafka.prefix}replay-{plan.name}.")
    inference = own.inference.model_copy(update={"budget_ms": None, **({"model": plan.model} if plan.model else {})})
    state = own.state.model_copy(update={"grace_ms": 3_600_000})  # a request sees all that was posted before it
    models = own.models.model_copy(update={"store": settings.model_store})
    tracing = TracingSettings()  # the records carry the headers of their first time
    changed = {"inference": inference, "state": state, "models": models, "tracing": tracing, "data_dir": folder}
    return own.model_copy(update=changed)


async def measure(settings: Settings, plan: Plan) -> Size:
    """Count what a replay would read and post; nothing is written."""
    requests = history = events = 0
    first: int | None = None
    last: int | None = None
    async with log_reader(settings.kafka) as reader:
        async for record, is_request in _selected(reader, settings, plan):
            if is_request:
                requests += 1
                first = record.timestamp if first is None else first
                last = record.timestamp
            elif first is None:
                history += 1
            else:
                events += 1
    return Size(requests, history, events, first, last)


async def replay(settings: Settings, plan: Plan, watch: Callable[[Progress], None] = lambda _: None) -> Progress:
    """Replay until every selected request has been answered, or go on with what was begun under the same name.

    Raises:
        StageError: a stage does not start.
        StalledError: the stages do not get on.

    """
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tablecast-replay-")))
        own = own_settings(settings, plan, folder)
        await apply_topics(own.kafka, extra=(*CHANGELOGS, DECISIONS))
        producer = IsolatedProducer(
            own.kafka.prefix, **client_options(own.kafka), enable_idempotence=True, max_request_size=4 * MIB
        )
        await producer.start()
        stack.push_async_callback(producer.stop)
        await _copy(settings, own, producer, (CATALOG_ITEMS,) if plan.model else (CATALOG_ITEMS, MODELS))
        names = ("inference",) if plan.source == "joined" else ("state", "inference")
        stages = [Stage(name, own, folder / f"{name}.log") for name in names]
        for stage in stages:
            stack.push_async_callback(stage.stop)
        await asyncio.gather(*(stage.start(timeout=STAGE_START_SECONDS) for stage in stages))
        progress = Progress()
        work = [asyncio.create_task(stage.supervise()) for stage in stages]
        work.append(asyncio.create_task(_count(own, progress, plan.source)))
        feeding = asyncio.create_task(_feed(settings, own, plan, producer, progress))
        try:
            await _until_done(progress, feeding, work, stages, watch)
        finally:
            for task in (*work, feeding):
                task.cancel()
            await asyncio.gather(*work, feeding, return_exceptions=True)
        return progress


async def clean_up(settings: Settings, plan: Plan) -> None:
    """Delete the replay's topics."""
    await delete_topics(own_settings(settings, plan, Path()).kafka, ALL_TOPICS)


async def _until_done(
    progress: Progress,
    feeding: "asyncio.Task[None]",
    work: list["asyncio.Task[None]"],
    stages: list[Stage],
    watch: Callable[[Progress], None],
) -> None:
    seen, since = (-1, -1, -1), time.monotonic()
    while True:
        for task in (*work, feeding):
            if task.done():
                task.result()
        watch(progress)
        if feeding.done() and progress.answered >= progress.posted:
            return
        now = (progress.posted, progress.joined, progress.answered)
        if now != seen:
            seen, since = now, time.monotonic()
        elif feeding.done() and time.monotonic() - since > STALLED_SECONDS:
            last = "\n".join(f"-- {stage.name}:\n{stage.last_words()}" for stage in stages)
            raise StalledError(
                f"{progress.answered} of {progress.posted} requests were answered, and no more for "
                f"{STALLED_SECONDS:.0f} s; the same name goes on\n{last}"
            )
        await asyncio.sleep(0.05)


async def _copy(settings: Settings, own: Settings, producer: AIOKafkaProducer, topics: tuple[Topic, ...]) -> None:
    """Bring small compacted topics over as they are now, in the order of their logs."""
    async with log_reader(settings.kafka) as reader:
        for topic in topics:
            there = await whole(reader, await partitions_of(settings.kafka, full_name(settings.kafka, topic)))
            async for record in by_event_time(reader, await _rest(own, topic, there)):
                await _post(producer, own, topic, record)
    await producer.flush()


async def _feed(settings: Settings, own: Settings, plan: Plan, producer: AIOKafkaProducer, progress: Progress) -> None:
    """Post what is selected, in order and in time, never too far ahead of the stages."""
    asked = REQUESTS_JOINED if plan.source == "joined" else USERS_REQUESTS
    async with log_reader(own.kafka) as own_reader:
        partitions = await partitions_of(own.kafka, full_name(own.kafka, asked))
        progress.posted = sum(end for _, end in (await whole(own_reader, partitions)).values())
    clock = asyncio.get_running_loop().time
    began: tuple[float, int] | None = None
    unflushed = False
    async with log_reader(settings.kafka) as reader:
        async for record, is_request in _selected(reader, settings, plan, own):
            if is_request and began is None:
                began = clock(), record.timestamp
            if plan.speed is not None and began is not None:
                due = began[0] + (record.timestamp - began[1]) / 1000 / plan.speed
                if (pause := due - clock()) > 0:
                    await asyncio.sleep(pause)
            if is_request:
                if unflushed:
                    await producer.flush()  # what was posted before is below the ends that the request will wait for
                    unflushed = False
                await _wait_while(lambda: progress.posted - progress.answered >= MAX_UNANSWERED)
                await _post(producer, own, asked, record)
                progress.posted += 1
            else:
                # A request that is still to be joined must not see what came after it.
                if progress.joined < progress.posted:
                    await producer.flush()
                    await _wait_while(lambda: progress.joined < progress.posted)
                await _post(producer, own, _topic_of(settings, record), record)
                unflushed = True
    await producer.flush()


async def _wait_while(condition: Callable[[], bool]) -> None:
    while condition():
        await asyncio.sleep(0.002)


async def _selected(
    reader: AIOKafkaConsumer, settings: Settings, plan: Plan, own: Settings | None = None
) -> AsyncIterator[tuple[ConsumerRecord, bool]]:
    """Yield what is to be posted, and whether it is a request; with ``own``, what has been posted already is left out.

    Events of all users are yielded, up to the last selected request: the state of everybody shapes a list.
    """
    kafka, selection = settings.kafka, plan.selection
    topics = (REQUESTS_JOINED,) if plan.source == "joined" else RAW_INPUTS
    ranges: dict[TopicPartition, Range] = {}
    for topic in topics:
        there = await whole(reader, await partitions_of(kafka, full_name(kafka, topic)))
        if topic in (REQUESTS_JOINED, USERS_REQUESTS):
            there = await _narrowed(reader, there, selection)
        ranges |= await _rest(own, topic, there) if own else there
    requests = full_name(kafka, topics[-1])
    async for record in by_event_time(reader, ranges):
        if record.topic != requests:
            if selection.until is None or record.timestamp < selection.until:
                yield record, False
        elif selection.takes(plan.source, record.offset, record.timestamp, record.key, record.value):
            yield record, True


async def _narrowed(
    reader: AIOKafkaConsumer, there: Mapping[TopicPartition, Range], selection: Selection
) -> dict[TopicPartition, Range]:
    """Return the part of each partition that can hold what is selected."""
    first, end = selection.offsets or (0, 2**63 - 1)
    starts: Mapping[TopicPartition, Any] = {}
    if selection.since is not None:
        starts = await reader.offsets_for_times(dict.fromkeys(there, selection.since))
    narrowed = {}
    for partition, bounds in there.items():
        start = max(bounds.start, first)
        if selection.since is not None:
            found = starts[partition]
            start = max(start, found.offset if found is not None else bounds.end)
        narrowed[partition] = Range(start, min(bounds.end, end))
    return narrowed


async def _rest(own: Settings, topic: Topic, there: Mapping[TopicPartition, Range]) -> dict[TopicPartition, Range]:
    """Return what of these ranges has not been posted to the replay's own topic yet."""
    rest = dict(there)
    async with log_reader(own.kafka) as reader:
        for partition, (start, end) in there.items():
            mine = TopicPartition(full_name(own.kafka, topic), partition.partition)
            ends = await reader.end_offsets([mine])
            if ends[mine]:
                reader.assign([mine])
                reader.seek(mine, ends[mine] - 1)
                async with asyncio.timeout(STALLED_SECONDS):
                    newest = await reader.getone()
                rest[partition] = Range(max(start, _origin(newest) + 1), end)
    return rest


def _origin(record: ConsumerRecord) -> int:
    """Return the offset that a replayed record had."""
    return int(dict(record.headers)[ORIGIN].decode().rsplit("/", 1)[1])


async def _post(producer: AIOKafkaProducer, own: Settings, topic: Topic, record: ConsumerRecord) -> None:
    origin = f"{record.topic}/{record.partition}/{record.offset}".encode()
    await producer.send(
        full_name(own.kafka, topic),
        record.value,
        record.key,
        record.partition,
        timestamp_ms=record.timestamp,
        headers=[*((name, value) for name, value in record.headers if name != ORIGIN), (ORIGIN, origin)],
    )


def _topic_of(settings: Settings, record: ConsumerRecord) -> Topic:
    return next(topic for topic in RAW_INPUTS if full_name(settings.kafka, topic) == record.topic)


async def _count(own: Settings, progress: Progress, source: From) -> None:
    """Keep count of what the stages have done, from the beginning of the replay's topics on."""
    joined, answered, refused = (
        full_name(own.kafka, topic) for topic in (REQUESTS_JOINED, RECOMMENDATIONS, DEADLETTERS)
    )
    asked = full_name(own.kafka, USERS_REQUESTS)
    counted: set[tuple[str, int, int]] = set()  # a stage that is killed may write a dead letter twice
    highest: dict[int, int] = {}  # of the requests joined: one that is joined twice counts once
    async with log_reader(own.kafka) as reader:
        partitions = await partitions_of(own.kafka, joined, answered, refused)
        reader.assign(partitions)
        await reader.seek_to_beginning(*partitions)
        while True:
            for partition, records in (await reader.getmany(timeout_ms=100)).items():
                for record in records:
                    if partition.topic == answered:
                        progress.answered += 1
                    elif partition.topic == joined:
                        offset = decode(JoinedRequest, record.value).source.offset if source == "raw" else record.offset
                        progress.joined += offset > highest.get(record.partition, -1)
                        highest[record.partition] = max(offset, highest.get(record.partition, -1))
                    else:
                        letter = decode(DeadLetter, record.value)
                        place = letter.topic, letter.partition, letter.offset
                        if letter.topic in (asked, joined) and place not in counted:
                            counted.add(place)
                            progress.answered += 1
                            progress.joined += letter.topic == asked


# -- comparison ------------------------------------------------------------------------------------------------------


class _Ascending(Generic[Kind]):
    """The records of one partition by the offset of the request they are about, which only grows."""

    def __init__(self, records: AsyncIterator[ConsumerRecord], kind: type[Kind]) -> None:
        self._records, self._kind = records, kind
        self._head: Kind | None = None
        self._place = -1

    async def of(self, offset: int) -> Kind | None:
        """Return what is about the request at an offset, None if nothing is; offsets must grow from call to call."""
        while self._place < offset:
            record = await anext(self._records, None)
            if record is None:
                return None
            with contextlib.suppress(DecodeError):
                self._head = decode(self._kind, record.value)
                self._place = self._head.source.offset  # type: ignore[attr-defined]
        return self._head if self._place == offset else None


async def compare(settings: Settings, plan: Plan) -> Comparison:
    """Compare what the replay's topics hold with what was answered then. Reads; writes nothing. Constant memory."""
    own = own_settings(settings, plan, Path())
    comparison = Comparison()
    changed = await _catalogue_times(settings)
    for number in range(settings.kafka.partitions):
        async with contextlib.AsyncExitStack() as stack:
            here = await stack.enter_async_context(log_reader(own.kafka))
            there = await stack.enter_async_context(log_reader(settings.kafka))
            now = await _partition(here, own, RECOMMENDATIONS, number, Recommendation)
            then = await _partition(there, settings, RECOMMENDATIONS, number, Recommendation)
            if plan.source == "joined":
                asked = TopicPartition(full_name(own.kafka, REQUESTS_JOINED), number)
            else:
                asked = TopicPartition(full_name(own.kafka, USERS_REQUESTS), number)
                here_joined = await stack.enter_async_context(log_reader(own.kafka))
                there_joined = await stack.enter_async_context(log_reader(settings.kafka))
                joined_now = await _partition(here_joined, own, REQUESTS_JOINED, number, JoinedRequest)
                joined_then = await _partition(there_joined, settings, REQUESTS_JOINED, number, JoinedRequest)
            posted = await stack.enter_async_context(log_reader(own.kafka))
            bounds = (await whole(posted, [asked]))[asked]
            posted.assign([asked])
            posted.seek(asked, bounds.start)
            async for record in partition_records(posted, asked, bounds):
                state = None
                if plan.source == "joined":
                    offset = original = decode(JoinedRequest, record.value).source.offset
                else:
                    offset, original = record.offset, _origin(record)
                    saw_then, saw_now = await joined_then.of(original), await joined_now.of(offset)
                    if saw_then is not None and saw_now is not None:
                        state = state_difference(saw_then, saw_now)
                answers = await then.of(original), await now.of(offset)
                if answers == (None, None):
                    continue  # refused then and now
                catalogue = catalogue_difference(changed, record.timestamp, *answers)
                answer = answers[0] or answers[1]
                assert answer is not None
                comparison.add(*answers, request_id=answer.request_id, state=state, catalogue=catalogue)
    return comparison


async def _partition(
    reader: AIOKafkaConsumer, settings: Settings, topic: Topic, number: int, kind: type[Kind]
) -> _Ascending[Kind]:
    place = TopicPartition(full_name(settings.kafka, topic), number)
    bounds = (await whole(reader, [place]))[place]
    reader.assign([place])
    reader.seek(place, bounds.start)
    return _Ascending(partition_records(reader, place, bounds), kind)


async def _catalogue_times(settings: Settings) -> dict[str, int]:
    """Return when each item was changed last, as far as the topic tells."""
    times: dict[str, int] = {}
    async with log_reader(settings.kafka) as reader:
        there = await whole(reader, await partitions_of(settings.kafka, full_name(settings.kafka, CATALOG_ITEMS)))
        async for record in by_event_time(reader, there):
            times[(record.key or b"").decode(errors="replace")] = record.timestamp
    return times
