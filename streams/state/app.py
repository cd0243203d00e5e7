"""The state stage on Kafka: a Faust application around ``StateStage``.

Faust brings the consumer group, its assignment, and tables with changelogs and their recovery. Three things are done
here instead:

- Reading. Faust's fetcher runs while it is still seeking to the committed offsets after a recovery. Records that came
  in meanwhile were left out in some starts after a kill, perhaps only with a shortcut of ours in its delivery; the
  cause was not traced to the end. Its agents hold the assignment only; one aiokafka consumer reads the assigned
  partitions from where they were committed, in order and without gaps.
- Commits. Faust steps over gaps in the offsets (commit markers, compacted records) in ways that can pass an unfinished
  record or get stuck. After a flush in which everything that a run of events caused has been acknowledged by the
  broker, exactly these events are committed, so nothing is lost at any crash point.
- Sending. One idempotent aiokafka producer for all output, so that one flush covers it and records leave in batches.
"""

import asyncio
import time as clock
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import faust
import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from faust.auth import OAuthCredentials
from faust.transport.drivers.aiokafka import Consumer as FaustConsumer

from models.item_signals import ItemRow
from models.user_state import UserState
from schemas.codec import DecodeError, decode, decode_key
from schemas.domains import UnknownDomainError
from schemas.records import Item, Request
from schemas.topics import (
    CATALOG_ITEMS,
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
from streams import metrics
from streams.acls import require_access
from streams.deadletters import dead_letter, reason
from streams.follower import Follower
from streams.health import Position, Progress, serve
from streams.kafka import Reading, client_options, committed_offsets, full_name
from streams.privacy import load_pseudonyms, without_id
from streams.process import closing_in_time, notify_ready
from streams.settings import Settings
from streams.state.barrier import Barrier, Waitlist
from streams.state.changelogs import APPLICATION, CHANGELOGS, ITEM_ROWS, TABLES
from streams.state.rows import Rows
from streams.state.stage import Inbound, Outbound, Served, StateStage
from streams.state.traced import StateTraces
from streams.tracing import Hop, tracer

log = structlog.get_logger(__name__)

INPUTS = (USERS_CONTEXT, RECOMMENDATIONS, USERS_ERASURE, USERS_FEEDBACK, USERS_REQUESTS)
NEVER_SECONDS = 10**9
MAX_READ = 500  # records handled at a time
JOINED_AT_ONCE = 20

Handler = Callable[[Inbound], None]

EXPIRY_SECONDS = 1.0  # how often windows are closed; which ones, event time alone decides
EXPIRY_PATIENCE_SECONDS = 60.0  # for the topics to be read up to one moment, before looking anew


class _TableConsumer(FaustConsumer):  # type: ignore[misc]
    """Faust's consumer, reading changelogs only."""

    def resume_partitions(self, tps: Iterable[Any]) -> None:
        changelogs = self.app.tables.changelog_topics
        super().resume_partitions({tp for tp in tps if tp.topic in changelogs})


class StateApp:
    """One process of the state stage."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.kafka = settings.kafka
        options = client_options(self.kafka)
        self.pseudonyms = load_pseudonyms(settings)
        self.faust = _faust_app(settings, options)
        self.faust.transport.Consumer = _TableConsumer
        # By type: a schema's own serializers are overwritten with JSON when Faust makes the changelog topic of a table.
        tables = {
            name: self.faust.Table(name, partitions=self.kafka.partitions, key_type=bytes, value_type=bytes)
            for name in TABLES
        }
        self.stage = StateStage(
            settings.state,
            Rows(tables["users"], UserState, UserState),
            Rows(tables["items"], ItemRow, ItemRow),
            Rows(tables["served"], Served, lambda: Served(0, b"", msgspec.Raw())),
            self.pseudonyms,
            training_text=settings.privacy.training_text,
        )
        spans = tracer(settings, "state")
        self._traces = StateTraces(spans, self.stage) if spans is not None else None
        self.barrier = Barrier(lambda partition: self._start.get(partition, 0))
        self._producer = AIOKafkaProducer(
            **options, enable_idempotence=True, max_batch_size=256 * 1024, max_request_size=4 * MIB
        )
        self._reader = AIOKafkaConsumer(
            **options,
            isolation_level="read_committed",
            max_partition_fetch_bytes=4 * MIB,
        )
        self._start: dict[TopicPartition, int] = {}  # where reading began, per input partition
        self._assigned = asyncio.Event()
        self._reading = asyncio.Lock()  # partitions are assigned between two reads: what one returns is of one owner
        self._handlers: dict[str, Callable[[ConsumerRecord], None]] = {}
        self._admin = AIOKafkaAdminClient(**options)
        self._probe = AIOKafkaConsumer(**options, isolation_level="read_committed")
        self._catalogue = Follower(self.kafka, CATALOG_ITEMS, self._on_items)
        self._others: Follower | None = None
        self._requests: Waitlist[tuple[ConsumerRecord, Inbound, Request | None, int, Hop | None]] = Waitlist()
        self._feedback: Waitlist[ConsumerRecord] = Waitlist()
        self._feedback_waiting = 0  # in the waitlist or taken out of it and not yet applied
        self._done: list[ConsumerRecord] = []  # in the order they were applied
        self._unconfirmed: list[asyncio.Future[Any]] = []
        self._generation = 0
        self._event_times: dict[TopicPartition, int] = {}  # of the newest event applied
        self.progress = Progress(self.kafka.prefix)
        for name, rows in zip(TABLES, self.stage.tables, strict=True):
            metrics.TABLE_ROWS.labels(name).set_function(rows.__len__)
        metrics.QUEUE_LENGTH.labels("requests").set_function(lambda: len(self._requests))
        metrics.QUEUE_LENGTH.labels("feedback").set_function(lambda: self._feedback_waiting)
        self._flushing = asyncio.Lock()
        self._apply_feedback = self._applying(USERS_FEEDBACK, self.stage.on_feedback)
        self._agent(USERS_CONTEXT, self._applying(USERS_CONTEXT, self.stage.on_context))
        self._agent(RECOMMENDATIONS, self._applying(RECOMMENDATIONS, self.stage.on_recommendation))
        self._agent(USERS_ERASURE, self._applying(USERS_ERASURE, self.stage.on_erasure))
        self._agent(USERS_FEEDBACK, self._read_feedback)
        self._agent(USERS_REQUESTS, self._read_request)
        self.faust.on_partitions_revoked.connect(self._on_revoked, weak=False)
        self.faust.on_rebalance_complete.connect(self._on_recovered, weak=False)

    async def run(self, stop: asyncio.Event) -> None:
        """Run until ``stop`` is set or a part of the stage fails.

        Raises:
            Exception: whatever ended the stage; nothing that was not flushed has been committed.

        """
        serve(self.settings.metrics, self.progress)
        inputs = [topic.name for topic in (CATALOG_ITEMS, *INPUTS)]
        outputs = [topic.name for topic in (REQUESTS_JOINED, RETRAINING, DEADLETTERS, *CHANGELOGS)]
        await require_access(self.kafka, [*inputs, *outputs], [APPLICATION])
        await self._producer.start()
        await self._reader.start()
        await self._probe.start()
        await self._admin.start()
        await self._catalogue.start()
        await self._catalogue.wait_until_caught_up()
        await self.faust.start()
        tasks = [
            asyncio.create_task(self._read_inputs(), name="read"),
            asyncio.create_task(self._join_requests(), name="join"),
            asyncio.create_task(self._attribute_feedback(), name="feedback"),
            asyncio.create_task(self._flush_regularly(), name="flush"),
            asyncio.create_task(self._expire_regularly(), name="expire"),
            asyncio.create_task(self.progress.watch(self._positions, self._probe.end_offsets), name="progress"),
            asyncio.create_task(stop.wait(), name="signal"),
            asyncio.create_task(_crashed(self.faust), name="faust"),
            self._catalogue.task,
        ]
        try:
            finished, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                task.result()
        finally:
            with closing_in_time():
                for task in tasks[:6]:
                    task.cancel()
                await asyncio.gather(*tasks[:6], return_exceptions=True)
                await self._flush()
                await self.faust.stop()
                await self._catalogue.stop()
                if self._others is not None:
                    await self._others.stop()
                await self._reader.stop()
                await self._probe.stop()
                await self._admin.close()
                await self._producer.stop()

    def _agent(self, topic: Topic, handle: Callable[[ConsumerRecord], None]) -> None:
        """Have the group assign a topic's partitions to this process, and handle what is read of them."""
        name = full_name(self.kafka, topic)
        self._handlers[name] = handle

        async def agent(stream: Any) -> None:
            async for _ in stream:
                raise AssertionError("Faust reads changelogs only")

        channel = self.faust.topic(
            name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw", acks=False
        )
        self.faust.agent(channel, name=topic.name)(agent)

    async def _read_inputs(self) -> None:
        reading = Reading(self._reader, MAX_READ, self.barrier.awaited)
        while True:
            await self._assigned.wait()
            async with self._reading:
                generation = self._generation
                batches = await reading.read()
            for partition, records in batches.items():
                metrics.records_read(partition.topic.removeprefix(self.kafka.prefix), len(records))
                for record in records:
                    if generation != self._generation:
                        break  # a rebalance has taken the partitions back; who has them now reads from the commit
                    self._handlers[partition.topic](record)
                await asyncio.sleep(0)  # let requests be joined and records be sent meanwhile
            if generation == self._generation:
                for partition in list(self._start):
                    read = batches.get(partition)
                    position = await self._reader.position(partition)
                    self.barrier.read(partition, read[-1].offset if read else None, position)

    def _applying(self, topic: Topic, handler: Handler) -> Callable[[ConsumerRecord], None]:
        if self._traces is not None:
            handler = self._traces.handling(handler)

        def apply(read: ConsumerRecord) -> None:
            record = _inbound(topic, read)
            try:
                handler(record)
            except Exception as error:  # whatever is wrong with one record, the stream goes on
                self._bury(record, error)
            self._done.append(read)
            self.barrier.applied(TopicPartition(read.topic, read.partition), read.offset)

        return apply

    def _read_request(self, read: ConsumerRecord) -> None:
        record = _inbound(USERS_REQUESTS, read)
        hop = self._traces.begin(record) if self._traces is not None else None
        request = None
        try:
            request = self.stage.read_request(record)
        except Exception as error:  # as above
            self._bury(record, error)
            if hop is not None:
                hop.failed(error)
                hop.end()
        else:
            if hop is not None:
                hop.named(without_id(request.request_id, record.key or b"", self.pseudonyms))
        # A refused request keeps its place in the queue: offsets are released in order.
        self._requests.add((read, record, request, int(clock.time() * 1000), hop))

    def _read_feedback(self, read: ConsumerRecord) -> None:
        """Apply feedback at once if its list is known and none waits before it; else it waits for lists to come."""
        if not self._feedback_waiting and self.stage.list_is_known(_inbound(USERS_FEEDBACK, read)):
            self._apply_feedback(read)
        else:
            self._feedback_waiting += 1
            self._feedback.add(read)

    async def _join_requests(self) -> None:
        """Join requests, in order, with everything their users did before they were posted."""
        while True:
            batch = await self._requests.take()
            generation = self._generation
            await self._catch_up({event.partition for event, *_ in batch}, USERS_CONTEXT, USERS_FEEDBACK)
            for _, _, request, _, hop in batch:
                if hop is not None and request is not None:
                    hop.reached("grace")
            for number, (event, record, request, received_at, hop) in enumerate(batch):
                if number % JOINED_AT_ONCE == 0:
                    await asyncio.sleep(0)  # a backlog must not keep heartbeats and sends waiting
                if generation != self._generation:
                    break  # a rebalance has taken these events back; they will be read again
                if request is not None:
                    try:
                        joined = self.stage.join(record, request, received_at)
                    except Exception as error:  # as above
                        self._bury(record, error)
                        if hop is not None:
                            hop.failed(error)
                            hop.end()
                    else:
                        await self._send(joined, hop)
                self._done.append(event)
                self.barrier.applied(TopicPartition(event.topic, event.partition), event.offset)

    async def _attribute_feedback(self) -> None:
        """Apply feedback, in order, when the lists it may belong to are known."""
        while True:
            batch = await self._feedback.take()
            generation = self._generation
            await self._catch_up({event.partition for event in batch}, RECOMMENDATIONS)
            if generation == self._generation:
                for event in batch:
                    self._apply_feedback(event)
                self._feedback_waiting -= len(batch)

    async def _catch_up(self, numbers: Collection[int], *topics: Topic) -> None:
        """Wait until all that these partitions of some topics hold now has been applied, at most for the grace.

        All records of a user are in partitions of one number, so that nobody waits for what others do.
        """
        ends = await self._end_offsets(numbers, *topics)
        if not await self.barrier.wait(ends, self.settings.state.grace_ms / 1000):
            log.warning("went on before all earlier records were applied", topics=[topic.name for topic in topics])

    async def _end_offsets(self, numbers: Collection[int], *topics: Topic) -> dict[TopicPartition, int]:
        """Return where these partitions of some topics end now, those of this process."""
        names = {full_name(self.kafka, topic) for topic in topics}
        owned = [asked for asked in self._start if asked.topic in names and asked.partition in numbers]
        ends: dict[TopicPartition, int] = await self._probe.end_offsets(owned) if owned else {}
        return ends

    async def _expire_regularly(self) -> None:
        """Do what has come due by event time, whenever all topics have been read up to the same moment."""
        expire = self.stage.expire if self._traces is None else self._traces.expiring(self.stage.expire)
        while True:
            await asyncio.sleep(EXPIRY_SECONDS)
            generation, watermarks = self._generation, self.stage.watermarks()
            numbers = range(self.kafka.partitions)
            ends = await self._end_offsets(numbers, USERS_CONTEXT, USERS_FEEDBACK, RECOMMENDATIONS)
            if await self.barrier.wait(ends, EXPIRY_PATIENCE_SECONDS) and generation == self._generation:
                expire(watermarks)

    async def _flush_regularly(self) -> None:
        while True:
            await asyncio.sleep(self.settings.state.flush_ms / 1000)
            await self._flush()

    async def _flush(self) -> None:
        """Publish, then write the changed rows, then release the events behind them.

        The snapshot is taken at one instant; rows are written last, and users' rows after all others: a row that says
        "seen" is only ever durable after everything that seeing it caused.
        """
        async with self._flushing:
            generation = self._generation
            done, self._done = self._done, []
            outbox, self.stage.outbox = self.stage.outbox, []
            changes = [
                (full_name(self.kafka, topic), list(rows.drain()))
                for topic, rows in zip(CHANGELOGS, self.stage.tables, strict=True)
            ]
            for outbound in outbox:
                await self._send(outbound)
            unconfirmed, self._unconfirmed = self._unconfirmed, []
            await asyncio.gather(*unconfirmed)
            for name, rows in reversed(changes):
                written = [
                    await self._producer.send(name, value, key, partition=partition) for partition, key, value in rows
                ]
                await asyncio.gather(*written)
            if done and generation == self._generation:
                # In order: the last one of a partition stays.
                offsets = {TopicPartition(read.topic, read.partition): read.offset + 1 for read in done}
                await self.faust.consumer._commit(offsets)  # noqa: SLF001
                self._event_times |= {TopicPartition(read.topic, read.partition): read.timestamp for read in done}

    async def _send(self, outbound: Outbound, hop: Hop | None = None) -> None:
        metrics.records_published(outbound.topic.name)
        if hop is not None:
            hop.reached("join")
        sent = await self._producer.send(
            full_name(self.kafka, outbound.topic),
            outbound.value,
            outbound.key,
            partition=outbound.partition,
            timestamp_ms=outbound.time,
            headers=outbound.headers if hop is None else hop.headers,
        )
        if hop is not None:
            sent.add_done_callback(partial(_published, hop))
        self._unconfirmed.append(sent)

    def _bury(self, record: Inbound, error: Exception) -> None:
        key, value = dead_letter(
            "state",
            error,
            self.pseudonyms,
            topic=record.topic,
            name=full_name(self.kafka, record.topic),
            partition=record.partition,
            offset=record.offset,
            timestamp=record.time,
            key=record.key,
            value=record.value,
        )
        log.warning(
            "dead letter",
            topic=record.topic.name,
            partition=record.partition,
            offset=record.offset,
            reason=reason(error, record.topic, record.key, self.pseudonyms),
        )
        self.stage.outbox.append(Outbound(DEADLETTERS, 0, int(clock.time() * 1000), key, value))

    async def _on_items(self, records: Sequence[ConsumerRecord]) -> None:
        for record in records:
            try:
                item_id = decode_key(record.key)
                self.stage.put_item(item_id, None if record.value is None else decode(Item, record.value))
            except (DecodeError, UnknownDomainError):
                continue  # the inference stage, which reads the same topic, writes the dead letter

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        """Give up partitions: what has not been flushed will be read again, by whoever gets them."""
        await self._flush()  # a flush that is still running must not write after the next owner
        self._forget()

    async def _on_recovered(self, *_: Any, **__: Any) -> None:
        """Build what is derived from the recovered tables and begin to read where the group has committed."""
        self._forget()
        changelogs = self.faust.tables.changelog_topics
        inputs = [
            TopicPartition(tp.topic, tp.partition)
            for tp in self.faust.consumer.assignment()
            if tp.topic not in changelogs
        ]
        owned = {partition.partition for partition in inputs}
        self.stage.recovered(owned)
        await self._follow_others(owned)
        committed = await committed_offsets(self._admin, self.kafka.prefix + APPLICATION)
        beginnings = await self._probe.beginning_offsets(inputs) if inputs else {}
        self._start = {
            partition: max(committed[partition].offset if partition in committed else 0, beginnings[partition])
            for partition in inputs
        }
        if inputs:
            async with self._reading:
                self._reader.assign(inputs)
                for partition, offset in self._start.items():
                    self._reader.seek(partition, offset)
            self._assigned.set()
        notify_ready()
        self.progress.assigned()
        log.info("ready", users=len(self.stage.users), items=len(self.stage.items), served=len(self.stage.served))

    def _positions(self) -> dict[TopicPartition, Position]:
        return {
            partition: Position(self.barrier.position(partition), self._event_times.get(partition, 0))
            for partition in self._start
        }

    def _forget(self) -> None:
        self.progress.revoked()
        self._generation += 1
        self._assigned.clear()
        self.barrier.reset()
        self._requests.clear()
        self._feedback.clear()
        self._feedback_waiting = 0
        self._done.clear()

    async def _follow_others(self, owned: Collection[int]) -> None:
        """Follow the item rows that other processes of the stage write, so that signals are everybody's."""
        if self._others is not None:
            await self._others.stop()
        self._others = None
        if len(owned) < self.kafka.partitions:
            self._others = Follower(self.kafka, ITEM_ROWS, self._on_item_rows, leave_out=owned)
            await self._others.start()
            await self._others.wait_until_caught_up()

    async def _on_item_rows(self, records: Sequence[ConsumerRecord]) -> None:
        for record in records:
            self.stage.put_item_row(record.key, record.value)


def _faust_app(settings: Settings, options: Mapping[str, Any]) -> faust.App:
    kafka = settings.kafka
    credentials: Any = None
    if "sasl_oauth_token_provider" in options:
        credentials = OAuthCredentials(
            oauth_cb=options["sasl_oauth_token_provider"], ssl_context=options.get("ssl_context")
        )
    elif "sasl_mechanism" in options:
        credentials = faust.SASLCredentials(
            username=options["sasl_plain_username"],
            password=options["sasl_plain_password"],
            mechanism=options["sasl_mechanism"],
            ssl_context=options.get("ssl_context"),
        )
    elif "ssl_context" in options:
        credentials = faust.SSLCredentials(options["ssl_context"])
    folder = settings.data_dir / "state" / settings.instance
    folder.mkdir(parents=True, exist_ok=True)
    return faust.App(
        kafka.prefix + APPLICATION,
        broker=";".join(f"kafka://{server}" for server in str(kafka.bootstrap).split(",")),
        broker_credentials=credentials,
        store="memory://",
        datadir=folder,
        web_enabled=False,
        autodiscover=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=kafka.partitions,
        consumer_group_instance_id=f"{kafka.prefix}{APPLICATION}-{settings.instance}",
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=4 * MIB,
        broker_commit_interval=max(0.2, settings.state.flush_ms / 1000),
        broker_session_timeout=10.0,
        broker_heartbeat_interval=2.0,
        # Once the tables are recovered, Faust's consumer is asked for nothing; left out of the group for that, it would
        # never come back, and the stage would stand still.
        broker_max_poll_interval=float(NEVER_SECONDS),
        stream_wait_empty=False,
        stream_processing_timeout=float(NEVER_SECONDS),  # Faust sees no event of the input topics and would complain
        broker_commit_livelock_soft_timeout=float(NEVER_SECONDS),
        stream_recovery_delay=0.0,
        worker_redirect_stdouts=False,
    )


def _inbound(topic: Topic, read: ConsumerRecord) -> Inbound:
    return Inbound(topic, read.partition, read.offset, read.timestamp, read.key, read.value, read.headers)


def _published(hop: Hop, _: object) -> None:
    hop.reached("publish")
    hop.end()


async def _crashed(app: faust.App) -> None:
    """Return when the Faust application has stopped by itself; raise what it crashed with."""
    await app.wait_until_stopped()
    if app.crash_reason is not None:
        raise app.crash_reason
