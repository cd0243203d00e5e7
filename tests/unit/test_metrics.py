import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.metrics import paired_difference, score_ranking, summarise

ITEMS = [f"i{n}" for n in range(1, 31)]


def test_one_relevant_item_at_rank_three():
    scores = score_ranking(ITEMS, {"i3"})
    assert (scores["acc@1"], scores["acc@5"], scores["acc@10"], scores["acc@20"]) == (0, 1, 1, 1)
    assert scores["mrr"] == pytest.approx(1 / 3)
    assert scores["ndcg@10"] == pytest.approx(1 / math.log2(4)) == 0.5


def test_one_relevant_item_just_outside_ten():
    scores = score_ranking(ITEMS, {"i11"})
    assert (scores["acc@10"], scores["acc@20"]) == (0, 1)
    assert scores["mrr"] == pytest.approx(1 / 11)
    assert scores["ndcg@10"] == 0


def test_an_item_that_is_not_on_the_list_is_ranked_beyond_the_end():
    assert set(score_ranking(ITEMS, {"absent"}).values()) == {0}
    assert set(score_ranking([], {"absent"}).values()) == {0}


def test_several_relevant_items_by_hand():
    # Hits at ranks 1, 4 and 12; a fourth relevant item is missing.
    scores = score_ranking(ITEMS, ["i1", "i4", "i12", "absent"])
    assert scores["precision@10"] == pytest.approx(0.2)
    assert scores["recall@10"] == pytest.approx(0.5)
    assert scores["r_precision"] == pytest.approx(0.5)  # of the first four, two are right
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4) + 1 / math.log2(5)
    assert scores["ndcg@10"] == pytest.approx((1 + 1 / math.log2(5)) / ideal)
    assert scores["mrr"] == scores["acc@1"] == 1


def test_precision_divides_by_ten_however_short_the_list():
    assert score_ranking(["a", "b"], {"a", "b"})["precision@10"] == pytest.approx(0.2)


def test_summary_is_the_mean_over_requests():
    summary = summarise([["a", "b", "c"], ["a", "b", "c"]], [{"a"}, {"c"}])
    assert summary == {
        "n": 2,
        "acc@1": 0.5,
        "acc@5": 1,
        "acc@10": 1,
        "acc@20": 1,
        "mrr": 0.6667,
        "ndcg@10": 0.75,
    }


def test_summary_has_precision_and_recall_once_a_request_has_several_relevant_items():
    summary = summarise([["a", "b"], ["a", "b"]], [{"a", "b"}, {"b"}])
    assert summary["precision@10"] == 0.15
    assert summary["r_precision"] == 0.5
    assert summary["recall@10"] == 1


@given(st.integers(1, 40), st.integers(0, 40))
def test_a_perfect_ranking_gives_one(relevant, others):
    ranked = [f"right {n}" for n in range(relevant)] + [f"wrong {n}" for n in range(others)]
    scores = score_ranking(ranked, ranked[:relevant])
    for name in ("acc@1", "acc@20", "mrr", "ndcg@10", "r_precision"):
        assert scores[name] == pytest.approx(1), name
    assert scores["precision@10"] == pytest.approx(min(10, relevant) / 10)
    assert scores["recall@10"] == pytest.approx(min(10, relevant) / relevant)


@given(st.permutations(ITEMS[:12]), st.sets(st.sampled_from(ITEMS[:14]), min_size=1))
def test_every_metric_is_between_zero_and_one(ranked, relevant):
    assert all(0 <= value <= 1 + 1e-12 for value in score_ranking(ranked, relevant).values())


def test_nothing_relevant_or_an_item_twice_is_refused():
    with pytest.raises(ValueError, match="without relevant"):
        score_ranking(["a"], [])
    with pytest.raises(ValueError, match="ranked twice"):
        score_ranking(["a", "a"], ["a"])
    with pytest.raises(ValueError, match="no request"):
        summarise([], [])
    with pytest.raises(ValueError):
        summarise([["a"]], [{"a"}, {"b"}])


def test_paired_difference_by_hand():
    mean, half_width = paired_difference(np.array([1.0, 1, 0, 1]), np.array([0.0, 1, 0, 0]))
    assert mean == pytest.approx(0.5)
    assert half_width == pytest.approx(1.96 * math.sqrt(1 / 3) / 2)
    with pytest.raises(ValueError):
        paired_difference(np.ones(3), np.ones(4))
