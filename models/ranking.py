"""The score of an item for a joined request: a sum of named parts, so that the reasons are the score's own.

    score(i | request) = text + visited + habit + sequence + followed + popular + near + taste + dismissed

``rank`` is the one function from a joined request to a list: serving, evaluation and replay all call it. Until a model
has been trained, ``Weights`` are sensible starting values: the mix of counts that a good counting recommender uses, and
the language model's similarity where there is a text.
"""

from dataclasses import dataclass

import numpy as np

from models.catalogue import Catalogue
from models.constraints import allowed_rows
from models.places import distances, unit_vector
from models.texts import language_of
from models.user_state import DISMISSAL, KIND_CODE
from schemas.domains import DomainPack, Language
from schemas.records import POPULARITY_WINDOWS_HOURS, History, JoinedRequest, RecommendedItem

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
WEEK = POPULARITY_WINDOWS_HOURS.index(24 * 7)
CLICK = KIND_CODE["click"]


@dataclass(frozen=True)
class Weights:
    """What each part is worth. Shares are between 0 and 1; a text's weight is per ``text_spread`` of cosine.

    Behaviour's values were found by random search on the last fifth of the training period of a check-in data set.
    """

    text: float = 1.0
    text_spread: float = 0.05
    visited: float = 0.37
    habit: float = 1.18
    sequence: float = 0.34
    followed: float = 0.14
    popular: float = 0.2
    popular_near: float = 1.3  # how much more popularity counts right here than far away
    near: float = 0.5  # to where the app says the user is
    near_last: float = 0.05  # to where the user chose something last, if the app does not say
    taste: float = 0.05
    dismissed: float = 0.4
    click: float = 0.2  # of a choice
    habit_hours: float = 2.6  # standard deviation of the hour-of-day kernel
    fade_days: float = 41.0  # after which an old choice counts a third


PARTS = ("text", "visited", "habit", "sequence", "followed", "popular", "near", "taste", "dismissed")
TEXT, VISITED, HABIT, SEQUENCE, FOLLOWED, POPULAR, NEAR, TASTE, DISMISSED = range(len(PARTS))


def rank(
    catalogue: Catalogue,
    pack: DomainPack,
    joined: JoinedRequest,
    cosines: np.ndarray | None,
    weights: Weights,
) -> list[RecommendedItem]:
    """Return the best ``k`` items, best first; equal scores are in an order that depends on the ids alone.

    Args:
        catalogue: all items.
        pack: the request's domain.
        joined: the request with its state.
        cosines: of the request's text with every row [catalogue.size]; None for a request without text.
        weights: of the parts.

    """
    request = joined.request
    if not len(catalogue):
        return []
    allowed = allowed_rows(catalogue, pack, request.constraints, joined.context, joined.event_time)
    mentioned = catalogue.rows(joined.items)
    if not pack.repeats:
        chosen = mentioned[
            [
                item
                for item, kind in zip(joined.history.item, joined.history.kind, strict=True)
                if kind not in {CLICK, DISMISSAL}
            ]
        ]
        allowed[chosen[chosen >= 0]] = False
    text = _text_part(cosines, allowed, weights)
    last = _last_chosen(joined)
    pull = _pull(catalogue, _origin(catalogue, joined, last), pack)
    near = (weights.near if joined.context.location is not None else weights.near_last) * pull
    known = np.flatnonzero((mentioned >= 0) & allowed[mentioned])
    rows = _candidates(catalogue, text + near, allowed, mentioned[known], max(2 * request.k, 100))
    parts = np.zeros((len(rows), len(PARTS)))
    parts[:, TEXT] = text[rows]
    parts[:, NEAR] = near[rows]
    behaviour = _behaviour_parts(joined, last, weights)
    position = {row: number for number, row in enumerate(rows.tolist())}
    places = [position[row] for row in mentioned[known].tolist()]
    behaviour[known, POPULAR] *= 1 + weights.popular_near * pull[mentioned[known]]
    parts[places] += behaviour[known]
    parts[:, TASTE] = weights.taste * _taste(catalogue, mentioned, joined.history)[catalogue.category[rows]].sum(axis=1)
    parts = np.round(parts, 6)
    scores = parts.sum(axis=1)
    order = np.lexsort((catalogue.tie_break[rows], -scores))[: request.k]
    if not request.explain:
        return [RecommendedItem(item_id=catalogue.item_ids[rows[k]], score=float(scores[k])) for k in order]
    whys = _whys(catalogue, pack, joined, mentioned, rows[order], parts[order])
    return [
        RecommendedItem(
            item_id=catalogue.item_ids[rows[k]],
            name=_name(catalogue, int(rows[k])),
            score=float(scores[k]),
            reasons=_reasons(parts[k]),
            why=why,
        )
        for k, why in zip(order.tolist(), whys, strict=True)
    ]


def _candidates(
    catalogue: Catalogue, base: np.ndarray, allowed: np.ndarray, known: np.ndarray, limit: int
) -> np.ndarray:
    """Return rows: all allowed ones the state mentions and the ``limit`` best others by the parts that need no state.

    Which of equally good rows come in must not depend on row numbers, hence the tie-break.
    """
    rest = allowed.copy()
    rest[known] = False
    others = np.flatnonzero(rest)
    if len(others) > limit:
        values = base[others]
        threshold = np.partition(values, len(values) - limit)[len(values) - limit]
        sure = others[values > threshold]
        equal = others[values == threshold]
        equal = equal[np.argsort(catalogue.tie_break[equal])][: limit - len(sure)]
        others = np.concatenate([sure, equal])
    return np.concatenate([np.unique(known), others])


def _text_part(cosines: np.ndarray | None, allowed: np.ndarray, weights: Weights) -> np.ndarray:
    """Return the text part of every row: cosine above the average of what is allowed, in units of ``text_spread``.

    Cosines of sentence encoders sit in a narrow high band, so only differences mean anything.
    """
    if cosines is None or not allowed.any():
        return np.zeros(len(allowed))
    # Sums of multiples of 2**-k of bounded size are exact, so the mean does not depend on the order of rows.
    mean = np.round(cosines[allowed] * 2**24).sum() / 2**24 / np.count_nonzero(allowed)
    part: np.ndarray = weights.text * (cosines - mean) / weights.text_spread
    return part


def _origin(catalogue: Catalogue, joined: JoinedRequest, last: int | None) -> np.ndarray | None:
    """Return where the user is, as a unit vector [3]: as posted, else at the item chosen last."""
    if joined.context.location is not None:
        return unit_vector(joined.context.location)
    row = catalogue.row_of.get(joined.items[last], -1) if last is not None else -1
    return catalogue.point[row] if row >= 0 else None


def _pull(catalogue: Catalogue, origin: np.ndarray | None, pack: DomainPack) -> np.ndarray:
    """Return how close every row is: 1 here, falling to a third at the domain's near distance; 0 where unknown."""
    if origin is None:
        return np.zeros(catalogue.size)
    pull = np.exp(-distances(catalogue.point[: catalogue.size], origin) / pack.near_metres)
    return np.nan_to_num(pull, nan=0.0)


def _behaviour_parts(joined: JoinedRequest, last: int | None, weights: Weights) -> np.ndarray:
    """Return the parts [len(joined.items), len(PARTS)] that come from what the user and everybody did."""
    parts = np.zeros((len(joined.items), len(PARTS)))
    history, signals = joined.history, joined.signals
    item = np.array(history.item, np.int64)
    kind = np.array(history.kind, np.int64)
    time = np.array(history.time, np.int64)
    session = np.array(history.session, np.int64)
    worth = np.where(kind == DISMISSAL, 0.0, np.where(kind == CLICK, weights.click, 1.0))
    age_days = (joined.event_time - time) / DAY_MS
    worth *= np.exp(-age_days / weights.fade_days)
    total = len(joined.items)

    def share(of: np.ndarray, prior: float = 0.0) -> np.ndarray:
        counts = np.bincount(item, of, total) if len(item) else np.zeros(total)
        if prior == 0.0 and len(history.older_item):
            counts[history.older_item] += np.array(history.older) * np.exp(-1.0)
        everything = counts.sum() + prior
        return counts / everything if everything else counts

    parts[:, VISITED] = weights.visited * share(worth)
    hours = np.abs((time - joined.event_time) % DAY_MS) / HOUR_MS
    hours = np.minimum(hours, 24 - hours)
    parts[:, HABIT] = weights.habit * share(worth * np.exp(-0.5 * (hours / weights.habit_hours) ** 2), prior=1e-9)
    if last is not None:
        after = np.zeros(len(item))
        previous = _previous(kind, session)
        after[(previous >= 0) & (item[previous] == last)] = 1.0
        parts[:, SEQUENCE] = weights.sequence * share(after * worth, prior=1e-9)
    if signals.followed_total:
        parts[:, FOLLOWED] = weights.followed * np.array(signals.followed) / signals.followed_total
    if signals.popularity:
        popularity = np.array(signals.popularity, np.float64)
        for column, half in ((WEEK, 0.5), (popularity.shape[1] - 1, 0.5)):
            everybody = signals.popularity_total[column]
            if everybody:
                parts[:, POPULAR] += half * weights.popular * np.sqrt(popularity[:, column] / everybody)
    dismissed = np.bincount(item, (kind == DISMISSAL) * np.exp(-age_days / 7), total) if len(item) else np.zeros(total)
    parts[:, DISMISSED] = -weights.dismissed * np.minimum(dismissed, 1.0)
    return parts


def _last_chosen(joined: JoinedRequest) -> int | None:
    """Return the number of the item chosen last; in a session, within it."""
    history, in_session = joined.history, joined.request.session_id is not None
    for item, kind, session in zip(
        reversed(history.item), reversed(history.kind), reversed(history.session), strict=True
    ):
        if kind != DISMISSAL and (not in_session or session == history.open_session):
            return item
    return None


def _previous(kind: np.ndarray, session: np.ndarray) -> np.ndarray:
    """Return for each interaction the position of the choice before it in its session, -1 for none."""
    previous = np.full(len(kind), -1, np.int64)
    newest: dict[int, int] = {}
    for position, (code, number) in enumerate(zip(kind.tolist(), session.tolist(), strict=True)):
        if code == DISMISSAL:
            continue
        previous[position] = newest.get(number, -1)
        newest[number] = position
    return previous


def _taste(catalogue: Catalogue, mentioned: np.ndarray, history: History) -> np.ndarray:
    """Return the share [number of categories + 1] of the user's choices that fell into each category."""
    taste = np.zeros(len(catalogue.category_code) + 1)
    if history.item:
        rows = mentioned[np.array(history.item, np.int64)]
        rows = rows[(rows >= 0) & (np.array(history.kind) != DISMISSAL)]
        taste += np.bincount(catalogue.category[rows].ravel(), minlength=len(taste))
        taste[0] = 0.0
        taste /= max(taste.sum(), 1.0)
    return taste


def _name(catalogue: Catalogue, row: int) -> str:
    item = catalogue.items[row]
    return item.name if item else ""


def _reasons(parts: np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, value in zip(PARTS, parts, strict=True) if value}


def _context_language(joined: JoinedRequest) -> Language:
    return "zh" if joined.context.fields.get("language") == "zh" else "en"


def _whys(
    catalogue: Catalogue,
    pack: DomainPack,
    joined: JoinedRequest,
    mentioned: np.ndarray,
    rows: np.ndarray,
    parts: np.ndarray,
) -> list[str]:
    """Return the two strongest parts in favour of each item as one phrase."""
    language = language_of(joined.request.text) if joined.request.text else _context_language(joined)
    phrases = pack.phrases[language]
    origin = joined.context.location
    here = unit_vector(origin) if origin else np.full(3, np.nan)
    metres = distances(catalogue.point[rows], here).tolist()
    history = joined.history
    chosen = ~np.isin(history.kind, (CLICK, DISMISSAL))
    counts = np.bincount(np.array(history.item, np.int64)[chosen], minlength=len(joined.items))
    counts[history.older_item] += np.array(history.older, np.int64)
    visits_of = dict(zip(mentioned.tolist(), counts.tolist(), strict=True))
    whys = []
    for row, away, values, order in zip(
        rows.tolist(), metres, parts.tolist(), np.argsort(-parts, axis=1).tolist(), strict=True
    ):
        item, visits = catalogue.items[row], visits_of.get(row, 0)
        # Only what is true may be said: a place only clicked on, or one near the last stop, is nothing to name.
        untold = {name for name, told in (("visited", visits > 0), ("near", origin is not None)) if not told}
        strongest = [PARTS[k] for k in order if values[k] > 0.005 and PARTS[k] not in untold][:2]
        words = {
            "distance": f"{away / 1000:.1f} km" if away >= 950 else f"{away:.0f} m",
            "visits": visits,
            "category": item.categories[0] if item and item.categories else "",
            "price": item.price if item else "",
        }
        whys.append(phrases.separator.join(phrases.why[name].format(**words) for name in strongest))
    return whys
