"""How long an answer takes: from the acknowledgement of a request to its recommendation read under read_committed."""

import asyncio
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from ops.bench.testbed import Testbed, cpu_seconds, testbed
from ops.bench.throughput import measure_capacity
from ops.simulator.choice import react
from ops.simulator.events import Event, events
from ops.simulator.poison import Posting, posting
from ops.simulator.world import World
from schemas.codec import decode
from schemas.records import Recommendation, Request
from schemas.topics import MIB, RECOMMENDATIONS, USERS_FEEDBACK
from streams.kafka import client_options, full_name
from streams.settings import Settings

PHASES = ("posted-received", "received-joined", "joined-consumed", "consumed-encoded", "encoded-ranked", "ranked-read")
WARM_UP_SECONDS = 30.0  # not counted: Java compiles a broker's hot code in its first minute
LAST_ANSWERS_SECONDS = 60.0
OVERLOAD_SECONDS = 20.0
PLANNING_SECONDS = 5.0  # for the requests to be made, before the first is due
LINGER_SECONDS = 0.005  # of whoever posts, as is the default of Kafka 4; ends before the acknowledgement, which counts
Say = Callable[[str], None]


@dataclass
class Latency:
    """One run at one rate. Times are milliseconds."""

    rate: float  # requests per second
    asked: int = 0
    answers_per_second: float = 0.0  # read while requests were counted, whenever they had been asked
    total: list[float] = field(default_factory=list)
    phases: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PHASES})
    cpu: dict[str, float] = field(default_factory=dict)  # share of one core, by stage

    def add(self, posted: float, answer: Recommendation, read: float) -> None:
        """Take in one answer; ``posted`` and ``read`` are wall clock, milliseconds."""
        at = answer.timings
        moments = (posted, at.received, at.joined, at.consumed, at.encoded, at.ranked, read)
        self.total.append(read - posted)
        for name, start, end in zip(PHASES, moments, moments[1:], strict=False):
            self.phases[name].append(end - start)

    def quantiles(self) -> dict[str, dict[str, float]]:
        """Return p50, p90 and p99 of the whole way and of each phase."""
        columns = {"end to end": self.total, **self.phases}
        return {
            name: {f"p{q}": float(np.percentile(values, q)) for q in (50, 90, 99)}
            for name, values in columns.items()
            if values
        }


class Linger:
    """What is posted within a few milliseconds leaves together, in one request, as from Kafka's own producer.

    aiokafka's ``linger_ms`` is each partition's own: few records for many partitions leave in a request each.
    """

    def __init__(self) -> None:
        self._end: asyncio.Event | None = None

    async def wait(self) -> None:
        """Wait until what is posted now may leave."""
        if self._end is None:
            self._end = asyncio.Event()
            asyncio.get_running_loop().call_later(LINGER_SECONDS, self._leave)
        await self._end.wait()

    def _leave(self) -> None:
        assert self._end is not None
        self._end.set()
        self._end = None


async def measure_latency(
    settings: Settings, world: World, rate: float, seconds: float, backlog: int, say: Say
) -> tuple[float, float, list[Latency]]:
    """Return two capacities, and the latencies at ``rate`` and at half of the second one.

    The first, in requests a second, is that of a backlog of so many requests posted at once. The second is that of
    requests which are posted one by one, with the users' contexts and reactions: what is answered a second while more
    are asked than can be.
    """
    async with testbed(settings, world) as bed:
        say("filling the state with the users' past")
        async with bed.stage("state"):
            await bed.state_done()
        say("working off a backlog")
        _, answers = await measure_capacity(bed, backlog, [])
        at_once, _ = await measure_capacity(bed, backlog, answers)
        runs = []
        async with bed.stage("state") as state, bed.stage("inference") as inference:
            await bed.state_done()
            pids = {"state": state.pid, "inference": inference.pid}
            say(f"{rate:.1f} requests a second for {seconds:.0f} s")
            runs.append(await _run(bed, rate, seconds, pids))
            say(f"more than can be answered, {at_once:.1f} requests a second, for {OVERLOAD_SECONDS:.0f} s")
            one_by_one = await live_capacity(bed, at_once, pids)
            say(f"{one_by_one / 2:.1f} requests a second for {seconds:.0f} s")
            runs.append(await _run(bed, one_by_one / 2, seconds, pids))
    return at_once, one_by_one, runs


async def live_capacity(bed: Testbed, overload: float, pids: dict[str, int]) -> float:
    """Return how many requests a second running stages answer while ``overload`` a second are posted one by one."""
    return (await _run(bed, overload, OVERLOAD_SECONDS, pids)).answers_per_second


async def _run(bed: Testbed, rate: float, seconds: float, pids: dict[str, int]) -> Latency:
    """Let users ask at a mean rate, at random moments, and react to what they get."""
    latency = Latency(rate)
    producer = AIOKafkaProducer(**client_options(bed.settings.kafka), enable_idempotence=True, max_request_size=4 * MIB)
    await producer.start()
    linger = Linger()
    posted: dict[str, float] = {}  # request id -> wall clock in milliseconds when it was acknowledged
    waiting: set[str] = set()  # counted requests without an answer
    none_waiting = asyncio.Event()

    async def post(event: Event, record: Posting, after: "asyncio.Task[None] | None" = None) -> None:
        if after is not None:
            await after
        await linger.wait()
        topic = full_name(bed.settings.kafka, record.topic)
        await producer.send_and_wait(topic, record.value, record.key, timestamp_ms=record.time_ms)
        if isinstance(event.record, Request):
            posted[event.record.request_id] = time.time() * 1000

    async def react_to(user_id: str, answer: Recommendation) -> None:
        began = time.time()
        for action in react(bed.world, answer.request_id, [item.item_id for item in answer.items]):
            await asyncio.sleep(began + action.delay_ms / 1000 - time.time())
            event = Event(int(time.time() * 1000), USERS_FEEDBACK, user_id, action.feedback)
            await post(event, posting(event))

    async def read(reader: AIOKafkaConsumer, tasks: asyncio.TaskGroup) -> None:
        async for record in reader:
            now = time.time() * 1000
            answer = decode(Recommendation, record.value)
            if 0 <= now / 1000 - counted_from <= seconds:
                latency.answers_per_second += 1 / seconds
            tasks.create_task(react_to(record.key.decode(), answer))
            if answer.request_id in waiting:
                waiting.remove(answer.request_id)
                latency.add(posted.get(answer.request_id, now), answer, now)
                if not waiting:
                    none_waiting.set()

    try:
        async with bed.reader(RECOMMENDATIONS) as reader, asyncio.TaskGroup() as tasks:
            began = time.time() + PLANNING_SECONDS
            counted_from = began + WARM_UP_SECONDS
            # Made before, so that less of the processor goes into asking.
            until = (counted_from + seconds) * 1000
            coming = events(bed.world, int(began * 1000), rate, daily_rhythm=False)
            planned = [(event, posting(event)) for event in takewhile(lambda event: event.time_ms <= until, coming)]
            gc.collect()
            gc.freeze()  # else the collector looks at all of it again and again, while time is taken
            reading = tasks.create_task(read(reader, tasks))
            cpu_began: dict[str, float] = {}
            latest: dict[str, asyncio.Task[None]] = {}  # by user: an app posts one thing after the other
            for event, record in planned:
                await asyncio.sleep(event.time_ms / 1000 - time.time())
                if event.time_ms > counted_from * 1000:
                    cpu_began = cpu_began or {name: cpu_seconds(pid) for name, pid in pids.items()}
                    if isinstance(event.record, Request):
                        waiting.add(event.record.request_id)
                        latency.asked += 1
                latest[event.key] = tasks.create_task(post(event, record, latest.get(event.key)))
            latency.cpu = {name: (cpu_seconds(pid) - cpu_began[name]) / seconds for name, pid in pids.items()}
            async with asyncio.timeout(LAST_ANSWERS_SECONDS):
                while waiting:
                    none_waiting.clear()
                    await none_waiting.wait()
            reading.cancel()
    finally:
        await producer.stop()
    return latency
