"""Bytes to records and back. Every input is hostile until ``decode`` has returned."""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import msgpack
import msgspec

from schemas.records import Record

R = TypeVar("R", bound=Record)

UPGRADES: dict[tuple[type[Record], int], Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""For each (record type, old version) the function from the old version's map to the next version's."""

MAX_BYTES = 4 * 1024 * 1024


class DecodeError(ValueError):
    """The bytes are not a record of the expected type; the message says which field is wrong and how."""


@cache
def _decoder(kind: type[R]) -> msgspec.msgpack.Decoder[R]:
    return msgspec.msgpack.Decoder(kind)


_encoder = msgspec.msgpack.Encoder()


def version_of(kind: type[Record]) -> int:
    """Return the schema version this code writes for a record type."""
    tag = msgspec.inspect.type_info(kind).tag  # type: ignore[attr-defined]
    return int(tag)


def encode(record: Record) -> bytes:
    """Return the record's msgpack bytes: fields as declared, defaults left out; equal records give equal bytes."""
    return _encoder.encode(record)


def decode(kind: type[R], raw: bytes | None) -> R:
    """Return the record in ``raw``, brought up to the current schema version.

    Raises:
        DecodeError: not msgpack, not a map, a required field missing, a wrong type, out of range, or a schema version
            newer than this code knows.

    """
    if raw is None:
        raise DecodeError("the value is empty (a tombstone), but this topic carries records")
    if len(raw) > MAX_BYTES:
        raise DecodeError(f"{len(raw)} bytes; a record has at most {MAX_BYTES}")
    try:
        return _decoder(kind).decode(raw)
    except msgspec.ValidationError as error:
        return _decode_other_version(kind, raw, error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"not msgpack: {error}") from error


def _decode_other_version(kind: type[R], raw: bytes, error: msgspec.ValidationError) -> R:
    current = version_of(kind)
    try:
        fields: Any = msgpack.unpackb(raw, strict_map_key=False)
    except Exception as unreadable:  # whatever msgpack raises on bytes that msgspec has already refused
        raise DecodeError(f"not msgpack: {unreadable}") from unreadable
    version = fields.get("v", 1) if isinstance(fields, dict) else current
    if not isinstance(version, int) or isinstance(version, bool) or version == current:
        raise DecodeError(f"not a valid {kind.__name__}: {error}") from error
    if version > current:
        raise DecodeError(
            f"{kind.__name__} has schema version {version}; this reader knows up to {current}: upgrade it"
        ) from error
    while version < current:
        upgrade = UPGRADES.get((kind, version))
        if upgrade is None:
            raise DecodeError(f"{kind.__name__} has schema version {version}, which is no longer readable") from error
        fields = {**upgrade(fields), "v": (version := version + 1)}
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as invalid:
        raise DecodeError(f"not a valid {kind.__name__}: {invalid}") from invalid


def decode_key(raw: bytes | None) -> str:
    """Return the record key as text.

    Raises:
        DecodeError: no key, not UTF-8, or longer than an id may be.

    """
    if not raw:
        raise DecodeError("the record has no key; it must be the id of the user (or item) it is about")
    try:
        key = raw.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"the record key is not UTF-8: {error.reason} at byte {error.start}") from error
    if len(key) > 200:
        raise DecodeError(f"the record key has {len(key)} characters; an id has at most 200")
    return key
