"""Which items the ranker looks at: what the state mentions, and the likeliest others of the catalogue.

What the state mentions is the user's own items, what follows the last one, what is popular near it and everywhere. Of
all other items those come in that are likeliest to be chosen for the first time. How likely each is, is a conditional
logit (McFadden, 1974): a weighted sum of the logarithms of what several sources say about every row of the catalogue.
The model has learned the weights, and how they change with the moment: a minute after the last choice it counts more
to be near it than a day after. A further model of what comes next is one more term.
"""

import numpy as np
from numpy.typing import NDArray

from models.catalogue import SCALE, Catalogue, whole_numbers
from models.history import CLICK_WORTH, History, last_two
from models.item_tables import TERMS, ItemTables, Placement
from models.places import EARTH_RADIUS_METRES, unit_vector
from schemas.domains import DomainPack
from schemas.records import POPULARITY_WINDOWS_HOURS, JoinedRequest

Scores = NDArray[np.float64]
Rows = NDArray[np.int64]

FIRST_CHOICES = 150  # likeliest ones that become candidates
CENTRES = 10  # of a user's items, by count, that stand for the places the user goes to
RECENT, RECENT_FADE = 10, 0.8  # choices that say what the user is after now, and what each step back counts
LATELY = 30  # choices after which an old one counts a third
CLOSE = 1 / 30  # of the domain's near distance: closer than that makes no difference
UNHEARD = 0.02  # of the strongest link to other items, that an item without any is granted
DAY, MONTH = (POPULARITY_WINDOWS_HOURS.index(hours) for hours in (24, 24 * 28))


def first_choice_terms(
    catalogue: Catalogue, pack: DomainPack, tables: ItemTables, joined: JoinedRequest, history: History, mentioned: Rows
) -> dict[str, Scores]:
    """Return what speaks for each row to be chosen for the first time [catalogue.size], by the names in ``TERMS``.

    What nobody knows is left out. ``mentioned`` are the catalogue rows of the joined request's id table, -1 for items
    that are gone. No term depends on the order of rows: what is summed is summed over the history or the tables, and
    products with embeddings are exact.
    """
    placed, size = tables.placed(catalogue), catalogue.size
    item, category = placed.item[:size], placed.category[:size]
    terms = dict(tables.known(catalogue)) | tables.at_hour(catalogue, joined.event_time)
    own = mentioned[history.item]
    recent = np.where(own >= 0, placed.item[own], 0)
    if (recent > 0).any():
        back = np.arange(len(recent))[::-1]
        numbers, which = np.unique(recent, return_inverse=True)
        worth = np.log1p(np.bincount(which, history.worth * np.exp(-back / LATELY))) * (numbers > 0)
        terms["beside"] = _strength(tables.besides(numbers, worth))[item]
        latest = slice(-RECENT, None)
        terms["after"] = _strength(tables.afters(recent[latest], (history.worth * RECENT_FADE**back)[latest]))[item]
        terms["after_last"] = _strength(tables.afters(recent[-1:], np.ones(1)))[item]
        profile = tables.profile(recent)
        if profile is not None:
            terms["alike"] = _strength(np.maximum(tables.factors @ profile, 0.0))[item]
    position = last_two(joined, history)[0]
    origin = int(own[position]) if position >= 0 else -1
    here = unit_vector(joined.context.location) if joined.context.location else catalogue.point[origin]
    if (joined.context.location or origin >= 0) and np.isfinite(here).all():
        terms["near"] = -_log_distances(catalogue, here, pack.near_metres)
    if (own >= 0).any():
        now = history.worth * history.near_hour(joined.event_time)
        terms |= _kinds(tables, placed, own, history, now, origin, category)
        terms |= _around(catalogue, own, now, pack.near_metres / 2)
        meaning = _meaning(catalogue, own)
        if meaning is not None:
            terms["meaning"] = meaning
    if joined.signals.popularity:
        counts = np.zeros(size + 1)
        popularity = np.array(joined.signals.popularity, np.float64)
        for name, window in (("popular", MONTH), ("popular_day", DAY)):
            counts[mentioned] = popularity[:, window]
            terms[name] = np.log(counts[:-1] + 0.3)
    following = tables.sequence.scores(catalogue, joined, mentioned) if tables.sequence else None
    if following is not None:
        terms["next"] = following
    return terms


def first_choice_scores(tables: ItemTables, terms: dict[str, Scores], moment: Scores, size: int) -> Scores:
    """Return the logarithm, but for a constant, of how likely each row [size] is to be chosen for the first time."""
    scores = np.zeros(size)
    weights = tables.first[0] + moment @ tables.first[1:]
    for name, weight in zip(TERMS, weights.tolist(), strict=True):
        if name in terms:
            scores += weight * terms[name]
    return scores


def open_to_first_choice(
    joined: JoinedRequest, history: History, mentioned: Rows, allowed: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return the mask [catalogue.size] of what is allowed and the user has not chosen yet."""
    chosen = mentioned[[*history.item[history.worth > CLICK_WORTH].tolist(), *joined.history.older_item]]
    free = allowed.copy()
    free[chosen[chosen >= 0]] = False
    return free


def likeliest(catalogue: Catalogue, tables: ItemTables, scores: Scores, free: NDArray[np.bool_]) -> tuple[Rows, float]:
    """Return the likeliest free rows, in no order, and the logarithm of the sum of all free rows' exponentials."""
    order = tables.placed(catalogue).order  # neither sums nor what comes in of equals may depend on the order of rows
    rows = order[free[order]]
    if not len(rows):
        return rows, 0.0
    values = scores[rows]
    greatest = values.max()
    total = float(greatest + np.log(np.exp(values - greatest).sum()))
    if len(rows) > FIRST_CHOICES:
        rows = rows[np.argpartition(-values, FIRST_CHOICES - 1)[:FIRST_CHOICES]]
    return rows, total


def _strength(links: Scores) -> Scores:
    strength: Scores = np.log(links / (links.max() + 1e-9) + UNHEARD)
    return strength


def _log_distances(catalogue: Catalogue, here: NDArray[np.float64], near_metres: float) -> Scores:
    """Return the logarithms of distances [size] in near distances; 0 for an unknown place."""
    points = catalogue.point[: catalogue.size]
    squared = sum((points[:, axis] - here[axis]) ** 2 for axis in range(3))
    far = 0.5 * np.log(squared * (EARTH_RADIUS_METRES / near_metres) ** 2 + CLOSE**2)
    return np.asarray(np.where(np.isfinite(far), far, 0.0), np.float64)


def _kinds(
    tables: ItemTables, placed: Placement, own: Rows, history: History, now: Scores, origin: int, category: Rows
) -> dict[str, Scores]:
    """Return how much more the user, and those who were just there, choose each row's category than others do."""
    total = len(tables.category_count)
    usual = tables.category_count.astype(np.float64) / max(float(tables.category_count.sum()), 1.0)
    chosen = own >= 0
    kinds = {}
    for name, worth in (("kind", history.worth), ("kind_hour", now)):
        taste = np.bincount(placed.category[own[chosen]], worth[chosen], total)
        kinds[name] = np.log((taste + 3 * usual + 1e-3) / (taste.sum() + 3) / (usual + 1e-3))[category]
    if origin >= 0:
        kinds["kind_after"] = np.log((tables.follows[placed.category[origin]] + 3e-3) / (usual + 1e-3))[category]
    return kinds


def _around(catalogue: Catalogue, own: Rows, now: Scores, metres: float) -> dict[str, Scores]:
    """Return how close every row [size] is to the places the user goes to, ever and at this hour, as far as known."""
    centres, place = np.unique(own, return_inverse=True)
    visits, at_hour = np.bincount(place).astype(np.float64), np.bincount(place, now)
    known = (centres >= 0) & np.isfinite(catalogue.point[centres, 0])
    centres, visits, at_hour = centres[known], visits[known], at_hour[known]
    if not len(centres):
        return {}
    kept = np.lexsort((catalogue.tie_break[centres], -visits))[:CENTRES]
    points, here = catalogue.point[: catalogue.size], catalogue.point[centres[kept]]
    closeness, at_this_hour = np.zeros(catalogue.size), np.zeros(catalogue.size)
    share = at_hour[kept] / (at_hour.sum() + 0.5)
    for point, weight, hours in zip(here, np.sqrt(visits[kept]).tolist(), share.tolist(), strict=True):
        squared = sum((points[:, axis] - point[axis]) ** 2 for axis in range(3))
        close = 1 / (1 + squared * (EARTH_RADIUS_METRES / metres) ** 2)
        closeness += weight * close
        at_this_hour += hours * close
    return {
        "around": np.log(np.nan_to_num(closeness, nan=0.0) + 0.3),
        "around_hour": np.log(np.nan_to_num(at_this_hour, nan=0.0) + 0.03),
    }


def _meaning(catalogue: Catalogue, own: Rows) -> Scores | None:
    """Return the cosine [size] of what items say of themselves with what the latest choices do."""
    latest = own[-RECENT:]
    weight = RECENT_FADE ** np.arange(len(latest))[::-1] * (latest >= 0)
    summed = weight @ catalogue.embedding[latest].astype(np.float64)
    length = np.sqrt(summed @ summed)
    if not length:
        return None
    cosine: Scores = (catalogue.embedding[: catalogue.size] @ whole_numbers(summed / length)).astype(np.float64)
    return cosine / SCALE**2
