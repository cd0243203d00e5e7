"""A candidate meets the gate on lists that nothing was learned from."""

import msgspec
import numpy as np
import pytest
from shown_examples import ITEMS, examples

from models.feedback_training import Correction, learn_correction
from models.gate import Verdict
from models.judging import judge, vectors
from models.ranker import Ranker
from models.recommender import Recommender
from models.shown_lists import Lists


class NoEncoder:
    """These requests have no words."""

    def tokenize(self, texts, kind):
        raise AssertionError(texts)


def lists(number, **more):
    made = Lists()
    for posted in examples(number, **more):
        made.add(posted.key.decode(), posted.example)
    return made.finished()


def recommender(ranker=None):
    made = Recommender(1, "tiny@1", ranker=ranker)
    made.put(list(ITEMS), list(ITEMS.values()), np.zeros((len(ITEMS), 1, 1), np.float32))
    return made


def learned(given):
    return learn_correction(
        recommender(), given, lambda texts: np.zeros((len(texts), 1)), Correction(trees=30, smallest_leaf=20)
    )


def wrong(each):
    """Whatever was chosen was the dearest."""
    dearest = max(each.shown, key=lambda shown: ITEMS[shown.item_id].price)
    shown = [msgspec.structs.replace(one, label=0.2 if one is dearest else 0.0) for one in each.shown]
    return msgspec.structs.replace(each, shown=shown)


@pytest.fixture(scope="module")
def good():
    return learned(lists(200))


def verdict(champion, candidate, held_back, trained=None, **more):
    trained = candidate if trained is None else trained
    vector = vectors(NoEncoder())
    return judge(recommender(champion), recommender(candidate), recommender(trained), vector, [], held_back, **more)


def failed(found):
    return {check.name for check in found.checks if not check.passed} - {"latency", "latency ratio"}


def test_a_candidate_that_orders_lists_better_passes(good):
    found = verdict(None, good, lists(120, seed=5))
    assert failed(found) == set()
    assert msgspec.json.decode(msgspec.json.encode(found), type=Verdict) == found
    (overall,) = [check for check in found.checks if check.name == "all"]
    assert overall.figures["difference"] > 0.05


def test_a_candidate_that_learned_the_opposite_is_refused_with_the_figures(good):
    bad = learned([wrong(each) for each in lists(200)])
    found = verdict(good, bad, lists(120, seed=5))
    assert not found.passed
    assert "all" in failed(found)
    assert "refused: all: -" in found.reason


def test_the_first_that_learned_here_may_take_longer_than_what_came_with_tablecast(good, monkeypatch):
    monkeypatch.setattr("models.judging._p99_ms", lambda *_: (9.0, 1.0))
    for first in (True, False):
        found = verdict(good, good, lists(120), first=first)
        (check,) = [each for each in found.checks if each.name == "latency ratio"]
        assert check.passed == first


def test_nothing_held_back_publishes_nothing(good):
    assert not verdict(None, good, []).passed


def test_a_candidate_that_is_not_what_was_trained_is_refused(good):
    assert "parity" in failed(verdict(None, good, lists(120, seed=5), trained=learned(lists(200, seed=9))))


def test_what_was_written_and_read_is_what_was_trained(good, tmp_path):
    good.save(tmp_path)
    assert "parity" not in failed(verdict(None, Ranker.load(tmp_path), lists(120, seed=5), trained=good))


def test_logged_propensities_give_an_estimate_of_the_candidate_s_clicks(good):
    explored = [
        msgspec.structs.replace(
            each, shown=[msgspec.structs.replace(one, propensity=1 / len(ITEMS)) for one in each.shown]
        )
        for each in lists(400, seed=6)
    ]
    (check,) = [check for check in verdict(None, good, explored).checks if check.name == "off-policy"]
    assert "nothing was explored" not in check.sentence
    (check,) = [check for check in verdict(None, good, lists(120)).checks if check.name == "off-policy"]
    assert "nothing was explored" in check.sentence
