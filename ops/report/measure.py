"""How good the lists are before and after training, request by request, so that groups can be compared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models import dataset
from models.dataset import Dataset, Split
from models.embedding_cache import EmbeddingCache
from models.encoder import Encoder
from models.evaluation import PartitionOf, ranked_requests
from models.metrics import score_ranking
from models.recommender import Recommender
from models.texts import language_of
from schemas.domains import DomainPack
from schemas.records import JoinedRequest, RecommendedItem

MOST_REQUESTS = 1_000  # that are measured, drawn evenly over time
METRICS = ("acc@1", "acc@10", "mrr", "ndcg@10")
BINS = 8

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a model did with n requests, the same ones in the same order for every model."""

    scores: dict[str, Floats]  # by metric, [n]
    groups: dict[str, NDArray[np.bool_]]  # by name, [n] whether the request belongs to it
    confidence: Floats  # [n] of the first item: the softmax over the list's scores
    right: NDArray[np.bool_]  # [n] whether the first item was right


def requests_measured(data: Dataset) -> tuple[Split, Dataset]:
    """Return the split that is measured on, and the data with at most ``MOST_REQUESTS`` of its requests.

    It is valid where that has requests; test is left for the user.
    """
    split: Split = "valid"
    of = [request for request in data.requests if request.split == split]
    if len(of) > MOST_REQUESTS:
        of = [of[place * len(of) // MOST_REQUESTS] for place in range(MOST_REQUESTS)]
    return split, data._replace(requests=of)


def measure(
    data: Dataset,
    pack: DomainPack,
    split: Split,
    encoder: Encoder,
    recommender: Recommender,
    *,
    cache: EmbeddingCache,
    partition_of: PartitionOf,
    progress: Callable[[], None],
) -> Measured:
    """Rank the catalogue for every request of the split, with the state of every event before it."""
    chosen = {event.item_id for event in data.interactions if event.split == "train"}
    scores, groups, confidence, right = [], [], [], []
    answers = ranked_requests(
        data, pack, "streaming", split, encoder, recommender, cache=cache, partition_of=partition_of
    )
    for request, joined, items in answers:
        scores.append(score_ranking([item.item_id for item in items], request.relevant))
        groups.append(_groups(request, joined, chosen))
        confidence.append(_confidence(items))
        right.append(bool(items) and items[0].item_id in request.relevant)
        progress()
    return Measured(
        {metric: np.array([each[metric] for each in scores]) for metric in METRICS},
        {name: np.array([each[name] for each in groups]) for name in groups[0]},
        np.array(confidence),
        np.array(right),
    )


def _groups(request: dataset.Request, joined: JoinedRequest, chosen: set[str]) -> dict[str, bool]:
    text = joined.request.text.strip()
    language = language_of(text) if text else None
    known = any(item_id in chosen for item_id in request.relevant)
    return {
        "all requests": True,
        "with text": bool(text),
        "without text": not text,
        "in Chinese": language == "zh",
        "in English": language == "en",
        "users without a past": not joined.history.item,
        "users with a past": bool(joined.history.item),
        "right items chosen in training": known,
        "right items never chosen in training": not known,
    }


def _confidence(items: Sequence[RecommendedItem]) -> float:
    if not items:
        return 0.0
    scores = np.array([item.score for item in items])
    return float(1 / np.exp(scores - scores[0]).sum())


def interval(values: Floats) -> tuple[float, float]:
    """Return the mean of values [n] and the half width of its 95% interval (normal approximation)."""
    if len(values) < 2:
        return float(values.mean()), float("inf")
    return float(values.mean()), float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))


def reliability(measured: Measured) -> tuple[Floats, Floats, float]:
    """Return confidence and share of right first items by bins of equally many requests, and the mean gap.

    The gap is the expected calibration error (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).
    """
    order = np.argsort(measured.confidence, kind="stable")
    bins = [rows for rows in np.array_split(order, BINS) if len(rows)]
    said = np.array([measured.confidence[rows].mean() for rows in bins])
    was = np.array([measured.right[rows].mean() for rows in bins])
    weight = np.array([len(rows) for rows in bins]) / len(order)
    return said, was, float((weight * np.abs(said - was)).sum())
