"""What a candidate's lists would have earned, estimated from lists that another policy showed.

The **item-position model** (Li et al., "Offline evaluation of ranking policies with click models", KDD 2018): whether
an item is clicked depends on the request, the item and its place, not on the other items of the list. Each place then
is an experiment of its own, and a list of ten needs ten weights of moderate size, not their product:

    weight(place) = P(candidate shows this item at this place) / P(the logging policy showed it there)

Estimates are clicks per list, a sum over places:

- **IPS**: the mean of weight * click (Horvitz and Thompson 1952).
- **SNIPS**: each place divided by its mean weight (Swaminathan and Joachims, "The self-normalized estimator for
  counterfactual learning", NeurIPS 2015): bounded, and not moved by a wrong scale of the propensities.
- **DR**, doubly robust (Dudik et al., "Doubly robust policy evaluation and optimization", Statistical Science 2014): a
  click model's prediction for the candidate's list, corrected by the weighted residuals of what was shown.

Intervals are of the delta method, with users as clusters: the clicks of a list, and the lists of a user, may depend on
each other. Weights are clipped at the square root of the number of lists (Ionides, "Truncated importance sampling",
2008). LEARNING.md says what is assumed and how often the intervals hold.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from schemas.codec import decode
from schemas.errors import BadInputError
from schemas.records import JoinedRequest, Shown, TrainingExample

Array = NDArray[np.float64]
Estimator = Literal["ips", "snips", "dr"]

LEAST_LISTS = 100  # below it no normal approximation is to be trusted
LEAST_EFFECTIVE = 50  # lists that the weights of the places that matter are worth: the same
LEAST_SUPPORT = 0.9  # of what the candidate shows; the rest is guessed
MOST_CLIPPED = 0.1  # of the weight; that much of the clicks may be missing from an estimate
SURE = 3.0  # standard errors by which support must be short of that before we say so
RIDGE = 1.0  # of the click model's coefficients, in lists


class NoSupportError(BadInputError):
    """What was logged says too little about the candidate; the message says how much is missing and what to do."""


@dataclass(frozen=True)
class LoggedLists:
    """Lists that were shown: arrays [lists, places], a list shorter than the others padded with NaN propensities."""

    propensity: Array  # of the logging policy for the item at each place, as `exploration` defines it
    target: Array  # the candidate's probability of showing that item at that place; 0 or 1 without exploration
    clicks: Array  # 0 or 1
    users: NDArray[np.int64]  # [lists]: who; any numbers
    predicted: Array | None = None  # by a click model, of the items shown; not fitted on these users
    expected: Array | None = None  # [lists]: clicks that the same model predicts for the candidate's list
    whole: bool = True  # False: places are missing because nobody was seen looking at them

    def __post_init__(self) -> None:
        shape = self.propensity.shape
        shapes = {shape, self.target.shape, self.clicks.shape}
        if self.predicted is not None:
            shapes.add(self.predicted.shape)
        if len(shapes) > 1 or len(shape) != 2 or len(self.users) != shape[0]:
            raise BadInputError("logged lists need arrays of one shape, [lists, places], and a user for each list")
        there = ~np.isnan(self.propensity)
        if not ((self.propensity[there] > 0) & (self.propensity[there] <= 1)).all():
            raise BadInputError("a logged propensity is a probability above 0")


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """Clicks per list, as estimated for the candidate, beside what the logging policy had."""

    estimator: Estimator
    candidate: Interval
    logged: Interval
    difference: Interval  # candidate less logged, on the same lists
    lists: int
    effective: float  # lists that the weights are worth, averaged over places by their clicks
    support: float  # share of what the candidate shows that the logging policy could have shown
    clipped: float  # share of the weight that was cut off


def estimate(logs: LoggedLists, estimator: Estimator = "snips") -> Estimate:
    """Estimate the candidate's clicks per list.

    Raises:
        NoSupportError: the logged lists can't answer that.
        BadInputError: doubly robust without a click model's predictions.

    """
    lists = len(logs.propensity)
    if lists < LEAST_LISTS:
        raise NoSupportError(f"{lists} logged lists; it takes {LEAST_LISTS} at least")
    if estimator != "ips" and not logs.whole:
        raise BadInputError(
            "lists of which only the looked-at places are logged can be estimated by ips alone: whether a place is "
            "missing depends on what was clicked, so that its mean weight says nothing"
        )
    there = ~np.isnan(logs.propensity)
    clicks = np.where(there, logs.clicks, 0.0)
    raw = np.where(there, logs.target / np.where(there, logs.propensity, 1.0), 0.0)
    weights = np.minimum(raw, np.sqrt(lists))
    support = _check_support(raw, there)
    by_clicks = clicks.mean(axis=0) / max(clicks.mean(axis=0).sum(), 1e-12)
    effective = float((_effective(weights) * by_clicks).sum())
    if clicks.any() and effective < LEAST_EFFECTIVE:
        raise NoSupportError(
            f"the weights of {lists:,} logged lists are worth {effective:.0f}, {LEAST_EFFECTIVE} are needed: the "
            "candidate shows what was hardly ever shown; log more lists, or explore more"
        )
    clipped = float(1 - weights.sum() / raw.sum()) if raw.any() else 0.0
    if clipped > MOST_CLIPPED:
        raise NoSupportError(
            f"{clipped:.0%} of the weight sits in lists that were hardly ever shown and would be cut off, "
            f"{MOST_CLIPPED:.0%} may be: log more lists, or explore more"
        )
    value, influence = _value(logs, estimator, weights, there, clicks)
    logged = clicks.sum(axis=1)
    return Estimate(
        estimator,
        _interval(value, influence, logs.users),
        _interval(float(logged.mean()), logged - logged.mean(), logs.users),
        _interval(value - float(logged.mean()), influence - (logged - logged.mean()), logs.users),
        lists,
        effective,
        support,
        clipped,
    )


def _value(
    logs: LoggedLists, estimator: Estimator, weights: Array, there: NDArray[np.bool_], clicks: Array
) -> tuple[float, Array]:
    """Return the estimate, and each list's influence on it [lists], which is 0 on average."""
    if estimator == "ips":
        each = (weights * clicks).sum(axis=1)
        return float(each.mean()), each - each.mean()
    # A place that not every list has is estimated among those that have it, and counts by their share.
    share = there.mean(axis=0)
    mean_weight = weights.sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    scale = np.where(mean_weight > 0, 1 / np.where(mean_weight > 0, mean_weight, 1.0), 0.0)
    if estimator == "snips":
        outcome, base = clicks, np.zeros(len(clicks))
    elif logs.predicted is None or logs.expected is None:
        raise BadInputError("a doubly robust estimate needs the predictions of a click model (`cross_fitted`)")
    else:
        outcome, base = np.where(there, clicks - logs.predicted, 0.0), logs.expected
    by_place = scale * (weights * outcome).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    value = float(base.mean() + (share * by_place).sum())
    influence = base - base.mean() + (scale * weights * (outcome - by_place * there)).sum(axis=1)
    influence += ((there - share) * by_place).sum(axis=1)
    return value, influence


def _check_support(raw: Array, there: NDArray[np.bool_]) -> float:
    """Return the share of the candidate's placings that could have been logged: the mean weight, which is 1 if all."""
    each = raw.sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    support = float(each.mean())
    error = float(each.std(ddof=1) / np.sqrt(len(each)))
    if support + SURE * error < LEAST_SUPPORT:
        raise NoSupportError(
            f"only about {support:.0%} of what the candidate shows could have been shown by the policy that was "
            f"logged, {LEAST_SUPPORT:.0%} are needed: explore over more items, or try the candidate as a canary"
        )
    return min(support, 1.0)


def _effective(weights: Array) -> Array:
    """Return Kish's effective sample size [places] of weights [lists, places]."""
    squares = (weights**2).sum(axis=0)
    size: Array = weights.sum(axis=0) ** 2 / np.where(squares > 0, squares, 1.0)
    return size


def _interval(value: float, influence: Array, users: NDArray[np.int64]) -> Interval:
    """Return the 95% interval from each list's influence on the mean, users being independent of each other."""
    _, number = np.unique(users, return_inverse=True)
    by_user = np.bincount(number, influence)
    clusters = len(by_user)
    variance = float((by_user**2).sum()) * clusters / max(clusters - 1, 1) / len(influence) ** 2
    half = NormalDist().inv_cdf(0.975) * variance**0.5
    return Interval(value, value - half, value + half)


def cross_fitted(
    shown: Array, clicks: Array, candidate: Array, users: NDArray[np.int64], *, folds: int = 5
) -> tuple[Array, Array]:
    """Predict clicks by logistic regression, for each user by one that was fitted on the others.

    What is predicted for a list may not have been learned from it, or the residuals would be too small (Chernozhukov et
    al., "Double/debiased machine learning", 2018).

    Args:
        shown: features [lists, places, features] of what was shown, of moderate size: the candidate's score of it, and
            whatever else says how good an item is. The place is known without.
        clicks: 0 or 1 [lists, places]; NaN where there was no item.
        candidate: the same features of the candidate's list.
        users: [lists].
        folds: in how many parts users are divided.

    Returns:
        ``predicted`` [lists, places] and ``expected`` [lists] of ``LoggedLists``.

    """
    places = shown.shape[1]
    fold = np.unique(users, return_inverse=True)[1] % folds
    predicted, expected = np.zeros(clicks.shape), np.zeros(len(clicks))
    for part in range(folds):
        rest, mine = fold != part, fold == part
        there = ~np.isnan(clicks[rest])
        coefficients = _fit_logistic(_design(shown[rest], places)[there], clicks[rest][there])
        predicted[mine] = _logistic(_design(shown[mine], places) @ coefficients)
        expected[mine] = _logistic(_design(candidate[mine], places) @ coefficients).sum(axis=1)
    return predicted, expected


def _design(features: Array, places: int) -> Array:
    place = np.broadcast_to(np.eye(places), (len(features), places, places))
    return np.concatenate([place, features], axis=2)


def _logistic(value: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-np.clip(value, -30, 30)))
    return result


def _fit_logistic(design: Array, outcome: Array) -> Array:
    """Return the coefficients of a ridge logistic regression, by Newton's method."""
    coefficients = np.zeros(design.shape[1])
    for _ in range(25):
        chance = _logistic(design @ coefficients)
        gradient = design.T @ (outcome - chance) - RIDGE * coefficients
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + RIDGE * np.eye(design.shape[1])
        move = np.linalg.solve(curvature, gradient)
        coefficients = coefficients + move
        if np.abs(move).max() < 1e-8:
            break
    return coefficients


def logged_lists(
    examples: Iterable[tuple[str, TrainingExample]], candidate: Callable[[JoinedRequest], Sequence[str]]
) -> LoggedLists:
    """Return what training examples say, all those of one list together; a click is any action that is worth something.

    Args:
        examples: with their users, the keys of their records.
        candidate: the item ids that the candidate shows for a joined request, without exploration.

    """
    joined_of: dict[tuple[int, int], tuple[str, JoinedRequest]] = {}
    shown_of: dict[tuple[int, int], dict[int, Shown]] = defaultdict(dict)
    for user, example in examples:
        joined = decode(JoinedRequest, bytes(example.joined))
        of = joined.source.partition, joined.source.offset
        joined_of[of] = user, joined
        shown = shown_of[of]
        for entry in example.shown:
            if entry.position not in shown or entry.label > shown[entry.position].label:
                shown[entry.position] = entry
    lengths = [max(shown, default=-1) + 1 for shown in shown_of.values()]
    places = max(lengths, default=0)
    propensity = np.full((len(shown_of), places), np.nan)
    target, clicks = np.zeros_like(propensity), np.zeros_like(propensity)
    users: dict[str, int] = {}
    for row, (of, shown) in enumerate(shown_of.items()):
        user, joined = joined_of[of]
        users.setdefault(user, len(users))
        listed = candidate(joined)
        for place, entry in shown.items():
            propensity[row, place] = entry.propensity
            target[row, place] = place < len(listed) and listed[place] == entry.item_id
            clicks[row, place] = entry.label > 0
    whole = all(len(shown) >= min(places, joined_of[of][1].request.k) for of, shown in shown_of.items())
    numbers = np.array([users[joined_of[of][0]] for of in shown_of], np.int64)
    return LoggedLists(propensity, target, clicks, numbers, whole=whole)
