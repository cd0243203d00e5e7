"""Bytes to records and back. Every input is hostile until ``decode`` has returned."""

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, TypeVar

import msgspec

from schemas.errors import BadInputError
from schemas.records import ModelAnnouncement, Record

R = TypeVar("R", bound=Record)
Fields = dict[str, Any]


def _announcement_of_all_versions(old: Fields) -> Fields:
    """Version 1 of a ModelAnnouncement told the role of a single version."""
    return {"generation": 1, "versions": [{name: value for name, value in old.items() if name != "v"}]}


UPGRADES: dict[tuple[type[Record], int], Callable[[Fields], Fields]] = {
    (ModelAnnouncement, 1): _announcement_of_all_versions,
}
"""For each (record type, old version) the function from the old version's map to the next version's."""

MAX_BYTES = 4 * 1024 * 1024


class DecodeError(BadInputError):
    """The bytes are not a record of the expected type; the message says which field is wrong and how."""


class _Versioned(msgspec.Struct):
    """Any record's version; all else is skipped over without being built."""

    v: Annotated[int, msgspec.Meta(ge=1)] = 1


_versioned = msgspec.msgpack.Decoder(_Versioned)
_map = msgspec.msgpack.Decoder(Fields)
_encoder = msgspec.msgpack.Encoder()


@cache
def _decoder(kind: type[R]) -> msgspec.msgpack.Decoder[R]:
    return msgspec.msgpack.Decoder(kind)


@cache
def version_of(kind: type[Record]) -> int:
    """Return the schema version this code writes for a record type."""
    tag = kind.__struct_config__.tag
    assert isinstance(tag, int)
    return tag


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
    current = version_of(kind)
    try:
        # A record without `v` is of version 1. msgspec would take it for the current version, so it is looked at first.
        if current > 1 and _versioned.decode(raw).v < current:
            raw = _encoder.encode(upgrade(kind, _map.decode(raw)))
        record: R = _decoder(kind).decode(raw)
    except msgspec.ValidationError as error:
        raise DecodeError(_explanation(kind, raw, error)) from error
    except RecursionError as error:
        raise DecodeError("not a record: lists or maps are nested too deeply") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"not msgpack: {error}") from error
    return record


def upgrade(kind: type[Record], fields: Fields) -> Fields:
    """Return the map of an older version of a record as a map of the current version.

    The upgrade of a record that contains another record calls this for the inner one.

    Raises:
        DecodeError: there is no way from that version, or the map is not what that version looked like.

    """
    version = fields.get("v", 1)
    while version < version_of(kind):
        step = UPGRADES.get((kind, version))
        if step is None:
            raise DecodeError(f"{kind.__name__} has schema version {version}, which is no longer readable")
        try:
            fields = step(fields)
        except Exception as error:  # an upgrade trusts the old shape; these bytes may not have it
            raise DecodeError(f"not a valid {kind.__name__} of version {version}: {error!r}") from error
        version += 1
        fields = {**fields, "v": version}
    return fields


def _explanation(kind: type[Record], raw: bytes, error: msgspec.ValidationError) -> str:
    """Return what is wrong with bytes that msgspec has refused, for the person who wrote their producer."""
    if raw.lstrip()[:1] in (b"{", b"["):  # as msgpack these are the bare numbers 123 and 91
        return "not msgpack: this looks like JSON; encode the same map with msgpack"
    try:
        version = _versioned.decode(raw).v
    except msgspec.ValidationError as not_a_record:
        if "$" not in str(not_a_record):
            return f"not a msgpack map of the record's fields, but one value of type {str(not_a_record).split()[-1]}"
        return f"not a valid {kind.__name__}: {not_a_record}"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return f"not a valid {kind.__name__}: {error}"
    if version > version_of(kind):
        return f"{kind.__name__} has schema version {version}; this reader knows up to {version_of(kind)}: upgrade it"
    return f"not a valid {kind.__name__}: {error}"


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
