"""A candidate beside the champion on lists that nothing was learned from: what the gate decides by."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from models.encoder import Encoder
from models.gate import HeldBack, Limits, Serving, Verdict, slices_of, verdict
from models.off_policy import Estimate, NoSupportError, estimate, logged_lists
from models.recommender import Recommender, request_text
from models.shown_lists import ShownList
from schemas.records import JoinedRequest, RecommendedItem, TrainingExample

ENDLESS = 1e9  # JSON, which verdicts are kept in, has no infinity
DEPTH = 1000  # of the lists whose order is compared
TIMED = 50  # requests
TIMES = 3  # of each request the fastest counts: what else the machine does is not the model's

Vector = Callable[[JoinedRequest], NDArray[np.float32] | None]  # of a request's text; None: it has none


def judge(
    champion: Recommender,
    candidate: Recommender,
    trained: Recommender,
    vector: Vector,
    learned: Sequence[ShownList],
    held_back: Sequence[ShownList],
    *,
    first: bool = False,
) -> Verdict:
    """Return the gate's verdict on a candidate as it was written, beside itself as it was ``trained``.

    The metric is the NDCG of what was shown, in the order in which each of the two would have shown it, by what was
    done. The off-policy estimate looks at all lists held back, the metric at those with a choice. The ``first`` ranker
    that learned here is not held to the latency of the champion before it: that looks at little, and is quick for it.
    """
    chosen = Counter(shown.item_id for each in learned for shown in each.shown if shown.label > 0)
    acted = [each for each in held_back if each.acted and len(each.shown) > 1]
    if not acted:
        return Verdict(False, [], f"refused: none of {len(held_back)} lists held back has a choice to judge by")
    _, users = np.unique([each.user for each in acted], return_inverse=True)
    slices = [
        set(slices_of(each.request(), max(each.shown, key=lambda shown: shown.label).item_id, chosen)) for each in acted
    ]
    names = sorted(set().union(*slices))
    held = HeldBack(
        _order_quality(candidate, vector, acted),
        _order_quality(champion, vector, acted),
        users,
        {name: np.array([name in of for of in slices]) for name in names},
    )
    timed = [each.request() for each in held_back[-TIMED:]]
    candidate_ms, champion_ms = _p99_ms((candidate, champion), vector, timed)
    serving = Serving(
        candidate_ms,
        champion_ms,
        max(_score_difference(candidate, trained, vector, joined) for joined in timed),
    )
    limits = replace(Limits(), latency_ratio=ENDLESS) if first else Limits()
    return verdict(held, serving, _off_policy(candidate, vector, held_back), limits)


def vectors(encoder: Encoder) -> Vector:
    """Return a function that encodes a request's text; a text is encoded once."""
    known: dict[str, NDArray[np.float32]] = {}

    def vector(joined: JoinedRequest) -> NDArray[np.float32] | None:
        text = request_text(joined)
        if text and text not in known:
            known[text] = encoder.encode(encoder.tokenize([text], "query"))[0]
        return known[text] if text else None

    return vector


def _listed(recommender: Recommender, vector: Vector, joined: JoinedRequest) -> list[str]:
    (answer,) = recommender.recommend([joined], [vector(joined)])
    return [item.item_id for item in answer]


def shown_scores(recommender: Recommender, vector: Vector, lists: Iterable[ShownList]) -> Iterator[list[float | None]]:
    """Yield the scores of what was shown on each list; None of what a recommender would not show now."""
    for each in lists:
        score = {item.item_id: item.score for item in _whole_list(recommender, vector, each)}
        yield [score.get(shown.item_id) for shown in each.shown]


def _whole_list(recommender: Recommender, vector: Vector, each: ShownList) -> list[RecommendedItem]:
    """Return all that a recommender would show for a list's request if there were room for it."""
    joined = each.request()
    request = structs.replace(joined.request, k=DEPTH, explain=False)
    (listed,) = recommender.recommend([structs.replace(joined, request=request)], [vector(joined)])
    return listed


def _order_quality(recommender: Recommender, vector: Vector, lists: Sequence[ShownList]) -> NDArray[np.float64]:
    """Return the NDCG [lists] of what was shown in the order of a recommender; what it would not show comes last."""
    quality = []
    for each in lists:
        listed = _whole_list(recommender, vector, each)
        place = {item.item_id: number for number, item in enumerate(listed)}
        ordered = sorted(each.shown, key=lambda shown: (place.get(shown.item_id, DEPTH), shown.item_id))
        best = sorted((shown.label for shown in each.shown), reverse=True)
        quality.append(_gain([shown.label for shown in ordered]) / _gain(best))
    return np.array(quality)


def _gain(labels: Sequence[float]) -> float:
    return float(np.sum(np.array(labels) / np.log2(np.arange(2, len(labels) + 2))))


def _off_policy(candidate: Recommender, vector: Vector, held_back: Sequence[ShownList]) -> Estimate | str:
    """Return the estimated clicks of the candidate's lists, or why there is none."""
    if all(shown.propensity == 1.0 for each in held_back for shown in each.shown):
        return "nothing was explored, so what was shown says nothing about other lists"
    try:
        logs = logged_lists(_examples(held_back), lambda joined: _listed(candidate, vector, joined))
        return estimate(logs, "snips" if logs.whole else "ips")  # of places nobody looked at, only the latter can tell
    except NoSupportError as error:
        return str(error)


def _examples(lists: Sequence[ShownList]) -> Iterator[tuple[str, TrainingExample]]:
    for each in lists:
        name = "/".join(map(str, each.key))
        yield (
            each.user,
            TrainingExample(
                example_id=name, request_id=name, model=each.model, joined=each.joined, shown=each.shown, action="none"
            ),
        )


def _p99_ms(recommenders: Sequence[Recommender], vector: Vector, requests: Sequence[JoinedRequest]) -> list[float]:
    """Return each one's 99th percentile of the processor time to rank one request; texts have been encoded before.

    It is this thread's own time: whatever else the machine does meanwhile is not the model's. They take turns, and a
    request's turns lie far apart, so that a cold cache is neither one model's alone nor all that is known of a request.
    """
    vectors = [vector(joined) for joined in requests]
    taken = np.empty((TIMES, len(requests), len(recommenders)))
    for turn in range(TIMES):
        for number, (joined, encoded) in enumerate(zip(requests, vectors, strict=True)):
            for place, recommender in enumerate(recommenders):
                started = time.thread_time()
                recommender.recommend([joined], [encoded])
                taken[turn, number, place] = time.thread_time() - started
    return [float(p99) for p99 in np.quantile(taken.min(axis=0) * 1000, 0.99, axis=0)]


def _score_difference(one: Recommender, other: Recommender, vector: Vector, joined: JoinedRequest) -> float:
    """Return the greatest difference of two models' scores of one request's list, ``ENDLESS`` for other items."""
    (first,), (second,) = (model.recommend([joined], [vector(joined)]) for model in (one, other))
    if {item.item_id for item in first} != {item.item_id for item in second}:
        return ENDLESS
    scores = {item.item_id: item.score for item in second}
    return max((abs(item.score - scores[item.item_id]) for item in first), default=0.0)
