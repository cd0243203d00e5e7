"""The score of an item for a joined request: a sum of named parts, so that the reasons are the score's own.

    score(i | request) = text + asked + visited + habit + sequence + followed + popular + near + taste + moment
                         + learned + dismissed

``rank`` is the one function from a joined request to a list: serving, evaluation and replay all call it. The text and
the wishes said in words are weighed by hand; the rest is the trained ranker's, or, until one has been trained, a mix of
counts with sensible starting weights.
"""

from dataclasses import dataclass

import numpy as np

from models.candidates import first_choice_scores, first_choice_terms, likeliest, open_to_first_choice
from models.catalogue import Catalogue
from models.constraints import allowed_rows
from models.features import Scene, candidate_features, scene_of
from models.history import HOUR_MS, History, last_two, moment_of, read_history
from models.item_tables import ItemTables
from models.places import distances
from models.ranker import Ranker
from models.texts import language_of
from models.user_state import DISMISSAL, KIND_CODE
from schemas.domains import DomainPack, Language
from schemas.records import POPULARITY_WINDOWS_HOURS, JoinedRequest, RecommendedItem

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
    asked: float = 3.0  # of a wish said in words that is met
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
    habit_hours: float = 2.6  # standard deviation of the hour-of-day kernel
    fade_days: float = 41.0  # after which an old choice counts a third


PARTS = (
    "text", "asked", "visited", "habit", "sequence", "followed", "popular", "near", "taste", "moment", "learned",
    "dismissed",
)  # fmt: skip
TEXT, ASKED, VISITED, HABIT, SEQUENCE, FOLLOWED, POPULAR, NEAR, TASTE, _MOMENT, LEARNED, DISMISSED = range(len(PARTS))
OTHERS = 100  # candidates that only fit the words or the place


@dataclass(frozen=True)
class Question:
    """A joined request beside the catalogue: what may be recommended, and what is known without any state."""

    catalogue: Catalogue
    pack: DomainPack
    joined: JoinedRequest
    allowed: np.ndarray  # mask [catalogue.size]
    free: np.ndarray  # mask [catalogue.size] of what the user has not chosen yet
    mentioned: np.ndarray  # catalogue row of each entry of the id table, -1 for items that are gone
    history: History
    said: bool  # whether there are words to go by
    text: np.ndarray  # the text part [catalogue.size]
    asked: np.ndarray  # the part of the wishes said in words [catalogue.size]
    pull: np.ndarray  # how close every row is [catalogue.size], 1 here
    last: int | None  # entry of the id table that was chosen last; in a session, within it


def question(
    catalogue: Catalogue,
    pack: DomainPack,
    joined: JoinedRequest,
    weights: Weights,
    cosines: np.ndarray | None = None,
    asked: np.ndarray | None = None,
    allowed: np.ndarray | None = None,
) -> Question:
    """Put a request beside the catalogue; see ``rank``."""
    if allowed is None:
        allowed = allowed_rows(catalogue, pack, joined.request.constraints, joined.context, joined.event_time)
    mentioned = catalogue.rows(joined.items)
    history = read_history(joined)
    free = open_to_first_choice(joined, history, mentioned, allowed)
    position, _ = last_two(joined, history)
    last = int(history.item[position]) if position >= 0 else None
    return Question(
        catalogue,
        pack,
        joined,
        allowed if pack.repeats else free,
        free,
        mentioned,
        history,
        cosines is not None or asked is not None,
        _text_part(cosines, allowed, weights),
        np.zeros(catalogue.size) if asked is None else weights.asked * asked,
        _pull(catalogue, _metres(catalogue, joined, last), pack),
        last,
    )


def rank(
    catalogue: Catalogue,
    pack: DomainPack,
    joined: JoinedRequest,
    cosines: np.ndarray | None,
    weights: Weights,
    *,
    asked: np.ndarray | None = None,
    allowed: np.ndarray | None = None,
    ranker: Ranker | None = None,
) -> list[RecommendedItem]:
    """Return the best ``k`` items, best first; equal scores are in an order that depends on the ids alone.

    Args:
        catalogue: all items.
        pack: the request's domain.
        joined: the request with its state.
        cosines: of the request's text with every row [catalogue.size]; None for a request without text.
        weights: of the text and the wishes, and of all parts while there is no ranker.
        asked: how well every row fits what was asked for in words [catalogue.size].
        allowed: the mask [catalogue.size] of the request's constraints, where it is known already.
        ranker: scores what the state says.

    """
    request = joined.request
    if not len(catalogue):
        return []
    asking = question(catalogue, pack, joined, weights, cosines, asked, allowed)
    if ranker is None:
        rows = _starting_candidates(asking, weights)
        parts = starting_parts(asking, weights, rows)
        scores = parts.sum(axis=1)
    else:
        scene, base = before_trees(asking, weights, ranker.tables, request.k, corrects_weights=ranker.corrects_weights)
        rows, features = scene.rows, candidate_features(scene, ranker.looks_at)
        scores = np.round(ranker.scores(features) + base.sum(axis=1), 6)
    order = best_first(catalogue, rows, scores)[: request.k]
    if not request.explain:
        return [RecommendedItem(item_id=catalogue.item_ids[rows[k]], score=float(scores[k])) for k in order]
    if ranker is None:
        parts = parts[order]
    else:
        parts = np.round(base[order] + ranker.parts(features[order], PARTS), 6)
        parts[:, LEARNED] += scores[order] - parts.sum(axis=1)  # what all candidates have in common, and rounding
    whys = _whys(catalogue, pack, joined, asking.mentioned, rows[order], parts)
    return [
        RecommendedItem(
            item_id=catalogue.item_ids[rows[k]],
            name=_name(catalogue, int(rows[k])),
            score=float(scores[k]),
            reasons=_reasons(reasons),
            why=why,
        )
        for k, reasons, why in zip(order.tolist(), parts, whys, strict=True)
    ]


def before_trees(
    asking: Question, weights: Weights, tables: ItemTables, k: int, *, corrects_weights: bool
) -> tuple[Scene, np.ndarray]:
    """Return what a ranker's trees look at, and the parts [candidates, len(PARTS)] of the score that they add to."""
    if corrects_weights:
        rows = _starting_candidates(asking, weights)
        rows = rows[np.argsort(asking.catalogue.tie_break[rows])]
        scene = scene_of(
            asking.catalogue, asking.pack, tables, asking.joined, asking.history, asking.mentioned, rows,
            {}, np.zeros(asking.catalogue.size),
        )  # fmt: skip
        return scene, starting_parts(asking, weights, rows)
    scene = ranking_scene(asking, weights, tables, k)
    parts = np.zeros((len(scene.rows), len(PARTS)))
    parts[:, TEXT], parts[:, ASKED] = asking.text[scene.rows], asking.asked[scene.rows]
    return scene, parts


def best_first(catalogue: Catalogue, rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the order [n] of candidates by their scores; equal ones are in an order that the ids alone decide."""
    order: np.ndarray = np.lexsort((catalogue.tie_break[rows], -scores))
    return order


def ranking_scene(asking: Question, weights: Weights, tables: ItemTables, k: int) -> Scene:
    """Return the candidates for ``k`` places with all that their features are made from."""
    catalogue, pack, joined, mentioned = asking.catalogue, asking.pack, asking.joined, asking.mentioned
    history = asking.history
    terms = first_choice_terms(catalogue, pack, tables, joined, history, mentioned)
    scores = first_choice_scores(tables, terms, moment_of(joined, history), catalogue.size)
    new, total = likeliest(catalogue, tables, scores, asking.free)
    rows = mentioned[mentioned >= 0]
    rows = np.union1d(rows[asking.allowed[rows]], new)
    others = max(OTHERS if asking.said else 0, k - len(rows))
    if others:
        base = asking.text + asking.asked + _near_part(asking, weights)
        rows = _candidates(catalogue, base, asking.allowed, rows, others)
    rows = rows[np.argsort(catalogue.tie_break[rows])]
    first = np.exp(scores - total) * asking.free
    return scene_of(catalogue, pack, tables, joined, history, mentioned, rows, terms, first)


def _starting_candidates(asking: Question, weights: Weights) -> np.ndarray:
    """Return the candidates of the hand-set weights, as catalogue rows [n]."""
    catalogue, mentioned = asking.catalogue, asking.mentioned
    known = mentioned[(mentioned >= 0) & asking.allowed[mentioned]]
    base = asking.text + asking.asked + _near_part(asking, weights)
    return _candidates(catalogue, base, asking.allowed, known, max(2 * asking.joined.request.k, OTHERS))


def starting_parts(asking: Question, weights: Weights, rows: np.ndarray) -> np.ndarray:
    """Return the parts [n, len(PARTS)] of the scores of catalogue rows [n] by hand-set weights."""
    catalogue, joined, mentioned = asking.catalogue, asking.joined, asking.mentioned
    parts = np.zeros((len(rows), len(PARTS)))
    parts[:, TEXT], parts[:, ASKED] = asking.text[rows], asking.asked[rows]
    parts[:, NEAR] = _near_part(asking, weights)[rows]
    position = np.full(catalogue.size + 1, -1, np.int64)  # the last for items that are gone
    position[rows] = np.arange(len(rows))
    known = np.flatnonzero(position[mentioned] >= 0)
    behaviour = _behaviour_parts(joined, asking.history, asking.last, weights)
    behaviour[known, POPULAR] *= 1 + weights.popular_near * asking.pull[mentioned[known]]
    parts[position[mentioned[known]]] += behaviour[known]
    parts[:, TASTE] = weights.taste * _taste(catalogue, mentioned, asking.history)[catalogue.category[rows]].sum(axis=1)
    return np.round(parts, 6)


def _near_part(asking: Question, weights: Weights) -> np.ndarray:
    located = asking.joined.context.location is not None
    near: np.ndarray = (weights.near if located else weights.near_last) * asking.pull
    return near


def _candidates(
    catalogue: Catalogue, base: np.ndarray, allowed: np.ndarray, known: np.ndarray, limit: int
) -> np.ndarray:
    """Return rows: the ``known`` ones, all different, and the ``limit`` best others by the parts that need no state.

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
    return np.concatenate([known, others])


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


def _metres(catalogue: Catalogue, joined: JoinedRequest, last: int | None) -> np.ndarray | None:
    """Return how far every row is from where the user is: as posted, else from the item chosen last."""
    if joined.context.location is not None:
        return catalogue.metres_from(joined.context.location)
    row = catalogue.row_of.get(joined.items[last], -1) if last is not None else -1
    return distances(catalogue.point[: catalogue.size], catalogue.point[row]) if row >= 0 else None


def _pull(catalogue: Catalogue, metres: np.ndarray | None, pack: DomainPack) -> np.ndarray:
    """Return how close every row is: 1 here, falling to a third at the domain's near distance; 0 where unknown."""
    if metres is None:
        return np.zeros(catalogue.size)
    pull = np.exp(-metres / pack.near_metres)
    pull[np.isnan(pull)] = 0.0
    return pull


def _behaviour_parts(joined: JoinedRequest, history: History, last: int | None, weights: Weights) -> np.ndarray:
    """Return the parts [len(joined.items), len(PARTS)] that come from what the user and everybody did."""
    parts = np.zeros((len(joined.items), len(PARTS)))
    raw, signals, item = joined.history, joined.signals, history.item
    worth = history.worth * np.exp(-history.age / 24 / weights.fade_days)
    total = len(joined.items)

    def share(of: np.ndarray, prior: float = 0.0) -> np.ndarray:
        counts = np.bincount(item, of, total) if len(item) else np.zeros(total)
        if prior == 0.0 and len(raw.older_item):
            counts[raw.older_item] += np.array(raw.older) * np.exp(-1.0)
        everything = counts.sum() + prior
        return counts / everything if everything else counts

    parts[:, VISITED] = weights.visited * share(worth)
    hours = np.abs(history.hour - joined.event_time / HOUR_MS % 24)
    hours = np.minimum(hours, 24 - hours)
    parts[:, HABIT] = weights.habit * share(worth * np.exp(-0.5 * (hours / weights.habit_hours) ** 2), prior=1e-9)
    if last is not None:
        after = np.zeros(len(item))
        after[(history.previous >= 0) & (item[history.previous] == last)] = 1.0
        parts[:, SEQUENCE] = weights.sequence * share(after * worth, prior=1e-9)
    if signals.followed_total:
        parts[:, FOLLOWED] = weights.followed * np.array(signals.followed) / signals.followed_total
    if signals.popularity:
        popularity = np.array(signals.popularity, np.float64)
        for column, half in ((WEEK, 0.5), (popularity.shape[1] - 1, 0.5)):
            everybody = signals.popularity_total[column]
            if everybody:
                parts[:, POPULAR] += half * weights.popular * np.sqrt(popularity[:, column] / everybody)
    weeks = (joined.event_time - np.array(raw.time, np.int64)) / (7 * DAY_MS)
    gone = np.array(raw.kind, np.int64) == DISMISSAL
    if gone.any():
        dismissed = np.bincount(np.array(raw.item)[gone], np.exp(-weeks[gone]), total)
        parts[:, DISMISSED] = -weights.dismissed * np.minimum(dismissed, 1.0)
    return parts


def _taste(catalogue: Catalogue, mentioned: np.ndarray, history: History) -> np.ndarray:
    """Return the share [number of categories + 1] of the user's choices that fell into each category."""
    taste = np.zeros(len(catalogue.category_code) + 1)
    if len(history.item):
        rows = mentioned[history.item]
        rows = rows[rows >= 0]
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
    metres = catalogue.metres_from(origin)[rows].tolist() if origin else [np.nan] * len(rows)
    history = joined.history
    visits = [0] * len(joined.items)
    for number, kind in zip(history.item, history.kind, strict=True):
        visits[number] += kind not in {CLICK, DISMISSAL}
    for number, count in zip(history.older_item, history.older, strict=True):
        visits[number] += count
    visits_of = dict(zip(mentioned.tolist(), visits, strict=True))
    whys = []
    for row, away, values, order in zip(
        rows.tolist(), metres, parts.tolist(), np.argsort(-parts, axis=1).tolist(), strict=True
    ):
        item, visited = catalogue.items[row], visits_of.get(row, 0)
        # Only what is true may be said: a place only clicked on, or one near the last stop, is nothing to name.
        untold = {name for name, told in (("visited", visited > 0), ("near", origin is not None)) if not told}
        strongest = [PARTS[k] for k in order if values[k] > 0.005 and PARTS[k] not in untold][:2]
        words = {
            "distance": f"{away / 1000:.1f} km" if away >= 950 else f"{away:.0f} m",
            "visits": visited,
            "category": item.categories[0] if item and item.categories else "",
            "price": item.price if item else "",
        }
        whys.append(phrases.separator.join(phrases.why[name].format(**words) for name in strongest))
    return whys
