"""The generated documents: up to date, well formed, and of one mind with the codec."""

import json
import re
import subprocess
import sys
from pathlib import Path

import msgpack
import pytest
import typer
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from schemas import documents
from schemas.codec import DecodeError, decode, encode
from schemas.documents import FOLDER, ROLES, as_json, differences, generate, json_schema, write
from schemas.examples import EXAMPLES
from schemas.records import DeadLetter, Feedback, Item, TrainingExample
from schemas.topics import TOPICS

KINDS = [topic.record for topic in TOPICS]
ASYNCAPI = json.loads((FOLDER / "asyncapi.json").read_text("utf-8"))
of_every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def test_the_generated_files_are_what_the_code_says():
    assert differences(FOLDER) == []


def test_writing_twice_gives_the_same_files(tmp_path):
    write(tmp_path)
    first = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    write(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == first
    assert len(first) == len(KINDS) + 2


def test_the_order_of_hashing_does_not_show_in_the_files():
    code = "import pathlib, schemas.documents as d; print(list(d.generate(pathlib.Path('nowhere')).values()))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_a_changed_missing_or_left_over_file_is_a_difference(tmp_path):
    write(tmp_path)
    assert differences(tmp_path) == []
    schema = tmp_path / "json" / "Item.schema.json"
    schema.write_text(schema.read_text("utf-8").replace('"minLength": 1', '"minLength": 2'), "utf-8")
    (tmp_path / "asyncapi.json").unlink()
    (tmp_path / "json" / "Gone.schema.json").write_text("{}")
    assert differences(tmp_path) == [
        "asyncapi.json: missing",
        "Item.schema.json: differs",
        "Gone.schema.json: no topic carries this record",
    ]
    write(tmp_path)
    assert differences(tmp_path) == []


@of_every_kind
def test_each_schema_is_valid_and_refers_only_to_itself(kind):
    schema = json.loads((FOLDER / "json" / f"{kind.__name__}.schema.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    for reference in _references(schema):
        assert reference.startswith("#/")
        _resolve(schema, reference)


@of_every_kind
@pytest.mark.parametrize("example", ["minimal", "full"])
def test_examples_validate(kind, example):
    value = as_json(encode(getattr(EXAMPLES[kind], example)))
    Draft202012Validator(json_schema(kind)).validate(value)


@of_every_kind
def test_schema_and_codec_refuse_the_same_broken_records(kind):
    whole = msgpack.unpackb(encode(EXAMPLES[kind].full))
    validator = Draft202012Validator(json_schema(kind))
    broken = list(_broken(kind, whole))
    assert len(broken) > len(kind.__struct_fields__)
    for what, value in broken:
        assert not validator.is_valid(as_json(msgpack.packb(value))), f"the schema of {kind.__name__} accepts {what}"
        assert _refused(kind, msgpack.packb(value)), f"the codec accepts {what}"


def _refused(kind, raw):
    try:
        decode(kind, raw)
    except DecodeError:
        return True
    return False


def _broken(kind, whole):
    optional = {
        name for name, default in zip(kind.__struct_fields__[::-1], kind.__struct_defaults__[::-1], strict=False)
    }
    required = json_schema(kind).get("required", [])
    assert not optional & set(required)
    for name in required:
        yield f"{name} missing", {key: value for key, value in whole.items() if key != name}
    for name in whole:
        if kind is TrainingExample and name == "joined":
            continue  # kept as bytes, decoded by who needs it
        yield f"{name} of a wrong type", {**whole, name: [[[]]]}
    yield "a later schema version", {**whole, "v": whole["v"] + 1}
    yield "no map", [whole]
    if kind is Feedback:
        yield "a rating without its value", {**whole, "rating": None}
    if kind is Item:
        yield "six days a week", {**whole, "hours": whole["hours"][:6]}
        yield "half an interval", {**whole, "hours": [[[1]], *whole["hours"][1:]]}
        yield "an interval of three", {**whole, "hours": [[[1, 2, 3]], *whole["hours"][1:]]}
        yield "a latitude of 91", {**whole, "location": {"lat": 91, "lon": 0}}
        yield "a negative price", {**whole, "price": -1}
        yield "an empty category", {**whole, "categories": [""]}
    if kind is DeadLetter:
        yield "an unknown stage", {**whole, "stage": "nowhere"}


def test_asyncapi_has_the_required_structure():
    assert ASYNCAPI["asyncapi"] == "3.0.0"
    assert ASYNCAPI["info"]["title"]
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", ASYNCAPI["info"]["version"])
    assert ASYNCAPI["defaultContentType"] == "application/msgpack"
    for server in ASYNCAPI["servers"].values():
        assert server["protocol"] == "kafka"
        assert set(re.findall(r"{(.+?)}", server["host"])) == server["variables"].keys()
    for name, message in ASYNCAPI["components"]["messages"].items():
        assert message["name"] == name
        assert message["contentType"] == "application/msgpack"
        assert message["bindings"]["kafka"]["key"]["type"] == "string"
        for example in message["examples"]:
            schema = json.loads((FOLDER / message["payload"]["$ref"]).read_text("utf-8"))
            Draft202012Validator(schema).validate(example["payload"])


def test_every_topic_is_a_channel_with_its_kafka_settings():
    assert list(ASYNCAPI["channels"]) == [topic.name for topic in TOPICS]
    for topic in TOPICS:
        channel = ASYNCAPI["channels"][topic.name]
        assert channel["address"] == "{prefix}" + topic.name
        assert set(re.findall(r"{(.+?)}", channel["address"])) == channel["parameters"].keys()
        assert list(channel["messages"]) == [topic.record.__name__]
        kafka = channel["bindings"]["kafka"]
        assert kafka.get("partitions") == topic.fixed_partitions
        assert kafka["topicConfiguration"]["cleanup.policy"] == [topic.cleanup]
        assert topic.key in channel["description"]


def test_every_operation_points_at_a_channel_and_at_one_of_its_messages():
    for name, operation in ASYNCAPI["operations"].items():
        role, action, topic = name.split(".", 2)
        assert operation["action"] == action
        assert action in ("send", "receive")
        assert topic in ROLES[role][action]
        channel = _resolve(ASYNCAPI, operation["channel"]["$ref"])
        assert channel is ASYNCAPI["channels"][topic]
        for message in operation["messages"]:
            assert message["$ref"].startswith(operation["channel"]["$ref"] + "/messages/")


def test_every_topic_has_somebody_who_sends_and_somebody_who_receives():
    for action in ("send", "receive"):
        assert {t for actions in ROLES.values() for t in actions.get(action, ())} == {topic.name for topic in TOPICS}


def test_every_reference_in_asyncapi_resolves():
    references = list(_references(ASYNCAPI))
    assert references
    for reference in references:
        if reference.startswith("#/"):
            _resolve(ASYNCAPI, reference)
        else:
            assert (FOLDER / reference).resolve() in generate(FOLDER)


def test_check_says_which_file_is_out_of_date_and_what_to_do(tmp_path, monkeypatch):
    app = typer.Typer()
    app.command()(documents.main)
    monkeypatch.setattr(documents, "FOLDER", tmp_path)
    refused = CliRunner().invoke(app, ["--check"])
    assert refused.exit_code == 1
    assert "asyncapi.json: missing" in refused.stderr
    assert "run python -m schemas.documents" in refused.stderr
    assert list(Path(tmp_path).iterdir()) == []
    assert CliRunner().invoke(app, []).exit_code == 0
    assert CliRunner().invoke(app, ["--check"]).exit_code == 0


def _references(document):
    if isinstance(document, dict):
        for key, value in document.items():
            if key == "$ref":
                yield value
            else:
                yield from _references(value)
    elif isinstance(document, list):
        for entry in document:
            yield from _references(entry)


def _resolve(document, reference):
    for part in reference.removeprefix("#/").split("/"):
        document = document[part]
    return document
