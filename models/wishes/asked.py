"""How well every item fits what was asked for in words."""

from collections.abc import Sequence

import numpy as np

from models.catalogue import Catalogue
from models.constraints import open_rows
from models.wishes.vocabulary import Vocabulary
from schemas.domains import DomainPack
from schemas.records import Context, Wish

KIND_OF = 0.5  # what an item is worth that has a kind of what was asked for, a Caesar salad for a salad
TENDENCY, LANDMARK = 0.5, 0.25  # of vague wishes; one said exactly is worth 1
OTHER_GOALS = 0.1  # what is worth meeting the wishes of another goal as well
_ALTERNATIVES = {"price", "rating", "distance", "open"}
PRICE_SPREAD, RATING_SPREAD = 0.25, 0.1  # how far beside a bound still counts: factor, share of the scale


def asked_part(
    catalogue: Catalogue,
    vocabulary: Vocabulary,
    pack: DomainPack,
    wishes: Sequence[Wish],
    context: Context,
    event_time: int,
) -> np.ndarray:
    """Return for every row [catalogue.size] how well it fits: 1 for each wish that is met.

    A wish that is not met, or of which nothing is known, counts 0; what was to be avoided -1 for every goal. Of several
    prices of one goal the best counts, and so does the goal that is met best; the other goals add a little.
    """
    avoided = np.zeros(catalogue.size)
    goals: dict[int, dict[object, np.ndarray]] = {}
    for number, wish in enumerate(wishes):
        fit = _fit(catalogue, vocabulary, pack, wish, context, event_time)
        if wish.avoid:
            avoided += fit
            continue
        goal = goals.setdefault(wish.goal, {})
        key = wish.kind if wish.kind in _ALTERNATIVES else number
        goal[key] = np.maximum(goal[key], fit) if key in goal else fit
    if not goals:
        return -avoided
    fits = np.stack([np.sum(list(goal.values()), axis=0) for goal in goals.values()])
    best = fits.max(axis=0)
    total: np.ndarray = best + OTHER_GOALS * (fits.sum(axis=0) - best) - avoided
    return total


def _fit(
    catalogue: Catalogue, vocabulary: Vocabulary, pack: DomainPack, wish: Wish, context: Context, event_time: int
) -> np.ndarray:
    size = catalogue.size
    match wish.kind:
        case "price":
            return _price(catalogue.price[:size], wish.low, wish.high)
        case "cheap" | "dear":
            share = _share_below(catalogue, pack, catalogue.price[:size])
            return _known(TENDENCY * (1 - share if wish.kind == "cheap" else share))
        case "rating":
            short = np.maximum((wish.low or 0.0) - vocabulary.ratings(size), 0.0) / pack.wishes.rating_scale
            return _known(np.exp(-short / RATING_SPREAD))
        case "well_rated":
            return _known(TENDENCY * _share_below(catalogue, pack, vocabulary.ratings(size)))
        case "distance" | "near":
            if context.location is None:
                return np.zeros(size)
            metres = catalogue.metres_from(context.location)
            if wish.high is None:
                return _known(TENDENCY * np.exp(-metres / pack.near_metres))
            beyond = np.maximum(metres / wish.high, 1.0) - 1
            return _known(np.exp(-beyond / PRICE_SPREAD))
        case "open":
            moment = event_time if wish.low is None else int(wish.low)
            return open_rows(catalogue, moment, context.time_zone).astype(np.float64)
        case "category" | "attribute" | "landmark" | "item":
            return _words(size, vocabulary, wish)


def _price(price: np.ndarray, low: float | None, high: float | None) -> np.ndarray:
    """Return 1 within the bounds, falling outside with the factor by which the price is beyond; 0 where unknown."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        above = np.log(price / high) if high else np.zeros(len(price))
        below = np.log(low / price) if low else np.zeros(len(price))
    beyond = np.maximum(np.maximum(above, below), 0.0)
    return np.where(np.isnan(price), 0.0, np.exp(-beyond / PRICE_SPREAD))


def _share_below(catalogue: Catalogue, pack: DomainPack, values: np.ndarray) -> np.ndarray:
    """Return the share of the domain's items that have a lower value, from 0 to 1; NaN where that is unknown."""
    ours = catalogue.domain[: catalogue.size] == catalogue.domain_code.get(pack.name, -1)
    known = np.sort(values[ours & ~np.isnan(values)])
    if len(known) < 2:
        return np.full(len(values), np.nan)
    below, up_to = np.searchsorted(known, values, "left"), np.searchsorted(known, values, "right")
    share = np.clip((below + up_to - 1) / (2 * len(known) - 2), 0.0, 1.0)
    return np.where(np.isnan(values), np.nan, share)


def _words(size: int, vocabulary: Vocabulary, wish: Wish) -> np.ndarray:
    told = {"landmark": {"landmark"}, "item": {"name"}}.get(wish.kind, {"category", "value", "flag"})
    kinds = {key for value in wish.values for key in vocabulary.kinds(value)} if len(told) > 1 else set()
    fit = np.zeros(size)
    for keys, worth in ((kinds, KIND_OF), (wish.values, LANDMARK if wish.kind == "landmark" else 1.0)):
        uses = (use for key in keys for use in vocabulary.uses.get(key, {}).items())
        rows: set[int] = set().union(*(rows for use, rows in uses if use.kind in told))
        fit[np.fromiter(rows, np.int64, len(rows))] = worth
    return fit


def _known(fit: np.ndarray) -> np.ndarray:
    """Return a fit with 0 where it is unknown."""
    return np.where(np.isnan(fit), 0.0, fit)
