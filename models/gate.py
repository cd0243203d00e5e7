"""May a candidate replace the champion? Every check with its figures, its limit and a sentence that says why not.

Candidate and champion answer the same held-back requests, so each request is compared with itself; intervals are of
the paired bootstrap over users (Efron and Tibshirani, "An introduction to the bootstrap", 1993), because the requests
of one user are not independent. Overall the candidate has to be shown to be no worse; on a slice, which has few
requests, it fails when it is shown to be worse.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.off_policy import Estimate, Interval
from models.texts import language_of
from models.user_state import DISMISSAL
from schemas.errors import BadInputError
from schemas.records import JoinedRequest

Array = NDArray[np.float64]

ALL = "all"
COLD = 3  # choices, of a user or of an item, up to which it is cold


@dataclass(frozen=True)
class Limits:
    """What a candidate must keep to."""

    overall_loss: float = 0.01  # of the metric that the interval may reach down to: less is not worth a day's waiting
    slice_loss: float = (
        0.0  # a slice fails when its whole interval is below -slice_loss: then somebody pays for the gain
    )
    least_requests: int = 30  # in a slice; fewer decide nothing
    latency_ratio: float = 1.25  # candidate's p99 to the champion's: capacity was planned for the champion
    latency_ms: float = 150.0  # p99, whatever the champion's: the stage's own budget
    score_difference: float = (
        0.05  # between trained and exported model, on the same requests: rounding, not another model
    )
    resamples: int = 2_000  # of the bootstrap: the ends of a 95% interval to about 3% of its width


@dataclass(frozen=True)
class HeldBack:
    """The same requests answered by both: arrays [requests]."""

    candidate: Array  # a metric that is larger for better lists: reciprocal rank, a hit, discounted gain
    champion: Array
    users: NDArray[np.int64]  # any numbers
    slices: Mapping[str, NDArray[np.bool_]]  # name -> which requests are in it; `slices_of` names them

    def __post_init__(self) -> None:
        shapes = {self.candidate.shape, self.champion.shape, self.users.shape, *(m.shape for m in self.slices.values())}
        if len(shapes) > 1 or not self.candidate.size:
            raise BadInputError("held-back requests need one value each of candidate, champion, user and slices")


@dataclass(frozen=True)
class Serving:
    """What was measured of both while they answered."""

    candidate_p99_ms: float
    champion_p99_ms: float
    score_difference: float  # largest, between the candidate as trained and as exported


@dataclass(frozen=True)
class Check:
    """One check and all that it rests on."""

    name: str
    passed: bool
    figures: dict[str, float]
    limit: float
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate may be published, and why; JSON through ``msgspec``."""

    passed: bool
    checks: list[Check]
    reason: str


def verdict(
    held_back: HeldBack,
    serving: Serving,
    off_policy: Estimate | str,
    limits: Limits | None = None,
    *,
    seed: int = 0,
) -> Verdict:
    """Judge a candidate.

    Args:
        held_back: both models' lists for the newest requests that the candidate was not trained on.
        serving: latency and parity.
        off_policy: the candidate's estimated clicks per list, or why there is no estimate: the sentence of the
            `NoSupportError`. Without one the other checks decide.
        limits: what to keep to.
        seed: of the bootstrap; the same seed gives the same verdict.

    """
    limits = limits or Limits()
    rng = np.random.default_rng(seed)
    everything = np.ones(held_back.candidate.shape, bool)
    checks = [
        _slice_check(name, held_back, mask, limits, rng)
        for name, mask in {ALL: everything, **dict(sorted(held_back.slices.items()))}.items()
    ]
    checks += [_off_policy_check(off_policy), *_serving_checks(serving, limits)]
    failed = [check.sentence for check in checks if not check.passed]
    return Verdict(not failed, checks, "refused: " + "; ".join(failed) if failed else "every check passed")


def slices_of(joined: JoinedRequest, chosen: str | None, trained_on: Mapping[str, int]) -> Collection[str]:
    """Return the names of the fixed slices that a held-back request is in.

    Args:
        joined: the request.
        chosen: the item that was right.
        trained_on: how often each item was chosen in the candidate's training examples.

    """
    choices = sum(kind != DISMISSAL for kind in joined.history.kind) + sum(joined.history.older)
    text = joined.request.text.strip()
    return [
        "cold users" if choices <= COLD else "known users",
        *(["cold items"] if chosen is not None and trained_on.get(chosen, 0) <= COLD else []),
        f"language {language_of(text)}" if text else "no text",
        f"domain {joined.request.domain}",
    ]


def paired_interval(
    candidate: Array, champion: Array, users: NDArray[np.int64], resamples: int, rng: np.random.Generator
) -> Interval:
    """Return the mean of candidate - champion with its 95% interval, by resampling users."""
    _, number = np.unique(users, return_inverse=True)
    total = np.bincount(number, candidate - champion)
    requests = np.bincount(number)
    means = np.empty(resamples)
    for start in range(0, resamples, 100):  # in parts: memory stays small
        drawn = rng.integers(len(total), size=(min(100, resamples - start), len(total)))
        means[start : start + len(drawn)] = total[drawn].sum(axis=1) / requests[drawn].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975)).tolist()
    return Interval(float(total.sum() / requests.sum()), low, high)


def _slice_check(
    name: str, held_back: HeldBack, mask: NDArray[np.bool_], limits: Limits, rng: np.random.Generator
) -> Check:
    requests = int(mask.sum())
    limit = -limits.overall_loss if name == ALL else -limits.slice_loss
    if requests < limits.least_requests:
        sentence = f"{name}: {requests} held-back requests, too few to tell ({limits.least_requests} are needed)"
        # Nothing can be published on no evidence at all; a slice that hardly occurs stops nobody.
        return Check(name, name != ALL, {"requests": requests}, limit, sentence)
    candidate, champion = held_back.candidate[mask], held_back.champion[mask]
    change = paired_interval(candidate, champion, held_back.users[mask], limits.resamples, rng)
    passed = change.low >= limit if name == ALL else change.high >= limit
    figures = {
        "requests": requests,
        "candidate": float(candidate.mean()),
        "champion": float(champion.mean()),
        "difference": change.value,
        "low": change.low,
        "high": change.high,
    }
    sentence = f"{name}: {change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}] on {requests:,} requests"
    if not passed:
        end = "low end" if name == ALL else "high end"
        sentence += f", the interval's {end} is below {limit:+.4f}"
    return Check(name, passed, figures, limit, sentence)


def _off_policy_check(off_policy: Estimate | str) -> Check:
    if isinstance(off_policy, str):
        return Check("off-policy", True, {}, 0.0, f"off-policy: no estimate, {off_policy}")
    change = off_policy.difference
    figures = {
        "candidate": off_policy.candidate.value,
        "logged": off_policy.logged.value,
        "difference": change.value,
        "low": change.low,
        "high": change.high,
        "lists": off_policy.lists,
        "effective_lists": off_policy.effective,
    }
    passed = change.high >= 0
    sentence = f"off-policy: {change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}] clicks per list"
    return Check("off-policy", passed, figures, 0.0, sentence if passed else f"{sentence}, fewer than what was logged")


def _serving_checks(serving: Serving, limits: Limits) -> list[Check]:
    ratio = serving.candidate_p99_ms / max(serving.champion_p99_ms, 1e-9)
    return [
        _at_most("latency", serving.candidate_p99_ms, limits.latency_ms, "ms at the 99th percentile"),
        _at_most("latency ratio", ratio, limits.latency_ratio, "times the champion's 99th percentile"),
        _at_most("parity", serving.score_difference, limits.score_difference, "between trained and exported scores"),
    ]


def _at_most(name: str, value: float, limit: float, what: str) -> Check:
    passed = value <= limit  # a NaN does not pass
    sentence = f"{name}: {value:.4g} {what}" + ("" if passed else f", at most {limit:g} is allowed")
    return Check(name, passed, {"value": value}, limit, sentence)
