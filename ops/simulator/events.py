"""What happens in the world, as records for Kafka: catalogue, past visits, context and requests."""

import math
import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ops.simulator.chance import chance
from ops.simulator.choice import choose
from ops.simulator.city import DOMAIN, TIME_ZONE, UTC_OFFSET_MS, attribute_row, location_at, slot_of
from ops.simulator.speech import request_text
from ops.simulator.vocabulary import ATTRIBUTES, CUISINES
from ops.simulator.world import DAY_MS, HOUR_MS, Moment, World, moment_at, request_id_of, session_of
from schemas.errors import BadInputError
from schemas.records import Constraints, Context, Feedback, Record, Request
from schemas.topics import CATALOG_ITEMS, USERS_CONTEXT, USERS_FEEDBACK, USERS_REQUESTS, Topic

K = 10
OUTING_SHARE = 0.05  # of arrivals: a visit that nobody recommended
STROLL_SHARE = 0.05  # of arrivals: a context without a request
CONSTRAINED_SHARE = 0.2  # of requests

_VEGETARIAN = attribute_row("vegetarian options")
_RHYTHM = (3, 2, 1, 1, 1, 2, 5, 9, 9, 7, 8, 16, 18, 11, 8, 7, 8, 16, 20, 17, 12, 9, 7, 5)  # weight of each local hour
_BUSIEST = max(_RHYTHM) / (sum(_RHYTHM) / 24)


class Event(NamedTuple):
    """A record to post. The event time is in milliseconds since 1970 and becomes the record's timestamp."""

    time_ms: int
    topic: Topic
    key: str
    record: Record


def catalogue(world: World, time_ms: int) -> Iterator[Event]:
    """Yield every restaurant."""
    for item_id, item in world.city.items.items():
        yield Event(time_ms, CATALOG_ITEMS, item_id, item)


def events(
    world: World, start_ms: int, rate_per_second: float, *, until_ms: int | None = None, daily_rhythm: bool = True
) -> Iterator[Event]:
    """Yield contexts, requests and unprompted visits in order of event time: a function of the arguments alone.

    Every request comes right after the context it is made in, at the same event time. Memory does not grow.

    Args:
        world: who and where.
        start_ms: event time of the beginning, milliseconds since 1970.
        rate_per_second: mean number of requests per simulated second.
        until_ms: where to stop; None: never.
        daily_rhythm: whether more is asked at noon and in the evening than at night; the mean over a day stays.

    Raises:
        ValueError: the rate is not positive.

    """
    arrivals = rate_per_second / (1 - OUTING_SHARE - STROLL_SHARE)
    for number, time_ms in enumerate(_arrival_times(world.seed, start_ms, arrivals, daily_rhythm=daily_rhythm)):
        if until_ms is not None and time_ms >= until_ms:
            return
        moment = moment_at(world, number, time_ms)
        rng = chance(world.seed, "words", number, time_ms)
        user_id = world.people.ids[moment.user]
        kind = rng.random()
        if kind < OUTING_SHARE:
            yield _visit(world, moment, rng)
            continue
        yield Event(time_ms, USERS_CONTEXT, user_id, _context(world, moment))
        if kind >= OUTING_SHARE + STROLL_SHARE:
            yield Event(time_ms, USERS_REQUESTS, user_id, _request(world, moment, number, rng))


def history(world: World, end_ms: int, *, days: int = 60, visits_per_user_per_day: float = 0.3) -> Iterator[Event]:
    """Yield the visits of the days before a moment in order of event time, so that there are habits to learn."""
    start_ms = end_ms - days * DAY_MS
    rate = visits_per_user_per_day * len(world.people.ids) / 86_400
    for number, time_ms in enumerate(_arrival_times(world.seed, start_ms, rate, daily_rhythm=True)):
        if time_ms >= end_ms:
            return
        moment = moment_at(world, number, time_ms)
        yield _visit(world, moment, chance(world.seed, "past", number, time_ms))


def _arrival_times(seed: int, start_ms: int, rate_per_second: float, *, daily_rhythm: bool) -> Iterator[int]:
    """Yield the times of a Poisson process, thinned to the rhythm of the day."""
    if not 0 < rate_per_second < math.inf:
        raise BadInputError(f"the rate must be above 0 requests a second, not {rate_per_second}")
    rng = chance(seed, "arrivals", start_ms)
    ceiling = rate_per_second / 1000 * (_BUSIEST if daily_rhythm else 1.0)
    time_ms = float(start_ms)
    while True:
        time_ms += rng.expovariate(ceiling)
        hour = int(time_ms + UTC_OFFSET_MS) // HOUR_MS % 24
        if not daily_rhythm or rng.random() * max(_RHYTHM) < _RHYTHM[hour]:
            yield int(time_ms)


def _context(world: World, moment: Moment) -> Context:
    return Context(
        location=location_at(*moment.standing),
        weather=moment.weather,
        temperature=moment.temperature,
        time_zone=TIME_ZONE,
        device=world.people.device[moment.user],
        company=moment.company,
        fields={"daypart": moment.daypart},
    )


def _request(world: World, moment: Moment, number: int, rng: random.Random) -> Request:
    elsewhere = (moment.x, moment.y) != moment.standing
    return Request(
        request_id=request_id_of(world, number, moment.time_ms),
        domain=DOMAIN,
        text=request_text(rng, moment),
        k=K,
        constraints=_constraints(moment, rng) if rng.random() < CONSTRAINED_SHARE else None,
        context=Context(location=location_at(moment.x, moment.y)) if elsewhere else None,
        session_id=session_of(world, moment),
    )


def _constraints(moment: Moment, rng: random.Random) -> Constraints:
    """Return one or two hard filters that the wish itself meets."""
    possible = [
        Constraints(price_max=float(round(moment.budget * 1.5))),
        Constraints(open_at="now"),
        Constraints(max_distance=rng.choice((3000.0, 5000.0) if moment.near else (5000.0, 10000.0))),
    ]
    if moment.cuisine is not None:
        cuisine = CUISINES[moment.cuisine]
        possible.append(Constraints(categories=[cuisine.tags[1 if moment.language == "zh" else 0]]))
    else:
        possible.append(Constraints(exclude_categories=[rng.choice(("bar", "breakfast", "fast food"))]))
    if _VEGETARIAN in moment.attributes:
        possible.append(Constraints(attributes={ATTRIBUTES[_VEGETARIAN].name: True}))
    chosen = rng.sample(possible, rng.choice((1, 1, 2)))
    fields = {name: value for each in chosen for name in each.__struct_fields__ if (value := getattr(each, name))}
    return Constraints(**fields)


def _visit(world: World, moment: Moment, rng: random.Random) -> Event:
    """Return a visit that nobody recommended: to an old favourite, or wherever utility leads."""
    world = world.at(moment.time_ms)
    people, user = world.people, moment.user
    if rng.random() < 0.2 + 0.6 * people.habit[user]:
        favourites = people.favourites[user]
        now_open = world.city.is_open[favourites, slot_of(moment.time_ms)]
        row = rng.choices(favourites.tolist(), (people.fondness[user] * np.where(now_open, 1.0, 0.01)).tolist())[0]
    else:
        row = choose(world, moment, rng)
    feedback = Feedback(item_id=world.city.ids[row], domain=DOMAIN, kind="visit")
    return Event(moment.time_ms, USERS_FEEDBACK, people.ids[user], feedback)
