"""The campaign's ledger notices every broken promise."""

import pytest

from ops.bench.ledger import Ledger, Place
from ops.simulator.poison import Posting
from schemas.codec import encode
from schemas.records import DeadLetter, Recommendation, RecommendedItem, Source
from schemas.topics import USERS_REQUESTS

GOOD = Posting(1_000, USERS_REQUESTS, b"ann", b"a request", "r1")
BAD = Posting(1_000, USERS_REQUESTS, b"bob", b"noise", "r2", "random bytes")
WHERE_GOOD, WHERE_BAD = Place("users.requests", 0, 0), Place("users.requests", 1, 7)


@pytest.fixture
def ledger():
    return Ledger({WHERE_GOOD: GOOD, WHERE_BAD: BAD})


def answer(ledger, *, request_id="r1", key=b"ann", time=1_000, scores=(2.0, 1.0), reasons=None, degraded=None):
    items = [
        RecommendedItem(item_id=f"i{place}", score=score, reasons=reasons or {"near": score})
        for place, score in enumerate(scores)
    ]
    source = Source(partition=0, offset=0)
    record = Recommendation(
        request_id=request_id, domain="restaurant", model="m@1", items=items, source=source, degraded=degraded
    )
    ledger.answer(key, time, encode(record))


def letter(ledger, *, place=WHERE_BAD, error="DecodeError", reason="not a msgpack map", value=b"noise"):
    record = DeadLetter(
        topic=place.topic, partition=place.partition, offset=place.offset, stage="state", error=error, reason=reason,
        event_time=1_000, first_seen=2_000, key=b"bob", value=value,
    )  # fmt: skip
    ledger.dead_letter(encode(record))


def faults(ledger, *, may_shed=False, may_repeat=False):
    return ledger.faults(may_shed=may_shed, may_repeat_dead_letters=may_repeat)


def test_one_answer_and_one_dead_letter_are_what_was_promised(ledger):
    answer(ledger)
    letter(ledger)
    assert faults(ledger) == []
    assert (ledger.valid, ledger.poisonous, ledger.answered, ledger.dead_letters) == (1, 1, 1, 1)


def test_what_is_missing_is_named(ledger):
    assert faults(ledger) == [
        "1 valid requests were not answered: r1",
        f"1 poisonous records are not in deadletters: {WHERE_BAD}",
    ]


def test_a_second_answer_is_a_fault(ledger):
    letter(ledger)
    answer(ledger)
    answer(ledger)
    assert faults(ledger) == ["1 requests were answered more than once: r1"]


def test_an_answer_to_a_poisonous_request_is_a_fault(ledger):
    letter(ledger)
    answer(ledger)
    answer(ledger, request_id="r2")
    assert faults(ledger) == ["1 answers are to no valid request: r2"]


def test_a_second_dead_letter_is_a_fault_unless_the_stage_was_killed(ledger):
    answer(ledger)
    letter(ledger)
    letter(ledger)
    assert ledger.repeated_dead_letters == 1
    assert faults(ledger) == [f"1 records have more than one dead letter: {WHERE_BAD}"]
    assert faults(ledger, may_repeat=True) == []


def test_an_answer_that_was_shed_is_a_fault_unless_there_is_a_budget(ledger):
    letter(ledger)
    answer(ledger, degraded="overloaded: the text was not read")
    assert faults(ledger) == ["1 answers are cheaper ones although no budget is set: r1"]
    assert faults(ledger, may_shed=True) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"key": b"bob"}, "has key b'bob'"),
        ({"time": 2_000}, "and time 2000"),
        ({"scores": (1.0, 2.0)}, "not sorted by score"),
        ({"reasons": {"near": 1.5}}, "miss its score by 0.5"),
        ({"scores": (float("nan"),)}, "miss its score by nan"),
    ],
)
def test_an_answer_that_is_not_right_is_a_fault(ledger, wrong, said):
    letter(ledger)
    answer(ledger, **wrong)
    assert any(said in fault for fault in faults(ledger))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"place": WHERE_GOOD}, "nothing was wrong with it"),
        ({"error": "KeyError"}, "was taken for KeyError"),
        ({"reason": "no"}, "was taken for DecodeError: no"),
        ({"value": b"noi"}, "is not the record that was posted"),
    ],
)
def test_a_dead_letter_that_is_not_right_is_a_fault(ledger, wrong, said):
    answer(ledger)
    letter(ledger, **wrong)
    assert any(said in fault for fault in faults(ledger))
