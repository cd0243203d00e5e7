"""Does learning pay? The same people ask a model that stays as it was shipped, and one that learns from them.

Both begin with what is shipped, on topics of their own with stages of their own, and are asked the same by the same
people, whose chance is the same too. After each simulated day the one that learns is trained by the trainer stage on
what its lists brought, judged by the gate, stored, announced, promoted and swapped in while its stage goes on. What a
list is worth is not counted but known: the sum of the simulator's exact click probabilities.

Within a day people ask in portions: they see what they did with the lists of the portions before.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import msgspec
from aiokafka import AIOKafkaConsumer

from models.roles import promoted
from ops.bench.testbed import StalledError, Testbed, read_answers, testbed
from ops.bench.workload import Answer
from ops.cluster import connected_or_started
from ops.simulator.choice import click_probabilities, utility
from ops.simulator.city import DOMAIN
from ops.simulator.events import Event, K, events
from ops.simulator.shift import openings, shifted
from ops.simulator.world import DAY_MS, HOUR_MS, Moment, World, build_world, moment_of
from schemas.codec import decode
from schemas.records import ModelAnnouncement, Recommendation, Request
from schemas.topics import RECOMMENDATIONS, RETRAINING, USERS_REQUESTS
from streams.model_roles import change_roles, read_roles
from streams.privacy import load_pseudonyms
from streams.settings import Settings
from streams.trainer.app import TrainerApp

START_MS = 1_788_220_800_000  # 2026-09-01, midnight UTC
PORTION_MS = 3 * HOUR_MS
ATTRIBUTION_MINUTES = 2 * PORTION_MS // 60_000  # people act when their portion has been answered
TAKE_OVER_TRIES = 300  # a second or more each
EVERYTHING = 1_000  # restaurants on a list
SLOWDOWN = 10.0  # a first ranker takes longer than the weights set by hand, and its gain is what is asked for here

Arm = Literal["frozen", "learning"]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """A city, and how long it is watched."""

    seed: int
    days: int
    first_training: int  # after so many days: the gate needs lists to tell
    shift_after: int | None  # days; None: nothing changes; 0: the world is the later one from the beginning
    requests: int  # a day, on average
    users: int
    restaurants: int


class Day(msgspec.Struct, frozen=True):
    """What one day's lists were worth, and what was made of them."""

    requests: int
    clicks: float  # expected, per list
    best: float  # of the best list there is, which nobody can know
    examples: int  # on `retraining` at the end of the day
    model: str  # that answered, name@version
    training: str = ""  # what came of the training after the day
    seconds: float = 0.0


async def lives(settings: Settings, plan: Plan, say: Say) -> dict[Arm, list[Day]]:
    """Return the days of both arms, which live at the same time.

    Starts the embedded broker if none is configured or running.
    """
    async with contextlib.AsyncExitStack() as stack:
        settings = connected_or_started(settings, stack)
        frozen, learning = await asyncio.gather(
            live(settings, plan, "frozen", say), live(settings, plan, "learning", say)
        )
    return {"frozen": frozen, "learning": learning}


async def live(settings: Settings, plan: Plan, arm: Arm, say: Say) -> list[Day]:
    """Return the days of one arm, in order.

    Raises:
        StalledError: requests are not answered any more, or a promoted model does not take over.

    """
    world = build_world(plan.seed, users=plan.users, restaurants=plan.restaurants)
    if plan.shift_after is not None:
        world = shifted(world, START_MS + plan.shift_after * DAY_MS)
    state = settings.state.model_copy(update={"attribution_minutes": ATTRIBUTION_MINUTES})
    inference = settings.inference.model_copy(update={"max_slowdown": SLOWDOWN})
    settings = settings.model_copy(update={"state": state, "inference": inference})
    days: list[Day] = []
    async with (
        testbed(settings, world, START_MS) as bed,
        _supervised(bed, "state"),
        _supervised(bed, "inference"),
        bed.reader(RECOMMENDATIONS) as reader,
    ):
        await bed.state_done()
        for number, portions in _days(plan, world):
            began = time.monotonic()
            if number == plan.shift_after:
                await _opened(bed, reader, START_MS + number * DAY_MS)
            day = await _live_through(bed, reader, portions)
            training = ""
            if arm == "learning" and plan.first_training <= number + 1 < plan.days:
                training = await _learn(bed, reader, START_MS + (number + 1) * DAY_MS)
            seconds = round(time.monotonic() - began, 1)
            days.append(msgspec.structs.replace(day, training=training, seconds=seconds))
            say(f"seed {plan.seed}, {arm}, day {number + 1} of {plan.days}: {days[-1]}")
    return days


@contextlib.asynccontextmanager
async def _supervised(bed: Testbed, name: str) -> AsyncIterator[None]:
    """Run a stage, and start it again whenever it ends: it lives for a long time."""
    async with bed.stage(name) as stage:
        supervision = asyncio.create_task(stage.supervise())
        try:
            yield
        finally:
            supervision.cancel()
            await asyncio.gather(supervision, return_exceptions=True)


def _days(plan: Plan, world: World) -> Iterator[tuple[int, list[list[Event]]]]:
    """Yield each day's number from 0 and what happens in it, in portions."""
    rate = plan.requests / (DAY_MS / 1000)
    life = events(world, START_MS, rate, until_ms=START_MS + plan.days * DAY_MS)
    for number, day in groupby(life, lambda event: (event.time_ms - START_MS) // DAY_MS):
        yield number, [list(portion) for _, portion in groupby(day, lambda event: event.time_ms // PORTION_MS)]


async def _live_through(bed: Testbed, reader: AIOKafkaConsumer, portions: Sequence[Sequence[Event]]) -> Day:
    clicks, best, model = [], [], ""
    for portion in portions:
        asked = [event for event in portion if isinstance(event.record, Request)]
        await bed.post(map(_unexplained, portion))
        answers, _ = await read_answers(reader, len(asked))
        for answer in answers:
            recommendation = decode(Recommendation, answer.value)
            moment = moment_of(bed.world, recommendation.request_id)
            shown = [item.item_id for item in recommendation.items]
            clicks.append(sum(click_probabilities(bed.world, moment, shown)))
            best.append(sum(click_probabilities(bed.world, moment, _best(bed.world, moment))))
            model = recommendation.model
        await bed.post(_reactions(bed, answers))
        await bed.state_done()
    examples = sum((await bed.ends([RETRAINING])).values())
    return Day(len(clicks), sum(clicks) / len(clicks), sum(best) / len(best), examples, model)


def _unexplained(event: Event) -> Event:
    """Return an event whose request asks for no reasons: nobody reads them."""
    if not isinstance(event.record, Request):
        return event
    return event._replace(record=msgspec.structs.replace(event.record, explain=False))


def _reactions(bed: Testbed, answers: Sequence[Answer]) -> list[Event]:
    made = [event for answer in answers for event in bed.workload.reactions(answer)]
    return sorted(made, key=lambda event: event.time_ms)


def _best(world: World, moment: Moment) -> list[str]:
    ids = world.at(moment.time_ms).city.ids
    return [ids[row] for row in (-utility(world, moment)).argsort()[:K]]


async def _learn(bed: Testbed, reader: AIOKafkaConsumer, now_ms: int) -> str:
    """Train on what there is, promote what passes the gate, and return what came of it when it is served."""
    kafka, name = bed.settings.kafka, bed.settings.inference.model_name
    before = (await read_roles(kafka)).get(name)
    await TrainerApp(bed.settings, load_pseudonyms(bed.settings)).run_once(asyncio.Event())
    announced = (await read_roles(kafka)).get(name)
    if announced is None or (before is not None and announced.generation == before.generation):
        return "nothing to learn"
    made = announced.versions[0]
    if made.role != "canary":
        return announced.reason

    def promote(current: ModelAnnouncement | None) -> ModelAnnouncement:
        return promoted(current, made.version, "it passed the gate")

    await change_roles(kafka, name, promote)
    await _taken_over(bed, reader, f"{name}@{made.version}", now_ms)
    return f"promoted {made.version}"


async def _taken_over(bed: Testbed, reader: AIOKafkaConsumer, model: str, now_ms: int) -> None:
    """Ask until a model answers."""
    await _asked_until(bed, reader, now_ms, model, lambda answer: answer.model == model)


async def _opened(bed: Testbed, reader: AIOKafkaConsumer, now_ms: int) -> None:
    """Post the restaurants that open, and ask until all of them are known: else one arm would know them earlier."""
    new = list(openings(bed.world))
    await bed.post(new)
    ids = {event.key for event in new}
    await _asked_until(
        bed, reader, now_ms, "the openings", lambda answer: ids <= {item.item_id for item in answer.items}, k=EVERYTHING
    )


async def _asked_until(
    bed: Testbed,
    reader: AIOKafkaConsumer,
    now_ms: int,
    what: str,
    satisfied: Callable[[Recommendation], bool],
    k: int = 1,
) -> None:
    for number in range(TAKE_OVER_TRIES):
        request = Request(request_id=f"probe-{what}-{number}", domain=DOMAIN, k=k, explain=False)
        await bed.post([Event(now_ms, USERS_REQUESTS, "probe", request)])
        (answer,), _ = await read_answers(reader, 1)
        if satisfied(decode(Recommendation, answer.value)):
            return
        await asyncio.sleep(1.0)
    raise StalledError(f"{what} did not take over within {TAKE_OVER_TRIES} answers: see {bed.folder}/inference.log")
