"""The bytes that every language must read and write."""

import base64
import json
import subprocess
from pathlib import Path

import msgpack
import pytest

from schemas.codec import decode, encode
from schemas.documents import FOLDER, GOLDEN, golden
from schemas.examples import EXAMPLES
from schemas.topics import TOPICS

FILE = json.loads((FOLDER / GOLDEN).read_text("utf-8"))
KINDS = {topic.record.__name__: topic.record for topic in TOPICS}


def _id(vector):
    return "-".join(vector[key] for key in ("record", "name", "how") if key in vector).replace(" ", "_")


def _example(vector):
    return getattr(EXAMPLES[KINDS[vector["record"]]], vector["name"])


def _as_json(value):
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {key: _as_json(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_as_json(entry) for entry in value]
    return value


@pytest.mark.parametrize("vector", FILE["vectors"], ids=_id)
def test_our_codec_reads_and_writes_exactly_these_bytes(vector):
    raw = bytes.fromhex(vector["msgpack"])
    record = decode(KINDS[vector["record"]], raw)
    assert record == _example(vector)
    assert encode(record) == raw


@pytest.mark.parametrize("vector", FILE["vectors"], ids=_id)
def test_an_independent_msgpack_reads_and_writes_the_same_value(vector):
    raw = bytes.fromhex(vector["msgpack"])
    value = msgpack.unpackb(raw)
    assert _as_json(value) == vector["value"]
    assert decode(KINDS[vector["record"]], msgpack.packb(value)) == _example(vector)


@pytest.mark.parametrize("vector", FILE["foreign"], ids=_id)
def test_the_same_record_as_another_language_writes_it_is_the_same_record(vector):
    raw = bytes.fromhex(vector["msgpack"])
    assert raw != encode(_example(vector))
    assert decode(KINDS[vector["record"]], raw) == _example(vector)


def test_every_topic_has_a_minimal_and_a_full_vector():
    assert {(v["record"], v["name"]) for v in FILE["vectors"]} == {(k, n) for k in KINDS for n in ("minimal", "full")}


def test_the_full_example_sets_every_field():
    for kind, examples in EXAMPLES.items():
        written = msgpack.unpackb(encode(examples.full)).keys()
        assert written == {"v", *kind.__struct_fields__}, kind.__name__


def test_bytes_that_were_canonical_once_stay_in_the_file():
    before = {"vectors": [{"record": "Erasure", "name": "minimal", "value": {"v": 1}, "msgpack": "81a17601"}]}
    after = golden(before)
    assert after["earlier"] == before["vectors"]
    assert golden(after) == after


def test_bytes_of_earlier_releases_still_decode():
    for vector in FILE["earlier"]:
        decode(KINDS[vector["record"]], bytes.fromhex(vector["msgpack"]))


def test_every_vector_of_the_last_commit_still_decodes():
    root = Path(__file__).parents[2]
    path = (FOLDER / GOLDEN).relative_to(root)
    shown = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=root, capture_output=True, check=False)
    if shown.returncode:
        pytest.skip("not a git checkout, or no golden bytes are committed yet")
    committed = json.loads(shown.stdout)
    for vector in committed["vectors"] + committed["earlier"] + committed["foreign"]:
        decode(KINDS[vector["record"]], bytes.fromhex(vector["msgpack"]))
