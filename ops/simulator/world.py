"""The simulated world: weather, and who asks for what, where and when, as a function of seed, number and time alone."""

import bisect
import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np

from ops.simulator.chance import chance
from ops.simulator.city import UTC_OFFSET_MS, City, attribute_row, build_city, slot_of
from ops.simulator.people import People, build_people
from ops.simulator.vocabulary import (
    ATTRIBUTES,
    COMPANIES,
    CUISINES,
    DAYPARTS,
    DISTRICTS,
    Company,
    Daypart,
    Weather,
)
from schemas.domains import Language
from schemas.errors import BadInputError

HOUR_MS = 3600 * 1000
DAY_MS = 24 * HOUR_MS

_COMPANY_ODDS: dict[Daypart, tuple[float, ...]] = {  # alone, couple, friends, family, business
    "morning": (70, 8, 6, 14, 2),
    "noon": (40, 10, 25, 10, 15),
    "afternoon": (30, 25, 30, 12, 3),
    "evening": (18, 22, 28, 22, 10),
    "night": (25, 20, 48, 4, 3),
}
_DAYPART_BUDGET: dict[Daypart, float] = {"morning": 0.25, "noon": 0.6, "afternoon": 0.5, "evening": 1.2, "night": 0.8}
_COMPANY_BUDGET: dict[Company, float] = {"alone": 0.75, "couple": 1.4, "friends": 1.1, "family": 1.1, "business": 1.9}
# What a situation makes people ask for: attribute -> factor on their own odds.
_SITUATION_WHIMS: dict[Company | Weather, dict[str, float]] = {
    "alone": {"good for work": 2.5, "kid friendly": 0.02, "private rooms": 0.02},
    "couple": {"cosy": 4, "river view": 4, "quiet": 2, "live music": 2, "kid friendly": 0.05},
    "friends": {"lively": 4, "live music": 2, "good for work": 0.2, "kid friendly": 0.1},
    "family": {"kid friendly": 6, "private rooms": 2, "good for work": 0.1},
    "business": {"private rooms": 6, "quiet": 4, "pet friendly": 0.05, "kid friendly": 0.05},
    "rain": {"cosy": 2.5, "outdoor seats": 0.02},
    "snow": {"cosy": 3, "outdoor seats": 0.02},
    "cold": {"cosy": 2, "outdoor seats": 0.05},
    "hot": {"air conditioned": 8, "outdoor seats": 0.5},
    "sunny": {"outdoor seats": 3},
    "cloudy": {},
}


@dataclass(frozen=True)
class World:
    """A city and its people. ``asking`` has, per daypart, the users' cumulative shares of what is asked in it.

    ``later``, if there is one, is what the world becomes at an event time (``shift.py``): restaurants may open, and
    people may change, but row numbers and ids stay.
    """

    seed: int
    city: City
    people: People
    asking: list[list[float]]
    serving: list[list[float]]  # per daypart, the share of each cuisine's places that are open
    situation_whims: dict[Company | Weather, list[float]]  # factor per attribute
    later: "tuple[int, World] | None" = None

    def at(self, time_ms: int) -> "World":
        """Return the world as it is at an event time."""
        return self.later[1] if self.later is not None and time_ms >= self.later[0] else self


@dataclass(frozen=True, slots=True)
class Moment:
    """The hidden truth behind one request (or outing): who, when, where, in which weather, wanting what."""

    user: int
    time_ms: int
    x: float  # where the meal should be, metres from the centre
    y: float
    standing: tuple[float, float]  # where the user is; elsewhere only when planning ahead
    weather: Weather
    temperature: float
    company: Company
    daypart: Daypart
    language: Language
    cuisine: int | None  # wished for, index into CUISINES
    attributes: tuple[int, ...]  # wished for, indexes into ATTRIBUTES
    budget: float  # CNY per head
    near: bool  # wants something close by


def build_world(seed: int = 1, *, users: int = 3_000, restaurants: int = 2_000) -> World:
    """Return the world of a seed.

    Raises:
        ValueError: no users or no restaurants.

    """
    if users < 1 or restaurants < 1:
        raise BadInputError(f"a world needs at least one user and one restaurant, not {users} and {restaurants}")
    city = build_city(seed, restaurants)
    return populated(seed, city, build_people(seed, users, city))


def populated(seed: int, city: City, people: People) -> World:
    """Return the world of a city and its people."""
    cumulative = np.cumsum(people.activity / people.activity.sum(axis=0), axis=0)
    situations: dict[Company | Weather, list[float]] = {}
    for situation, factors in _SITUATION_WHIMS.items():
        situations[situation] = [1.0] * len(ATTRIBUTES)
        for name, factor in factors.items():
            situations[situation][attribute_row(name)] = factor
    return World(
        seed=seed,
        city=city,
        people=people,
        asking=[column.tolist() for column in cumulative.T],
        serving=[_serving(city, daypart) for daypart in DAYPARTS],
        situation_whims=situations,
    )


def daypart_at(hour: int) -> Daypart:
    """Return the part of the day that a local hour belongs to."""
    if 5 <= hour < 10:
        return "morning"
    if 10 <= hour < 14:
        return "noon"
    if 14 <= hour < 17:
        return "afternoon"
    return "evening" if 17 <= hour < 21 else "night"


def _serving(city: City, daypart: Daypart) -> list[float]:
    slots = [slot for slot in range(city.is_open.shape[1]) if daypart_at(slot // 2 % 24) == daypart]
    share = city.is_open[:, slots].mean(axis=1)
    return [
        float(share[city.cuisine == index].mean()) if (city.cuisine == index).any() else 0.0
        for index in range(len(CUISINES))
    ]


_NEXT_SKY = {"sunny": (85, 13, 2), "cloudy": (15, 70, 15), "rain": (3, 27, 70)}
_SKIES = ("sunny", "cloudy", "rain")


@lru_cache(maxsize=400)
def _weather_of_day(seed: int, day: int) -> tuple[tuple[Weather, float], ...]:
    """Return the sky and the temperature (Celsius) of each hour: a Markov chain that starts anew every midnight."""
    rng = chance(seed, "weather", day)
    day_of_year = datetime.fromtimestamp(day * 86_400, UTC).timetuple().tm_yday
    mean = 17 + 12 * math.sin(2 * math.pi * (day_of_year - 110) / 365) + rng.gauss(0, 3)
    sky = rng.choices(_SKIES, (45, 33, 22))[0]
    hours: list[tuple[Weather, float]] = []
    for hour in range(24):
        temperature = round(mean + 4 * math.sin((hour - 9) / 12 * math.pi) - 2 * (sky == "rain"), 1)
        weather: Weather
        if sky == "rain":
            weather = "snow" if temperature <= 0 else "rain"
        elif temperature >= 32:
            weather = "hot"
        elif temperature <= 3:
            weather = "cold"
        else:
            weather = "sunny" if sky == "sunny" else "cloudy"
        hours.append((weather, temperature))
        sky = rng.choices(_SKIES, _NEXT_SKY[sky])[0]
    return tuple(hours)


def weather_at(world: World, time_ms: int) -> tuple[Weather, float]:
    """Return the weather and the temperature (Celsius) everywhere in the city in the hour of a moment."""
    local = time_ms + UTC_OFFSET_MS
    return _weather_of_day(world.seed, local // DAY_MS)[local // HOUR_MS % 24]


def moment_at(world: World, number: int, time_ms: int) -> Moment:
    """Return what the number-th arrival of a run wants, given the event time at which it comes."""
    world = world.at(time_ms)
    rng = chance(world.seed, "moment", number, time_ms)
    people = world.people
    slot = slot_of(time_ms)
    hour, weekend = slot // 2 % 24, slot >= 5 * 48
    daypart = daypart_at(hour)
    part = DAYPARTS.index(daypart)
    user = min(bisect.bisect(world.asking[part], rng.random()), len(people.ids) - 1)
    weather, temperature = weather_at(world, time_ms)
    company = rng.choices(COMPANIES, _COMPANY_ODDS[daypart])[0]
    if weekend and company == "business":
        company = "family"
    standing = _whereabouts(rng, people, user, hour, weekend=weekend)
    place = _somewhere(rng) if rng.random() < 0.04 else standing
    cuisine = _wished_cuisine(rng, world, user, part) if rng.random() < 0.6 else None
    log_budget = people.comfort[user] + math.log(_DAYPART_BUDGET[daypart] * _COMPANY_BUDGET[company])
    if cuisine is not None:
        log_budget = 0.4 * log_budget + 0.6 * math.log(CUISINES[cuisine].price)
    return Moment(
        user=user,
        time_ms=time_ms,
        x=place[0],
        y=place[1],
        standing=standing,
        weather=weather,
        temperature=temperature,
        company=company,
        daypart=daypart,
        language="zh" if rng.random() < people.chinese[user] else "en",
        cuisine=cuisine,
        attributes=_wished_attributes(rng, world, user, (company, weather)),
        budget=max(10.0, math.exp(log_budget + rng.gauss(0, 0.15))),
        near=rng.random() < (0.5 if weather in ("rain", "snow") else 0.25),
    )


def request_id_of(world: World, number: int, time_ms: int) -> str:
    """Return the id of a run's number-th arrival; with the world, it is all one needs to know what the user wants."""
    return f"sim-{world.seed}-{time_ms}-{number}"


def moment_of(world: World, request_id: str) -> Moment:
    """Return the hidden truth behind a request.

    Raises:
        ValueError: the request was not made by this world.

    """
    prefix, _, rest = request_id.partition("-")
    parts = rest.split("-")
    if prefix != "sim" or len(parts) != 3 or not all(part.isdecimal() for part in parts) or int(parts[0]) != world.seed:
        raise BadInputError(f"request {request_id!r} was not made by the simulator with seed {world.seed}")
    return moment_at(world, number=int(parts[2]), time_ms=int(parts[1]))


def session_of(world: World, moment: Moment) -> str:
    """Return the id of the user's session: what one user does within an hour."""
    return f"{world.people.ids[moment.user]}-{moment.time_ms // 3_600_000}"


def _whereabouts(rng: random.Random, people: People, user: int, hour: int, *, weekend: bool) -> tuple[float, float]:
    at_work, at_home = (0.75, 0.15) if 9 <= hour < 18 and not weekend else (0.12, 0.58)
    draw = rng.random()
    if draw < at_work:
        x, y = people.work[user].tolist()
    elif draw < at_work + at_home:
        x, y = people.home[user].tolist()
    else:
        x, y = _somewhere(rng)
    return x + rng.gauss(0, 100), y + rng.gauss(0, 100)


def _somewhere(rng: random.Random) -> tuple[float, float]:
    district = rng.choices(DISTRICTS, _DISTRICT_WEIGHTS)[0]
    return rng.gauss(district.x, district.spread), rng.gauss(district.y, district.spread)


_DISTRICT_WEIGHTS = [district.restaurants for district in DISTRICTS]


def _wished_cuisine(rng: random.Random, world: World, user: int, part: int) -> int:
    weights = [
        math.exp(taste) * serving + 1e-9
        for taste, serving in zip(world.people.taste[user].tolist(), world.serving[part], strict=True)
    ]
    return rng.choices(range(len(weights)), weights)[0]


def _wished_attributes(
    rng: random.Random, world: World, user: int, situations: tuple[Company, Weather]
) -> tuple[int, ...]:
    draw = rng.random()
    if draw < 0.4:
        return ()
    weights = world.people.whims[user].tolist()
    for situation in situations:
        weights = [weight * factor for weight, factor in zip(weights, world.situation_whims[situation], strict=True)]
    first = rng.choices(range(len(weights)), weights)[0]
    if draw < 0.8:
        return (first,)
    second = rng.choices(range(len(weights)), weights)[0]
    return (first,) if second == first or {first, second} == _OPPOSITES else (first, second)


_OPPOSITES = {attribute_row("quiet"), attribute_row("lively")}
