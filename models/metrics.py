"""Ranking metrics over lists of item ids.

A list may stop at any depth; a relevant item that is not on it counts as ranked beyond the end: no hit at any depth,
reciprocal rank 0. With several relevant items, acc@k and mrr look at the best ranked one.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

ACCURACY_DEPTHS = (1, 5, 10, 20)
DEPTH = 10


def score_ranking(ranked: Sequence[str], relevant: Collection[str]) -> dict[str, float]:
    """Score one list, best first, against the items that would have been right.

    Raises:
        ValueError: nothing is relevant, or an item is ranked twice.

    """
    if not relevant:
        raise ValueError("a request without relevant items can't be scored")
    if len(set(ranked)) != len(ranked):
        raise ValueError("an item is ranked twice")
    wanted = set(relevant)
    hits = np.fromiter((item in wanted for item in ranked), dtype=np.float64, count=len(ranked))
    best_rank = int(hits.argmax()) + 1 if hits.any() else np.inf
    discounts = 1 / np.log2(np.arange(2, DEPTH + 2))
    top = hits[:DEPTH]
    return {
        **{f"acc@{depth}": float(best_rank <= depth) for depth in ACCURACY_DEPTHS},
        "mrr": float(1 / best_rank),
        f"ndcg@{DEPTH}": float((top * discounts[: len(top)]).sum() / discounts[: min(DEPTH, len(wanted))].sum()),
        f"precision@{DEPTH}": float(top.sum() / DEPTH),
        "r_precision": float(hits[: len(wanted)].sum() / len(wanted)),
        f"recall@{DEPTH}": float(top.sum() / len(wanted)),
    }


def summarise(rankings: Sequence[Sequence[str]], relevant: Sequence[Collection[str]]) -> dict[str, float]:
    """Mean of every metric over all requests, to four digits, and their number n.

    Precision, R-precision and recall are left out where every request has a single relevant item: there they say
    nothing that acc@k does not.

    Raises:
        ValueError: there is no request, the two lengths differ, or a request can't be scored.

    """
    if not rankings:
        raise ValueError("there is no request to summarise")
    scores = [score_ranking(ranked, wanted) for ranked, wanted in zip(rankings, relevant, strict=True)]
    names = list(scores[0])
    if all(len(set(wanted)) == 1 for wanted in relevant):
        names = [name for name in names if name.startswith(("acc@", "mrr", "ndcg@"))]
    return {"n": len(scores), **{name: round(float(np.mean([s[name] for s in scores])), 4) for name in names}}


def paired_gains(
    ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]], relevant: Sequence[Collection[str]]
) -> dict[str, float]:
    """Return what the first lists gain over the second, request by request.

    Of each metric: the mean difference, the half width of its 95% interval, and the probability of a split of wins and
    losses at least as uneven if neither were better (exact sign test; of acc@k that is McNemar's).

    Raises:
        ValueError: fewer than two requests, or the lengths differ.

    """
    from scipy.stats import binomtest

    scores = [
        [score_ranking(ranked, wanted) for ranked, wanted in zip(lists, relevant, strict=True)]
        for lists in (ours, theirs)
    ]
    gains: dict[str, float] = {}
    for name in ("acc@1", f"acc@{DEPTH}", "mrr", f"ndcg@{DEPTH}"):
        one, other = (np.array([score[name] for score in each]) for each in scores)
        difference, half = paired_difference(one, other)
        wins, losses = int((one > other).sum()), int((one < other).sum())
        chance = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
        gains |= {
            f"gain_{name}": round(difference, 4),
            f"gain_{name}_95": round(half, 4),
            f"gain_{name}_p": float(f"{chance:.1e}"),
        }
    return gains


def paired_difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[float, float]:
    """Mean of ours - theirs over the same requests, and the half width of its 95% interval (normal approximation).

    Raises:
        ValueError: fewer than two requests, or the shapes differ.

    """
    if ours.shape != theirs.shape or ours.size < 2:
        raise ValueError("a paired comparison needs the same requests on both sides, two at least")
    difference = ours - theirs
    return float(difference.mean()), float(1.96 * difference.std(ddof=1) / np.sqrt(difference.size))
