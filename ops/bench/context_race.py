"""The race that the grace of the as-of join decides: a context is posted and acknowledged, then a request at once.

The request must see that context, though the two travel through different partitions. In every second try a crowd of
other people's contexts is posted right before, so that the context is still queueing when the request has been read.
Every try is made twice, side by side: at the configured grace and, for what the grace costs, at a grace of 0, where the
race can be lost.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from ops.bench.deployment import Deployment, deployed, next_record, reading
from ops.bench.spread import Spread, spread
from ops.simulator.city import DOMAIN
from schemas.codec import decode, encode
from schemas.records import Context, JoinedRequest, Request
from schemas.topics import REQUESTS_JOINED, USERS_CONTEXT, USERS_REQUESTS
from streams.kafka import client_options, full_name
from streams.settings import Settings

USERS = 40
CROWD = 100


@dataclass(frozen=True)
class RaceResult:
    """What the tries at one grace, with or without a crowd, came to."""

    grace_ms: int
    crowd: int  # contexts posted right before
    tries: int
    misses: int  # requests that did not see the context
    misses_in_time: int  # of those, how many were joined before the grace was over
    join_ms: Spread  # from the state stage's reading a request to its having joined it
    post_to_join_ms: Spread  # from just before the request is posted to its having been joined


@dataclass(frozen=True)
class RaceReport:
    """All results; those at the configured grace come first."""

    tries: int  # at each grace
    misses: int  # at the configured grace
    results: list[RaceResult]


class _Racer:
    """A state stage with its grace. Contexts and requests come from two producers, as from two apps."""

    def __init__(self, deployment: Deployment, joined: AIOKafkaConsumer, contexts: AIOKafkaProducer) -> None:
        self.kafka, self.grace_ms = deployment.settings.kafka, deployment.settings.state.grace_ms
        self._deployment, self._joined = deployment, joined
        self._contexts, self._requests = contexts, deployment.producer

    async def race(self, number: int, crowd: int) -> tuple[bool, float, float]:
        """Try once; return whether the context was missed, and the two times of ``RaceResult``."""
        runner = number % USERS
        partition, user = runner % self.kafka.partitions, f"racer-{runner}".encode()
        for _ in range(crowd):
            await self._post_context(f"crowd-{partition}".encode(), partition, Context(weather="rain"))
        await (await self._post_context(user, partition, Context(fields={"try": number})))
        posted = _now()
        request = encode(Request(request_id=f"race-{number}", domain=DOMAIN))
        topic = full_name(self.kafka, USERS_REQUESTS)
        await self._requests.send_and_wait(topic, request, user, partition, timestamp_ms=posted)
        record = await next_record(self._deployment, self._joined, f"joined request {number}")
        joined = decode(JoinedRequest, record.value)
        missed = joined.context.fields.get("try") != number
        return missed, joined.joined_at - joined.received_at, joined.joined_at - posted

    async def _post_context(self, user: bytes, partition: int, context: Context) -> Awaitable[object]:
        topic = full_name(self.kafka, USERS_CONTEXT)
        posted: Awaitable[object] = await self._contexts.send(
            topic, encode(context), user, partition, timestamp_ms=_now()
        )
        return posted


async def context_race(
    settings: Settings, tries: int = 1_000, progress: Callable[[int], None] | None = None
) -> RaceReport:
    """Race so many times at the configured grace and at none, on topics and state stages of one's own.

    Raises:
        StageError: a stage does not start.
        StalledError: a request was not joined.

    """
    outcomes: dict[tuple[int, int], list[tuple[bool, float, float]]] = defaultdict(list)
    async with contextlib.AsyncExitStack() as stack:
        racers = []
        for grace_ms in (settings.state.grace_ms, 0):
            state = settings.state.model_copy(update={"grace_ms": grace_ms})
            racers.append(await stack.enter_async_context(_racer(settings.model_copy(update={"state": state}))))
        for number in range(tries):
            crowd = CROWD * (number % 2)
            for racer in racers:
                outcomes[racer.grace_ms, crowd].append(await racer.race(number, crowd))
            if progress:
                progress(number + 1)
    results = [
        RaceResult(
            grace_ms=grace_ms,
            crowd=crowd,
            tries=len(entries),
            misses=sum(missed for missed, _, _ in entries),
            misses_in_time=sum(missed and joining < grace_ms for missed, joining, _ in entries),
            join_ms=spread([joining for _, joining, _ in entries]),
            post_to_join_ms=spread([posting for _, _, posting in entries]),
        )
        for (grace_ms, crowd), entries in sorted(outcomes.items(), key=lambda entry: (not entry[0][0], entry[0]))
    ]
    misses = sum(result.misses for result in results if result.grace_ms == settings.state.grace_ms)
    return RaceReport(tries, misses, results)


@contextlib.asynccontextmanager
async def _racer(settings: Settings) -> AsyncIterator[_Racer]:
    async with deployed(settings, stages=["state"]) as deployment, reading(deployment, REQUESTS_JOINED) as joined:
        contexts = AIOKafkaProducer(**client_options(deployment.settings.kafka), acks="all")
        await contexts.start()
        try:
            yield _Racer(deployment, joined, contexts)
        finally:
            await contexts.stop()


def _now() -> int:
    return time.time_ns() // 1_000_000
