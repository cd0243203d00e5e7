"""The inference stage on Kafka.

Four steps overlap, each batch going through them in order: read and tokenise, encode (ONNX Runtime, which releases the
interpreter, two batches at a time), rank (few requests in the event loop, many in the model's thread), publish. Which
model answers a request is settled when it is read (``rollout.py``), and stays so on its way. A recommendation is itself
the proof that its request has been answered (``answered.py``). Offsets are committed behind it, now and then: they only
shorten what a restarted process reads again.
"""

import asyncio
import contextlib
import time as clock
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from models.base_model import cache_folder
from models.embedding_cache import EmbeddingCache
from models.recommender import Answer, Vectors
from schemas.codec import DecodeError, decode, encode
from schemas.domains import UnknownDomainError, pack_for
from schemas.records import JoinedRequest, Recommendation, ShadowComparison, Timings
from schemas.topics import (
    CATALOG_ITEMS,
    DEADLETTERS,
    MIB,
    MODELS,
    MODELS_SHADOW,
    RECOMMENDATIONS,
    REQUESTS_JOINED,
    Topic,
)
from streams import metrics
from streams.acls import require_access
from streams.deadletters import dead_letter, reason
from streams.follower import Follower
from streams.health import Position, Progress, serve
from streams.inference.answered import Wakefulness, last_answered
from streams.inference.batcher import Batcher, Waiting
from streams.inference.catalogue_feed import CatalogueFeed
from streams.inference.exploring import Exploring
from streams.inference.rollout import EMBEDDINGS, Rollout
from streams.inference.served_model import ServedModel
from streams.inference.shadow import Answered, Shadowing
from streams.kafka import Reading, client_options, committed_offsets, full_name
from streams.privacy import load_pseudonyms, without_id
from streams.process import closing_in_time, notify_ready
from streams.settings import Settings
from streams.tracing import tracer

log = structlog.get_logger(__name__)

GROUP = "inference"
FOLLOWED = (CATALOG_ITEMS, MODELS)  # of one partition each
BATCHES_ENCODED_AT_ONCE = 2  # a core that is done with its half of one batch goes on with the next
COMMIT_SECONDS = 1.0
STOOD_STILL_SECONDS = 5.0  # the group waits 10 s for a heartbeat, and the last one may be 2 s old
QUEUE_BATCHES = 4  # batches that may wait in memory; the rest waits in Kafka

Encoding = tuple[ServedModel, list[Waiting], asyncio.Future[tuple[Vectors, int]]]


class InferenceApp:
    """One process of the inference stage."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.kafka = settings.kafka
        options = client_options(self.kafka)
        self.pseudonyms = load_pseudonyms(settings)
        self._topic = full_name(self.kafka, REQUESTS_JOINED)
        self._group = self.kafka.prefix + GROUP
        self._consumer = AIOKafkaConsumer(
            **options,
            group_id=self._group,
            group_instance_id=f"{self._group}-{settings.instance}",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=10_000,
            heartbeat_interval_ms=2_000,
        )
        self._producer = AIOKafkaProducer(
            **options,
            enable_idempotence=True,  # in order and without gaps or repeats, whatever has to be sent again
            max_request_size=4 * MIB,
            max_batch_size=256 * 1024,
        )
        self._admin = AIOKafkaAdminClient(**options)
        cache = EmbeddingCache(cache_folder() / EMBEDDINGS)
        self._feed = CatalogueFeed(cache, partial(self._report, CATALOG_ITEMS))
        self._follower = Follower(self.kafka, CATALOG_ITEMS, self._on_items)
        self._rollout = Rollout(settings, self._feed, partial(self._report, MODELS))
        self._shadowing = Shadowing(self._publish_comparisons)
        limits = settings.inference
        self._waiting = Batcher(
            limits.max_batch_requests, limits.max_batch_tokens, QUEUE_BATCHES * limits.max_batch_requests
        )
        self._exploring = Exploring(limits)
        self._encoded: asyncio.Queue[tuple[list[Waiting], list[Encoding]]] = asyncio.Queue()
        self._encoding = asyncio.Semaphore(BATCHES_ENCODED_AT_ONCE)
        self._ranked: asyncio.Queue[list[Waiting]] = asyncio.Queue(1)
        self._encode_threads = ThreadPoolExecutor(BATCHES_ENCODED_AT_ONCE, thread_name_prefix="encode")
        self._accepted: dict[int, int] = {}  # partition -> highest source offset taken on
        self._next: dict[TopicPartition, int] = {}  # offset to go on from after a restart
        self._to_commit = False
        self._wakefulness: Wakefulness  # from when it joins the group on
        self._reported = dict.fromkeys(FOLLOWED, 0)  # next offset of a followed topic whose fault is not reported yet
        self._faults: list[tuple[bytes, bytes]] = []
        self._comparisons: list[bytes] = []
        self._in_flight = 0  # requests read and not yet answered
        self._idle = asyncio.Condition()
        self._drained = asyncio.Event()  # set when the last of what was read is answered: then reading need not rest
        self._generation = 0
        self._assigned = asyncio.Event()
        self._lost: asyncio.Future[None]  # ends with what a rebalance failed with
        self._event_times: dict[TopicPartition, int] = {}  # of the newest request answered
        self._tracer = tracer(settings, "inference")
        self.progress = Progress(self.kafka.prefix)
        metrics.QUEUE_LENGTH.labels("in flight").set_function(lambda: self._in_flight)
        metrics.QUEUE_LENGTH.labels("encoder").set_function(lambda: len(self._waiting))
        metrics.TABLE_ROWS.labels("catalogue").set_function(lambda: len(self._feed.items))

    async def run(self, stop: asyncio.Event) -> None:
        """Run until ``stop`` is set or a part of the stage fails.

        Raises:
            Exception: whatever ended the stage.

        """
        serve(self.settings.metrics, self.progress)
        self._lost = asyncio.get_running_loop().create_future()
        topics = (*FOLLOWED, REQUESTS_JOINED, RECOMMENDATIONS, MODELS_SHADOW, DEADLETTERS)
        await require_access(self.kafka, [topic.name for topic in topics], [GROUP])
        await self._admin.start()
        await self._producer.start()
        await self._read_reports()
        await self._rollout.start()
        await self._follower.start()
        await self._follower.wait_until_caught_up()
        log.info("catalogue loaded", items=len(self._feed.items), model=self._rollout.serving.champion.version)
        await self._consumer.start()
        self._wakefulness = Wakefulness(STOOD_STILL_SECONDS)
        self._consumer.subscribe([self._topic], listener=_Handover(self))
        tasks = [
            asyncio.create_task(step, name=name)
            for name, step in (
                ("read", self._read()),
                ("encode", self._encode()),
                ("rank", self._rank()),
                ("publish", self._publish()),
                ("commit", self._commit_regularly()),
                ("rollout", self._rollout.run()),
                ("shadow", self._shadowing.run()),
                ("progress", self.progress.watch(self._positions, self._consumer.end_offsets)),
            )
        ]
        stopped = asyncio.create_task(stop.wait())
        everything: list[asyncio.Future[Any]] = [*tasks, self._follower.task, self._lost, stopped]
        try:
            finished, _ = await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                task.result()
        finally:
            with closing_in_time():
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await self._follower.stop()
                await self._rollout.stop()
                with contextlib.suppress(KafkaError):  # without it the next process reads a little more again
                    await self._commit()
                await self._consumer.stop()
                await self._producer.stop()
                await self._admin.close()
                self._encode_threads.shutdown()
                self._feed.close()

    # -- what is followed --------------------------------------------------------------------------------------------

    async def _on_items(self, records: Sequence[ConsumerRecord]) -> None:
        metrics.records_read(CATALOG_ITEMS.name, len(records))
        await self._feed.on_records(records)

    async def _read_reports(self) -> None:
        """Find out up to where faults of the followed topics have been reported: it is committed with the offsets."""
        committed = await committed_offsets(self._admin, self._group)
        for entry in committed.values():
            for topic, offset in zip(FOLLOWED, (entry.metadata or "").split(), strict=False):
                self._reported[topic] = max(self._reported[topic], int(offset))

    def _report(self, topic: Topic, record: ConsumerRecord, error: Exception) -> None:
        """Have a dead letter published of a record that can't be taken in, once."""
        if record.offset < self._reported[topic]:
            return
        self._reported[topic] = record.offset + 1
        self._faults.append(
            self._bury(topic, record.partition, record.offset, record.timestamp, record.key, record.value, error)
        )
        self._publish_soon()

    def _publish_comparisons(self, comparisons: Sequence[ShadowComparison]) -> None:
        self._comparisons += map(encode, comparisons)
        self._publish_soon()

    def _publish_soon(self) -> None:
        """See that what goes beside the answers is published even if no request comes."""
        if (self._faults or self._comparisons) and not self._ranked.full():
            self._ranked.put_nowait([])

    # -- the four steps ----------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        reading = Reading(self._consumer, self.settings.inference.max_batch_requests, self._drained)
        while True:
            batches = await reading.read()
            generation = self._generation
            await self._assigned.wait()  # records may come before it is known how far they have been answered
            for records in batches.values():
                if generation != self._generation:
                    break  # handed over while waiting for room; whoever has the partitions now reads them again
                metrics.records_read(REQUESTS_JOINED.name, len(records))
                waiting = [self._accept(record) for record in records]
                for model, entries in _by_model(waiting).items():
                    tokens = model.tokenize([entry.joined for entry in entries if entry.joined is not None])
                    for entry, ids in zip(entries, tokens, strict=True):
                        entry.tokens = ids
                _reached("tokenize", waiting)
                self._in_flight += len(waiting)
                self._drained.clear()
                await self._waiting.put(waiting)

    def _accept(self, record: ConsumerRecord) -> Waiting:
        """Return a request to answer, a dead letter, or, of a request answered already, an offset to be committed."""
        entry = Waiting(record.partition, record.offset, record.timestamp, record.key or b"", None)
        entry.consumed_at = int(clock.time() * 1000)
        if self._tracer is not None:
            entry.hop = self._tracer.take(REQUESTS_JOINED, record.partition, record.offset, record.headers)
        try:
            joined = decode(JoinedRequest, record.value)
            pack_for(joined.request.domain)
        except (DecodeError, UnknownDomainError) as error:
            self._give_up(entry, record.value, error)
            return entry
        if joined.source.offset > self._accepted.get(record.partition, -1):
            self._accepted[record.partition] = joined.source.offset
            entry.joined = joined
            entry.model = self._rollout.serving.model_for(entry.key.decode(errors="replace"))
            self._rollout.recent.append(joined)
            if entry.hop is not None:
                entry.hop.named(without_id(joined.request.request_id, entry.key, self.pseudonyms))
        return entry

    async def _encode(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._encoding.acquire()
            batch = await self._waiting.take()
            _reached("queue", batch)
            self._shed(batch)
            tokens_of_batch = sum(len(entry.tokens) for entry in batch if entry.tokens is not None)
            metrics.batch_taken(len(batch), tokens_of_batch, self.settings.inference.max_batch_tokens)
            encodings = []
            for model, entries in _by_model(batch).items():
                tokens = [entry.tokens for entry in entries if entry.tokens is not None]
                encoded = loop.run_in_executor(self._encode_threads, model.encode, tokens)
                encodings.append((model, entries, encoded))
            await self._encoded.put((batch, encodings))

    def _shed(self, batch: list[Waiting]) -> None:
        """Leave the text of requests that would be late unread: a cheaper list in time beats a better one too late."""
        now = clock.time() * 1000
        ahead = 0.0  # milliseconds of encoding
        for entry in batch:
            if entry.tokens is None or entry.joined is None or entry.model is None:
                continue
            budget, deadline = self.settings.inference.budget_ms, entry.joined.request.deadline
            latest = min(
                deadline if deadline is not None else float("inf"),
                entry.joined.joined_at + budget if budget is not None else float("inf"),
            )
            own = len(entry.tokens) * entry.model.seconds_per_token * 1000
            if now + ahead + own > latest:
                entry.tokens = None
                entry.degraded.append("overloaded: the text was not read")
            else:
                ahead += own

    async def _rank(self) -> None:
        while True:
            batch, encodings = await self._encoded.get()
            encoded = [(model, entries, *await encoding) for model, entries, encoding in encodings]
            self._encoding.release()
            _reached("encode", batch)
            answered = await asyncio.gather(
                *(
                    model.ranking(len(entries), partial(self._answer, model, entries, vectors, encoded_at))
                    for model, entries, vectors, encoded_at in encoded
                )
            )
            _reached("rank", batch)
            await self._ranked.put(batch)
            if (shadow := self._rollout.serving.shadow) is not None:
                for some in answered:
                    self._shadowing.offer(shadow, some)

    def _answer(self, model: ServedModel, entries: list[Waiting], encoded: Vectors, encoded_at: int) -> list[Answered]:
        """Give each entry its answer, or a dead letter where there is none to be had; return what was not degraded."""
        requests = [entry.joined for entry in entries if entry.joined is not None]
        following = iter(encoded)
        vectors = [None if entry.tokens is None else next(following) for entry in entries]
        answers = model.lists(list(map(self._exploring.to_rank, requests)), vectors)
        ranked: list[Answered] = []
        for entry, joined, answer in zip(entries, requests, answers, strict=True):
            if isinstance(answer, Exception):
                self._give_up(entry, encode(joined), answer, model.version)
                continue
            shown = self._exploring.shown(model.version, joined, answer)
            entry.recommendation = _recommendation(model, entry, joined, shown, encoded_at)
            entry.answer = encode(entry.recommendation)
            if not entry.degraded:
                ranked.append((joined, model.version, answer.items[: joined.request.k]))
        return ranked

    def _give_up(self, entry: Waiting, value: bytes | None, error: Exception, model: str | None = None) -> None:
        """Have a dead letter published in place of an answer."""
        if entry.hop is not None:
            entry.hop.failed(error)
        entry.key, entry.dead_letter = self._bury(
            REQUESTS_JOINED, entry.partition, entry.offset, entry.time, entry.key or None, value, error, model
        )

    def _bury(
        self,
        topic: Topic,
        partition: int,
        offset: int,
        timestamp: int,
        key: bytes | None,
        value: bytes | None,
        error: Exception,
        model: str | None = None,
    ) -> tuple[bytes, bytes]:
        """Return key and value of a record's dead letter."""
        log.warning(
            "dead letter",
            topic=topic.name,
            partition=partition,
            offset=offset,
            reason=reason(error, topic, key, self.pseudonyms),
        )
        return dead_letter(
            "inference",
            error,
            self.pseudonyms,
            topic=topic,
            name=full_name(self.kafka, topic),
            partition=partition,
            offset=offset,
            timestamp=timestamp,
            key=key,
            value=value,
            model=model,
        )

    async def _publish(self) -> None:
        while True:
            batch = await self._ranked.get()
            while not self._ranked.empty():
                batch = batch + self._ranked.get_nowait()
            await self._send(batch)
            async with self._idle:
                self._in_flight -= len(batch)
                self._idle.notify_all()
                if not self._in_flight:
                    self._drained.set()

    async def _send(self, batch: list[Waiting]) -> None:
        """Publish a batch in order and return when the broker has it."""
        self._wakefulness.check()
        faults, self._faults = self._faults, []
        comparisons, self._comparisons = self._comparisons, []
        sent = [
            await self._producer.send(
                full_name(self.kafka, DEADLETTERS if entry.dead_letter else RECOMMENDATIONS),
                value,
                entry.key,
                partition=0 if entry.dead_letter else entry.partition,
                timestamp_ms=None if entry.dead_letter else entry.time,
                headers=entry.hop and entry.hop.headers,
            )
            for entry in batch
            if (value := entry.dead_letter or entry.answer) is not None
        ]
        name = self.settings.inference.model_name.encode()
        beside = [(DEADLETTERS, *fault) for fault in faults] + [(MODELS_SHADOW, name, value) for value in comparisons]
        for topic, key, value in beside:
            sent.append(await self._producer.send(full_name(self.kafka, topic), value, key, partition=0))
        await asyncio.gather(*sent)
        _reached("publish", batch, last=True)
        self._next |= {TopicPartition(self._topic, entry.partition): entry.offset + 1 for entry in batch}
        self._to_commit = True
        self._event_times |= {TopicPartition(self._topic, entry.partition): entry.time for entry in batch}
        answers = [(entry.time, entry.recommendation) for entry in batch if entry.recommendation is not None]
        metrics.records_published(RECOMMENDATIONS.name, len(answers))
        metrics.answered(answers, int(clock.time() * 1000))

    def _positions(self) -> dict[TopicPartition, Position]:
        return {
            partition: Position(self._next.get(partition, 0), self._event_times.get(partition, 0))
            for partition in self._consumer.assignment()
        }

    async def _commit_regularly(self) -> None:
        while True:
            self._wakefulness.check()
            await self._commit()
            await asyncio.sleep(COMMIT_SECONDS)

    async def _commit(self) -> None:
        if self._to_commit and self._next:
            self._to_commit = False
            reported = " ".join(str(self._reported[topic]) for topic in FOLLOWED)
            await self._consumer.commit({partition: (offset, reported) for partition, offset in self._next.items()})


class _Handover(ConsumerRebalanceListener):  # type: ignore[misc]
    """Finishes what is in flight before partitions go, and learns how far they were answered when they come."""

    def __init__(self, app: InferenceApp) -> None:
        self._app = app

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        app = self._app
        app._generation += 1  # noqa: SLF001 - the listener is a part of the stage
        app.progress.revoked()
        app._assigned.clear()  # noqa: SLF001
        async with app._idle:  # noqa: SLF001
            await app._idle.wait_for(lambda: app._in_flight == 0)  # noqa: SLF001
        await app._commit()  # noqa: SLF001
        for partition in revoked:
            app._accepted.pop(partition.partition, None)  # noqa: SLF001
            app._next.pop(partition, None)  # noqa: SLF001

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        app = self._app
        partitions = list(assigned)
        notify_ready()
        if not partitions:
            app.progress.assigned()  # it stands by
            return
        try:
            answered = await last_answered(app.kafka, [partition.partition for partition in partitions])
            committed = await committed_offsets(app._admin, app._group, partitions)  # noqa: SLF001
        except Exception as error:  # aiokafka would log it and go on, and the stage would answer nothing
            app._lost.set_exception(error)  # noqa: SLF001
            return
        app._accepted.update(answered)  # noqa: SLF001
        app._next.update({partition: entry.offset for partition, entry in committed.items()})  # noqa: SLF001
        app._assigned.set()  # noqa: SLF001
        app.progress.assigned()
        log.info("partitions assigned", partitions=sorted(partition.partition for partition in partitions))


def _by_model(batch: Iterable[Waiting]) -> dict[ServedModel, list[Waiting]]:
    """Return the entries that are to be answered, each in its order, by the model that answers them."""
    entries: dict[ServedModel, list[Waiting]] = {}
    for entry in batch:
        if entry.model is not None:
            entries.setdefault(entry.model, []).append(entry)
    return entries


def _reached(phase: str, batch: Iterable[Waiting], *, last: bool = False) -> None:
    """Note the end of a phase for the requests that are traced."""
    for entry in batch:
        if entry.hop is not None:
            entry.hop.reached(phase)
            if last:
                entry.hop.end()


def _recommendation(
    model: ServedModel, entry: Waiting, joined: JoinedRequest, answer: Answer, encoded_at: int
) -> Recommendation:
    request = joined.request
    degraded = list(entry.degraded)
    if not len(model.recommender.catalogue):
        degraded.append("the catalogue is empty")
    if request.constraints and request.constraints.max_distance is not None and joined.context.location is None:
        degraded.append("max_distance was ignored: the user's location is unknown")
    return Recommendation(
        request_id=request.request_id,
        domain=request.domain,
        model=model.version,
        items=answer.items,
        source=joined.source,
        understood=answer.understood,
        degraded="; ".join(degraded) or None,
        timings=Timings(
            received=joined.received_at,
            joined=joined.joined_at,
            consumed=entry.consumed_at,
            encoded=encoded_at,
            ranked=int(clock.time() * 1000),
        ),
    )
