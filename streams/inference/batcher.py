"""The token-budget batcher: what is waiting, cut into batches by the cost of their texts.

The idea is that of Text Embeddings Inference's queue: no batch waits to be filled; when the model is free it takes
what has arrived, in order, up to a number of tokens.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from models.encoder import TokenIds
from schemas.records import JoinedRequest, Recommendation
from streams.inference.served_model import ServedModel
from streams.tracing import Hop


@dataclass(slots=True)
class Waiting:
    """A request on its way through the stage."""

    partition: int
    offset: int  # of the joined request
    time: int  # event time, milliseconds
    key: bytes
    joined: JoinedRequest | None  # None: could not be decoded, or has been answered already
    model: ServedModel | None = None  # that answers it; None: nothing to answer
    dead_letter: bytes | None = None
    answer: bytes | None = None
    recommendation: Recommendation | None = None  # the same, as it was before it was encoded
    tokens: TokenIds | None = None  # None: no text, or one that is not encoded any more
    consumed_at: int = 0
    hop: Hop | None = None  # where it is traced
    degraded: list[str] = field(default_factory=list)


class Batcher:
    """A bounded queue; ``put`` waits while it is full, so that Kafka holds what does not fit."""

    def __init__(self, max_requests: int, max_tokens: int, capacity: int) -> None:
        self._max_requests, self._max_tokens, self._capacity = max_requests, max_tokens, capacity
        self._queue: deque[Waiting] = deque()
        self._changed = asyncio.Condition()

    def __len__(self) -> int:
        return len(self._queue)

    async def put(self, entries: list[Waiting]) -> None:
        """Append in order, when there is room."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._queue) < self._capacity)
            self._queue.extend(entries)
            self._changed.notify_all()

    async def take(self) -> list[Waiting]:
        """Return the next batch, at least one request, as soon as there is one."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._queue))
            batch: list[Waiting] = []
            tokens = 0
            while self._queue and len(batch) < self._max_requests:
                cost = len(self._queue[0].tokens) if self._queue[0].tokens is not None else 0
                if batch and tokens + cost > self._max_tokens:
                    break
                tokens += cost
                batch.append(self._queue.popleft())
            self._changed.notify_all()
            return batch
