"""The gate: a worse candidate is refused with the reason, a better one passes, and thin slices decide nothing."""

import msgspec
import numpy as np
import pytest

from models.gate import HeldBack, Limits, Serving, paired_interval, slices_of, verdict
from models.off_policy import Estimate, Interval
from schemas.errors import BadInputError
from schemas.records import Context, History, JoinedRequest, Request, Source

GOOD_SERVING = Serving(candidate_p99_ms=50, champion_p99_ms=48, score_difference=0.001)
REQUESTS = 1_200


def held_back(gain=0.0, slice_gain=None):
    rng = np.random.default_rng(1)
    champion = rng.random(REQUESTS)
    small = np.arange(REQUESTS) % 6 == 0
    change = np.where(small, gain if slice_gain is None else slice_gain, gain)
    candidate = champion + change + rng.normal(0, 0.1, REQUESTS)
    return HeldBack(candidate, champion, rng.integers(400, size=REQUESTS), {"language zh": small})


def estimate(low, high):
    around = Interval(1.0, 0.9, 1.1)
    return Estimate("snips", around, around, Interval((low + high) / 2, low, high), 1_000, 300.0, 1.0, 0.0)


def failed(judged):
    return [check.name for check in judged.checks if not check.passed]


def test_a_better_candidate_passes_every_check():
    judged = verdict(held_back(0.05), GOOD_SERVING, estimate(0.01, 0.2))
    assert judged.passed
    assert judged.reason == "every check passed"
    names = ["all", "language zh", "off-policy", "latency", "latency ratio", "parity"]
    assert [check.name for check in judged.checks] == names


def test_a_worse_candidate_is_refused_with_its_figures():
    judged = verdict(held_back(-0.05), GOOD_SERVING, "nothing was explored")
    assert failed(judged) == ["all", "language zh"]
    assert judged.reason.startswith("refused: all: -0.0")
    assert "on 1,200 requests, the interval's low end is below -0.0100" in judged.reason
    assert msgspec.json.decode(msgspec.json.encode(judged))["passed"] is False


def test_a_gain_at_the_cost_of_a_slice_is_refused():
    assert failed(verdict(held_back(0.05, slice_gain=-0.1), GOOD_SERVING, "none")) == ["language zh"]


def test_a_slice_of_a_few_requests_decides_nothing_but_nothing_passes_on_a_few_requests():
    few = np.arange(REQUESTS) < 5
    good = held_back(0.05)
    judged = verdict(HeldBack(good.candidate - few, good.champion, good.users, {"cold": few}), GOOD_SERVING, "none")
    assert judged.passed
    assert "too few to tell" in judged.checks[1].sentence
    tiny = HeldBack(good.candidate[:5], good.champion[:5], good.users[:5], {})
    assert failed(verdict(tiny, GOOD_SERVING, "none")) == ["all"]


@pytest.mark.parametrize(
    ("serving", "name"),
    [
        (Serving(candidate_p99_ms=160, champion_p99_ms=150, score_difference=0), "latency"),
        (Serving(candidate_p99_ms=90, champion_p99_ms=50, score_difference=0), "latency ratio"),
        (Serving(candidate_p99_ms=50, champion_p99_ms=50, score_difference=0.2), "parity"),
        (Serving(candidate_p99_ms=50, champion_p99_ms=50, score_difference=float("nan")), "parity"),
    ],
)
def test_slow_or_badly_exported_candidates_are_refused(serving, name):
    assert failed(verdict(held_back(0.05), serving, "none")) == [name]


def test_an_estimate_that_is_surely_below_what_was_logged_refuses():
    assert failed(verdict(held_back(0.05), GOOD_SERVING, estimate(-0.3, -0.1))) == ["off-policy"]
    assert verdict(held_back(0.05), GOOD_SERVING, estimate(-0.3, 0.1)).passed


def test_the_same_seed_gives_the_same_verdict():
    assert verdict(held_back(), GOOD_SERVING, "none", seed=3) == verdict(held_back(), GOOD_SERVING, "none", seed=3)


def test_bootstrap_intervals_hold_the_true_difference():
    rng, held = np.random.default_rng(5), 0
    for _ in range(100):
        users = rng.integers(60, size=200)
        difference = 0.1 + rng.normal(0, 0.3, 60)[users] + rng.normal(0, 0.3, 200)
        interval = paired_interval(difference, np.zeros(200), users, 400, rng)
        held += interval.low <= 0.1 <= interval.high
    assert held >= 86  # 95 are expected, some less with 60 users


def test_requests_are_in_the_slices_they_belong_to():
    joined = JoinedRequest(
        request=Request(request_id="r", domain="travel", text="quiet"),
        event_time=0,
        source=Source(partition=0, offset=0),
        context=Context(),
        items=["a"],
        history=History(item=[0], kind=[0], time=[0], session=[0]),
    )
    assert slices_of(joined, "new", {"a": 9}) == ["cold users", "cold items", "language en", "domain travel"]
    assert "cold items" not in slices_of(joined, "a", {"a": 9})
    known = msgspec.structs.replace(joined, history=History(older_item=[0], older=[20]))
    assert slices_of(known, "a", {"a": 9})[0] == "known users"


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(BadInputError, match="one value each"):
        HeldBack(np.ones(3), np.ones(2), np.arange(3), {})
    assert Limits().least_requests > 0
