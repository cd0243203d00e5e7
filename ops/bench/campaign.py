"""The load and crash campaign: every valid request gets exactly one answer, whatever happens to the stages.

Requests of the simulated city, with the contexts they are made in, are posted all at once, poisonous ones among them.
Stages are killed while they work. When everything has been answered, the topics are read from the beginning and counted
against what was posted: the report's ``faults`` has a sentence for every broken promise.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from ops.bench.deployment import Deployment, committed_records, deployed, end_offsets, reading
from ops.bench.ledger import Ledger, Place
from ops.simulator.city import DOMAIN
from ops.simulator.events import Event, catalogue, events, history
from ops.simulator.poison import Posting, poison, posting
from ops.simulator.world import World, build_world
from schemas.codec import decode
from schemas.records import Recommendation, Request
from schemas.topics import DEADLETTERS, RECOMMENDATIONS, REQUESTS_JOINED, USERS_REQUESTS
from streams.kafka import client_options, committed_offsets, full_name
from streams.settings import Settings
from streams.state.changelogs import APPLICATION

EVENT_RATE = 100_000.0  # requests per second of event time: all of a load happens now
HISTORY_DAYS = 2
STRANGERS_EVERY = 50  # one request in so many comes from somebody of whom nothing is known


@dataclass(frozen=True)
class Kill:
    """A stage that was killed when it had put out so many of all the records it had to."""

    stage: str
    done: int
    of: int


@dataclass(frozen=True)
class CampaignReport:
    """What was posted, what came back, and what should not have been so."""

    requests: int  # posted, poisonous ones included
    valid: int
    poisonous: int
    answered: int  # distinct valid requests
    empty: int  # answers without an item: none satisfies the constraints
    degraded: dict[str, int]  # by what the stage says; a constraint may need a location that nobody knows
    items: int  # recommended, over all answers
    largest_reason_gap: float  # between a score and the sum of its reasons
    dead_letters: int  # distinct records
    repeated_dead_letters: int  # written again by a stage that was killed before it had noted that it had
    dead_letter_reasons: dict[str, int]  # by poison and error class
    kills: list[Kill]
    seconds: float  # from the first post to the last answer
    answers_per_second: float
    faults: list[str]


async def run_campaign(
    settings: Settings,
    *,
    requests: int = 20_000,
    poison_fraction: float = 0.01,
    kill: Sequence[str] = (),
    seed: int = 1,
    users: int = 3_000,
    restaurants: int = 2_000,
    progress: Callable[[int], None] | None = None,
) -> CampaignReport:
    """Run a campaign on topics and stages of its own and report.

    Args:
        settings: of the cluster and the stages.
        requests: how many, poisonous ones included.
        poison_fraction: of the requests.
        kill: stages to kill without warning in the middle of their work; one that is named twice is killed twice.
        seed: of the city, its people and what is poisonous.
        users: of the city.
        restaurants: of the city.
        progress: is told, again and again, how many requests have been answered.

    Raises:
        StageError: a stage does not start.
        StalledError: answers stopped coming.

    """
    world = await asyncio.to_thread(build_world, seed, users=users, restaurants=restaurants)
    async with deployed(settings, catalogue(world, _now())) as deployment:
        return await campaign_on(
            deployment, world, requests=requests, poison_fraction=poison_fraction, kill=kill, progress=progress
        )


async def campaign_on(
    deployment: Deployment,
    world: World,
    *,
    requests: int,
    poison_fraction: float = 0.01,
    kill: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> CampaignReport:
    """Run a campaign on stages that are running and have the world's catalogue, see ``run_campaign``."""
    now = _now()
    load = list(poison(_happening(world, now, requests), poison_fraction, world.seed))
    valid = {str(entry.request_id) for entry in load if entry.topic is USERS_REQUESTS and entry.poison is None}
    before = {name: stage.restarts for name, stage in deployment.stages.items()}
    starts = {topic: await end_offsets(deployment, topic) for topic in (RECOMMENDATIONS, DEADLETTERS)}
    await _post(deployment, [posting(event) for event in history(world, now, days=HISTORY_DAYS)])
    async with _answered(deployment, starts[RECOMMENDATIONS]) as answered, _joined(deployment) as joined:
        outputs = {"state": joined, "inference": lambda: len(answered)}
        kills: list[Kill] = []
        killers = [
            _kill_midway(deployment, name, kill.count(name), outputs[name], len(valid), kills) for name in set(kill)
        ]
        started = time.monotonic()
        async with _background(*killers):
            posted = await _post(deployment, load)

            def count() -> int:
                if progress:
                    progress(len(answered))
                return len(valid & answered)

            await deployment.wait_until("requests were answered", count, len(valid))
            seconds = time.monotonic() - started
            closing = await _close(deployment, answered)
    ledger = Ledger(posted | closing)
    async for record in committed_records(deployment, RECOMMENDATIONS, starts[RECOMMENDATIONS]):
        ledger.answer(record.key, record.timestamp, record.value)
    async for record in committed_records(deployment, DEADLETTERS, starts[DEADLETTERS]):
        ledger.dead_letter(record.value)
    faults = ledger.faults(
        may_shed=deployment.settings.inference.budget_ms is not None, may_repeat_dead_letters=bool(kill)
    )
    for name, stage in deployment.stages.items():
        killed = sum(entry.stage == name for entry in kills)
        if killed < kill.count(name):
            faults.append(f"the {name} stage was to be killed {kill.count(name)} times, not {killed}: it was too quick")
        if (restarts := stage.restarts - before[name]) != killed:
            faults.append(f"the {name} stage was killed {killed} times, but started again {restarts} times")
    return CampaignReport(
        requests=ledger.valid + ledger.poisonous - len(closing),
        valid=ledger.valid - len(closing),
        poisonous=ledger.poisonous,
        answered=ledger.answered - len(closing),
        empty=ledger.empty,
        degraded=dict(ledger.degraded),
        items=ledger.items,
        largest_reason_gap=ledger.largest_reason_gap,
        dead_letters=ledger.dead_letters,
        repeated_dead_letters=ledger.repeated_dead_letters,
        dead_letter_reasons=dict(sorted(ledger.reasons.items())),
        kills=kills,
        seconds=round(seconds, 3),
        answers_per_second=round(len(valid) / seconds, 1),
        faults=faults,
    )


def _now() -> int:
    return time.time_ns() // 1_000_000


def _happening(world: World, now: int, requests: int) -> Iterator[Event]:
    """Yield so many requests with their contexts; some come from people of whom nothing is known."""
    for event in events(world, now, EVENT_RATE, daily_rhythm=False):
        if not isinstance(event.record, Request):
            yield event
            continue
        requests -= 1
        yield event._replace(key=f"stranger-{now}-{requests}") if requests % STRANGERS_EVERY == 0 else event
        if not requests:
            return


async def _post(deployment: Deployment, load: Sequence[Posting], partition: int | None = None) -> dict[Place, Posting]:
    """Post as fast as the broker takes it and return where the requests lie."""
    kafka = deployment.settings.kafka
    sent = []
    for number, entry in enumerate(load):
        topic = full_name(kafka, entry.topic)
        future = await deployment.producer.send(topic, entry.value, entry.key, partition, timestamp_ms=entry.time_ms)
        sent.append((entry, future))
        if number % 100 == 0:
            await asyncio.sleep(0)  # handing over never waits by itself; let the producer send
    places = {}
    for entry, future in sent:
        record = await future
        if entry.topic is USERS_REQUESTS:
            places[Place(record.topic, record.partition, record.offset)] = entry
    return places


async def _close(deployment: Deployment, answered: set[str]) -> dict[Place, Posting]:
    """Post one more request to each partition and return them when nothing that was posted earlier has effects to come.

    Partitions are worked through in order, so that is when the last requests have been answered and the state stage has
    committed their offsets, which it does after everything they caused has been published.
    """
    posted: dict[Place, Posting] = {}
    for source in deployment.partitions(USERS_REQUESTS):
        request = Request(request_id=f"closing-{_now()}-{source.partition}", domain=DOMAIN)
        event = Event(_now(), USERS_REQUESTS, f"closing-{source.partition}", request)
        posted |= await _post(deployment, [posting(event)], source.partition)
    ids = {str(entry.request_id) for entry in posted.values()}
    await deployment.wait_until("closing requests were answered", lambda: len(ids & answered), len(ids))
    async with _committed_by_state(deployment) as committed:
        places = [(TopicPartition(place.topic, place.partition), place.offset + 1) for place in posted]

        def released() -> int:
            return sum(committed.get(partition, 0) >= end for partition, end in places)

        await deployment.wait_until("partitions of requests were committed", released, len(places))
    return posted


async def _kill_midway(
    deployment: Deployment, name: str, times: int, output: Callable[[], int], total: int, kills: list[Kill]
) -> None:
    """Kill a stage, several times at even distances, and note when."""
    stage = deployment.stages[name]
    for number in range(1, times + 1):
        while (done := output()) < total * number // (times + 1):
            await asyncio.sleep(0.005)
        restarts = stage.restarts
        stage.kill()
        kills.append(Kill(name, done, total))
        while stage.restarts == restarts:
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def _background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines beside the block; one that fails ends the block."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
            yield
            for task in tasks:
                task.cancel()
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors


@contextlib.asynccontextmanager
async def _answered(deployment: Deployment, start: Mapping[TopicPartition, int]) -> AsyncIterator[set[str]]:
    """Yield a set that fills with the ids of the requests that have been answered."""
    answered: set[str] = set()

    async def read() -> None:
        async for record in consumer:
            answered.add(decode(Recommendation, record.value).request_id)

    async with reading(deployment, RECOMMENDATIONS, start) as consumer, _background(read()):
        yield answered


@contextlib.asynccontextmanager
async def _joined(deployment: Deployment) -> AsyncIterator[Callable[[], int]]:
    """Yield a function that tells how many requests have been joined meanwhile."""
    start = sum((await end_offsets(deployment, REQUESTS_JOINED)).values())
    joined = 0

    async def look() -> None:
        nonlocal joined
        while True:
            ends = await consumer.end_offsets(deployment.partitions(REQUESTS_JOINED))
            joined = sum(ends.values()) - start
            await asyncio.sleep(0.005)

    async with reading(deployment, DEADLETTERS) as consumer, _background(look()):
        yield lambda: joined


@contextlib.asynccontextmanager
async def _committed_by_state(deployment: Deployment) -> AsyncIterator[dict[TopicPartition, int]]:
    """Yield the state stage's committed offsets, which are kept up to date."""
    committed: dict[TopicPartition, int] = {}
    kafka = deployment.settings.kafka
    admin = AIOKafkaAdminClient(**client_options(kafka))

    async def look() -> None:
        while True:
            offsets = await committed_offsets(admin, kafka.prefix + APPLICATION)
            committed.update({partition: entry.offset for partition, entry in offsets.items()})
            await asyncio.sleep(0.05)

    await admin.start()
    try:
        async with _background(look()):
            yield committed
    finally:
        await admin.close()
