"""How a shadow model's lists differ from those that were answered: pure functions over the comparisons."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from schemas.records import ShadowComparison

EXAMPLES = 5  # requests shown, those whose lists differ most


@dataclass(frozen=True)
class Differences:
    """Figures over requests; None where no request has one."""

    model: str
    shadow: str
    requests: int
    identical: float  # share of lists with the same items in the same order
    reordered: float  # of those with the same items in another order
    same_first: float  # share of lists with the same first item
    overlap: float  # mean share of the answered items that the shadow has too
    rank_correlation: float | None  # mean of Spearman's, over items in both lists
    score_difference: float | None  # mean of shadow minus answered, over items in both lists
    score_spread: float | None  # its standard deviation
    examples: tuple[ShadowComparison, ...] = ()


def differences(comparisons: Iterable[ShadowComparison]) -> list[Differences]:
    """Return the figures of each pair of versions; a request that was compared twice counts once."""
    pairs: dict[tuple[str, str], dict[str, ShadowComparison]] = {}
    for comparison in comparisons:
        pairs.setdefault((comparison.model, comparison.shadow), {})[comparison.request_id] = comparison
    return [_figures(*pair, list(by_request.values())) for pair, by_request in sorted(pairs.items())]


def overlap(comparison: ShadowComparison) -> float:
    """Return the share of the answered items that the shadow has too; 1 if there are none in either list."""
    answered, would_have = _ids(comparison)
    if not answered:
        return float(not would_have)
    return len(set(answered) & set(would_have)) / len(answered)


def rank_correlation(comparison: ShadowComparison) -> float | None:
    """Return Spearman's rank correlation of the items in both lists; None of fewer than two."""
    answered, would_have = _ids(comparison)
    common = [item for item in answered if item in set(would_have)]
    if len(common) < 2:
        return None
    places = sorted(range(len(common)), key=lambda place: would_have.index(common[place]))
    ranks = np.empty(len(common))
    ranks[places] = np.arange(len(common))
    distance = ((ranks - np.arange(len(common))) ** 2).sum()
    return float(1 - 6 * distance / (len(common) * (len(common) ** 2 - 1)))


def _ids(comparison: ShadowComparison) -> tuple[list[str], list[str]]:
    return [item.item_id for item in comparison.answered], [item.item_id for item in comparison.would_have]


def _figures(model: str, shadow: str, comparisons: list[ShadowComparison]) -> Differences:
    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    ids = list(map(_ids, comparisons))
    gaps = [
        item.score - answered[item.item_id]
        for comparison in comparisons
        for answered in [{item.item_id: item.score for item in comparison.answered}]
        for item in comparison.would_have
        if item.item_id in answered
    ]
    return Differences(
        model=model,
        shadow=shadow,
        requests=len(comparisons),
        identical=float(np.mean([answered == would_have for answered, would_have in ids])),
        reordered=float(np.mean([answered != would and set(answered) == set(would) for answered, would in ids])),
        same_first=float(np.mean([answered[:1] == would_have[:1] for answered, would_have in ids])),
        overlap=float(np.mean([overlap(comparison) for comparison in comparisons])),
        rank_correlation=mean(map(rank_correlation, comparisons)),
        score_difference=mean(gaps),
        score_spread=float(np.std(gaps)) if gaps else None,
        examples=tuple(sorted(comparisons, key=lambda c: (overlap(c), c.request_id))[:EXAMPLES]),
    )
