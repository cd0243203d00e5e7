"""What the ranker sees of each candidate: one row of numbers, made from the joined request and the catalogue.

Training, evaluation, serving and replay all call ``candidate_features``; nothing else makes these numbers. Every
feature belongs to a part of the score, by which its contribution is explained. A ranker names those it looks at, and
only what they need is made: the others stay 0. Counts come from the history and the signals that the joined request
carries, so they are as of its event time; what was learned about items from many users (hours of the week, similarity)
comes from ``ItemTables``, which belong to the model.

Candidates come in the order of a hash of their ids, so that no sum depends on the order of the catalogue's rows.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.catalogue import SCALE, Catalogue
from models.constraints import open_rows
from models.history import HOUR_MS, History, last_two
from models.item_tables import ItemTables, hour_of_week
from models.places import EARTH_RADIUS_METRES, unit_vector
from models.returning import describe
from models.user_state import DISMISSAL
from schemas.domains import DomainPack
from schemas.records import POPULARITY_WINDOWS_HOURS, JoinedRequest

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

MAX_PLACES = 60  # of a user's items, by count, that stand for where the user goes
UNKNOWN = -1.0  # a distance, gap or age that nobody knows
FAR_METRES = 1e9  # stands for the distance to a place that nobody knows
UNLIKELY = 1e-7  # a chance that is as good as none
NEVER = 99.0  # log hours since something that has not happened


# name -> part of the score; the order is the model's input order.
FEATURES: dict[str, str] = {}
# name -> family that can be left out of training; a part is a family, but for the two that share a part with another.
FAMILY: dict[str, str] = {}


def _declare(part: str, *names: str, family: str | None = None) -> None:
    FEATURES.update(dict.fromkeys(names, part))
    FAMILY.update(dict.fromkeys(names, family or part))


_declare(
    "visited", "count", "share", "count_3d", "count_14d", "share_14d", "count_60d", "share_60d", "age_last",
    "age_first", "rank", "relative", "older",
)  # fmt: skip
_declare(
    "habit", "hour_count", "hour_share", "hours_share", "weekpart_count", "weekpart_share", "weekday_share",
    "weekday_count", "hour_share_30d", "weekpart_share_30d", "hour_rate", "hour_relative",
)  # fmt: skip
_declare(
    "sequence", "after_count", "after_share", "after_30d", "after_hours_share", "after_gap_share", "gap_hour_share",
    "after_two", "after_both", "next_any", "after_relative", "in_session", "is_last", "is_first", "is_second_last",
    "end_count", "end_share", "end_rate", "end_hours_share", "after_category_share",
)  # fmt: skip
_declare("followed", "followed", "followed_share", "followed_others", "followed_lift")
_declare(
    "popular", "popular_1h", "popular_1d", "popular_7d", "popular_28d", "popular_ever", "popular_others",
    "popular_trend", "popular_hour",
)  # fmt: skip
_declare(
    "near", "metres_here", "metres_last", "metres_rank", "speed", "near_share", "density", "density_share",
    "density_hours", "metres_top", "metres_any", "metres_before", "popular_1h_near", "popular_1d_near", "away",
)  # fmt: skip
_declare(
    "taste", "category_share", "category_hours_share", "category_3d", "category_age", "category_after_share",
    "price", "price_difference",
)  # fmt: skip
_declare(
    "moment", "item_hour", "category_hour", "category_hour_share", "category_follows", "category_follows_lift",
)  # fmt: skip
_declare("moment", "open")
_declare("learned", "similar", "similar_last", "users", "per_user")
_declare("taste", "meaning", "meaning_last", family="meaning")
_declare("followed", "beside", "beside_last", "after", "after_last", family="neighbours")
_declare("sequence", "next", family="next")
_declare("learned", "first", "first_rank", "first_chance", family="first")
_declare("habit", "returns", "returns_rank", family="returning")
_declare("learned", "chance", "chance_rank", "new_chance", family="returning")
_declare("dismissed", "dismissed")
_declare(
    "learned", "gap", "hour", "weekday", "session_length", "session_hours", "session_distinct", "history_length",
    "history_distinct", "new_rate", "new_rate_hours", "new_rate_5", "last_is_new", "top_share", "after_total",
    "staleness", "around",
)  # fmt: skip

NAMES = tuple(FEATURES)
_COLUMN = {name: column for column, name in enumerate(NAMES)}


Values = dict[str, Array | float]


@dataclass(frozen=True, slots=True)
class Scene:
    """A joined request beside the catalogue: what all features are made from."""

    catalogue: Catalogue
    pack: DomainPack
    tables: ItemTables
    joined: JoinedRequest
    history: History
    mentioned: Rows  # catalogue row of each entry of the id table, -1 for items that are gone
    rows: Rows  # catalogue rows of the candidates
    candidate: Rows  # of each entry of the id table; len(rows) for those that are none
    terms: Mapping[str, Array]  # of the candidates: what speaks for a first choice
    first: Array  # of the candidates: how likely each is if the user chooses something new; 0 for what is not new
    last: int  # position in the history of the last choice (in a session: within it), -1 for none
    before: int  # the one before that

    def count(self, weight: Array) -> Array:
        """Return summed weights of the history by entry of the id table."""
        return np.bincount(self.history.item, weight, len(self.joined.items)).astype(np.float64)

    def spread(self, values: Array) -> Array:
        """Return values of the id table by candidate; 0 for candidates that it does not have."""
        out = np.zeros(len(self.rows) + 1)
        out[self.candidate] = values
        return out[:-1]

    def counted(self, weight: Array) -> Array:
        """Return summed weights of the history by candidate."""
        return self.spread(self.count(weight))

    def row(self, position: int) -> int:
        """Return the catalogue row of a choice, -1 if it is gone."""
        return int(self.mentioned[self.history.item[position]])


def scene_of(
    catalogue: Catalogue,
    pack: DomainPack,
    tables: ItemTables,
    joined: JoinedRequest,
    history: History,
    mentioned: Rows,
    rows: Rows,
    terms: Mapping[str, Array],
    first: Array,
) -> Scene:
    """Put a request and its candidates, catalogue rows in the order of their hashes, together.

    ``terms`` and ``first`` are those of ``models.candidates``, of every row of the catalogue.
    """
    place = np.full(catalogue.size + 1, len(rows), np.int64)
    place[rows] = np.arange(len(rows))
    last, before = last_two(joined, history)
    terms = {source: values[rows] for source, values in terms.items()}
    place = place[mentioned]
    return Scene(catalogue, pack, tables, joined, history, mentioned, rows, place, terms, first[rows], last, before)


def candidate_features(scene: Scene, wanted: Collection[str] = NAMES) -> NDArray[np.float32]:
    """Return the features [candidates, len(NAMES)]; of those that are not wanted, some are 0."""
    values: Values = {}
    for make in _makers(frozenset(wanted)):
        make(scene, values)
    matrix = np.zeros((len(scene.rows), len(NAMES)), np.float32)
    for name, column in values.items():
        matrix[:, _COLUMN[name]] = column
    return matrix


def _visits(scene: Scene, values: Values) -> None:
    joined, history = scene.joined, scene.history
    older = np.zeros(len(joined.items))
    older[joined.history.older_item] = joined.history.older
    everything = scene.count(history.worth) + older
    length = max(float(everything.sum()), 1.0)
    count = scene.spread(everything)
    seen = count > 0
    values["count"], values["share"], values["older"] = count, count / length, scene.spread(older)
    for days in (3, 14, 60):
        weight = history.worth * np.exp(-history.age / (24 * days))
        recent = values[f"count_{days}d"] = scene.counted(weight)
        if days > 3:
            values[f"share_{days}d"] = recent / (weight.sum() + 1)
    newest = np.full(len(joined.items), NEVER)
    oldest = newest.copy()
    ages = np.log1p(history.age)
    newest[history.item] = ages  # oldest first, so the last one stays
    oldest[history.item[::-1]] = ages[::-1]
    values["age_last"] = np.where(seen, scene.spread(newest), NEVER)
    values["age_first"] = np.where(seen, scene.spread(oldest), NEVER)
    values["rank"] = np.where(seen, np.searchsorted(np.sort(-count), -count), 999.0)
    most = float(everything.max(initial=0.0))
    values["relative"] = count / max(most, 1.0)
    values["history_length"], values["top_share"] = length, most / length
    values["history_distinct"] = float(np.count_nonzero(everything))
    values["staleness"] = float(np.log1p(history.age[-1])) if len(history.age) else NEVER


def _circular(hours: Array, now: float) -> Array:
    apart = np.abs(hours - now)
    return np.asarray(np.minimum(apart, 24 - apart), np.float64)


def _bell(x: Array, width: float) -> Array:
    bell: Array = np.exp(-0.5 * (x / width) ** 2)
    return bell


def _around_now(scene: Scene, width: float) -> Array:
    """Return how near each choice's hour of the day is to the request's [n]: 1 for the same."""
    return _bell(_circular(scene.history.hour, scene.joined.event_time / HOUR_MS % 24), width)


def _hours(scene: Scene, values: Values) -> None:
    history, time = scene.history, scene.joined.event_time
    day = (time // (24 * HOUR_MS) + 3) % 7
    same_part = (history.day >= 5) == (day >= 5)
    tight, wide = history.worth * _around_now(scene, 1.0), history.worth * _around_now(scene, 2.5)
    month = np.exp(-history.age / 720)
    at_hour = scene.count(tight)
    hour_count = scene.spread(at_hour)
    values["hour_count"], values["hour_share"] = hour_count, hour_count / (tight.sum() + 1)
    values["hours_share"] = scene.counted(wide) / (wide.sum() + 1)
    for name, weight in (
        ("weekpart", tight * same_part),
        ("weekday", history.worth * _around_now(scene, 1.5) * (history.day == day)),
    ):
        count = values[f"{name}_count"] = scene.counted(weight)
        values[f"{name}_share"] = count / (weight.sum() + 1)
    values["hour_share_30d"] = scene.counted(tight * month) / ((tight * month).sum() + 1)
    weight = tight * month * same_part
    values["weekpart_share_30d"] = scene.counted(weight) / (weight.sum() + 0.5)
    values["hour_rate"] = hour_count / (values["count"] + 0.5)
    values["hour_relative"] = hour_count / (at_hour.max(initial=0.0) + 0.5)
    first = np.zeros(len(history.item), bool)
    first[np.unique(history.item, return_index=True)[1]] = True
    values["new_rate"] = float(first[-30:].mean()) if len(first) else 1.0
    values["new_rate_hours"] = float((first * wide).sum() / (wide.sum() + 0.5))
    values["new_rate_5"] = float(first[-5:].mean()) if len(first) else 1.0
    values["last_is_new"] = float(first[-1]) if len(first) else 1.0
    values["hour"], values["weekday"] = time / HOUR_MS % 24, float(day)


def _sequence(scene: Scene, values: Values) -> None:
    history, joined, item = scene.history, scene.joined, scene.history.item
    wide = _around_now(scene, 2.5)
    ends = history.worth * history.last_of_session
    count = values["end_count"] = scene.counted(ends)
    values["end_share"], values["end_rate"] = count / (ends.sum() + 1), count / (values["count"] + 1)
    values["end_hours_share"] = scene.counted(ends * wide) / ((ends * wide).sum() + 0.5)
    values["gap"] = UNKNOWN
    if scene.last < 0:
        return
    numbers, current = np.arange(len(joined.items)), item[scene.last]
    gap = float(history.age[scene.last])
    values["gap"] = np.log1p(gap)
    values["is_last"] = scene.spread((numbers == current).astype(np.float64))
    if scene.before >= 0:
        values["is_second_last"] = scene.spread((numbers == item[scene.before]).astype(np.float64))
    if joined.request.session_id is not None:
        session = np.flatnonzero(history.session == joined.history.open_session)
        values["in_session"] = scene.spread(np.bincount(item[session], minlength=len(numbers)).astype(np.float64))
        values["is_first"] = scene.spread((numbers == item[session[0]]).astype(np.float64))
        values["session_length"], values["session_hours"] = float(len(session)), float(history.age[session[0]])
        values["session_distinct"] = float(len(np.unique(item[session])))
    previous = history.previous
    follows = previous >= 0
    source = np.where(follows, item[previous], -1)
    after = (source == current) * history.worth
    counts = scene.count(after)
    after_count = values["after_count"] = scene.spread(counts)
    values["after_total"] = float(after.sum())
    values["after_share"] = after_count / (after.sum() + 1)
    values["after_relative"] = after_count / (counts.max(initial=0.0) + 0.5)
    values["after_30d"] = scene.counted(after * np.exp(-history.age / 720))
    values["after_hours_share"] = scene.counted(after * wide) / ((after * wide).sum() + 0.5)
    gaps = np.where(follows, np.maximum(history.age[previous] - history.age, 0), np.nan)
    similar = np.exp(-(np.nan_to_num(np.log((gaps + 0.1) / (gap + 0.1)), nan=9.0) ** 2))
    values["after_gap_share"] = scene.counted(after * similar) / ((after * similar).sum() + 0.5)
    weight = similar * wide * follows * history.worth
    values["gap_hour_share"] = scene.counted(weight) / (weight.sum() + 1)
    if scene.before >= 0:
        two_back = np.where(follows & (previous[previous] >= 0), item[previous[previous]], -1)
        twice = (two_back == item[scene.before]) * history.worth
        values["after_two"], values["after_both"] = scene.counted(twice), scene.counted(twice * (after > 0))
    following = np.flatnonzero(item[:-1] == current) + 1
    if len(following):
        counted = np.bincount(item[following], minlength=len(numbers))
        values["next_any"] = scene.spread(counted / (len(following) + 1.0))
    category = np.append(scene.catalogue.category[:, 0], 0)[scene.mentioned]
    same = (np.where(follows, category[source], -1) == category[current]) * history.worth
    values["after_category_share"] = scene.counted(same) / (same.sum() + 1)


def _others(scene: Scene, values: Values) -> None:
    signals = scene.joined.signals
    followed = scene.spread(np.array(signals.followed, np.float64)) if signals.followed_total else None
    if followed is not None:
        others = np.maximum(followed - values.get("after_count", 0.0), 0.0)
        values["followed"], values["followed_others"] = followed, others
        values["followed_share"] = others / (others.sum() + 3)
    if not signals.popularity:
        return
    columns = np.array(signals.popularity, np.float64).T
    hour, day, week, month, ever = (scene.spread(column) for column in columns)
    values |= {"popular_1h": hour, "popular_1d": day, "popular_7d": week, "popular_28d": month, "popular_ever": ever}
    if len(scene.rows):
        known = scene.tables.item_count[scene.tables.placed(scene.catalogue).item[scene.rows]]
        ever = values["popular_ever"] = np.maximum(ever, known)
    values["popular_others"] = np.maximum(ever - values["count"], 0.0)
    values["popular_trend"] = (week + 1) / (month / 4 + 1)
    everybody = signals.popularity_total[len(POPULARITY_WINDOWS_HOURS)]
    if followed is not None and everybody:
        values["followed_lift"] = followed / (signals.followed_total * ever / everybody + 0.5)


def metres_between(a: Array, b: Array) -> Array:
    """Return distances [len(a), len(b)] between unit vectors by their chords; NaN where a place is unknown."""
    chords = np.sqrt(np.maximum(2 - 2 * (a @ b.T), 0.0))
    return np.asarray(EARTH_RADIUS_METRES * chords, np.float64)


def _metres_from(origin: Array, points: Array) -> Array:
    return np.asarray(np.nan_to_num(metres_between(points, origin[None])[:, 0], nan=UNKNOWN), np.float64)


def _here(scene: Scene, values: Values) -> None:
    values["metres_here"] = UNKNOWN
    if scene.joined.context.location is not None:
        points = scene.catalogue.point[scene.rows]
        values["metres_here"] = _metres_from(unit_vector(scene.joined.context.location), points)


def _places(scene: Scene, values: Values) -> None:
    catalogue, joined, history = scene.catalogue, scene.joined, scene.history
    values |= dict.fromkeys(("metres_last", "metres_top", "metres_any", "metres_before"), UNKNOWN)
    points = catalogue.point[scene.rows]
    if not np.isfinite(points).any():
        return
    unit = scene.pack.near_metres / 2
    popularity = values.get("popular_ever", 0.0)
    origin = None
    if scene.before >= 0:
        values["metres_before"] = _metres_from(_point(scene, scene.before), points)
    if scene.last >= 0:
        origin = values["metres_last"] = _metres_from(_point(scene, scene.last), points)
    if joined.context.location is not None:
        origin = np.asarray(values["metres_here"])
    if origin is not None:
        values["metres_rank"] = np.searchsorted(np.sort(origin), origin).astype(np.float64)
        if scene.last >= 0:
            values["speed"] = origin / (history.age[scene.last] + 0.1)
        close = popularity * np.where(origin >= 0, np.exp(-origin / unit), 0.0)
        values["near_share"], values["around"] = close / (close.sum() + 1e-9), float(np.log1p(close.sum()))
        pull = np.where(origin >= 0, unit / (unit + 5 * np.maximum(origin, 0.0)), 0.0)
        values["popular_1h_near"] = values.get("popular_1h", 0.0) * pull
        values["popular_1d_near"] = values.get("popular_1d", 0.0) * pull
    visits = np.bincount(history.item, minlength=len(joined.items))
    known = np.flatnonzero((visits > 0) & (scene.mentioned >= 0))
    known = known[np.isfinite(catalogue.point[scene.mentioned[known], 0])]
    if not len(known):
        return
    known = known[np.argsort(-visits[known], kind="stable")][:MAX_PLACES]
    centres = catalogue.point[scene.mentioned[known]]
    apart = np.nan_to_num(metres_between(points, centres), nan=FAR_METRES)
    if scene.last >= 0:
        away = np.nan_to_num(metres_between(centres[:1], _point(scene, scene.last)[None]), nan=UNKNOWN)
        values["away"] = float(away[0, 0])
    pull = np.exp(-apart / unit)
    root = np.sqrt(visits[known])
    density = values["density"] = pull @ root / root.sum()
    share = popularity * density
    values["density_share"] = share / (share.sum() + 1e-9)
    by_hour = scene.count(_around_now(scene, 2.5))[known]
    values["density_hours"] = pull @ by_hour / (by_hour.sum() + 1e-9)
    values["metres_top"] = apart[:, 0]
    values["metres_any"] = np.where(values["count"] > 0, 0.0, apart.min(axis=1))


def _opening(scene: Scene, values: Values) -> None:
    """Whether a candidate is open: 1 or 0, ``UNKNOWN`` for one that has no hours."""
    catalogue, joined = scene.catalogue, scene.joined
    is_open = open_rows(catalogue, joined.event_time, joined.context.time_zone, scene.rows)
    known = catalogue.hours[scene.rows, :, 1].any(axis=1)
    values["open"] = np.where(known, is_open, UNKNOWN)


def _point(scene: Scene, position: int) -> Array:
    """Return where a choice of the history was made, as a unit vector [3]; NaN if nobody knows."""
    row = scene.row(position)
    point: Array = scene.catalogue.point[row] if row >= 0 else np.full(3, np.nan)
    return point


def _tastes(scene: Scene, values: Values) -> None:
    catalogue, history = scene.catalogue, scene.history
    category = np.append(catalogue.category[:, 0], 0)
    own, chosen = category[scene.rows], category[scene.mentioned[history.item]]
    codes = len(catalogue.category_code) + 1
    wide = history.worth * _around_now(scene, 2.5)

    def by_category(weight: Array) -> Array:
        return np.asarray(np.bincount(chosen, weight, codes)[own], np.float64)

    values["category_share"] = by_category(history.worth) / max(float(history.worth.sum()), 1.0)
    values["category_hours_share"] = by_category(wide) / (wide.sum() + 1)
    values["category_3d"] = by_category(history.worth * np.exp(-history.age / 72))
    newest = np.full(codes, NEVER)
    newest[chosen] = np.log1p(history.age)
    values["category_age"] = newest[own]


def _prices(scene: Scene, values: Values) -> None:
    catalogue, history = scene.catalogue, scene.history
    prices = np.append(catalogue.price, np.nan)
    price = prices[scene.rows]
    values["price"] = np.nan_to_num(price, nan=UNKNOWN)
    paid = prices[scene.mentioned[history.item]]
    paid = paid[np.isfinite(paid) & (paid > 0)]
    if len(paid):
        level = np.log(np.maximum(np.nan_to_num(price), 1e-9)) - np.log(paid).mean()
        values["price_difference"] = np.where(price > 0, level, 0.0)


def _learned(scene: Scene, values: Values) -> None:
    tables, catalogue = scene.tables, scene.catalogue
    placed = tables.placed(catalogue)
    item, category = placed.item[scene.rows], placed.category[scene.rows]
    hour = hour_of_week(catalogue, scene.rows, scene.joined.event_time)
    usual = tables.category_count[category] / max(float(tables.category_count.sum()), 1.0)
    by_category = values["category_hour"] = tables.category_hours[category, hour].astype(np.float64)
    values["category_hour_share"] = by_category * usual
    by_item = values["item_hour"] = tables.item_hour(item, category, hour)
    values["popular_hour"] = (tables.item_count[item] + 0.5) * by_item
    values["users"] = tables.item_users[item].astype(np.float64)
    values["per_user"] = tables.item_count[item] / (tables.item_users[item] + 0.5)
    last = scene.row(scene.last) if scene.last >= 0 else -1
    if last >= 0:
        follows = values["category_follows"] = tables.follows[placed.category[last], category].astype(np.float64)
        values["category_follows_lift"] = follows / (usual + 1e-3)
        one = np.ones(1)
        values["beside_last"] = tables.besides(placed.item[[last]], one)[item]
        values["after_last"] = tables.afters(placed.item[[last]], one)[item]
        said = catalogue.embedding[last]
        values["meaning_last"] = catalogue.embedding[scene.rows] @ said / SCALE**2
    if last >= 0 and tables.factors.shape[1]:
        values["similar_last"] = (tables.factors @ tables.factors[placed.item[last]])[item]


def _firsts(scene: Scene, values: Values) -> None:
    """Give what speaks for a first choice, and how likely it is; places are among the candidates that would be new."""
    for name, term in (
        ("similar", "alike"),
        ("beside", "beside"),
        ("after", "after"),
        ("meaning", "meaning"),
        ("next", "next"),
    ):
        if term in scene.terms:
            values[name] = scene.terms[term]
    first, new = scene.first, scene.first > 0
    values["first"] = np.log(first + 1e-9)
    values["first_rank"] = np.where(new, np.searchsorted(np.sort(-first), -first), 999.0)
    values["first_chance"] = first * values["new_rate_hours"]


def _returns(scene: Scene, values: Values) -> None:
    """Give how likely the user returns to each candidate, and how likely each is chosen, old or new."""
    model = scene.tables.returning
    if model is None:
        return
    described = describe(scene.catalogue, scene.pack, scene.joined, scene.history, scene.mentioned)
    chances, new = model.chances(described, len(scene.joined.items))
    returns = scene.spread(chances)
    for name, chance in (("returns", returns), ("chance", returns + new * scene.first)):
        values[name] = np.log(chance + UNLIKELY)
        values[f"{name}_rank"] = np.searchsorted(np.sort(-chance), -chance).astype(np.float64)
    values["new_chance"] = np.log(new)


def _dismissals(scene: Scene, values: Values) -> None:
    raw = scene.joined.history
    dismissed = np.array(raw.kind) == DISMISSAL
    if dismissed.any():
        weeks = (scene.joined.event_time - np.array(raw.time)[dismissed]) / (7 * 24 * HOUR_MS)
        numbers = np.array(raw.item)[dismissed]
        counts = np.bincount(numbers, np.exp(-weeks), len(scene.joined.items))
        values["dismissed"] = scene.spread(np.asarray(counts, np.float64))


class _Maker(NamedTuple):
    make: Callable[[Scene, Values], None]
    gives: frozenset[str]
    needs: frozenset[str] = frozenset()  # features that others give


def _of(*families: str) -> frozenset[str]:
    return frozenset(name for name in NAMES if FAMILY[name] in families)


_HISTORY = frozenset({"history_length", "history_distinct", "top_share", "staleness"})
_NEWS = frozenset({"new_rate", "new_rate_hours", "new_rate_5", "last_is_new", "hour", "weekday"})
_SESSION = frozenset({"gap", "session_length", "session_hours", "session_distinct", "after_total"})
_PRICES = frozenset({"price", "price_difference"})
_BY_LAST = frozenset({"similar_last", "meaning_last", "beside_last", "after_last"})
_BY_ALL = frozenset({"similar", "meaning", "beside", "after"})

# Each comes after those whose features it needs.
_MAKERS = (
    _Maker(_visits, _of("visited") | _HISTORY),
    _Maker(_hours, _of("habit") | _NEWS, frozenset({"count"})),
    _Maker(_sequence, _of("sequence") | _SESSION, frozenset({"count"})),
    _Maker(_others, _of("followed", "popular") - {"popular_hour"}, frozenset({"count", "after_count"})),
    _Maker(_here, frozenset({"metres_here"})),
    _Maker(
        _places,
        _of("near") - {"metres_here"} | {"around"},
        frozenset({"count", "metres_here", "popular_ever", "popular_1h", "popular_1d"}),
    ),
    _Maker(_opening, frozenset({"open"})),
    _Maker(_tastes, _of("taste") - _PRICES),
    _Maker(_prices, _PRICES),
    _Maker(_learned, _of("moment") - {"open"} | _BY_LAST | {"popular_hour", "users", "per_user"}),
    _Maker(_firsts, _BY_ALL | _of("next", "first"), frozenset({"new_rate_hours"})),
    _Maker(_returns, _of("returning")),
    _Maker(_dismissals, _of("dismissed")),
)


@cache
def _makers(wanted: frozenset[str]) -> list[Callable[[Scene, Values], None]]:
    """Return what makes the wanted features, in order."""
    needed, makers = wanted, []
    for maker in reversed(_MAKERS):
        if needed & maker.gives:
            needed |= maker.needs
            makers.append(maker.make)
    return makers[::-1]
