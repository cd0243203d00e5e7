"""Dead letters by the hundred: every reason counted right; when they have been corrected, each answered exactly once.

Poisonous requests of every kind are posted, and the letters counted against them. A retry without a correction must
leave all of them alone. Then a retry dies in the middle of a transaction, and the corrected records are retried after
it, twice over.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiokafka import AIOKafkaProducer, TopicPartition

from ops.bench.deployment import Deployment, deployed, end_offsets, next_record, reading
from ops.bench.ledger import EXPECTED_FAULT
from ops.dead_letters.letters import Selection, letters, name_of, tally
from ops.dead_letters.retry import Original, retry
from ops.simulator.city import DOMAIN
from ops.simulator.events import catalogue, events
from ops.simulator.poison import Posting, poison, posting
from ops.simulator.world import World, build_world
from schemas.codec import decode, encode
from schemas.records import DeadLetter, Recommendation, Request, Source
from schemas.topics import DEADLETTERS, RECOMMENDATIONS, USERS_REQUESTS
from streams.kafka import client_options, full_name, partition_of
from streams.settings import Settings

EVENT_RATE = 100_000.0  # requests per second of event time: all of it happens now


@dataclass(frozen=True)
class DeadLettersReport:
    """What was posted, what was written about it, what came of it."""

    poisonous: int
    letters: int
    by_error: dict[str, int]
    retried_uncorrected: int
    retried: int
    retried_again: int
    answered: int
    retry_seconds: float
    faults: list[str]


async def run_dead_letters(settings: Settings, number: int, progress: Callable[[int], None]) -> DeadLettersReport:
    """Have so many records dead-lettered and retried, on topics and stages of their own.

    Raises:
        StageError: a stage does not start.
        StalledError: letters or answers stopped coming.

    """
    world = build_world(1, users=1_000, restaurants=500)
    async with deployed(settings, catalogue(world, _now())) as deployment:
        return await dead_letters_on(deployment, world, number, progress)


async def dead_letters_on(
    deployment: Deployment, world: World, number: int, progress: Callable[[int], None] = lambda _: None
) -> DeadLettersReport:
    """Run it on stages that are running and have the world's catalogue."""
    settings, faults = deployment.settings, list[str]()
    kafka = settings.kafka
    life = events(world, _now(), EVENT_RATE, daily_rhythm=False)
    asked = list(itertools.islice((event for event in life if event.topic is USERS_REQUESTS), number))
    good = {str(entry.request_id): entry for entry in map(posting, asked)}
    starts = await end_offsets(deployment, RECOMMENDATIONS)
    first_letter = await end_offsets(deployment, DEADLETTERS)
    posted: dict[str, Posting] = {}
    for entry in poison(asked, 1.0, world.seed):
        topic = full_name(kafka, entry.topic)
        place = await deployment.producer.send_and_wait(topic, entry.value, entry.key, timestamp_ms=entry.time_ms)
        posted[name_of(kafka, place.topic, place.partition, place.offset)] = entry
    selection = Selection(names=posted.keys())
    written: set[str] = set()
    async with reading(deployment, DEADLETTERS, first_letter) as consumer:
        while len(written) < number:
            letter = decode(DeadLetter, (await next_record(deployment, consumer, "dead letter")).value)
            written.add(name_of(kafka, letter.topic, letter.partition, letter.offset))
    found = 0
    async for each in letters(kafka, selection):
        found += 1
        kind = posted[each.name].poison
        assert kind is not None
        error, word = EXPECTED_FAULT[kind]
        if each.record.error != error or word not in each.record.reason:
            faults.append(f"{kind} at {each.name} was taken for {each.record.error}: {each.record.reason}")
    by_error: Counter[str] = Counter()
    for (_, _, error, _), count in (await tally(kafka, selection)).items():
        by_error[error] += count
    expected = Counter(EXPECTED_FAULT[entry.poison][0] for entry in posted.values() if entry.poison is not None)
    if by_error != expected:
        faults.append(f"counted {dict(by_error)}, posted {dict(expected)}")

    uncorrected = await retry(settings, selection)
    corrected = {
        name: _corrected(name, good[str(entry.request_id)], kafka.partitions) for name, entry in posted.items()
    }
    await _retry_that_dies(settings, next(iter(corrected.values())))
    began = time.monotonic()
    first = await retry(settings, selection, corrected, progress=progress)
    seconds = time.monotonic() - began
    again = await retry(settings, selection, corrected)
    if Counter(again.left.values()) != {"already retried": number}:
        faults.append(f"the second retry says {Counter(again.left.values())}")
    faults += [f"{name} was not retried: {why}" for name, why in first.left.items()]
    if uncorrected.done or again.done:
        faults.append(f"{uncorrected.done} were retried uncorrected and {again.done} a second time")
    answers = await _answers(deployment, starts, set(good))
    faults += [f"request {name} was answered {times} times" for name, times in answers.items() if times != 1]
    faults += [f"request {name} was not answered" for name in good.keys() - answers.keys()]
    return DeadLettersReport(
        poisonous=number,
        letters=found,
        by_error=dict(by_error),
        retried_uncorrected=uncorrected.done,
        retried=first.done,
        retried_again=again.done,
        answered=len(answers),
        retry_seconds=round(seconds, 3),
        faults=faults,
    )


def _corrected(name: str, entry: Posting, partitions: int) -> Original:
    _, partition, offset = name.split("/")
    assert entry.key is not None
    return Original(
        USERS_REQUESTS,
        partition_of(entry.key.decode(), partitions),
        entry.key,
        entry.value,
        entry.time_ms,
        Source(partition=int(partition), offset=int(offset)),
    )


async def _retry_that_dies(settings: Settings, original: Original) -> None:
    """Do what a retry does up to its death between the posted record and the commit."""
    producer = AIOKafkaProducer(
        **client_options(settings.kafka), transactional_id=f"{settings.kafka.prefix}deadletters"
    )
    await producer.start()
    try:
        await producer.begin_transaction()
        topic = full_name(settings.kafka, original.topic)
        await producer.send_and_wait(
            topic, original.value, original.key, original.partition, timestamp_ms=original.time
        )
    finally:
        await producer.stop()


async def _answers(deployment: Deployment, starts: Mapping[TopicPartition, int], wanted: set[str]) -> Counter[str]:
    """Return how often each request was answered, when all before a last request in each partition have been."""
    last = {f"last-{_now()}-{number}": number for number in range(deployment.settings.kafka.partitions)}
    counts: Counter[str] = Counter()
    async with reading(deployment, RECOMMENDATIONS, starts) as consumer:
        while wanted - counts.keys():
            counts[decode(Recommendation, (await next_record(deployment, consumer, "answer")).value).request_id] += 1
        for request_id, partition in last.items():
            await deployment.producer.send_and_wait(
                full_name(deployment.settings.kafka, USERS_REQUESTS),
                encode(Request(request_id=request_id, domain=DOMAIN, k=1)),
                request_id.encode(),
                partition,
                timestamp_ms=_now(),
            )
        while last.keys() - counts.keys():
            counts[decode(Recommendation, (await next_record(deployment, consumer, "answer")).value).request_id] += 1
    return Counter({name: times for name, times in counts.items() if name in wanted})


def _now() -> int:
    return time.time_ns() // 1_000_000
