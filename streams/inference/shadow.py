"""The shadow model: ranks what was answered once more and says what it would have answered. Apps never see it.

It runs behind the answers, never before one. Under load it falls behind, and beyond ``MAX_WAITING`` requests it leaves
some out; how many is in the log.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from models.recommender import Answer
from schemas.records import JoinedRequest, RecommendedItem, ScoredItem, ShadowComparison
from streams.inference.served_model import ServedModel

log = structlog.get_logger(__name__)

MAX_WAITING = 256
BATCH = 8

Answered = tuple[JoinedRequest, str, list[RecommendedItem]]  # the request, the version that answered, its ranking


class Shadowing:
    """Compares a shadow's rankings with those that were answered; ``publish`` takes the comparisons."""

    def __init__(self, publish: Callable[[Sequence[ShadowComparison]], None]) -> None:
        self._publish = publish
        self._waiting: asyncio.Queue[tuple[ServedModel, Answered]] = asyncio.Queue(MAX_WAITING)
        self._left_out = 0

    def offer(self, shadow: ServedModel, answered: Sequence[Answered]) -> None:
        """Have answers compared, if there is room."""
        for entry in answered:
            if self._waiting.full():
                self._left_out += 1
                if self._left_out % MAX_WAITING == 1:
                    log.warning("the shadow can't keep up", shadow=shadow.version, left_out=self._left_out)
            else:
                self._waiting.put_nowait((shadow, entry))

    async def run(self) -> None:
        """Work off what is waiting; never ends."""
        while True:
            shadow, first = await self._waiting.get()
            batch = [first]
            while len(batch) < BATCH and not self._waiting.empty():
                other, entry = self._waiting.get_nowait()
                if other is shadow:  # else: of a shadow that has been replaced
                    batch.append(entry)
            compared = await shadow.in_thread(lambda: compare(shadow, batch))  # noqa: B023 - awaited here
            if compared:
                self._publish(compared)


def compare(shadow: ServedModel, batch: Sequence[Answered]) -> list[ShadowComparison]:
    """Return what a shadow would have answered beside what was; nothing of a request that it can't answer."""
    requests = [joined for joined, _, _ in batch]
    try:
        tokens = shadow.tokenize(requests)
        encoded = iter(shadow.encoder.encode([ids for ids in tokens if ids is not None]))
        lists = shadow.lists(requests, [None if ids is None else next(encoded) for ids in tokens])
    except Exception as error:  # nobody waits for a shadow
        log.warning("shadow failed", shadow=shadow.version, reason=repr(error))
        return []
    return [
        ShadowComparison(
            request_id=joined.request.request_id,
            domain=joined.request.domain,
            model=version,
            shadow=shadow.version,
            answered=_scored(items),
            would_have=_scored(answer.items),
        )
        for (joined, version, items), answer in zip(batch, lists, strict=True)
        if isinstance(answer, Answer)
    ]


def _scored(items: Sequence[RecommendedItem]) -> list[ScoredItem]:
    return [ScoredItem(item_id=item.item_id, score=item.score, reasons=item.reasons) for item in items]
