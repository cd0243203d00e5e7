"""Canary guardrails: false alarms stay rare however often one looks, bad canaries are caught, good ones promoted."""

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.sequential import (
    ADVANTAGES,
    GUARDRAILS,
    HARMS,
    Claim,
    Counts,
    Evidence,
    Guardrail,
    Rules,
    _bet,
    judge,
    new_state,
    observe,
)
from ops.bench.canary import CANARIES, figures, measure_canaries
from schemas.errors import BadInputError

CLICKS = Guardrail("not clicked", margin=0.05)
RULES = Rules(guardrails=(CLICKS,), false_alarms=0.1)
RATES = st.floats(0.001, 0.999)


def expected_factor(stake, guess, claim, n, m, canary_rate, champion_rate):
    """Return the mean of a block's factor over all outcomes."""
    total = 0.0
    for canary_bad in range(n + 1):
        for champion_bad in range(m + 1):
            capital = [0.0]
            _bet(capital, [stake], guess, claim, Counts(n, canary_bad), Counts(m, champion_bad))
            total += (
                math.comb(n, canary_bad) * canary_rate**canary_bad * (1 - canary_rate) ** (n - canary_bad)
                * math.comb(m, champion_bad) * champion_rate**champion_bad * (1 - champion_rate) ** (m - champion_bad)
                * math.exp(capital[0])
            )  # fmt: skip
    return total


@given(
    RATES,
    RATES,
    st.floats(0.01, 0.9),
    st.builds(Claim, st.floats(0, 0.09), of_good=st.booleans()),
    st.floats(0.01, 30),
    st.integers(1, 3),
    st.integers(1, 6),
)
def test_nothing_is_won_on_average_where_the_claim_holds(canary, champion, guess, claim, stake, n, m):
    no_worse = min(canary, claim.limit(champion))
    assert expected_factor(stake, guess, claim, n, m, no_worse, champion) <= 1 + 1e-9
    worse = max(canary, claim.limit(champion))
    if worse <= 1:
        assert expected_factor(-stake, guess, claim, n, m, worse, champion) <= 1 + 1e-9


def lives(canary_rate, champion_rate, answers, count, *, share=0.2, decisive=("roll back",)):
    """Return the decisions of so many canaries, each looked at after every answer of its own."""
    ends = []
    for number in range(count):
        rng, state, end = random.Random(f"{canary_rate}/{number}"), new_state(RULES), "continue"
        for time in range(answers):
            wave = 0.2 * math.sin(time / 300)  # both rates move, as over a day
            here = rng.random() < share
            observe(state, CLICKS, canary=here, bad=rng.random() < wave + (canary_rate if here else champion_rate))
            if here and (decision := judge(state, RULES).decision) in decisive:
                end = decision
                break
        ends.append(end)
    return ends


def test_looking_after_every_answer_raises_no_more_false_alarms_than_allowed():
    ends = lives(0.5, 0.5, 1_500, 100)
    # At most 10 are expected; more than 18 by chance once in 200 such tests.
    assert ends.count("roll back") <= 18


def test_a_canary_that_loses_half_of_the_clicks_is_rolled_back():
    assert lives(0.75, 0.5, 3_000, 10) == ["roll back"] * 10


def test_a_canary_as_good_as_the_champion_is_promoted_and_one_far_beyond_the_margin_is_not():
    both = ("roll back", "promote")
    assert lives(0.45, 0.5, 20_000, 3, decisive=both) == ["promote"] * 3
    assert "promote" not in lives(0.7, 0.5, 20_000, 3, decisive=both)


def test_a_margin_of_good_answers_is_narrow_where_few_are_good():
    fifth = Guardrail("not clicked", margin=0.2, of_good=True)
    rules = Rules(guardrails=(fifth,))
    ends = {}
    for loses in (0.0, 0.25):
        for number in range(4):
            rng, state = random.Random(number), new_state(rules)
            for _ in range(10_000):  # ten lists of 100 are clicked
                here = rng.random() < 0.5
                observe(state, fifth, canary=here, bad=rng.random() >= 0.1 * (1 - loses * here))
            (finding,) = judge(state, rules).findings
            ends.setdefault(loses, []).append(finding.evidence_allowed >= finding.needed_allowed)
    assert ends == {0.0: [True] * 4, 0.25: [False] * 4}


def test_nothing_is_promoted_before_enough_answers():
    state = new_state(RULES)
    for _ in range(RULES.least_answers - 1):
        observe(state, CLICKS, canary=True, bad=False)
        observe(state, CLICKS, canary=False, bad=True)
    assert judge(state, RULES).decision == "continue"
    observe(state, CLICKS, canary=True, bad=False)
    observe(state, CLICKS, canary=False, bad=True)
    assert judge(state, RULES).decision == "promote"


def test_one_broken_guardrail_rolls_back_and_its_figures_say_why():
    rules, state = Rules(), new_state(Rules())
    for number in range(2_000):
        for guardrail in GUARDRAILS:
            broken = guardrail.name == "dead letter" and number % 10 == 0
            observe(state, guardrail, canary=number % 5 == 0, bad=broken)
    judgement = judge(state, rules)
    assert judgement.decision == "roll back"
    assert judgement.reason == "dead letter: 50.00% of 400 answers against 0.00% of 1,596: worse than the champion"
    (finding,) = [finding for finding in judgement.findings if finding.guardrail == "dead letter"]
    assert finding.evidence_worse >= finding.needed_worse == 80
    assert msgspec.json.decode(msgspec.json.encode(judgement))["decision"] == "roll back"


def test_a_state_that_was_stored_goes_on_where_it_stopped_and_does_not_grow():
    rng = random.Random(1)
    outcomes = [(rng.random() < 0.3, rng.random() < 0.4) for _ in range(2_000)]
    kept, stored = new_state(RULES), new_state(RULES)
    for canary, bad in outcomes:
        observe(kept, CLICKS, canary=canary, bad=bad)
        stored = msgspec.json.decode(msgspec.json.encode(stored), type=dict[str, Evidence])
        observe(stored, CLICKS, canary=canary, bad=bad)
    assert judge(stored, RULES) == judge(kept, RULES)
    assert len(msgspec.json.encode(stored)) < 1_000
    assert len(kept["not clicked"].worse) == len(HARMS)
    assert len(kept["not clicked"].allowed) == len(ADVANTAGES)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=300))
def test_any_run_of_answers_gives_finite_figures(outcomes):
    state = new_state(RULES)
    for canary, bad in outcomes:
        observe(state, CLICKS, canary=canary, bad=bad)
    (finding,) = judge(state, RULES).findings
    assert math.isfinite(finding.evidence_worse)
    assert math.isfinite(finding.evidence_allowed)


def test_a_guardrail_whose_margin_is_not_beyond_its_tolerance_is_refused():
    with pytest.raises(BadInputError, match="margin"):
        Guardrail("slow", margin=0.01, tolerance=0.01)


def test_the_simulated_canaries_meet_their_ends():
    broken = next(canary for canary in CANARIES if canary.added_failures)
    result = figures(measure_canaries(broken, 0.2, 0.45, 1_000, 3))
    assert (result["roll_back"], result["canaries"]) == (3, 3)
