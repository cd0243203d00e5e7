"""How people choose: the utility of every restaurant, the exact click probability, and the reaction to a list.

README.md has the formulas. Everything here is a function of the world, the request id and the list alone.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ops.simulator.chance import chance
from ops.simulator.city import DOMAIN, Floats, Rows, attribute_row, slot_of
from ops.simulator.world import Moment, World, moment_of, session_of
from schemas.records import Feedback

SCROLLING = 0.8  # probability of looking at the next position, having looked at this one
CLICK_OFFSET = 2.2  # utility at which a place looked at is clicked half of the time
CHOOSE_OFFSET = 2.0  # utility at which a clicked place is gone to half of the time
RATING_SHARE = 0.3
DISMISSAL_SHARE = 0.06

_QUIET, _LIVELY, _OUTDOOR = (attribute_row(name) for name in ("quiet", "lively", "outdoor seats"))
_BAD_WEATHER = {"rain": 1.0, "snow": 1.2, "cold": 0.5, "hot": 0.5}


ALL = slice(None)


def utility(world: World, moment: Moment, rows: Rows | slice = ALL) -> Floats:
    """Return how good each restaurant truly is for this wish: [len(rows)], by default all of them."""
    world = world.at(moment.time_ms)
    city, people, user = world.city, world.people, moment.user
    has = city.has[rows]
    cuisine = city.cuisine[rows]
    bad_weather = _BAD_WEATHER.get(moment.weather, 0.0) * people.weather[user]

    value = people.taste[user][cuisine] + city.quality[rows]
    if moment.cuisine is not None:
        value = value + np.where(cuisine == moment.cuisine, 2.0, -1.5)
    if moment.attributes:
        value = value + (1.6 * has[:, list(moment.attributes)] - 0.8).sum(axis=1)
    value = value + people.calm[user] * (has[:, _QUIET] - has[:, _LIVELY])

    dearer = city.log_price[rows] - math.log(moment.budget)
    value = value - np.where(dearer > 0, 2.0, -0.7) * dearer

    distance = np.hypot(city.place[rows, 0] - moment.x, city.place[rows, 1] - moment.y)
    value = value - distance / people.tolerance[user] * (2.0 if moment.near else 1.0) * (1 + 0.5 * bad_weather)

    cold = max(-1.0, min(1.0, (18 - moment.temperature) / 15))
    value = value + people.weather[user] * cold * city.warming[rows]
    value = value + has[:, _OUTDOOR] * (0.5 if moment.weather == "sunny" else -bad_weather)

    familiar = np.zeros(len(city.ids))
    familiar[people.favourites[user]] = people.fondness[user]
    value = value + 2.5 * people.habit[user] * familiar[rows]
    result: Floats = value - 5.0 * ~city.is_open[rows, slot_of(moment.time_ms)]
    return result


def choose(world: World, moment: Moment, rng: random.Random) -> int:
    """Return the row of the restaurant that the user goes to: with probability proportional to exp(utility)."""
    value = utility(world, moment)
    cumulative = np.cumsum(np.exp(value - value.max()))
    return min(int(np.searchsorted(cumulative, rng.random() * cumulative[-1])), len(cumulative) - 1)


def examination(position: int) -> float:
    """Return the probability that a position, counted from 0, is looked at."""
    return float(SCROLLING**position)


def _logistic(value: float) -> float:
    if value < 0:  # the form that does not overflow
        return math.exp(value) / (1 + math.exp(value))
    return 1 / (1 + math.exp(-value))


def click_probability(world: World, request_id: str, item_id: str, position: int) -> float:
    """Return the exact probability that the item is clicked when shown at a position, counted from 0.

    An item that is not in the simulated city is looked at and never clicked.

    Raises:
        ValueError: the request was not made by this world, or the position is negative.

    """
    if position < 0:
        raise ValueError(f"position {position}; positions count from 0")
    return click_probabilities(world, moment_of(world, request_id), [item_id], first_position=position)[0]


def click_probabilities(
    world: World, moment: Moment, item_ids: Sequence[str], *, first_position: int = 0
) -> list[float]:
    """Return the exact click probability of each item of a list that starts at a position."""
    return [
        examination(position) * attraction
        for position, attraction in enumerate(attractions(world, moment, item_ids), start=first_position)
    ]


def attractions(world: World, moment: Moment, item_ids: Sequence[str]) -> list[float]:
    """Return the exact probability that each item is clicked if it is looked at."""
    return [_logistic(value - CLICK_OFFSET) for value in _utilities(world, moment, item_ids)]


def _utilities(world: World, moment: Moment, item_ids: Sequence[str]) -> list[float]:
    rows = world.at(moment.time_ms).city.rows
    known = np.array([rows[item] for item in item_ids if item in rows], dtype=np.int64)
    values = iter(utility(world, moment, known).tolist())
    return [next(values) if item in rows else -math.inf for item in item_ids]


@dataclass(frozen=True, slots=True)
class Action:
    """A reaction, so many milliseconds after the list was seen."""

    delay_ms: int
    feedback: Feedback


def react(world: World, request_id: str, item_ids: Sequence[str]) -> list[Action]:
    """Return what the user does with a list, in order of time: a function of seed, request id and list alone.

    Chance is drawn per request and item, so two rankings of the same items are judged by the same mood.

    Raises:
        ValueError: the request was not made by this world.

    """
    moment = moment_of(world, request_id)
    rng = chance(world.seed, "look", request_id)
    # P(seen > p) = P(draw < SCROLLING^p) = examination(p)
    seen = 1 + math.floor(math.log(1 - rng.random()) / math.log(SCROLLING))
    gone = False
    clock = 300
    actions: list[Action] = []

    def act(item_id: str, kind: str, rating: float | None = None) -> None:
        feedback = Feedback(
            item_id=item_id,
            domain=DOMAIN,
            kind=kind,  # type: ignore[arg-type]
            request_id=request_id,
            session_id=session_of(world, moment),
            rating=rating,
        )
        actions.append(Action(clock, feedback))

    for item_id, value in zip(item_ids[:seen], _utilities(world, moment, item_ids[:seen]), strict=True):
        rng = chance(world.seed, "reaction", request_id, item_id)
        act(item_id, "impression")
        clock += 200 + int(rng.expovariate(1 / 400))
        click, choose, dismiss = rng.random(), rng.random(), rng.random()
        if click < _logistic(value - CLICK_OFFSET):
            act(item_id, "click")
            clock += 1000 + int(rng.expovariate(1 / 2000))
            if not gone and choose < _logistic(value - CHOOSE_OFFSET):
                gone = True
                act(item_id, "booking" if moment.company == "business" or rng.random() < 0.2 else "visit")
                clock += 1000 + int(rng.expovariate(1 / 2000))
                if rng.random() < RATING_SHARE:
                    act(item_id, "rating", round(_logistic(value - 2 + rng.gauss(0, 0.7)), 2))
        elif dismiss < DISMISSAL_SHARE * (1 - _logistic(value)):
            act(item_id, "dismissal")
    return actions
