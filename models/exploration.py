"""Exploration: a ranked list is shown in a slightly random order, and how likely each placing was is logged.

The **propensity** of a shown item is the probability, given the request, that the policy shows this item at this
place, whatever the places before hold: the per-place marginal. It is what the item-position estimators of
``off_policy`` divide by. (The product of the places' conditional probabilities would be the probability of the whole
list; for lists of ten those are so small that nothing can be estimated with them.)

- ``epsilon``: each place, from the top, goes to the best item left, or with probability epsilon to any of those left.
- ``softmax``: Plackett-Luce, each place goes to an item left with probability proportional to exp(score / temperature);
  drawn by Gumbel-top-k (Kool et al., "Stochastic beams and where to find them", ICML 2019).

Chance is a hash of a key, in serving that of the model's version and the request id, so a replay gives the same list.
Only the order changes: scores and reasons stay.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.errors import BadInputError
from schemas.records import RecommendedItem

Array = NDArray[np.float64]

MAX_TOP = 1_000
LEAST_WEIGHT = 1e-8  # of an item in a softmax, relative to the best: what takes part can be shown
LEAST_PROPENSITY = 1e-300  # a shown item's is above 0 by the contract, whatever rounding does


@dataclass(frozen=True)
class Exploration:
    """One domain's exploration policy.

    Raises:
        BadInputError: a value is out of range.

    """

    method: Literal["off", "epsilon", "softmax"] = "off"
    top: int = 20  # how many of the best items take part; those after them keep their places
    epsilon: float = 0.1  # 0 to 1
    temperature: float = 0.5  # in units of the score, above 0
    seed: int = 0  # another seed, other lists

    def __post_init__(self) -> None:
        if self.method not in {"off", "epsilon", "softmax"}:
            raise BadInputError(f"exploration method {self.method!r}: there are off, epsilon and softmax")
        if not 1 <= self.top <= MAX_TOP:
            raise BadInputError(f"exploration over the top {self.top} items: from 1 to {MAX_TOP}")
        if not 0 <= self.epsilon <= 1:
            raise BadInputError(f"exploration epsilon {self.epsilon}: a probability from 0 to 1")
        if not 0 < self.temperature < np.inf:
            raise BadInputError(f"exploration temperature {self.temperature}: a finite number above 0")


OFF = Exploration()


def explore(
    items: Sequence[RecommendedItem], policy: Exploration, key: str, places: int | None = None
) -> list[RecommendedItem]:
    """Return the list to show: ``places`` of the items, each with its propensity.

    Args:
        items: ranked, best first; as many as take part, or more.
        policy: how to explore. Off returns the first items as they are.
        key: with the policy's seed, all that chance depends on.
        places: length of the list; by default that of ``items``.

    """
    places = len(items) if places is None else min(places, len(items))
    if policy.method == "off":
        return list(items[:places])
    order, propensities = draw([item.score for item in items], policy, key, places)
    return [
        msgspec.structs.replace(items[rank], propensity=propensity)
        for rank, propensity in zip(order, propensities, strict=True)
    ]


def draw(scores: Sequence[float] | Array, policy: Exploration, key: str, places: int) -> tuple[list[int], list[float]]:
    """Return which item, by its rank from 0, is at each of the places, and each one's propensity.

    For a caller that has scores, best first, and makes items only of what is shown.
    """
    places = min(places, len(scores))
    top = min(policy.top, len(scores))
    drawn = min(places, top)
    if policy.method == "off" or drawn == 0:
        return list(range(places)), [1.0] * places
    if policy.method == "epsilon":
        shown = _epsilon_order(_uniforms(policy.seed, key, 2 * drawn).tolist(), top, policy.epsilon)
        propensity = _epsilon_marginals(top, drawn, policy.epsilon)[shown, range(drawn)]
    else:
        weights = _weights(np.asarray(scores[:top], np.float64), policy.temperature)
        # The order of arrival of exponential clocks is that of Plackett-Luce, and of log weights with Gumbel noise.
        arrival = -np.log(_uniforms(policy.seed, key, top)) / weights
        shown = np.argsort(arrival, kind="stable")[:drawn].tolist()
        propensity = _softmax_marginals(weights, shown, drawn)[range(drawn), range(drawn)]
    rest = range(drawn, places)
    return [*shown, *rest], [*np.clip(propensity, LEAST_PROPENSITY, 1.0).tolist(), *([1.0] * len(rest))]


def marginals(scores: Sequence[float] | Array, policy: Exploration, places: int) -> Array:
    """Return the probability [items, places] that each item, ranked best first, is shown at each place."""
    places = min(places, len(scores))
    top = min(policy.top, len(scores))
    drawn = min(places, top)
    result = np.eye(len(scores), places)
    if policy.method == "off" or drawn == 0:
        return result
    if policy.method == "epsilon":
        result[:top, :drawn] = _epsilon_marginals(top, drawn, policy.epsilon)
    else:
        weights = _weights(np.asarray(scores[:top], np.float64), policy.temperature)
        result[:top, :drawn] = _softmax_marginals(weights, list(range(top)), drawn)
    return result


def _uniforms(seed: int, key: str, count: int) -> Array:
    """Return numbers between 0 and 1, neither of them, that every version of every library agrees on."""
    bits = hashlib.shake_128(f"{seed}/{key}".encode()).digest(8 * count)
    uniforms: Array = ((np.frombuffer(bits, "<u8") >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return uniforms


def _epsilon_order(uniforms: list[float], top: int, epsilon: float) -> list[int]:
    left = list(range(top))
    return [
        left.pop(int(pick * len(left)) if coin < epsilon else 0)
        for coin, pick in zip(uniforms[::2], uniforms[1::2], strict=True)
    ]


@lru_cache(maxsize=64)
def _epsilon_marginals(top: int, places: int, epsilon: float) -> Array:
    """Return the probability [top, places] of each rank at each place.

    For one rank all that matters is how many of those above it are left: a Markov chain from place to place.
    """
    above = np.arange(top)
    chain = np.eye(top)  # [rank, above left]: the probability of that many, and of the rank not being shown yet
    result = np.empty((top, places))
    for place in range(places):
        left = top - place
        result[:, place] = epsilon / left * chain.sum(axis=1) + (1 - epsilon) * chain[:, 0]
        one_less = chain * np.where(above > 0, (1 - epsilon) + epsilon * above / left, 0.0)
        chain = chain * (epsilon * np.maximum(left - 1 - above, 0) / left)
        chain[:, :-1] += one_less[:, 1:]
    result.setflags(write=False)
    return result


def _weights(scores: Array, temperature: float) -> Array:
    weights = np.maximum(np.exp((scores - scores.max()) / temperature), LEAST_WEIGHT)
    normalised: Array = weights / weights.sum()
    return normalised


def _softmax_marginals(weights: Array, of: Sequence[int], places: int) -> Array:
    """Return the probability [len(of), places] of each of some items at each place.

    Item i's clock rings at an exponential time of rate w_i, and the rings' order is Plackett-Luce. Given that i rings
    at t, how many rang before is a sum of independent coins (Poisson binomial), so

        P(i at place k) = integral over t of  w_i exp(-w_i t) P(k of the others have rung by t)

    by the trapezoidal rule in y, t = exp(y - exp(-y)) (double exponential, Takahasi and Mori 1974), whose error falls
    exponentially with the number of steps; relatively below 1e-6 here. All terms are positive, so nothing cancels.
    """
    # From some time on, more than `places` have surely rung: the slowest that would have to wait decide when.
    slowest = np.sort(weights)[: len(weights) - places + 1].sum()
    step = 0.9 / np.sqrt(places + 2)
    y = np.arange(-3.6, np.log(40 / slowest) + 1, step)
    decay = np.exp(-y)
    time = np.exp(y - decay)
    silent = np.exp(-weights[:, None] * time)  # [items, times]
    rung = 1 - silent
    room = np.empty((places - 1, len(time)))

    def add(counts: Array, items: Sequence[int]) -> Array:
        """Return the probability [places, times] of each count, with more items among those counted."""
        counts = counts.copy()
        for item in items:
            np.multiply(counts[:-1], rung[item], out=room)
            counts *= silent[item]
            counts[1:] += room
        return counts

    density = weights[:, None] * silent * (time * (1 + decay) * step)
    result = np.empty((len(of), places))

    def leave_one_out(counts: Array, first: int, last: int) -> None:
        """Fill in ``result`` for of[first:last], all items but which are in ``counts``: a product by halves."""
        if last - first == 1:
            result[first] = counts @ density[of[first]]
            return
        middle = (first + last) // 2
        leave_one_out(add(counts, of[middle:last]), first, middle)
        leave_one_out(add(counts, of[first:middle]), middle, last)

    none = np.zeros((places, len(time)))
    none[0] = 1.0
    leave_one_out(add(none, sorted(set(range(len(weights))) - set(of))), 0, len(of))
    return result
