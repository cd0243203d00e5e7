"""Tastes and places that change: from a moment on, a kind of cooking is out of fashion and a new district is open.

The people and the restaurants are the same as before. What is new: everybody's taste for the cuisines of one family is
``LOST`` lower, a share of the people have moved their work or their home into a district that was not there, and there
are restaurants in it. All that is posted of it are the new items (``openings``); people choose otherwise.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ops.simulator.chance import chances
from ops.simulator.city import build_city
from ops.simulator.events import Event
from ops.simulator.people import People
from ops.simulator.vocabulary import CUISINES, NEW_DISTRICT
from ops.simulator.world import World, populated
from schemas.topics import CATALOG_ITEMS

OUT_OF_FASHION = "spicy"  # family of cuisines
# As much as it takes for a model of the days before to be seen to fall behind.
LOST = 4.0  # units of utility
NEW_SHARE = 1 / 3  # of the restaurants before
WORK_SHARE, HOME_SHARE = 0.7, 0.5  # of the people who move into the new district


def shifted(world: World, at_ms: int) -> World:
    """Return the world in which this happens at an event time, in milliseconds since 1970; before, it is the same."""
    before = len(world.city.ids)
    city = build_city(world.seed, before, opened=max(1, round(before * NEW_SHARE)))
    later = populated(world.seed, city, _moved(world.seed, world.people))
    return replace(world, later=(at_ms, later))


def openings(world: World) -> Iterator[Event]:
    """Yield the restaurants that open when the world shifts."""
    if world.later is None:
        return
    at_ms, later = world.later
    for item_id, item in later.city.items.items():
        if item_id not in world.city.rows:
            yield Event(at_ms, CATALOG_ITEMS, item_id, item)


def _moved(seed: int, people: People) -> People:
    rng, users = chances(seed, "shift"), len(people.ids)
    out = np.array([cuisine.family == OUT_OF_FASHION for cuisine in CUISINES])
    district = np.array((NEW_DISTRICT.x, NEW_DISTRICT.y))

    def moved(places: np.ndarray, share: float) -> np.ndarray:
        new = district + NEW_DISTRICT.spread * rng.normal(0, 1, places.shape)
        return np.where(rng.random((users, 1)) < share, new, places)

    return replace(
        people,
        taste=people.taste - LOST * out,
        work=moved(people.work, WORK_SHARE),
        home=moved(people.home, HOME_SHARE),
    )
