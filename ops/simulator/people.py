"""The people of the city and what they prefer. None of it is ever posted."""

from dataclasses import dataclass

import numpy as np

from ops.simulator.chance import chances
from ops.simulator.city import City, Floats, Rows
from ops.simulator.vocabulary import ATTRIBUTES, CUISINES, DAYPARTS, DISTRICTS, FAMILIES

FAVOURITES = 6
DEVICES = ("android", "ios", "desktop")


@dataclass(frozen=True)
class People:
    """Hidden preferences; every array has one row per user."""

    ids: list[str]
    rows: dict[str, int]  # id -> row
    taste: Floats  # [n, cuisines]
    comfort: Floats  # log of the price per head, CNY, of an ordinary dinner
    tolerance: Floats  # metres that cost one unit of utility
    calm: Floats  # positive: likes quiet places, negative: lively ones
    whims: Floats  # [n, attributes] odds of asking for each
    habit: Floats  # 0 to 1, how much favourites count
    weather: Floats  # 0 to about 3, how much rain and cold change the choice
    chinese: Floats  # share of requests in Chinese
    device: list[str]
    home: Floats  # [n, 2] metres from the centre
    work: Floats  # [n, 2]
    activity: Floats  # [n, dayparts] how often they ask
    favourites: Rows  # [n, FAVOURITES] restaurants
    fondness: Floats  # [n, FAVOURITES] 1 for the first, falling


def build_people(seed: int, users: int, city: City) -> People:
    """Return the people of a seed, with favourites among the restaurants of the city."""
    rng = chances(seed, "people", users)
    family = np.array([FAMILIES.index(each.family) for each in CUISINES])
    taste = rng.normal(0, 0.8, (users, len(FAMILIES)))[:, family] + rng.normal(0, 0.7, (users, len(CUISINES)))
    whims = np.array([each.likelihood for each in ATTRIBUTES]) ** 0.3 * rng.lognormal(0, 0.7, (users, len(ATTRIBUTES)))
    comfort = np.log(85) + rng.normal(0, 0.5, users)
    tolerance = rng.lognormal(np.log(1500), 0.5, users)
    home = _places(rng, users, np.array([each.homes for each in DISTRICTS]), 1.6)
    work = _places(rng, users, np.array([each.offices for each in DISTRICTS]), 0.8)
    ids = [f"u{number:06d}" for number in range(users)]
    favourites = np.stack(
        [_favourites(rng, city, taste[row], comfort[row], tolerance[row], home[row], work[row]) for row in range(users)]
    )
    return People(
        ids=ids,
        rows={user_id: row for row, user_id in enumerate(ids)},
        taste=taste,
        comfort=comfort,
        tolerance=tolerance,
        calm=rng.normal(0, 0.6, users),
        whims=whims,
        habit=rng.beta(2, 2, users),
        weather=rng.gamma(2, 0.4, users),
        chinese=rng.choice((0.03, 0.5, 0.97), users, p=(0.2, 0.2, 0.6)),
        device=[DEVICES[index] for index in rng.choice(len(DEVICES), users, p=(0.5, 0.4, 0.1))],
        home=home,
        work=work,
        activity=rng.lognormal(0, 0.6, (users, 1)) * rng.gamma(1.5, 1, (users, len(DAYPARTS))),
        favourites=favourites,
        fondness=np.tile(1 / np.sqrt(1 + np.arange(favourites.shape[1])), (users, 1)),
    )


def _places(rng: np.random.Generator, users: int, weights: Floats, spread: float) -> Floats:
    centres = np.array([(each.x, each.y) for each in DISTRICTS])
    spreads = np.array([each.spread for each in DISTRICTS])
    chosen = rng.choice(len(DISTRICTS), users, p=weights / weights.sum())
    places: Floats = centres[chosen] + rng.normal(0, 1, (users, 2)) * spreads[chosen, None] * spread
    return places


def _favourites(
    rng: np.random.Generator, city: City, taste: Floats, comfort: float, tolerance: float, home: Floats, work: Floats
) -> Rows:
    """Return places near home or work that suit the user, best first, drawn without replacement."""
    anchors = np.stack((home, work))
    distance = np.min(np.hypot(*(city.place[:, None] - anchors).transpose(2, 0, 1)), axis=1)
    appeal = taste[city.cuisine] + city.quality - np.abs(city.log_price - comfort) - distance / tolerance
    chosen = np.argsort(appeal + rng.gumbel(0, 0.5, len(appeal)))[::-1]
    return chosen[: min(FAVOURITES, len(chosen))]
