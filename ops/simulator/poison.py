"""Records that no stage can process, hidden among those it can: what a load test throws at the stream."""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, get_args

import msgspec

from ops.simulator.chance import chance
from ops.simulator.events import Event
from schemas.codec import encode
from schemas.errors import BadInputError
from schemas.records import Request
from schemas.topics import Topic
from streams.tracing import Headers

Poison = Literal[
    "random bytes", "missing field", "wrong type", "huge text", "far future", "no key", "unknown domain"
]  # fmt: skip
POISONS: tuple[Poison, ...] = get_args(Poison)

FAR_FUTURE_MS = 4_070_908_800_000  # 2099-01-01
HUGE_TEXT_BYTES = 1024 * 1024


class Posting(NamedTuple):
    """The bytes of one record to post, and what is wrong with it."""

    time_ms: int
    topic: Topic
    key: bytes | None
    value: bytes
    request_id: str | None = None  # of a request, poisonous or not: the one that was replaced, if it can't be read
    poison: Poison | None = None  # None: nothing is wrong
    headers: Headers = ()


def posting(event: Event) -> Posting:
    """Return the bytes of an event, with nothing wrong."""
    request_id = event.record.request_id if isinstance(event.record, Request) else None
    return Posting(event.time_ms, event.topic, event.key.encode(), encode(event.record), request_id)


def poison(events: Iterable[Event], fraction: float, seed: int) -> Iterator[Posting]:
    """Yield the events as bytes, with a fraction of the requests replaced by poisonous ones of every kind in turn.

    The output is a function of the arguments alone, so a test can count what it posted by running it twice.

    Args:
        events: what would be posted; records other than requests pass as they are.
        fraction: of the requests, 0 to 1.
        seed: decides which.

    Raises:
        ValueError: the fraction is not between 0 and 1.

    """
    if not 0 <= fraction <= 1:
        raise BadInputError(f"the fraction of poisonous requests must be between 0 and 1, not {fraction}")
    rng = chance(seed, "poison")
    spoilt = 0
    for event in events:
        if not isinstance(event.record, Request) or rng.random() >= fraction:
            yield posting(event)
            continue
        kind = POISONS[spoilt % len(POISONS)]
        spoilt += 1
        yield _spoil(event, event.record, kind, rng.randbytes(200))


def _spoil(event: Event, request: Request, kind: Poison, noise: bytes) -> Posting:
    good = posting(event)
    fields = msgspec.to_builtins(request)
    match kind:
        case "random bytes":
            bad = good._replace(value=noise)
        case "missing field":
            del fields["domain"]
            bad = good._replace(value=msgspec.msgpack.encode(fields))
        case "wrong type":
            bad = good._replace(value=msgspec.msgpack.encode(fields | {"k": "ten"}))
        case "huge text":
            bad = good._replace(value=msgspec.msgpack.encode(fields | {"text": "a" * HUGE_TEXT_BYTES}))
        case "far future":
            bad = good._replace(time_ms=FAR_FUTURE_MS)
        case "no key":
            bad = good._replace(key=None)
        case "unknown domain":
            bad = good._replace(value=encode(msgspec.structs.replace(request, domain="spaceports")))
    return bad._replace(poison=kind)
