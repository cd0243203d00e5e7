"""The inference stage on Kafka.

Four steps overlap, each batch going through them in order: read and tokenise, encode (ONNX Runtime, which releases the
interpreter, two batches at a time), rank (one thread, which alone touches the catalogue), publish. A recommendation is
itself the proof that its request has been answered (``answered.py``). Offsets are committed behind it, now and then:
they only shorten what a restarted process reads again.
"""

import asyncio
import contextlib
import time as clock
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from numpy.typing import NDArray

from models.base_model import cache_folder
from models.catalogue import CatalogueError
from models.chunks import item_chunks
from models.embedding_cache import EmbeddingCache
from models.encoder import Encoder, TokenIds
from models.recommender import Answer, Recommender, Vectors, request_text
from schemas.codec import DecodeError, decode, decode_key, encode
from schemas.domains import UnknownDomainError, pack_for
from schemas.records import Item, JoinedRequest, Recommendation, Timings
from schemas.topics import CATALOG_ITEMS, DEADLETTERS, MIB, RECOMMENDATIONS, REQUESTS_JOINED, Topic
from streams.deadletters import dead_letter, reason
from streams.follower import Follower
from streams.inference.answered import Wakefulness, last_answered
from streams.inference.batcher import Batcher, Waiting
from streams.kafka import Pace, client_options, committed_offsets, full_name
from streams.privacy import load_pseudonyms
from streams.process import end_in_time, notify_ready
from streams.settings import Settings

log = structlog.get_logger(__name__)

GROUP = "inference"
ITEMS_PER_STEP = 16
TEXTS_PER_STEP = 8  # a long item has up to 20
BATCHES_ENCODED_AT_ONCE = 2  # a core that is done with its half of one batch goes on with the next
COMMIT_SECONDS = 0.2
STOOD_STILL_SECONDS = 5.0  # the group waits 10 s for a heartbeat, and the last one may be 2 s old
QUEUE_BATCHES = 4  # batches that may wait in memory; the rest waits in Kafka


class InferenceApp:
    """One process of the inference stage."""

    def __init__(self, settings: Settings, encoder: Encoder, recommender: Recommender) -> None:
        self.settings, self.encoder, self.recommender = settings, encoder, recommender
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
        self._cache = EmbeddingCache(cache_folder() / "embeddings.sqlite")
        self._follower = Follower(self.kafka, CATALOG_ITEMS, self._on_items)
        limits = settings.inference
        self._waiting = Batcher(
            limits.max_batch_requests, limits.max_batch_tokens, QUEUE_BATCHES * limits.max_batch_requests
        )
        self._encoded: asyncio.Queue[tuple[list[Waiting], asyncio.Future[tuple[Vectors, int]]]] = asyncio.Queue()
        self._encoding = asyncio.Semaphore(BATCHES_ENCODED_AT_ONCE)
        self._ranked: asyncio.Queue[tuple[list[Waiting], list[bytes | None]]] = asyncio.Queue(1)
        self._encode_threads = ThreadPoolExecutor(BATCHES_ENCODED_AT_ONCE, thread_name_prefix="encode")
        self._item_thread = ThreadPoolExecutor(1, thread_name_prefix="items")  # reads and writes the cache
        self._rank_thread = ThreadPoolExecutor(1, thread_name_prefix="rank")
        self._accepted: dict[int, int] = {}  # partition -> highest source offset taken on
        self._next: dict[TopicPartition, int] = {}  # offset to go on from after a restart
        self._to_commit = False
        self._wakefulness = Wakefulness(STOOD_STILL_SECONDS)
        self._items_reported = 0  # next offset of the catalogue whose fault is not reported yet
        self._item_faults: list[tuple[bytes, bytes]] = []
        self._in_flight = 0  # requests read and not yet answered
        self._idle = asyncio.Condition()
        self._generation = 0
        self._assigned = asyncio.Event()
        self._lost: asyncio.Future[None]  # ends with what a rebalance failed with
        self._seconds_per_token = 0.0  # moving average, to tell beforehand who would be late
        self._last_encoded = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Run until ``stop`` is set or a part of the stage fails.

        Raises:
            Exception: whatever ended the stage.

        """
        self._lost = asyncio.get_running_loop().create_future()
        await self._admin.start()
        await self._producer.start()
        await self._read_item_reports()
        await self._follower.start()
        await self._follower.wait_until_caught_up()
        log.info("catalogue loaded", items=len(self.recommender.catalogue), model=self.recommender.version)
        await self._consumer.start()
        self._consumer.subscribe([self._topic], listener=_Handover(self))
        tasks = [
            asyncio.create_task(step, name=name)
            for name, step in (
                ("read", self._read()),
                ("encode", self._encode()),
                ("rank", self._rank()),
                ("publish", self._publish()),
                ("commit", self._commit_regularly()),
            )
        ]
        stopped = asyncio.create_task(stop.wait())
        everything: list[asyncio.Future[Any]] = [*tasks, self._follower.task, self._lost, stopped]
        try:
            finished, _ = await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                task.result()
        finally:
            end_in_time()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._follower.stop()
            with contextlib.suppress(KafkaError):  # without it the next process reads a little more again
                await self._commit()
            await self._consumer.stop()
            await self._producer.stop()
            await self._admin.close()
            self._encode_threads.shutdown()
            self._item_thread.shutdown()
            self._rank_thread.shutdown()

    # -- catalogue ---------------------------------------------------------------------------------------------------

    async def _on_items(self, records: Sequence[ConsumerRecord]) -> None:
        """Take a batch of catalogue records in, in order; what can't be taken is reported once."""
        loop = asyncio.get_running_loop()
        changes: list[tuple[ConsumerRecord, str, Item | None]] = []
        for record in records:
            try:
                item = decode(Item, record.value) if record.value is not None else None
                if item is not None:
                    pack_for(item.domain)
                changes.append((record, decode_key(record.key), item))
            except (DecodeError, UnknownDomainError) as error:
                self._report_item(record, error)
        # In small steps: requests wait for the encoder behind one step, not behind a catalogue.
        for start in range(0, len(changes), ITEMS_PER_STEP):
            step = changes[start : start + ITEMS_PER_STEP]
            chunks = [[] if item is None else item_chunks(pack_for(item.domain), item) for _, _, item in step]
            texts = [text for several in chunks for text in several]
            vectors = [np.empty((0, self.encoder.dim), np.float32)]
            for place in range(0, len(texts), TEXTS_PER_STEP):
                some = texts[place : place + TEXTS_PER_STEP]
                vectors.append(await loop.run_in_executor(self._item_thread, self._cache.encode, self.encoder, some))
            embeddings = np.split(np.concatenate(vectors), np.cumsum([len(several) for several in chunks])[:-1])
            faults = await loop.run_in_executor(
                self._rank_thread,
                self._change_catalogue,
                [(*change, several) for change, several in zip(step, embeddings, strict=True)],
            )
            for record, fault in faults:
                self._report_item(record, fault)
        if self._item_faults and not self._ranked.full():
            self._ranked.put_nowait(([], []))  # publish them even if no request comes

    def _change_catalogue(
        self, changes: Iterable[tuple[ConsumerRecord, str, Item | None, NDArray[np.float32]]]
    ) -> list[tuple[ConsumerRecord, CatalogueError]]:
        faults = []
        for record, item_id, item, embeddings in changes:
            try:
                if item is None:
                    self.recommender.catalogue.remove(item_id)
                else:
                    self.recommender.put([item_id], [item], [embeddings])
            except CatalogueError as error:
                faults.append((record, error))
        return faults

    async def _read_item_reports(self) -> None:
        """Find out up to which catalogue offset faults have been reported: it is committed with the offsets."""
        committed = await committed_offsets(self._admin, self._group)
        self._items_reported = max((int(entry.metadata) for entry in committed.values() if entry.metadata), default=0)

    def _report_item(self, record: ConsumerRecord, error: Exception) -> None:
        if record.offset < self._items_reported:
            return
        self._items_reported = record.offset + 1
        self._item_faults.append(
            self._bury(
                CATALOG_ITEMS, record.partition, record.offset, record.timestamp, record.key, record.value, error
            )
        )

    # -- the four steps ----------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        pace, limit = Pace(), self.settings.inference.max_batch_requests
        while True:
            batches = await self._consumer.getmany(timeout_ms=200, max_records=limit)
            generation = self._generation
            await self._assigned.wait()  # records may come before it is known how far they have been answered
            for records in batches.values():
                if generation != self._generation:
                    break  # handed over while waiting for room; whoever has the partitions now reads them again
                waiting = [self._accept(record) for record in records]
                self._tokenize(waiting)
                self._in_flight += len(waiting)
                await self._waiting.put(waiting)
            await pace.rest_after(batches, limit)

    def _tokenize(self, entries: list[Waiting]) -> None:
        texts = [(entry, text) for entry in entries if entry.joined and (text := request_text(entry.joined))]
        tokens = self.encoder.tokenize([text for _, text in texts], "query")
        for (entry, _), ids in zip(texts, tokens, strict=True):
            entry.tokens = ids

    def _accept(self, record: ConsumerRecord) -> Waiting:
        """Return a request to answer, a dead letter, or, of a request answered already, an offset to be committed."""
        entry = Waiting(record.partition, record.offset, record.timestamp, record.key or b"", None)
        entry.consumed_at = int(clock.time() * 1000)
        try:
            joined = decode(JoinedRequest, record.value)
            pack_for(joined.request.domain)
        except (DecodeError, UnknownDomainError) as error:
            self._give_up(entry, record.value, error)
            return entry
        if joined.source.offset > self._accepted.get(record.partition, -1):
            self._accepted[record.partition] = joined.source.offset
            entry.joined = joined
        return entry

    async def _encode(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._encoding.acquire()
            batch = await self._waiting.take()
            self._shed(batch)
            tokens = [entry.tokens for entry in batch if entry.tokens is not None]
            await self._encoded.put((batch, loop.run_in_executor(self._encode_threads, self._encode_texts, tokens)))

    def _encode_texts(self, tokens: list[TokenIds]) -> tuple[Vectors, int]:
        """Return the vectors [len(tokens), dim] and when they were there; runs in a thread."""
        started = clock.perf_counter()
        vectors = self.encoder.encode(tokens)
        ended = clock.perf_counter()
        if tokens:
            # The encoder works off one batch after the other: time spent waiting for the one before is not this one's.
            spent = (ended - max(started, self._last_encoded)) / sum(map(len, tokens))
            self._seconds_per_token += 0.2 * (spent - self._seconds_per_token)
        self._last_encoded = ended
        return vectors, int(clock.time() * 1000)

    def _shed(self, batch: list[Waiting]) -> None:
        """Leave the text of requests that would be late unread: a cheaper list in time beats a better one too late."""
        now = clock.time() * 1000
        tokens = 0
        for entry in batch:
            if entry.tokens is None or entry.joined is None:
                continue
            budget, deadline = self.settings.inference.budget_ms, entry.joined.request.deadline
            latest = min(
                deadline if deadline is not None else float("inf"),
                entry.joined.joined_at + budget if budget is not None else float("inf"),
            )
            if now + (tokens + len(entry.tokens)) * self._seconds_per_token * 1000 > latest:
                entry.tokens = None
                entry.degraded.append("overloaded: the text was not read")
            else:
                tokens += len(entry.tokens)

    async def _rank(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch, encoding = await self._encoded.get()
            encoded, encoded_at = await encoding
            self._encoding.release()
            following = iter(encoded)
            vectors = [None if entry.tokens is None else next(following) for entry in batch]
            values = await loop.run_in_executor(self._rank_thread, self._answer, batch, vectors, encoded_at)
            await self._ranked.put((batch, values))

    def _answer(self, batch: list[Waiting], vectors: list[Any], encoded_at: int) -> list[bytes | None]:
        """Return each entry's encoded recommendation; a dead letter where there is none to be had; None for repeats."""
        answers: list[bytes | None] = []
        for entry, answer in zip(batch, self._lists(batch, vectors), strict=True):
            if isinstance(answer, Exception) and entry.joined is not None:
                self._give_up(entry, encode(entry.joined), answer)
            if entry.dead_letter is not None:
                answers.append(entry.dead_letter)
            elif entry.joined is not None and isinstance(answer, Answer):
                answers.append(self._recommendation(entry, entry.joined, answer, encoded_at))
            else:
                answers.append(None)
        return answers

    def _lists(self, batch: list[Waiting], vectors: list[Any]) -> list[Answer | Exception | None]:
        """Rank for the whole batch; if that fails, for each request alone, so that only the faulty one has no list."""
        good = [
            (entry.joined, vector) for entry, vector in zip(batch, vectors, strict=True) if entry.joined is not None
        ]
        lists: list[Answer | Exception] = []
        try:
            lists += self.recommender.answer([joined for joined, _ in good], [vector for _, vector in good])
        except Exception:  # whatever is wrong with one request, the others get their answers
            for joined, vector in good:
                try:
                    lists += self.recommender.answer([joined], [vector])
                except Exception as error:
                    lists.append(error)
        answers = iter(lists)
        return [None if entry.joined is None else next(answers) for entry in batch]

    def _give_up(self, entry: Waiting, value: bytes | None, error: Exception) -> None:
        """Have a dead letter published in place of an answer."""
        entry.key, entry.dead_letter = self._bury(
            REQUESTS_JOINED, entry.partition, entry.offset, entry.time, entry.key or None, value, error
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
        )

    def _recommendation(self, entry: Waiting, joined: JoinedRequest, answer: Answer, encoded_at: int) -> bytes:
        request = joined.request
        degraded = list(entry.degraded)
        if not len(self.recommender.catalogue):
            degraded.append("the catalogue is empty")
        if request.constraints and request.constraints.max_distance is not None and joined.context.location is None:
            degraded.append("max_distance was ignored: the user's location is unknown")
        return encode(
            Recommendation(
                request_id=request.request_id,
                domain=request.domain,
                model=self.recommender.version,
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
        )

    async def _publish(self) -> None:
        while True:
            batch, values = await self._ranked.get()
            while not self._ranked.empty():
                more, more_values = self._ranked.get_nowait()
                batch, values = batch + more, values + more_values
            await self._send(batch, values)
            async with self._idle:
                self._in_flight -= len(batch)
                self._idle.notify_all()

    async def _send(self, batch: list[Waiting], values: list[bytes | None]) -> None:
        """Publish a batch in order and return when the broker has it."""
        self._wakefulness.check()
        faults, self._item_faults = self._item_faults, []
        sent = [
            await self._producer.send(
                full_name(self.kafka, DEADLETTERS if entry.dead_letter else RECOMMENDATIONS),
                value,
                entry.key,
                partition=0 if entry.dead_letter else entry.partition,
                timestamp_ms=None if entry.dead_letter else entry.time,
            )
            for entry, value in zip(batch, values, strict=True)
            if value is not None
        ]
        for key, value in faults:
            sent.append(await self._producer.send(full_name(self.kafka, DEADLETTERS), value, key, partition=0))
        await asyncio.gather(*sent)
        self._next |= {TopicPartition(self._topic, entry.partition): entry.offset + 1 for entry in batch}
        self._to_commit = True

    async def _commit_regularly(self) -> None:
        while True:
            self._wakefulness.check()
            await self._commit()
            await asyncio.sleep(COMMIT_SECONDS)

    async def _commit(self) -> None:
        if self._to_commit and self._next:
            self._to_commit = False
            reported = str(self._items_reported)
            await self._consumer.commit({partition: (offset, reported) for partition, offset in self._next.items()})


class _Handover(ConsumerRebalanceListener):  # type: ignore[misc]
    """Finishes what is in flight before partitions go, and learns how far they were answered when they come."""

    def __init__(self, app: InferenceApp) -> None:
        self._app = app

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        app = self._app
        app._generation += 1  # noqa: SLF001 - the listener is a part of the stage
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
        log.info("partitions assigned", partitions=sorted(partition.partition for partition in partitions))
