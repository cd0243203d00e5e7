"""Exploration: replayed exactly, and its propensities are the true probabilities of every placing."""

import itertools
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.exploration import OFF, Exploration, draw, explore, marginals
from schemas.errors import BadInputError
from schemas.records import RecommendedItem

scores = st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=1, max_size=12).map(
    lambda values: sorted(values, reverse=True)
)
policies = st.builds(
    Exploration,
    method=st.sampled_from(["epsilon", "softmax"]),
    top=st.integers(1, 12),
    epsilon=st.floats(0, 1),
    temperature=st.floats(0.05, 5),
    seed=st.integers(0, 9),
)


def ranked(values):
    return [
        RecommendedItem(item_id=f"i{rank}", score=value, reasons={"near": value / 2, "text": value / 2})
        for rank, value in enumerate(values)
    ]


def test_off_shows_the_best_as_they_are():
    items = ranked([3.0, 2.0, 1.0])
    assert explore(items, OFF, "r", 2) == items[:2]
    assert [item.propensity for item in items] == [1, 1, 1]


@given(scores, policies, st.text(), st.integers(1, 15))
def test_a_list_is_a_function_of_policy_and_request_and_only_the_order_changes(values, policy, request_id, places):
    items = ranked(values)
    shown = explore(items, policy, request_id, places)
    assert shown == explore(items, policy, request_id, places)
    assert len(shown) == min(places, len(items))
    as_ranked = {item.item_id: item for item in items}
    assert len({item.item_id for item in shown}) == len(shown)
    for item in shown:
        assert 0 < item.propensity <= 1
        assert msgspec.structs.replace(item, propensity=1.0) == as_ranked[item.item_id]
        assert sum(item.reasons.values()) == pytest.approx(item.score)


@given(scores, policies, st.text(), st.integers(1, 12))
def test_what_is_logged_is_the_marginal_of_the_item_at_its_place(values, policy, request_id, places):
    table = marginals(values, policy, places)
    order, propensities = draw(values, policy, request_id, places)
    assert propensities == pytest.approx([table[rank, place] for place, rank in enumerate(order)], rel=1e-6)
    # Every place shows something, and no item is shown twice.
    assert table.sum(axis=0) == pytest.approx(1, abs=1e-6)
    assert (table.sum(axis=1) <= 1 + 1e-6).all()


def lists_and_chances(values, policy):
    """Yield every full order with its probability, from the policy's definition."""
    weights = np.exp((np.array(values) - max(values)) / policy.temperature)
    for order in itertools.permutations(range(len(values))):
        left, chance = list(range(len(values))), 1.0
        for rank in order:
            if policy.method == "softmax":
                chance *= weights[rank] / weights[left].sum()
            else:
                chance *= policy.epsilon / len(left) + (1 - policy.epsilon) * (rank == left[0])
            left.remove(rank)
        yield order, chance


@pytest.mark.parametrize(
    "policy", [Exploration("epsilon", epsilon=0.3), Exploration("softmax"), Exploration("softmax", temperature=0.2)]
)
@pytest.mark.parametrize("places", [1, 3, 6])
def test_marginals_are_those_of_all_possible_lists_added_up(policy, places):
    values = [1.0, 0.9, 0.4, 0.4, -0.2, -1.0]
    expected = np.zeros((6, places))
    for order, chance in lists_and_chances(values, policy):
        for place in range(places):
            expected[order[place], place] += chance
    assert marginals(values, policy, places) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", ["epsilon", "softmax"])
def test_items_are_shown_as_often_as_their_propensity_says(method):
    values, policy = np.linspace(1, -1, 8), Exploration(method, top=6, epsilon=0.4)
    expected, seen, lists = marginals(values, policy, 7), np.zeros((8, 7)), 2_000
    for number in range(lists):
        order, _ = draw(values, policy, f"r{number}", 7)
        seen[order, range(7)] += 1
    error = np.sqrt(expected * (1 - expected) / lists)
    assert (np.abs(seen / lists - expected) <= 4.5 * error + 1e-6).all()
    assert seen[7].sum() == 0
    assert seen[6, 6] == lists  # beyond the top everything keeps its place


def test_a_replay_in_another_process_shows_the_same_list():
    code = (
        "from models.exploration import Exploration, draw;"
        "print([draw([3, 2, 1, 0], Exploration(m), 'request', 4) for m in ('epsilon', 'softmax')])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert answer == str([draw([3, 2, 1, 0], Exploration(method), "request", 4) for method in ("epsilon", "softmax")])


@pytest.mark.parametrize(
    "wrong", [{"method": "greedy"}, {"top": 0}, {"epsilon": 1.5}, {"temperature": 0.0}, {"temperature": float("nan")}]
)
def test_a_policy_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(BadInputError, match="exploration"):
        Exploration(**wrong)
