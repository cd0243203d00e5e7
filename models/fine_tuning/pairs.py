"""What is learned from: pairs of a query and an item, dealt out in batches with negatives."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .loss import log_inclusion
from .settings import FineTuningError


class Pair(NamedTuple):
    """A text that somebody could ask with, and the item that it means, in the words the model reads about the item."""

    query: str
    item_id: str
    item_text: str


class Query(NamedTuple):
    """A query whose right answers are known."""

    text: str
    relevant: Collection[str]  # item ids


@dataclass(frozen=True, slots=True)
class Validation:
    """Queries to measure with, and all items (id to text) that are ranked for each."""

    queries: Sequence[Query]
    items: Mapping[str, str]

    def __post_init__(self) -> None:
        if not self.queries or not self.items:
            raise FineTuningError("fine-tuning: validation needs queries and items; leave it out if there are none")
        for number, query in enumerate(self.queries):
            if not any(item_id in self.items for item_id in query.relevant):
                raise FineTuningError(
                    f"fine-tuning: none of the right answers of validation query {number} ({query.text[:40]!r}) is "
                    "among the validation items: add them or leave the query out"
                )


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Pairs, the catalogue (id to text) that further negatives are drawn from, and what to measure with."""

    pairs: Sequence[Pair]
    catalogue: Mapping[str, str]
    validation: Validation | None = None

    def __post_init__(self) -> None:
        if len({pair.item_id for pair in self.pairs} | self.catalogue.keys()) < 2:
            raise FineTuningError(
                f"fine-tuning: {len(self.pairs)} pairs and {len(self.catalogue)} items of a catalogue are too little "
                "to learn from: give pairs of two items at least"
            )
        if not self.pairs:
            raise FineTuningError(
                "fine-tuning: there is not a single pair; without requests make them from item texts, as "
                "models.training_data does"
            )


class Batch(NamedTuple):
    """Queries and the items they are compared with, every item once: B queries, C items."""

    queries: list[str]  # B
    items: list[str]  # C
    target: NDArray[np.int64]  # [B] number of the right item
    allowed: NDArray[np.bool_]  # [B, C] whether the item counts: it is the right one, or known to be no other right one
    log_inclusion: NDArray[np.float32]  # [C] logarithm of the probability that the item is in a batch at all


class _Item(NamedTuple):
    item_id: str
    text: str


def rows_by_step(pairs: int, per_step: int, steps: int, seed: int, done: int) -> Iterator[NDArray[np.int64]]:
    """Yield the numbers of the pairs of each step after the first ``done``; every epoch has an order of its own."""
    steps_per_epoch = -(-pairs // per_step)
    order, epoch = np.zeros(0, np.int64), -1
    for step in range(done, steps):
        if step // steps_per_epoch != epoch:
            epoch = step // steps_per_epoch
            order = np.random.default_rng([seed, epoch]).permutation(pairs)
        start = step % steps_per_epoch * per_step
        yield order[start : start + per_step]


class Dealer:
    """Makes batches: the items of the pairs at hand, and ``negatives`` drawn evenly from the catalogue.

    Both are drawn with known probabilities (mixed negative sampling, Yang et al., WWW 2020), so that the loss can
    correct for them. An item known to be right for a query is never its negative.
    """

    def __init__(self, data: TrainingData, negatives: int) -> None:
        self._pairs = data.pairs
        self._catalogue = [_Item(item_id, text) for item_id, text in data.catalogue.items()]
        self._drawn = min(negatives, len(self._catalogue))
        self._evenly = self._drawn / len(self._catalogue) if self._catalogue else 0.0
        self._in_catalogue = frozenset(self._catalogue)
        self._count = Counter(_Item(pair.item_id, pair.item_text) for pair in data.pairs)
        self._right: dict[str, set[str]] = {}
        for pair in data.pairs:
            self._right.setdefault(pair.query, set()).add(pair.item_id)

    def deal(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        """Return a batch of the pairs at ``rows``."""
        pairs = [self._pairs[row] for row in rows]
        number = {item: place for place, item in enumerate(dict.fromkeys(_Item(p.item_id, p.item_text) for p in pairs))}
        for row in generator.choice(len(self._catalogue), self._drawn, replace=False) if self._drawn else ():
            number.setdefault(self._catalogue[row], len(number))
        target = np.array([number[_Item(pair.item_id, pair.item_text)] for pair in pairs], np.int64)
        allowed = np.array([[item.item_id not in self._right[pair.query] for item in number] for pair in pairs])
        allowed[np.arange(len(pairs)), target] = True
        share = np.array([self._count[item] / len(self._pairs) for item in number])
        evenly = np.array([self._evenly if item in self._in_catalogue else 0.0 for item in number])
        return Batch(
            [pair.query for pair in pairs],
            [item.text for item in number],
            target,
            allowed,
            log_inclusion(share, len(pairs), evenly),
        )
