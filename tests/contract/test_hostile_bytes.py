"""Whatever is on a topic, ``decode`` gives a record or a DecodeError, soon and in little memory."""

import json
import time
import tracemalloc

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.codec import MAX_BYTES, DecodeError, decode, decode_key, encode
from schemas.examples import EXAMPLES
from schemas.records import Context, Erasure, Item, JoinedRequest, ModelAnnouncement, Request

KINDS = list(EXAMPLES)
VALID = [encode(record) for examples in EXAMPLES.values() for record in examples]


def _record_or_error(raw):
    for kind in KINDS:
        try:
            assert isinstance(decode(kind, raw), kind)
        except DecodeError:
            continue


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes(raw):
    _record_or_error(raw)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(VALID),
    st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=6), st.integers(0, 6)), min_size=1, max_size=4),
)
def test_valid_bytes_with_pieces_replaced_added_or_cut_out(raw, edits):
    for place, piece, removed in edits:
        at = place % (len(raw) + 1)
        raw = raw[:at] + piece + raw[at + removed :]
    _record_or_error(raw)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(KINDS), st.data())
def test_maps_with_the_right_names_and_arbitrary_values(kind, data):
    names = st.sampled_from(("v", *kind.__struct_fields__))
    fields = msgpack.unpackb(encode(EXAMPLES[kind].full)) | data.draw(st.dictionaries(names, _VALUES, max_size=3))
    try:
        record = decode(kind, msgpack.packb(fields))
    except DecodeError:
        return
    assert decode(kind, encode(record)) == record


_HUGE = [bytes([code]) + b"\xff\xff\xff\xff\x01" for code in (0xDD, 0xDF, 0xDB, 0xC6, 0xC9)]  # list, map, str, bin, ext


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_length_of_four_billion_costs_neither_time_nor_memory(kind):
    for length in _HUGE:
        for name in (*kind.__struct_fields__, "unknown"):
            _cheaply_refused(kind, b"\x81" + msgpack.packb(name) + length)
        _cheaply_refused(kind, length)


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a", b"\x81\x91"], ids=["lists", "maps", "lists as keys"])
@pytest.mark.parametrize("name", ["fields", "location", "unknown", "v"])
def test_nesting_of_a_million_levels_is_refused(opening, name):
    _cheaply_refused(Context, b"\x81" + msgpack.packb(name) + opening * 1_000_000)
    _cheaply_refused(Context, opening * 1_000_000)


def _cheaply_refused(kind, raw):
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with pytest.raises(DecodeError):
            decode(kind, raw)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert time.perf_counter() - started < 1
    assert peak < 1_000_000 + 2 * len(raw)


def test_more_bytes_than_any_topic_takes_are_refused_unread():
    with pytest.raises(DecodeError, match=f"{MAX_BYTES + 1} bytes; a record has at most {MAX_BYTES}"):
        decode(Request, b"\x00" * (MAX_BYTES + 1))


_ERASURE = msgpack.packb({"request_id": "r"})
_REQUEST = {"request_id": "r", "domain": "d"}
_ONE_VALUE = "not a msgpack map of the record's fields, but one value of type"
_JSON = "not msgpack: this looks like JSON; encode the same map with msgpack"


@pytest.mark.parametrize(
    ("kind", "raw", "message"),
    [
        (Request, None, "the value is empty (a tombstone), but this topic carries records"),
        (Request, b"", "not msgpack: Input data was truncated"),
        (Request, b"hello", f"{_ONE_VALUE} `int`"),
        (Request, b"\x00\x00\x00\x00\x05avro", f"{_ONE_VALUE} `int`"),
        (Request, msgpack.packb("text"), f"{_ONE_VALUE} `str`"),
        (Request, msgpack.packb([1]), f"{_ONE_VALUE} `array`"),
        (Request, json.dumps({"v": 1}).encode(), _JSON),
        (Request, b'\n {"v": 1}', _JSON),
        (Request, msgpack.packb({}), "not a valid Request: Object missing required field `request_id`"),
        (Request, msgpack.packb(_REQUEST | {"k": "9"}), "not a valid Request: Expected `int`, got `str` - at `$.k`"),
        (Request, msgpack.packb(_REQUEST | {"k": 0}), "not a valid Request: Expected `int` >= 1 - at `$.k`"),
        (Request, msgpack.packb({"v": "1"}), "not a valid Request: Expected `int`, got `str` - at `$.v`"),
        (
            Erasure,
            msgpack.packb({"request_id": b"r"}),
            "not a valid Erasure: Expected `str`, got `bytes` - at `$.request_id`",
        ),
        (Erasure, _ERASURE + b"\x00", "not msgpack: MessagePack data is malformed: trailing characters (byte 14)"),
        (Erasure, _ERASURE[:-1], "not msgpack: Input data was truncated"),
        (
            Context,
            msgpack.packb({"fields": {"x": float("nan")}}),
            "not a valid Context: Expected `float` >= -1e+300 - at `$.fields[...]`",
        ),
    ],
)
def test_typical_mistakes_are_named(kind, raw, message):
    with pytest.raises(DecodeError) as refused:
        decode(kind, raw)
    assert str(refused.value) == message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "fields", [{"location": {"lat": 0.0, "lon": 0.0}}, {"temperature": 0.0}, {"fields": {"x": 0.0}}]
)
def test_numbers_that_are_not_finite_never_get_in(fields, value):
    def spoiled(part):
        return {k: spoiled(v) if isinstance(v, dict) else value for k, v in part.items()}

    decode(Context, msgpack.packb(fields))
    with pytest.raises(DecodeError):
        decode(Context, msgpack.packb(spoiled(fields)))


@pytest.mark.parametrize("value", ["x" * 4001, ["x"] * 101, ["x" * 201], {"a": 1}, None])
def test_an_attribute_is_bounded(value):
    with pytest.raises(DecodeError):
        decode(Item, msgpack.packb({"domain": "d", "name": "n", "attributes": {"a": value}}))


def test_a_checksum_with_a_line_break_after_it_is_none():
    def announced(sha256):
        return msgpack.packb(
            {"v": 2, "generation": 1, "versions": [{"version": "1", "role": "shadow", "sha256": sha256}]}
        )

    decode(ModelAnnouncement, announced("0" * 64))
    with pytest.raises(DecodeError):
        decode(ModelAnnouncement, announced("0" * 64 + "\n"))


def test_a_wrong_field_inside_an_inner_record_is_named_with_its_path():
    whole = msgpack.unpackb(encode(EXAMPLES[JoinedRequest].full))
    whole["request"]["constraints"]["price_max"] = "eighty"
    with pytest.raises(
        DecodeError, match=r"Expected `float \| null`, got `str` - at `\$.request.constraints.price_max`"
    ):
        decode(JoinedRequest, msgpack.packb(whole))


@given(st.none() | st.binary(max_size=900))
@example("用户".encode() * 100)
@example("用户".encode() * 101)
@example("用".encode()[:2])
def test_a_key_is_text_of_at_most_200_characters_or_an_error(raw):
    try:
        key = decode_key(raw)
    except DecodeError:
        assert not raw or len(raw) > 200 or not _is_utf8(raw)
        return
    assert 1 <= len(key) <= 200
    assert key.encode() == raw


def _is_utf8(raw):
    return raw.decode(errors="ignore").encode() == raw
