"""What scores promise is what happens, as far as lists can tell."""

import msgspec
import numpy as np
import pytest

from models.calibration import LEAST_ACTIONS, Calibration, calibrate, promised
from schemas.records import Shown

TRUTH = Calibration(intercept=-2.5, slope=0.8, fade=0.6)


def shown(chances, rng):
    return [
        Shown(item_id=f"i{place}", position=place, propensity=1, label=0.2 * (rng.random() < chance))
        for place, chance in enumerate(chances)
    ]


def lists(number, seed=1, truth=TRUTH):
    """Return scores and lists of five, of which people choose as ``truth`` says."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 1.5, (number, 5)).tolist()
    return scores, [shown(truth.promised(each, range(5)), rng) for each in scores]


def test_what_is_promised_is_what_happens_at_every_score_and_place():
    found = calibrate(*lists(4_000))
    for score in (-2.0, 0.0, 2.0):
        told, true = (each.promised([score] * 5, range(5)) for each in (found, TRUTH))
        assert told == pytest.approx(true, rel=0.2)
        assert told == sorted(told, reverse=True), "further down is looked at less"


def test_a_better_score_never_promises_less():
    upside_down = msgspec.structs.replace(TRUTH, slope=-0.8)
    found = calibrate(*lists(1_000, truth=upside_down))
    assert found.slope == 0
    assert np.mean(found.promised([0.0] * 5, range(5))) == pytest.approx(
        np.mean([each.label > 0 for several in lists(1_000, truth=upside_down)[1] for each in several]), rel=0.05
    )


def test_lists_that_scores_tell_apart_without_a_mistake_give_finite_numbers():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(100, 5)).tolist()
    certain = [shown([float(score > 0) for score in each], rng) for each in scores]
    found = calibrate(scores, certain)
    assert np.isfinite([found.intercept, found.slope, found.fade]).all()
    assert found.promised([-1.0, 1.0], [0, 0]) == pytest.approx([0, 1], abs=0.01)


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_where_too_little_was_chosen_or_left_nothing_is_promised(chance):
    rng = np.random.default_rng(1)
    few = [shown([chance] * 5, rng) for _ in range(100)]
    few[0] = [msgspec.structs.replace(each, label=1.0 - chance) for each in few[0]]
    assert LEAST_ACTIONS > 5
    assert calibrate([[0.0] * 5] * 100, few) is None


def test_items_without_a_score_are_left_out_and_their_lists_get_no_promise():
    scores, given = lists(1_000)
    half = [[score if place % 2 else None for place, score in enumerate(each)] for each in scores]
    assert calibrate(half, given).slope == pytest.approx(TRUTH.slope, rel=0.3)
    assert promised(TRUTH, half[0], given[0]) == []
    assert promised(None, scores[0], given[0]) == []
    assert promised(TRUTH, scores[0], given[0]) == TRUTH.promised(scores[0], range(5))


def test_it_survives_a_manifest():
    assert msgspec.json.decode(msgspec.json.encode(TRUTH), type=Calibration) == TRUTH
