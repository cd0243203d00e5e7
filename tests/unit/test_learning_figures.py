"""What is claimed of the learning loop follows from the days that were lived."""

import numpy as np
import pytest

from ops.bench.learning import Day
from ops.bench.learning_figures import figures, interval, picture


def lived(clicks, examples=100):
    return [
        Day(requests=50, clicks=each, best=1.0, examples=examples * number, model="m@1", training="promoted")
        for number, each in enumerate(clicks, 1)
    ]


LIVES = {
    seed: {
        "frozen": lived([0.2, 0.2, 0.2, 0.1, 0.1, 0.1]),
        "learning": lived([0.2, 0.3 + seed / 100, 0.4, 0.2, 0.3, 0.4]),
    }
    for seed in (1, 2, 3)
}


def test_an_interval_is_students():
    values = np.random.default_rng(0).normal(size=(2_000, 5))
    held = sum(abs(mean) <= half for mean, half in map(interval, values))
    assert 0.93 < held / len(values) < 0.97


def test_the_gain_counts_from_the_first_training_to_the_shift():
    found = figures(LIVES, first_training=1, shift_after=3)
    assert found["gain_of_each_seed"] == pytest.approx([0.155, 0.16, 0.165])
    assert found["gain_mean"][0] == pytest.approx(0.16)
    assert found["gain_with_the_shift"][0] == pytest.approx(0.184)
    assert found["gain_after_last_training"] == (pytest.approx(0.2), pytest.approx(0))
    assert [mean for mean, _ in found["gain"]] == pytest.approx([0, 0.12, 0.2, 0.1, 0.2, 0.3])


def test_recovery_is_counted_in_examples_since_the_shift():
    shift = figures(LIVES, first_training=1, shift_after=3)["shift"]
    assert shift["learning"]["regained_by_day"] == pytest.approx([0, 0.5, 1.0])
    assert shift["learning"]["examples_until_recovered"] == 200
    assert shift["learning"]["lists_until_recovered"] == 100
    assert shift["frozen"]["regained_by_day"] == pytest.approx([0, 0, 0])
    assert shift["frozen"]["examples_until_recovered"] is None


def test_without_a_shift_nothing_is_said_of_one():
    assert "shift" not in figures(LIVES, first_training=1, shift_after=None)


def test_the_same_days_give_the_same_picture(tmp_path):
    for name in ("one.svg", "two.svg"):
        picture(LIVES, 3, tmp_path / name)
    first = (tmp_path / "one.svg").read_text()
    assert first == (tmp_path / "two.svg").read_text()
    assert "true clicks per list" in first
