"""Records that cannot be processed: where they lie and why, without what they say about a user."""

import re
import time
import traceback
from pathlib import Path

from models.pseudonyms import Pseudonyms
from models.redaction import redact
from schemas.codec import encode
from schemas.errors import ExplainedError
from schemas.records import DeadLetter
from schemas.topics import Topic
from streams import metrics
from streams.privacy import without_id

MAX_VALUE_BYTES = 3 * 1024 * 1024  # what fits into the topic beside the rest
MAX_REASON = 1000
_NOT_A_NAME = re.compile(r"""(['"])(?![A-Za-z0-9_.-]{1,40}\1).*\1""", re.DOTALL)  # quoted, and like no name of ours


def dead_letter(
    stage: str,
    error: Exception,
    pseudonyms: Pseudonyms,
    *,
    topic: Topic,
    name: str,
    partition: int,
    offset: int,
    timestamp: int,
    key: bytes | None,
    value: bytes | None,
    model: str | None = None,
) -> tuple[bytes, bytes]:
    """Return key and value of the dead letter of one record; ``name`` is its topic's on the cluster.

    ``model`` is the version that was to answer it, of a request that it could not.

    A record about a user stays where it is, and the letter carries the user's pseudonym as its key: so an erased user's
    records age out with their topics, and nobody reads them who may only read `deadletters`.
    """
    withheld = topic.personal and not pseudonyms.keep_raw
    letter = DeadLetter(
        topic=name,
        partition=partition,
        offset=offset,
        stage=stage,  # type: ignore[arg-type]
        error=type(error).__name__,
        reason=reason(error, topic, key, pseudonyms),
        event_time=timestamp,
        first_seen=int(time.time() * 1000),
        model=model,
        key=None if withheld else key,
        value=None if withheld or value is None else value[:MAX_VALUE_BYTES],
        payload="withheld" if withheld else "cut" if value is not None and len(value) > MAX_VALUE_BYTES else "whole",
    )
    metrics.dead_letter_written(topic.name, letter.error)
    own_key = pseudonyms.of(key) if key and topic.personal else key or b""
    return own_key, encode(letter)


def reason(error: Exception, topic: Topic, key: bytes | None, pseudonyms: Pseudonyms) -> str:
    """Return what was wrong with a record in a sentence that, of a record about a user, quotes nothing.

    Our own sentences name fields and limits; what they quote stays if it looks like a name of ours. Other exceptions
    may quote anything, so only their place is told.
    """
    if pseudonyms.keep_raw or not topic.personal:
        return str(error)[:MAX_REASON]
    if not isinstance(error, ExplainedError):
        places = traceback.extract_tb(error.__traceback__)
        place = f" at {Path(places[-1].filename).name}:{places[-1].lineno}" if places else ""
        return f"raised{place}; its message may quote the record and was left out (privacy.keep_raw keeps it)"
    told = redact(_NOT_A_NAME.sub("'…'", str(error)))
    return (without_id(told, key, pseudonyms) if key else told)[:MAX_REASON]
