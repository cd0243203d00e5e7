"""What a served score promises: the probability that an item shown with it, at its place, is acted on.

A ranker's scores only say what is better than what. Platt scaling (Platt, "Probabilistic outputs for support vector
machines", 1999) makes probabilities of them. A place further down is looked at less, whatever is there, so the place is
a term beside the score:

    P(acted on | score, position) = 1 / (1 + exp(-(intercept + slope * score - fade * ln(1 + position))))

The slope is never negative: a better score promises no less. The three numbers go into the training manifest.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from schemas.records import Shown

LEAST_ACTIONS = 30  # to fit three numbers to
HELD = 1e-3  # how strongly numbers that the lists say nothing about are held at 0: as much as a thousandth of an item

Array = NDArray[np.float64]


class Calibration(msgspec.Struct, frozen=True):
    """What a training manifest keeps: JSON through ``msgspec``."""

    intercept: float
    slope: float  # per unit of score, at least 0
    fade: float  # per natural logarithm of 1 + position

    def promised(self, scores: Sequence[float], positions: Sequence[int]) -> list[float]:
        """Return the probability of an action on each item shown with these scores at these positions, from 0."""
        weights = np.array([self.intercept, self.slope, self.fade])
        found: list[float] = _logistic(_terms(scores, positions) @ weights).tolist()
        return found


def calibrate(scores: Sequence[Sequence[float | None]], lists: Sequence[Sequence[Shown]]) -> Calibration | None:
    """Return what fits lists that were shown; None if too little was done with their items, or left, to tell.

    Args:
        scores: of the items of each list; those of items that the model would not score now are None and left out.
        lists: what was shown and done, by list.

    """
    pairs = [
        (score, shown)
        for several, places in zip(scores, lists, strict=True)
        for score, shown in zip(several, places, strict=True)
        if score is not None
    ]
    acted = np.array([shown.label > 0 for _, shown in pairs], np.float64)
    if min(acted.sum(), len(acted) - acted.sum()) < LEAST_ACTIONS:
        return None
    terms = _terms([score for score, _ in pairs], [shown.position for _, shown in pairs])
    weights = _fit(terms, acted)
    if weights[1] < 0:
        terms[:, 1] = 0.0
        weights = _fit(terms, acted)
    return Calibration(*weights.round(6).tolist())


def promised(calibration: Calibration | None, scores: Sequence[float | None], shown: Sequence[Shown]) -> list[float]:
    """Return the probability of an action on each item of a list; none where one is not known."""
    known = [score for score in scores if score is not None]
    if calibration is None or len(known) < len(shown):
        return []
    return calibration.promised(known, [each.position for each in shown])


def _terms(scores: Sequence[float], positions: Sequence[int]) -> Array:
    return np.stack([np.ones(len(scores)), np.array(scores), -np.log1p(positions)], axis=1)


def _logistic(values: Array) -> Array:
    spread: Array = 1 / (1 + np.exp(-np.clip(values, -500, 500)))
    return spread


def _fit(terms: Array, acted: Array) -> Array:
    """Return the weights [3] of greatest likelihood."""
    rate = acted.mean()

    def loss(weights: Array) -> float:
        values = terms @ weights
        return float(np.logaddexp(0, values).sum() - acted @ values + HELD / 2 * weights @ weights)

    def gradient(weights: Array) -> Array:
        slope: Array = terms.T @ (_logistic(terms @ weights) - acted) + HELD * weights
        return slope

    def curvature(weights: Array) -> Array:
        chance = _logistic(terms @ weights)
        bend: Array = (terms * (chance * (1 - chance))[:, None]).T @ terms + HELD * np.eye(terms.shape[1])
        return bend

    start = np.array([np.log(rate / (1 - rate)), 0.0, 0.0])
    found: Array = minimize(loss, start, jac=gradient, hess=curvature, method="trust-exact").x
    return found
