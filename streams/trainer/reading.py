"""What a run reads from Kafka: who is to be forgotten, the examples of its offsets, the catalogue."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from models.pseudonyms import Pseudonyms
from models.shown_lists import Key, Lists, ShownList, list_key
from schemas.codec import DecodeError, decode, decode_key
from schemas.domains import UnknownDomainError, pack_for
from schemas.records import Item, Source, TrainingExample
from schemas.topics import CATALOG_ITEMS, MIB, RECOMMENDATIONS, RETRAINING, USERS_ERASURE, Topic
from streams.deadletters import dead_letter
from streams.kafka import client_options, full_name
from streams.settings import KafkaSettings
from streams.tracing import MOST_LINKS, Headers
from streams.trainer.plan import DAY_MS, Run, check_kept

log = structlog.get_logger(__name__)

RECORDS_PER_READ = 512
MOST_LISTS = 20_000  # of a day that is held against the training examples: a sample of more than that
MAX_FAULTS = 1_000  # kept as dead letters of one run; more mean that the topic is not what it should be


class _ScoredItem(msgspec.Struct):
    item_id: str
    score: float


class _Answer(msgspec.Struct):
    """What is needed of a recommendation to know its scores; the rest is skipped."""

    source: Source
    items: list[_ScoredItem]


_answer = msgspec.msgpack.Decoder(_Answer)


@dataclass
class Examples:
    """What the offsets of a run hold."""

    new: list[ShownList] = field(default_factory=list)  # by event time
    replayed: list[ShownList] = field(default_factory=list)
    erased: int = 0  # examples left out because their users are to be forgotten
    faults: list[tuple[bytes, bytes]] = field(default_factory=list)  # dead letters of the new offsets: key and value
    headers: list[Headers] = field(default_factory=list)  # of new examples that are traced, some of them


class Reader:
    """A consumer of committed records by offset, outside of any group."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._consumer = AIOKafkaConsumer(
            **client_options(kafka),
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",  # an offset that is gone is an error, not a jump
            max_partition_fetch_bytes=4 * MIB,
        )

    async def start(self) -> None:
        """Connect."""
        await self._consumer.start()

    async def stop(self) -> None:
        """Disconnect."""
        await self._consumer.stop()

    async def bounds(self, topic: Topic) -> tuple[dict[int, int], dict[int, int]]:
        """Return where each partition of a topic begins, and where what has been committed ends."""
        name = full_name(self._kafka, topic)
        await self._consumer._client.set_topics([name])  # noqa: SLF001 - else its metadata may not be loaded yet
        partitions = [TopicPartition(name, number) for number in self._consumer.partitions_for_topic(name) or ()]
        beginnings = await self._consumer.beginning_offsets(partitions)
        ends = await self._consumer.end_offsets(partitions)
        return (
            {partition.partition: offset for partition, offset in beginnings.items()},
            {partition.partition: offset for partition, offset in ends.items()},
        )

    async def offsets_at(self, topic: Topic, time: int) -> dict[int, int]:
        """Return where each partition's first record with this timestamp or a later one is, else its end."""
        name = full_name(self._kafka, topic)
        _, ends = await self.bounds(topic)
        found = await self._consumer.offsets_for_times({TopicPartition(name, number): time for number in ends})
        return {tp.partition: at.offset if at is not None else ends[tp.partition] for tp, at in found.items()}

    async def read(
        self, topic: Topic, spans: Mapping[int, tuple[int, int]], take: Callable[[ConsumerRecord], None]
    ) -> None:
        """Hand over the records at offsets [start, end) of each partition, in the order of each."""
        name = full_name(self._kafka, topic)
        ends = {TopicPartition(name, number): end for number, (start, end) in spans.items() if start < end}
        if not ends:
            return
        self._consumer.assign(list(ends))
        for partition in ends:
            self._consumer.seek(partition, spans[partition.partition][0])
        waiting = set(ends)
        while waiting:
            batches = await self._consumer.getmany(*waiting, timeout_ms=500, max_records=RECORDS_PER_READ)
            for partition, records in batches.items():
                for record in records:
                    if record.offset < ends[partition]:
                        take(record)
            for partition in list(waiting):
                if await self._consumer.position(partition) >= ends[partition]:
                    waiting.discard(partition)

    async def read_erased(self, pseudonyms: Pseudonyms) -> frozenset[bytes]:
        """Return every name that the users to be forgotten may have on ``retraining``, up to now."""
        beginnings, ends = await self.bounds(USERS_ERASURE)
        names: set[bytes] = set()
        await self.read(
            USERS_ERASURE,
            {number: (beginnings[number], end) for number, end in ends.items()},
            lambda record: names.update(pseudonyms.names(record.key or b"")),
        )
        return frozenset(names)

    async def read_examples(self, run: Run, pseudonyms: Pseudonyms) -> Examples:
        """Return the lists of a run's offsets, without those of users who are to be forgotten.

        Whoever has asked to be forgotten until now is left out, also where the run was planned before.

        Raises:
            RangeError: retention has deleted offsets that the run names.

        """
        erased = await self.read_erased(pseudonyms)
        beginnings, _ = await self.bounds(RETRAINING)
        check_kept(run, beginnings)
        read, new, replayed = Examples(), Lists(), Lists(limit=run.replay)

        def take(record: ConsumerRecord) -> None:
            if record.key in erased:
                read.erased += 1
                return
            is_new = record.offset >= run.spans[record.partition].start
            try:
                user, example = decode_key(record.key), decode(TrainingExample, record.value)
                if is_new:
                    new.add(user, example)
                    if record.headers and len(read.headers) < MOST_LINKS:
                        read.headers.append(record.headers)
                elif example.action != "none":  # where nothing was chosen, nothing is learned
                    replayed.add(user, example)
            except (DecodeError, msgspec.DecodeError) as error:
                if is_new and len(read.faults) < MAX_FAULTS:
                    read.faults.append(_bury(record, error, pseudonyms))

        await self.read(RETRAINING, {number: (span.replay_from, span.end) for number, span in run.spans.items()}, take)
        read.new, read.replayed = new.finished(), replayed.finished()
        return read

    async def read_day(self, day: int, pseudonyms: Pseudonyms) -> list[ShownList]:
        """Return at most ``MOST_LISTS`` lists of the day of event time that begins at ``day``."""
        erased = await self.read_erased(pseudonyms)
        starts, (_, ends) = await self.offsets_at(RETRAINING, day), await self.bounds(RETRAINING)
        lists = Lists(limit=MOST_LISTS)

        def take(record: ConsumerRecord) -> None:
            if record.key in erased:
                return
            with contextlib.suppress(DecodeError, msgspec.DecodeError):  # a run sets it aside
                example = decode(TrainingExample, record.value)
                if day <= list_key(example)[1] < day + DAY_MS:
                    lists.add(decode_key(record.key), example)

        await self.read(RETRAINING, {number: (start, ends[number]) for number, start in starts.items()}, take)
        return lists.finished()

    async def read_scores(self, day: int, model: str, lists: Sequence[ShownList]) -> dict[Key, dict[str, float]]:
        """Return the scores, by item, that ``model`` (name@version) gave on those of a day's lists that are its own."""
        own = {each.key for each in lists if each.model == model}
        scores: dict[Key, dict[str, float]] = {}

        def take(record: ConsumerRecord) -> None:
            with contextlib.suppress(msgspec.DecodeError, TypeError):  # no answer, or a tombstone
                answer = _answer.decode(record.value)
                if (key := (answer.source.partition, answer.source.offset)) in own:
                    scores[key] = {item.item_id: item.score for item in answer.items}

        if own:
            starts, (_, ends) = await self.offsets_at(RECOMMENDATIONS, day), await self.bounds(RECOMMENDATIONS)
            spans = {number: (start, ends[number]) for number, start in starts.items()}
            await self.read(RECOMMENDATIONS, spans, take)
        return scores

    async def read_items(self, end: int) -> dict[str, Item]:
        """Return the catalogue as of an offset of ``catalog.items``; what can't be read was reported by inference."""
        beginnings, _ = await self.bounds(CATALOG_ITEMS)
        items: dict[str, Item] = {}

        def take(record: ConsumerRecord) -> None:
            try:
                item_id = decode_key(record.key)
                if record.value is None:
                    items.pop(item_id, None)
                    return
                item = decode(Item, record.value)
                pack_for(item.domain)
            except (DecodeError, UnknownDomainError):
                return
            items[item_id] = item

        await self.read(CATALOG_ITEMS, {0: (beginnings[0], end)}, take)
        return items


def _bury(record: ConsumerRecord, error: Exception, pseudonyms: Pseudonyms) -> tuple[bytes, bytes]:
    log.warning("dead letter", topic=record.topic, partition=record.partition, offset=record.offset, error=repr(error))
    return dead_letter(
        "trainer",
        error,
        pseudonyms,
        topic=RETRAINING,
        name=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp=record.timestamp,
        key=record.key,
        value=record.value,
    )
