"""Records that cannot be processed: kept whole, with where they came from and why."""

import time

from schemas.codec import encode
from schemas.records import DeadLetter

MAX_VALUE_BYTES = 3 * 1024 * 1024  # what fits into the topic beside the rest


def dead_letter(
    stage: str,
    error: Exception,
    *,
    topic: str,
    partition: int,
    offset: int,
    timestamp: int,
    key: bytes | None,
    value: bytes | None,
) -> bytes:
    """Return the encoded dead letter of one record; ``topic`` to ``value`` are the record's own."""
    return encode(
        DeadLetter(
            topic=topic,
            partition=partition,
            offset=offset,
            stage=stage,  # type: ignore[arg-type]
            error=type(error).__name__,
            reason=str(error)[:1000],
            event_time=timestamp,
            first_seen=int(time.time() * 1000),
            key=key,
            value=value[:MAX_VALUE_BYTES] if value is not None else None,
        )
    )
