"""Training examples as the state stage writes them: of people who choose what is cheap, wherever it is shown."""

import random
from collections.abc import Iterator
from typing import NamedTuple

from models.user_state import Slate
from schemas.codec import encode
from schemas.domains import pack_for
from schemas.records import (
    Context,
    Feedback,
    Item,
    JoinedRequest,
    Location,
    Request,
    Source,
    TrainingExample,
)
from streams.attribution import action_example, no_action_example

PACK = pack_for("restaurant")
NOON = 1_767_268_800_000  # 2026-01-01 12:00 UTC
MINUTE = 60_000
ITEMS = {
    f"i{number:02d}": Item(
        domain="restaurant",
        name=f"place {number}",
        categories=[f"kind {number % 4}"],
        location=Location(lat=31.2 + number % 8 / 200, lon=121.4 + number // 8 / 200),
        price=float(20 + 10 * (number * 7 % 40)),
    )
    for number in range(40)
}


class Posted(NamedTuple):
    """One record of ``retraining``."""

    partition: int
    time: int
    key: bytes
    example: TrainingExample


def joined_request(number: int, partition: int = 0, text: str = "") -> JoinedRequest:
    """Return a request as it might have been served."""
    return JoinedRequest(
        request=Request(request_id=f"r{partition}-{number}", domain="restaurant", text=text),
        event_time=NOON + number * MINUTE,
        source=Source(partition=partition, offset=number),
        context=Context(location=Location(lat=31.21, lon=121.41)),
    )


def examples(lists: int, partitions: int = 1, seed: int = 1, first: int = 0) -> Iterator[Posted]:
    """Yield the examples of so many lists of ten in each partition; two of three are acted on."""
    rng = random.Random(seed)
    for number in range(first, first + lists):
        for partition in range(partitions):
            yield example(number, partition, rng)


def example(number: int, partition: int, rng: random.Random) -> Posted:
    """Return what came of one list: a click on the cheapest of what was looked at, or nothing."""
    shown = rng.sample(sorted(ITEMS), 10)
    joined = joined_request(number, partition)
    seen = shown[: rng.randint(1, 10)]
    cheapest = min(seen, key=lambda item_id: ITEMS[item_id].price or 0.0)
    slate = Slate(
        request_id=joined.request.request_id,
        source=joined.source,
        time=joined.event_time,
        model="tiny@1",
        items=shown,
        propensities=[1.0] * len(shown),
        impressions=seen,
    )
    raw, time = encode(joined), joined.event_time + MINUTE
    if rng.random() < 1 / 3:
        made = no_action_example(slate, raw)
    else:
        feedback = Feedback(item_id=cheapest, domain="restaurant", kind="click")
        made = action_example(slate, "request_id", feedback, time, raw, PACK)
    return Posted(partition, time, f"u{number % 20}".encode(), made)
