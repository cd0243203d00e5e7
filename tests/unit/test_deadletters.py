"""A dead letter has all that is needed to look at a record and to send it again."""

import pytest

from schemas.codec import DecodeError, decode
from schemas.records import DeadLetter
from streams.deadletters import MAX_VALUE_BYTES, dead_letter


def letter(**fields: object) -> DeadLetter:
    where = {"topic": "users.context", "partition": 2, "offset": 7, "timestamp": -1, "key": b"u", "value": b"\xff"}
    error = DecodeError("not msgpack: " + "x" * 5000)
    return decode(DeadLetter, dead_letter("state", error, **{**where, **fields}))  # type: ignore[arg-type]


def test_a_dead_letter_says_what_was_wrong_with_which_record():
    record = letter()
    assert (record.topic, record.partition, record.offset, record.event_time) == ("users.context", 2, 7, -1)
    assert (record.stage, record.error, record.key, record.value) == ("state", "DecodeError", b"u", b"\xff")
    assert record.reason.startswith("not msgpack")
    assert len(record.reason) == 1000
    assert record.first_seen > 0


@pytest.mark.parametrize("value", [None, b"", b"x" * MAX_VALUE_BYTES])
def test_keys_and_values_are_kept_as_they_were(value):
    record = letter(key=None, value=value)
    assert (record.key, record.value) == (None, value)


def test_a_value_that_would_not_fit_into_the_topic_is_cut():
    assert len(letter(value=b"x" * (MAX_VALUE_BYTES + 1)).value or b"") == MAX_VALUE_BYTES
