"""A dead letter's bytes: what people see of them, and what becomes of them when they are corrected."""

import json
import time

import msgspec
import pytest

from ops.dead_letters.anatomy import editable, fault, hex_dump, printable, structure
from ops.dead_letters.exchange import as_line, corrections
from ops.dead_letters.letters import Decision, Letter, Selection, kind_of_reason
from ops.dead_letters.originals import Payload
from schemas.codec import encode
from schemas.errors import BadInputError
from schemas.records import DeadLetter, Request
from schemas.topics import CATALOG_ITEMS, USERS_REQUESTS
from streams.settings import KafkaSettings, Settings

KAFKA = KafkaSettings(partitions=4)
GOOD = encode(Request(request_id="r", domain="restaurant", text="粤菜"))
FAULTY = msgspec.msgpack.encode({"request_id": "r", "text": "粤菜", "k": 3})
PAYLOAD = Payload(b"user", FAULTY)


def letter(*, decision=None, offset=17):
    record = DeadLetter(
        topic="users.requests", partition=0, offset=offset, stage="state", error="DecodeError",
        reason="not a valid Request: Object missing required field `domain`", event_time=1_000, first_seen=2_000,
        payload="withheld",
    )  # fmt: skip
    return Letter(f"users.requests/0/{offset}", record, decision)


def test_what_is_msgpack_is_decoded_up_to_where_it_is_not():
    values, end = structure(msgspec.msgpack.encode({"k": "ten"}) + b"\xc1\x00")
    assert values == [{"k": "ten"}]
    assert end == len(msgspec.msgpack.encode({"k": "ten"}))


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x81" * 10_000, b"\xdd\xff\xff\xff\xff", b"\xdb\x00\xff"])
def test_hostile_bytes_are_no_harm(raw):
    values, end = structure(raw)
    assert 0 <= end <= len(raw)
    json.dumps(printable(values), allow_nan=False)


def test_what_json_can_not_hold_is_described():
    assert printable({"a": b"12", "n": float("nan"), "t": "x" * 401}) == {
        "a": "<2 bytes>", "n": "nan", "t": f"{'x' * 400}… (401 characters)",
    }  # fmt: skip


def test_only_what_json_says_exactly_can_be_edited():
    assert editable(FAULTY) == {"request_id": "r", "text": "粤菜", "k": 3}
    assert editable(msgspec.msgpack.encode({"a": b"bytes"})) is None
    assert editable(msgspec.msgpack.encode({"a": 1}) + b"x") is None
    assert editable(b"") is None
    assert editable(None) is None


def test_hex_shows_bytes_and_characters():
    assert hex_dump(b"AB\x00").split() == ["00000000", "41", "42", "00", "AB."]
    assert hex_dump(b"x" * 600).endswith("88 more bytes")


@pytest.mark.parametrize(
    ("topic", "key", "value", "word"),
    [
        (USERS_REQUESTS, b"user", FAULTY, "`domain`"),
        (USERS_REQUESTS, None, GOOD, "no key"),
        (USERS_REQUESTS, b"user", encode(Request(request_id="r", domain="spaceports")), "spaceports"),
        (USERS_REQUESTS, b"user", None, "tombstone"),
        (USERS_REQUESTS, b"user", GOOD, None),
        (CATALOG_ITEMS, b"item", None, None),
    ],
)
def test_it_says_whether_a_record_would_still_be_refused(topic, key, value, word):
    found = fault(Settings(), topic, key, value, 1_000)
    assert found is None if word is None else word in found


def test_a_time_in_the_future_is_still_a_fault():
    assert "future" in fault(Settings(), USERS_REQUESTS, b"user", GOOD, int(time.time() * 1000) + 10**9)


def test_an_exported_and_corrected_letter_is_posted_as_the_same_record_with_what_was_corrected(tmp_path):
    line = as_line(letter(), PAYLOAD)
    line["value"]["domain"] = "restaurant"
    file = tmp_path / "letters.jsonl"
    file.write_text(json.dumps(line) + "\n", encoding="utf-8")
    original = corrections(KAFKA, file)["users.requests/0/17"]
    assert (original.topic, original.key, original.time) == (USERS_REQUESTS, b"user", 1_000)
    assert fault(Settings(), USERS_REQUESTS, original.key, original.value, original.time) is None


def test_bytes_that_json_can_not_hold_survive_export(tmp_path):
    file = tmp_path / "letters.jsonl"
    file.write_text(json.dumps(as_line(letter(), Payload(b"user", b"\xc1\x00"))), encoding="utf-8")
    assert corrections(KAFKA, file)["users.requests/0/17"].value == b"\xc1\x00"


@pytest.mark.parametrize(
    "line", ["no json", "{}", '{"name": "users.requests/0/1", "key": "u", "value": null, "event_time": "soon"}']
)
def test_a_line_that_is_no_letter_is_refused_by_its_number(tmp_path, line):
    file = tmp_path / "letters.jsonl"
    file.write_text(line, encoding="utf-8")
    with pytest.raises(BadInputError, match=r"letters\.jsonl line 1"):
        corrections(KAFKA, file)


def test_what_a_stage_wrote_can_not_be_corrected(tmp_path):
    file = tmp_path / "letters.jsonl"
    file.write_text(json.dumps({**as_line(letter(), PAYLOAD), "name": "recommendations/0/1"}), encoding="utf-8")
    with pytest.raises(BadInputError, match="recommendations"):
        corrections(KAFKA, file)


def test_decided_letters_are_selected_only_when_asked_for():
    decided = letter(decision=Decision("discarded", 3_000))
    assert decided not in Selection()
    assert decided in Selection(decided=True)
    assert letter() in Selection(error="DecodeError", topic="users.requests", stage="state", since=2_000, until=2_001)
    assert letter() not in Selection(until=2_000)
    assert letter() not in Selection(names={"users.requests/0/18"})


def test_reasons_that_differ_in_numbers_are_one_kind():
    assert kind_of_reason("12 bytes; at most 9") == kind_of_reason("700 bytes; at most 9")
