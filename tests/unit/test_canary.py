"""What counts of a canary's answers, when, and how often."""

import msgspec
import pytest
from canary_answers import CANARY, NAMES, NOON, WINDOW_MS, answer, failure, life, model, outcome

from models.canary import CanaryCount, Evidence, figures, new_evidence, rules_with
from models.sequential import Counts, Rules, judge
from schemas.topics import DEADLETTERS, RECOMMENDATIONS

RULES = Rules()


@pytest.fixture
def evidence():
    return new_evidence(model(canary=True), model(canary=False), RULES)


def counting(evidence):
    return CanaryCount(evidence, RULES, slow_ms=100, window_ms=WINDOW_MS)


def read(count, records, *, new=True):
    for each in records:
        if each.topic is RECOMMENDATIONS:
            count.on_recommendation(NAMES.of(each.key).decode(), each.time, each.record, count=new)
        elif each.topic is DEADLETTERS:
            count.on_dead_letter(each.key.decode(), each.record, count=new)
        else:
            count.on_example(each.partition, each.key.decode(), each.time, each.record, count=new)


def counts(evidence, guardrail):
    """Return (answers, bad) of the canary and of the champion."""
    of = evidence.state[guardrail]
    return tuple(
        (closed.answers + block.answers, closed.bad + block.bad)
        for closed, block in ((of.canary, of.canary_block), (of.champion, of.champion_block))
    )


def test_a_user_counts_once_however_often_the_user_asks(evidence):
    read(counting(evidence), [answer(1, canary=True)] * 3 + [answer(2, canary=False, took_ms=500)] * 2)
    assert counts(evidence, "slow") == ((1, 0), (1, 1))
    assert counts(evidence, "dead letter") == ((1, 0), (1, 0))


def test_what_the_champion_answered_before_the_canary_began_does_not_count(evidence):
    read(counting(evidence), [answer(1, canary=False), answer(5, canary=True), answer(6, canary=False)])
    assert counts(evidence, "degraded") == ((1, 0), (1, 0))
    assert (evidence.start, evidence.end) == (NOON + 5000, NOON + 6000)


def test_a_click_counts_when_its_window_closes_like_a_missing_one(evidence):
    count = counting(evidence)
    read(count, [answer(2, canary=True), outcome(2, canary=True, clicked=True), outcome(4, canary=False, clicked=True)])
    assert counts(evidence, "not clicked") == ((0, 0), (0, 0))
    read(count, [outcome(3, canary=False, clicked=False)])
    assert counts(evidence, "not clicked") == ((0, 0), (0, 0)), "that is another partition"
    read(count, [outcome(6, canary=False, clicked=False)])
    assert counts(evidence, "not clicked") == ((1, 0), (1, 0))


def test_answers_of_other_versions_and_letters_that_were_not_to_be_answered_do_not_count(evidence):
    old = msgspec.structs.replace(answer(1, canary=False).record, model="tablecast@old")
    letter = msgspec.structs.replace(failure(3, canary=True).record, model=None)
    read(counting(evidence), [answer(1, canary=True), answer(2, canary=False)._replace(record=old)])
    counting(evidence).on_dead_letter("u3", letter)
    assert counts(evidence, "dead letter") == ((1, 0), (0, 0))


def test_before_the_first_champion_whatever_else_answers_is_compared():
    evidence = new_evidence(model(canary=True), None, RULES)
    read(counting(evidence), [answer(1, canary=True), answer(2, canary=False)])
    assert counts(evidence, "slow") == ((1, 0), (1, 0))


def test_a_canary_that_answers_nobody_is_rolled_back(evidence):
    records = []
    for user in range(0, 400, 2):
        records += [failure(user, canary=True), answer(user + 1, canary=False)]
    read(counting(evidence), records)
    judgement = judge(evidence.state, RULES)
    assert judgement.decision == "roll back"
    assert "dead letter: 100.00%" in judgement.reason


def test_reading_in_pieces_with_restarts_counts_the_same(evidence):
    records = list(life(300, lambda canary: 0.2 if canary else 0.5))
    read(counting(evidence), records)
    kept = new_evidence(model(canary=True), model(canary=False), RULES)
    done = 0
    for upto in (100, 350, 351, len(records)):
        count = counting(kept)
        read(count, records[:done], new=False)
        read(count, records[done:upto])
        kept, done = msgspec.json.decode(msgspec.json.encode(count.evidence), type=Evidence), upto
    assert kept == evidence
    assert judge(kept.state, RULES).decision == "roll back"


def test_the_evidence_fits_into_the_metadata_of_a_commit(evidence):
    for of in evidence.state.values():
        for name in ("canary", "champion", "canary_block", "champion_block"):
            setattr(of, name, Counts(123_456_789, 12_345_678))
        of.worse, of.allowed = [-123.45678901234567] * len(of.worse), [-123.45678901234567] * len(of.allowed)
        of.worse_at_best = of.allowed_at_best = 123.45678901234567
    evidence.start = evidence.end = NOON
    assert len(msgspec.json.encode(evidence)) < 3_500  # of 4,096 bytes; versions have 16 digits, names may be longer


def test_figures_name_guardrail_and_value_and_stay_finite(evidence):
    evidence.state["slow"].worse_at_best = 1e9
    told = figures(judge(evidence.state, rules_with(0.1)))
    assert told["not clicked: needed worse"] == 80
    assert told["slow: evidence worse"] == 1e12
    assert CANARY not in told


def test_the_margin_for_clicks_is_set_by_the_operator():
    assert {guardrail.name: guardrail.margin for guardrail in rules_with(0.1).guardrails} == {
        "not clicked": 0.1, "dead letter": 0.005, "degraded": 0.03, "slow": 0.03,
    }  # fmt: skip


def test_evidence_won_against_another_margin_is_evidence_of_something_else(evidence):
    assert evidence.about == new_evidence(model(canary=True), model(canary=False), rules_with(0.2)).about
    assert evidence.about != new_evidence(model(canary=True), model(canary=False), rules_with(0.1)).about
