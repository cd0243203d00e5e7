"""Answers of a canary and its champion, and what came of them, as the stages write them: one list a user."""

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from models.pseudonyms import Pseudonyms
from schemas.codec import encode
from schemas.records import (
    Context,
    DeadLetter,
    JoinedRequest,
    Recommendation,
    RecommendedItem,
    Record,
    Request,
    Shown,
    Source,
    Timings,
    TrainingExample,
)
from schemas.topics import DEADLETTERS, RECOMMENDATIONS, RETRAINING, Topic

NOON = 1_767_268_800_000  # 2026-01-01 12:00 UTC
WINDOW_MS = 3_600_000
PARTITIONS = 2
NAMES = Pseudonyms((b"0123456789abcdef",))
CANARY, CHAMPION = "c" * 16, "a" * 16


class Written(NamedTuple):
    """One record."""

    topic: Topic
    partition: int
    time: int
    key: bytes
    record: Record


def model(*, canary: bool) -> str:
    return f"tablecast@{CANARY if canary else CHAMPION}"


def answer(user: int, *, canary: bool, took_ms: int = 20, degraded: str | None = None) -> Written:
    """Return the list of a user, who asks at the second of the user's number."""
    time, partition = NOON + 1000 * user, user % PARTITIONS
    record = Recommendation(
        request_id=f"r{user}",
        domain="restaurant",
        model=model(canary=canary),
        items=[RecommendedItem(item_id="i1", score=1.0)],
        source=Source(partition=partition, offset=user),
        degraded=degraded,
        timings=Timings(joined=NOON, ranked=NOON + took_ms),
    )
    return Written(RECOMMENDATIONS, partition, time, f"u{user}".encode(), record)


def outcome(user: int, *, canary: bool, clicked: bool) -> Written:
    """Return the example of a user's list: of a click half a minute after it, else of its window's end."""
    time, partition = NOON + 1000 * user, user % PARTITIONS
    joined = JoinedRequest(
        request=Request(request_id=f"r{user}", domain="restaurant"),
        event_time=time,
        source=Source(partition=partition, offset=user),
        context=Context(),
    )
    record = TrainingExample(
        example_id=f"e{user}",
        request_id=f"r{user}",
        model=model(canary=canary),
        joined=msgspec.Raw(encode(joined)),
        shown=[Shown(item_id="i1", position=0, propensity=1.0, label=float(clicked))],
        action="click" if clicked else "none",
    )
    at = time + (30_000 if clicked else WINDOW_MS)
    return Written(RETRAINING, partition, at, NAMES.of(f"u{user}".encode()), record)


def failure(user: int, *, canary: bool) -> Written:
    """Return the dead letter that a user got no list for."""
    record = DeadLetter(
        topic="requests.joined",
        partition=user % PARTITIONS,
        offset=user,
        stage="inference",
        error="ValueError",
        reason="",
        event_time=NOON + 1000 * user,
        first_seen=0,
        model=model(canary=canary),
    )
    return Written(DEADLETTERS, 0, record.first_seen, NAMES.of(f"u{user}".encode()), record)


def life(
    users: int, click_rate: Callable[[bool], float], *, share: float = 0.5, first: int = 0, seed: int = 1
) -> Iterator[Written]:
    """Yield what is written while so many users ask, by event time; all windows close in the end."""
    rng = random.Random(seed)
    written = []
    for user in range(first, first + users):
        canary = rng.random() < share
        written += [
            answer(user, canary=canary),
            outcome(user, canary=canary, clicked=rng.random() < click_rate(canary)),
        ]
    last = first + users + 2 * WINDOW_MS // 1000
    written += [outcome(last + number, canary=False, clicked=False) for number in range(PARTITIONS)]
    yield from sorted(written, key=lambda each: each.time)
