"""A dead letter says what was wrong with which record, and quotes nothing of a record about a user."""

import pytest

from models.pseudonyms import Pseudonyms
from schemas.codec import DecodeError, decode
from schemas.domains import UnknownDomainError, pack_for
from schemas.records import DeadLetter, Feedback
from schemas.topics import CATALOG_ITEMS, RETRAINING, USERS_CONTEXT, USERS_FEEDBACK, Topic
from streams.deadletters import MAX_REASON, MAX_VALUE_BYTES, dead_letter, reason

PSEUDONYMS = Pseudonyms((b"a key of tests only",))
RAW = Pseudonyms(PSEUDONYMS.keys, keep_raw=True)
ERROR = DecodeError("not msgpack: " + "x" * 5000)


def letter(
    topic: Topic = USERS_CONTEXT, error: Exception = ERROR, pseudonyms: Pseudonyms = PSEUDONYMS, **fields: object
) -> tuple[bytes, DeadLetter]:
    where = {"name": f"p.{topic.name}", "partition": 2, "offset": 7, "timestamp": -1, "key": b"ann", "value": b"\xff"}
    key, value = dead_letter("state", error, pseudonyms, topic=topic, **{**where, **fields})  # type: ignore[arg-type]
    return key, decode(DeadLetter, value)


def test_it_says_what_was_wrong_with_which_record():
    _, record = letter()
    assert (record.topic, record.partition, record.offset, record.event_time) == ("p.users.context", 2, 7, -1)
    assert (record.stage, record.error) == ("state", "DecodeError")
    assert record.reason.startswith("not msgpack")
    assert len(record.reason) == MAX_REASON
    assert record.first_seen > 0


def test_a_record_about_a_user_stays_where_it_is_and_the_letter_has_the_users_pseudonym():
    key, record = letter()
    assert (record.key, record.value, record.payload) == (None, None, "withheld")
    assert key == PSEUDONYMS.of(b"ann")


def test_a_record_without_a_key_has_no_pseudonym():
    assert letter(key=None)[0] == b""


@pytest.mark.parametrize(
    ("topic", "pseudonyms"), [(CATALOG_ITEMS, PSEUDONYMS), (RETRAINING, PSEUDONYMS), (USERS_CONTEXT, RAW)]
)
@pytest.mark.parametrize("value", [None, b"", b"x" * MAX_VALUE_BYTES])
def test_other_records_and_all_of_them_where_configuration_says_so_are_kept_as_they_were(topic, pseudonyms, value):
    key, record = letter(topic, pseudonyms=pseudonyms, value=value)
    assert (key, record.key, record.value, record.payload) == (b"ann", b"ann", value, "whole")
    key, record = letter(topic, pseudonyms=pseudonyms, key=None)
    assert (key, record.key) == (b"", None)


def test_a_value_that_would_not_fit_into_the_topic_is_cut():
    _, record = letter(CATALOG_ITEMS, value=b"x" * (MAX_VALUE_BYTES + 1))
    assert (record.payload, len(record.value or b"")) == ("cut", MAX_VALUE_BYTES)


def raised(text: str) -> Exception:
    with pytest.raises(KeyError) as caught:
        {}[text]
    return caught.value


def unknown_domain(name: str) -> Exception:
    with pytest.raises(UnknownDomainError) as caught:
        pack_for(name)
    return caught.value


def not_feedback(kind: str) -> Exception:
    import msgpack

    with pytest.raises(DecodeError) as caught:
        decode(Feedback, msgpack.packb({"item_id": "i", "domain": "restaurant", "kind": kind}))
    return caught.value


@pytest.mark.parametrize("words", ["it's me, 'ann', call", "我的电话是13800138000", "13800138000", 'a "b" c', "ann"])
@pytest.mark.parametrize("made", [raised, unknown_domain, not_feedback])
def test_the_reason_quotes_nothing_that_a_user_may_have_said(made, words):
    error = made(words)
    assert words in str(error).replace("\\", "")
    told = reason(error, USERS_FEEDBACK, b"ann", PSEUDONYMS)
    assert words not in told
    assert "13800138000" not in told
    assert reason(error, USERS_FEEDBACK, b"ann", RAW) == str(error)


def test_what_helps_to_repair_a_producer_stays():
    assert "'spaceports'" in reason(unknown_domain("spaceports"), USERS_FEEDBACK, b"ann", PSEUDONYMS)
    assert "`$.kind`" in reason(not_feedback("looked at it"), USERS_FEEDBACK, b"ann", PSEUDONYMS)
    assert "test_deadletters.py:" in reason(raised("x"), USERS_FEEDBACK, b"ann", PSEUDONYMS)
