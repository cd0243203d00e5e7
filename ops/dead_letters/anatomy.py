"""A dead letter's bytes for people: what of them is msgpack, the bytes themselves, and whether they would do now."""

import base64
import math
import time
from typing import Any

import msgpack
import msgspec

from schemas.codec import DecodeError, decode, decode_key
from schemas.domains import UnknownDomainError, pack_for
from schemas.records import JoinedRequest
from schemas.topics import TOPICS, Topic
from streams.settings import Settings

SHOWN_HEX_BYTES = 512
MOST_VALUES = 20
LONGEST_TEXT = 400


def topic_named(name: str) -> Topic | None:
    """Return the topic of the contract with this name, without prefix."""
    return next((topic for topic in TOPICS if topic.name == name), None)


def fault(settings: Settings, topic: Topic, key: bytes | None, value: bytes | None, event_time: int) -> str | None:
    """Return why the stages would refuse a record even now, or None if nothing is known to be wrong with it."""
    try:
        decode_key(key)
        if value is None and topic.cleanup == "compact":
            return None
        record = decode(topic.record, value)
        domain = record.request.domain if isinstance(record, JoinedRequest) else getattr(record, "domain", None)
        if domain is not None:
            pack_for(domain)
    except (DecodeError, UnknownDomainError) as error:
        return str(error)
    if event_time > time.time() * 1000 + settings.state.future_ms:
        return f"its timestamp, {event_time} ms, lies in the future"
    return None


def structure(raw: bytes) -> tuple[list[Any], int]:
    """Return the msgpack values that the bytes begin with, and where what is not msgpack begins."""
    unpacker = msgpack.Unpacker(raw=False, unicode_errors="replace", strict_map_key=False, max_buffer_size=len(raw) + 1)
    unpacker.feed(raw)
    values: list[Any] = []
    end = 0
    while end < len(raw) and len(values) < MOST_VALUES:
        try:
            values.append(unpacker.unpack())
        except (msgpack.UnpackException, ValueError, RecursionError, TypeError):  # not msgpack, or not all of it
            break
        end = unpacker.tell()
    return values, end


def printable(value: Any) -> Any:
    """Return a msgpack value as JSON can hold it; what it can't hold, and what is endless, is described."""
    match value:
        case dict():
            return {str(key): printable(entry) for key, entry in value.items()}
        case list() | tuple():
            return [printable(entry) for entry in value]
        case bytes():
            return f"<{len(value)} bytes>"
        case str() if len(value) > LONGEST_TEXT:
            return f"{value[:LONGEST_TEXT]}… ({len(value)} characters)"
        case float() if not math.isfinite(value):
            return str(value)
        case str() | int() | float() | bool() | None:
            return value
        case _:
            return repr(value)


def hex_dump(raw: bytes, limit: int = SHOWN_HEX_BYTES) -> str:
    """Return the first bytes as hexadecimal digits and as characters, sixteen a line."""
    lines = []
    for start in range(0, min(len(raw), limit), 16):
        part = raw[start : start + 16]
        characters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:08x}  {part.hex(' '):<47}  {characters}")
    if len(raw) > limit:
        lines.append(f"… {len(raw) - limit:,} more bytes")
    return "\n".join(lines)


def editable(raw: bytes | None) -> Any:
    """Return the value as JSON that says exactly the same as the bytes, or None if there is none."""
    if raw is None:
        return None
    values, end = structure(raw)
    if len(values) != 1 or end != len(raw) or not isinstance(values[0], dict):
        return None
    try:
        exact = msgspec.json.decode(msgspec.json.encode(values[0]))
    except (TypeError, ValueError):
        return None
    return exact if exact == values[0] else None


def base64_text(raw: bytes | None) -> str | None:
    """Return bytes as JSON can hold them."""
    return None if raw is None else base64.b64encode(raw).decode()
