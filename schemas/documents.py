"""The contract for people and programs in other languages: JSON Schemas, an AsyncAPI 3 document, golden bytes.

``python -m schemas.documents`` writes them to ``schemas/generated``; with ``--check`` it only compares, for CI.
"""

import inspect
import json
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from schemas.codec import encode
from schemas.examples import EXAMPLES
from schemas.records import Feedback, JoinedRequest, Record, TrainingExample
from schemas.topics import TOPICS, Topic

FOLDER = Path(__file__).parent / "generated"
GOLDEN = "golden.json"
DRAFT = "https://json-schema.org/draft/2020-12/schema"

ROLES: dict[str, dict[Literal["send", "receive"], tuple[str, ...]]] = {
    "merchant": {"send": ("catalog.items",)},
    "app": {
        "send": ("users.context", "users.requests", "users.feedback", "users.erasure"),
        "receive": ("recommendations",),
    },
    "state": {
        "receive": (
            "catalog.items", "users.context", "users.requests", "users.feedback", "users.erasure", "recommendations",
        ),
        "send": ("requests.joined", "retraining", "deadletters"),
    },
    "inference": {
        "receive": ("requests.joined", "catalog.items", "models"),
        "send": ("recommendations", "models.shadow", "deadletters"),
    },
    "trainer": {
        "receive": ("retraining", "catalog.items", "models", "recommendations", "deadletters"),
        "send": ("models", "models.decisions", "deadletters"),
    },
    "operator": {"receive": ("deadletters", "models", "models.decisions", "models.shadow"), "send": ("models",)},
}  # fmt: skip
"""Who does what with which topic."""


def json_schema(kind: type[Record]) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of one record type, complete in itself."""
    kinds = [kind, JoinedRequest] if kind is TrainingExample else [kind]
    _, definitions = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    for definition in definitions.values():
        _polish(definition)
    if kind is Feedback:
        definitions["Feedback"] |= {
            "if": {"properties": {"kind": {"const": "rating"}}, "required": ["kind"]},
            "then": {"properties": {"rating": {"type": "number"}}, "required": ["rating"]},
        }
    if kind is TrainingExample:
        definitions["TrainingExample"]["properties"]["joined"] = {"$ref": "#/$defs/JoinedRequest"}
    top = definitions.pop(kind.__name__)
    return {"$schema": DRAFT, **top, **({"$defs": definitions} if definitions else {})}


def _polish(schema: Any) -> None:
    """Say, in place, what holds for msgpack and what msgspec's schema of the JSON form leaves out."""
    if isinstance(schema, list):
        for entry in schema:
            _polish(entry)
    if not isinstance(schema, dict):
        return
    if isinstance(schema.get("description"), str):
        schema["description"] = inspect.cleandoc(schema["description"]).replace("``", "`")
    if schema.get("contentEncoding") == "base64":
        schema["description"] = "bin in msgpack; base64 where the record is shown as JSON"
    if "prefixItems" in schema:
        del schema["items"]  # maxItems says it too, and before draft 2019-09 `items: false` meant "no items at all"
    version = schema.get("properties", {}).get("v", {})
    if "enum" in version:
        (current,) = version["enum"]
        schema["properties"]["v"] = {
            "const": current,
            "description": "schema version; a record without it is of version 1",
        }
        if current == 1:
            schema["required"].remove("v")
    if schema.get("required") == []:
        del schema["required"]
    for key, value in schema.items():
        if key not in ("default", "enum", "const"):
            _polish(value)


def as_json(raw: bytes) -> Any:
    """Return the JSON form of msgpack bytes: the same value, bytes as base64."""
    return msgspec.to_builtins(msgspec.msgpack.decode(raw))


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document: topics as channels, records as messages, who sends and receives what."""
    by_name = {topic.name: topic for topic in TOPICS}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tablecast",
            "version": metadata.version("tablecast"),
            "description": (
                "Requests and context in, recommendations out, feedback into the retraining topic. Values are msgpack "
                "maps, keys are UTF-8 ids, the record timestamp is the event time in milliseconds since 1970."
            ),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/msgpack",
        "servers": {
            "cluster": {
                "host": "{bootstrap}",
                "protocol": "kafka",
                "description": "The cluster of the setting kafka.bootstrap.",
                "variables": {"bootstrap": {"default": "127.0.0.1:9092", "description": "host:port of a broker"}},
            }
        },
        "channels": {topic.name: _channel(topic) for topic in TOPICS},
        "operations": {
            f"{role}.{action}.{name}": {
                "action": action,
                "summary": f"{role.capitalize()}: {by_name[name].purpose}",
                "channel": {"$ref": f"#/channels/{name}"},
                "messages": [{"$ref": f"#/channels/{name}/messages/{by_name[name].record.__name__}"}],
                "tags": [{"name": role}],
            }
            for role, actions in ROLES.items()
            for action, names in actions.items()
            for name in names
        },
        "components": {"messages": {topic.record.__name__: _message(topic) for topic in TOPICS}},
    }


def _channel(topic: Topic) -> dict[str, Any]:
    config = topic.config()
    return {
        "address": "{prefix}" + topic.name,
        "summary": topic.purpose.capitalize(),
        "description": f"Key: {topic.key}. Partitions: {_partition_rule(topic)}.",
        "messages": {topic.record.__name__: {"$ref": f"#/components/messages/{topic.record.__name__}"}},
        "parameters": {"prefix": {"description": "The setting kafka.prefix.", "default": ""}},
        "bindings": {
            "kafka": {
                **({"partitions": topic.fixed_partitions} if topic.fixed_partitions else {}),
                "topicConfiguration": {
                    "cleanup.policy": [config["cleanup.policy"]],
                    "retention.ms": int(config["retention.ms"]),
                    "max.message.bytes": int(config["max.message.bytes"]),
                },
                "bindingVersion": "0.5.0",
            }
        },
    }


def _partition_rule(topic: Topic) -> str:
    if topic.keyed_by_user:
        return "the setting kafka.partitions, the same for every topic keyed by user id"
    return str(topic.fixed_partitions)


def _message(topic: Topic) -> dict[str, Any]:
    record = topic.record.__name__
    schema = json_schema(topic.record)
    return {
        "name": record,
        "title": record,
        "summary": schema["description"].partition("\n")[0],
        "contentType": "application/msgpack",
        "payload": {"$ref": f"./json/{record}.schema.json"},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "minLength": 1, "maxLength": 200, "description": topic.key},
                "bindingVersion": "0.5.0",
            }
        },
        "examples": [
            {"name": name, "payload": as_json(encode(record))}
            for name, record in EXAMPLES[topic.record]._asdict().items()
        ],
    }


def golden(previous: dict[str, Any]) -> dict[str, Any]:
    """Return the golden bytes, given the file as it was: bytes that were once canonical stay in it for ever.

    ``vectors`` are what encoders must write and decoders must read; ``foreign`` are the same records as other
    languages may write them, to be read as the vector of that name; ``earlier`` are bytes written by earlier releases,
    to be read still.
    """
    vectors, foreign = [], []
    for topic in TOPICS:
        for name, record in EXAMPLES[topic.record]._asdict().items():
            raw = encode(record)
            labels = {"record": topic.record.__name__, "name": name}
            vectors.append({**labels, "value": as_json(raw), "msgpack": raw.hex()})
            foreign += [
                {**labels, "how": how, "msgpack": other.hex()}
                for how, other in _foreign(topic.record, raw)
                if other != raw
            ]
    current = {(vector["record"], vector["msgpack"]) for vector in vectors}
    seen = previous.get("earlier", []) + previous.get("vectors", [])
    return {
        "vectors": vectors,
        "foreign": foreign,
        "earlier": [vector for vector in seen if (vector["record"], vector["msgpack"]) not in current],
    }


def _foreign(kind: type[Record], raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the same record as encoders of other languages, and of later releases, may write it."""
    fields: dict[str, Any] = msgspec.msgpack.decode(raw)
    pack = msgspec.msgpack.encode
    yield "fields in another order", pack(dict(reversed(fields.items())))
    yield "fields this release does not know", pack({"added_later": {"a": [1, None, "x"]}, **fields})
    if fields["v"] == 1:
        yield "without v", pack({name: value for name, value in fields.items() if name != "v"})
    yield "whole floats as integers", pack(_whole_floats_as_integers(fields))
    if kind is not TrainingExample:  # its joined request is kept byte for byte
        yield "defaults written out", pack({**_defaults(kind), **fields})


def _defaults(kind: type[Record]) -> dict[str, Any]:
    defaults: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.default is not msgspec.NODEFAULT:
            defaults[field.name] = field.default
        elif field.default_factory is not msgspec.NODEFAULT:
            defaults[field.name] = field.default_factory()
    return defaults


def _whole_floats_as_integers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _whole_floats_as_integers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_whole_floats_as_integers(entry) for entry in value]
    return value


def generate(folder: Path) -> dict[Path, str]:
    """Return every generated file's path and text; ``folder`` is read for the golden bytes of earlier releases."""
    golden_file = folder / GOLDEN
    previous = msgspec.json.decode(golden_file.read_bytes(), type=dict[str, Any]) if golden_file.exists() else {}
    documents = {
        folder / "json" / f"{topic.record.__name__}.schema.json": json_schema(topic.record) for topic in TOPICS
    }
    documents |= {folder / "asyncapi.json": asyncapi(), golden_file: golden(previous)}
    return {path: json.dumps(document, ensure_ascii=False, indent=2) + "\n" for path, document in documents.items()}


def write(folder: Path) -> None:
    """Write the generated files and remove schemas of records that no topic carries any more."""
    files = generate(folder)
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path in _unexpected(folder, files):
        path.unlink()


def differences(folder: Path) -> list[str]:
    """Return one line for every file that is not what the code would write."""
    files = generate(folder)
    lines = [f"{path.name}: missing" for path in files if not path.exists()]
    lines += [
        f"{path.name}: differs" for path, text in files.items() if path.exists() and path.read_text("utf-8") != text
    ]
    return lines + [f"{path.name}: no topic carries this record" for path in _unexpected(folder, files)]


def _unexpected(folder: Path, files: Iterable[Path]) -> list[Path]:
    return sorted(set((folder / "json").glob("*.schema.json")) - set(files))


def main(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 if the files are out of date.")
    ] = False,
) -> None:
    """Write the JSON Schemas, the AsyncAPI document and the golden bytes of the contract.

    Example: python -m schemas.documents --check
    """
    if not check:
        write(FOLDER)
    elif lines := differences(FOLDER):
        typer.echo(
            f"{FOLDER.name} is not what schemas/ says ({'; '.join(lines)}): run python -m schemas.documents", err=True
        )
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
