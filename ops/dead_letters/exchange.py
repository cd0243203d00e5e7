"""Dead letters as JSON lines: written for people and programs, and read back with what they have corrected."""

import base64
import json
import operator
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from ops.dead_letters.anatomy import base64_text, editable, topic_named
from ops.dead_letters.letters import Letter
from ops.dead_letters.originals import Payload
from ops.dead_letters.retry import RETRIED_TOPICS, Original
from schemas.errors import BadInputError
from schemas.records import Source
from schemas.topics import USERS_REQUESTS
from streams.kafka import partition_of
from streams.settings import KafkaSettings


def as_line(letter: Letter, payload: Payload | None) -> dict[str, Any]:
    """Return a letter as a JSON object. ``value`` is the map to correct, ``value_base64`` the bytes themselves.

    Without ``payload``, when the record has left its topic, there is what the letter holds.
    """
    record = letter.record
    key, value = payload or Payload(record.key, record.value)
    return {
        "name": letter.name,
        "stage": record.stage,
        "error": record.error,
        "reason": record.reason,
        "first_seen": record.first_seen,
        "event_time": record.event_time,
        "key": None if key is None else key.decode(errors="replace"),
        "value": editable(value),
        "value_base64": base64_text(value),
        "decision": None if letter.decision is None else letter.decision.what,
    }


def corrections(kafka: KafkaSettings, path: Path) -> dict[str, Original]:
    """Return the records to post in place of faulty ones, by the letter's name, from exported and corrected lines.

    A line's ``key``, ``event_time`` and ``value`` are taken; where ``value`` is null, ``value_base64``.

    Raises:
        BadInputError: the file can't be read, or a line is not what ``export`` writes; names the line.

    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} can't be read: {error}") from error
    return dict(_corrections(kafka, path, lines))


def _corrections(kafka: KafkaSettings, path: Path, lines: Iterable[str]) -> Iterable[tuple[str, Original]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            name, key, value, event_time = fields["name"], fields["key"], fields["value"], fields["event_time"]
            topic_name, partition, offset = name.split("/")
            raw = base64.b64decode(fields["value_base64"]) if value is None else msgspec.msgpack.encode(value)
            source = Source(partition=int(partition), offset=int(offset))
            key_bytes = None if key is None else str(key).encode()
            time = operator.index(event_time)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInputError(f"{path} line {number} is not what `deadletters export` writes: {error!r}") from error
        topic = topic_named(topic_name)
        if topic not in RETRIED_TOPICS:
            raise BadInputError(f"{path} line {number}: records of {topic_name} can't be corrected")
        yield (
            name,
            Original(
                topic=topic,
                # A corrected key may belong elsewhere: a user's records lie in one partition.
                partition=partition_of(key, topic.partitions(kafka.partitions)) if key else source.partition,
                key=key_bytes,
                value=raw,
                time=time,
                source=source if topic is USERS_REQUESTS else None,
            ),
        )
