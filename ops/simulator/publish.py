"""The world on Kafka: posts what it does, reads what is recommended to it and reacts."""

import asyncio
import contextlib
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from ops.simulator.choice import click_probabilities, react
from ops.simulator.events import Event, catalogue, events
from ops.simulator.poison import Posting, posting
from ops.simulator.world import World, moment_of
from schemas.codec import DecodeError, decode, decode_key
from schemas.errors import BadInputError
from schemas.records import Context, Recommendation, Request
from schemas.topics import CATALOG_ITEMS, RECOMMENDATIONS, USERS_CONTEXT, USERS_FEEDBACK, USERS_REQUESTS
from streams.kafka import client_options, full_name
from streams.settings import Settings
from streams.topic_admin import existing_topics
from streams.tracing import Headers, Hop, tracer

if TYPE_CHECKING:
    from aiokafka.structs import RecordMetadata

TOPICS = (CATALOG_ITEMS, USERS_CONTEXT, USERS_REQUESTS, USERS_FEEDBACK, RECOMMENDATIONS)  # that a run needs
log = structlog.get_logger(__name__)

MAX_IN_FLIGHT = 1_000  # records handed to the producer and not acknowledged yet
MAX_WAITING = 50_000  # requests whose answers are waited for
MAX_READERS = 5_000  # users who are looking at a list; beyond that, reading recommendations pauses
LAST_ANSWERS_SECONDS = 10.0  # how long a run that is over waits for the answers still missing


@dataclass
class Statistics:
    """What a run has done so far. ``expected_clicks`` is the exact mean of ``clicks`` over all chance."""

    requests: int = 0
    contexts: int = 0
    feedback: int = 0  # posted
    recommendations: int = 0  # read, of requests of this run
    unanswered: int = 0  # given up on
    shown: int = 0  # items in the lists read
    clicks: int = 0  # decided on, of the lists read; they are posted a little later
    choices: int = 0  # bookings and visits, likewise
    expected_clicks: float = 0.0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))  # request posted to answer read

    @property
    def click_rate(self) -> float | None:
        """Clicks per item shown; None before the first list."""
        return self.clicks / self.shown if self.shown else None

    @property
    def true_click_rate(self) -> float | None:
        """The exact mean click probability of what was shown; None before the first list."""
        return self.expected_clicks / self.shown if self.shown else None

    def latency_ms(self, quantile: float) -> float | None:
        """Return a quantile (0 to 1) of the last 10,000 latencies in milliseconds; None before the first."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(int(quantile * len(ordered)), len(ordered) - 1)] if ordered else None

    def summary(self) -> dict[str, float | None]:
        """Return all figures by name."""
        return {
            "requests": self.requests,
            "contexts": self.contexts,
            "feedback": self.feedback,
            "recommendations": self.recommendations,
            "unanswered": self.unanswered,
            "shown": self.shown,
            "clicks": self.clicks,
            "choices": self.choices,
            "click_rate": self.click_rate,
            "true_click_rate": self.true_click_rate,
            "latency_p50_ms": self.latency_ms(0.5),
            "latency_p99_ms": self.latency_ms(0.99),
        }


class Outbox:
    """A producer that holds a bounded number of records and lets no failure pass unseen."""

    def __init__(self, settings: Settings, *, linger_ms: int = 0) -> None:
        self._kafka = settings.kafka
        self._producer = AIOKafkaProducer(
            **client_options(settings.kafka),
            enable_idempotence=True,
            linger_ms=linger_ms,
            max_request_size=4 * 1024 * 1024,
        )
        self._in_flight: deque[asyncio.Future[RecordMetadata]] = deque()

    async def __aenter__(self) -> Self:
        await self._producer.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                await self.settle()
        finally:
            await self._producer.stop()
            for future in self._in_flight:  # of a run that was broken off: nobody is going to ask
                if future.done() and not future.cancelled():
                    future.exception()

    async def post(self, record: Posting) -> None:
        """Hand over a record; waits while too many are unacknowledged, and raises what the broker said to one."""
        while self._in_flight and (len(self._in_flight) >= MAX_IN_FLIGHT or self._in_flight[0].done()):
            await self._in_flight.popleft()
        self._in_flight.append(
            await self._producer.send(
                full_name(self._kafka, record.topic),
                record.value,
                key=record.key,
                timestamp_ms=record.time_ms,
                headers=list(record.headers),  # a record that was read has a tuple, which the producer refuses
            )
        )

    async def settle(self) -> None:
        """Wait until the broker has acknowledged everything."""
        while self._in_flight:
            await self._in_flight.popleft()


async def post_all(settings: Settings, records: Iterable[Event | Posting]) -> int:
    """Post records as fast as the broker takes them and return their number, once all are acknowledged.

    Serves the catalogue, the history and load tests. Memory does not grow with the number of records.
    """
    count = 0
    async with Outbox(settings, linger_ms=5) as outbox:
        for record in records:
            await outbox.post(posting(record) if isinstance(record, Event) else record)
            count += 1
            if count % 100 == 0:
                await asyncio.sleep(0)  # generating never waits by itself; let the producer send
    return count


async def run_simulation(
    settings: Settings,
    world: World,
    *,
    rate: float,
    duration: float | None = None,
    start_ms: int | None = None,
    speed: float = 1.0,
    statistics: Statistics | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Statistics:
    """Let the world live on the configured cluster until the duration is over or the task is cancelled.

    Posts the catalogue, then contexts, requests and unprompted visits; reads the recommendations (committed ones, of
    now on) and posts the reactions to those of its own requests.

    Args:
        settings: where the cluster is.
        world: who and where.
        rate: mean requests per simulated second; constant in live mode, with the rhythm of the day otherwise.
        duration: simulated seconds; None: until cancelled.
        start_ms: event time of the beginning; None: live, the simulated clock is the wall clock.
        speed: simulated seconds per second.
        statistics: an object to count in, for a view that reads it meanwhile.
        on_event: called with everything posted and every recommendation read.

    Raises:
        ValueError: rate or speed not positive, live at another speed than 1, no cluster, or its topics are missing.
        KafkaError: the cluster refused a record or could not be reached any more.

    """
    live = start_ms is None
    if speed <= 0 or (live and speed != 1):
        raise BadInputError("the speed must be above 0, and other than 1 only with a start time in the past")
    statistics = statistics if statistics is not None else Statistics()

    def beginning() -> int:
        return time.time_ns() // 1_000_000 if start_ms is None else start_ms

    loop = asyncio.get_running_loop()
    waiting: OrderedDict[str, tuple[float, Hop | None]] = OrderedDict()  # request id -> when it was posted, loop time
    spans = tracer(settings, "app")
    all_answered = asyncio.Event()
    readers = asyncio.Semaphore(MAX_READERS)

    async def post(event: Event, headers: Headers = ()) -> None:
        match event.record:
            case Request(request_id=request_id):
                statistics.requests += 1
                hop = spans.begin("ask") if spans is not None else None
                headers = hop.headers if hop is not None else ()
                waiting[request_id] = loop.time(), hop  # before it is handed over: waiting for the producer counts too
                if len(waiting) > MAX_WAITING:
                    waiting.popitem(last=False)
                    statistics.unanswered += 1
            case Context():
                statistics.contexts += 1
            case _ if event.topic is USERS_FEEDBACK:
                statistics.feedback += 1
        await outbox.post(posting(event)._replace(headers=headers))
        if on_event:
            on_event(event)

    async def live_on() -> None:
        until_ms = None if duration is None else started_ms + int(duration * 1000)
        began = loop.time()
        for event in events(world, started_ms, rate, until_ms=until_ms, daily_rhythm=not live):
            due = began + (event.time_ms - started_ms) / 1000 / speed
            await asyncio.sleep(max(0.0, due - loop.time()))
            await post(event)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_ANSWERS_SECONDS):
                while waiting:
                    all_answered.clear()
                    await all_answered.wait()
        statistics.unanswered += len(waiting)

    async def read() -> None:
        async for message in consumer:
            try:
                answer = decode(Recommendation, message.value)
                user_id = decode_key(message.key)
            except DecodeError as error:
                log.warning(
                    "recommendation skipped", topic=message.topic, partition=message.partition, offset=message.offset,
                    error=str(error),
                )  # fmt: skip
                continue
            if on_event:
                on_event(Event(message.timestamp, RECOMMENDATIONS, user_id, answer))
            posted = waiting.pop(answer.request_id, None)
            if posted is None:
                continue  # somebody else's, or given up on
            since, hop = posted
            statistics.latencies_ms.append((loop.time() - since) * 1000)
            if hop is not None:
                hop.end()
            if not waiting:
                all_answered.set()
            await readers.acquire()
            tasks.create_task(look_at(answer, user_id, message.headers)).add_done_callback(lambda _: readers.release())

    async def look_at(answer: Recommendation, user_id: str, headers: Headers) -> None:
        moment = moment_of(world, answer.request_id)
        items = [item.item_id for item in answer.items]
        actions = react(world, answer.request_id, items)
        kinds = [action.feedback.kind for action in actions]
        statistics.recommendations += 1
        statistics.shown += len(items)
        statistics.clicks += kinds.count("click")
        statistics.choices += kinds.count("visit") + kinds.count("booking")
        statistics.expected_clicks += sum(click_probabilities(world, moment, items))
        seen_ms = time.time_ns() // 1_000_000 if live else moment.time_ms
        began = loop.time()
        for action in actions:
            await asyncio.sleep(max(0.0, began + action.delay_ms / 1000 / speed - loop.time()))
            await post(Event(seen_ms + action.delay_ms, USERS_FEEDBACK, user_id, action.feedback), headers)

    names = {full_name(settings.kafka, topic) for topic in TOPICS}
    if missing := names - set(await existing_topics(settings.kafka, names)):
        raise BadInputError(f"the cluster lacks topics {', '.join(sorted(missing))}: run `tablecast topics apply`")
    await post_all(settings, catalogue(world, beginning()))
    consumer = AIOKafkaConsumer(
        full_name(settings.kafka, RECOMMENDATIONS),
        **client_options(settings.kafka),
        isolation_level="read_committed",
        auto_offset_reset="latest",
        enable_auto_commit=False,
    )
    async with Outbox(settings) as outbox, contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(consumer.stop)
        await consumer.start()
        await consumer.seek_to_end()
        started_ms = beginning()
        try:
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(read())
                await tasks.create_task(live_on())
                reading.cancel()  # the users still looking at their lists finish before the group ends
        except ExceptionGroup as group:
            raise group.exceptions[0] from group
    return statistics
