"""A request joined with the state it sees: its user's row and everybody's signals, as of its event time."""

import numpy as np

from models.item_signals import ItemSignals
from models.places import Places, distances, unit_vector
from models.user_state import UserState, context_as_of, history_as_of
from schemas.domains import DomainPack
from schemas.records import POPULARITY_WINDOWS_HOURS, JoinedRequest, Location, Request, Signals, Source

MAX_POPULAR = 64
MAX_FOLLOWED = 64
MAX_NEAR = 96
NEAR_REACH = 4.0  # in units of the domain's near distance; beyond it the pull is under 2%
WEEK_COLUMN = POPULARITY_WINDOWS_HOURS.index(24 * 7)
ALL_TIME_COLUMN = len(POPULARITY_WINDOWS_HOURS)


class GlobalState:
    """What is shared by all users: signals per item and where the items are."""

    def __init__(self) -> None:
        self.signals = ItemSignals()
        self.places = Places()
        self._numbers: dict[str, tuple[int, list[str], np.ndarray]] = {}

    def popular(self, domain: str) -> list[str]:
        """Return what is popular this week and of all time."""
        week = self.signals.most_popular(domain, WEEK_COLUMN, MAX_POPULAR // 2)
        ever = self.signals.most_popular(domain, ALL_TIME_COLUMN, MAX_POPULAR)
        return list(dict.fromkeys([*week, *ever]))[:MAX_POPULAR]

    def near(self, domain: str, origin: Location, scale_metres: float) -> list[str]:
        """Return the items around a place that weigh most by popularity and closeness, best first."""
        ids, points = self.places.of(domain)
        if not ids:
            return []
        metres = distances(points, unit_vector(origin))
        within = np.flatnonzero(metres < NEAR_REACH * scale_metres)
        if not len(within):
            return []
        numbers = self._signal_numbers(domain, ids)[within]
        weight = (self.signals.popularity(numbers, ALL_TIME_COLUMN) + 0.5) * np.exp(-metres[within] / scale_metres)
        if len(weight) > MAX_NEAR:  # what is worse than enough others need not be sorted
            good = weight >= np.partition(weight, -MAX_NEAR)[-MAX_NEAR]
            within, weight = within[good], weight[good]
        best = np.argsort(-weight, kind="stable")[:MAX_NEAR]
        return [ids[k] for k in within[best].tolist()]

    def _signal_numbers(self, domain: str, ids: list[str]) -> np.ndarray:
        known = len(self.signals)
        cached = self._numbers.get(domain)
        if cached is None or cached[1] is not ids:
            cached = self._numbers[domain] = (known, ids, self.signals.numbers(domain, ids))
        elif cached[0] != known:  # a number stays, so only items without one are looked up
            unknown = np.flatnonzero(cached[2] < 0)
            cached[2][unknown] = self.signals.numbers(domain, [ids[k] for k in unknown.tolist()])
            self._numbers[domain] = (known, ids, cached[2])
        return cached[2]


def join(
    user: UserState,
    everybody: GlobalState,
    pack: DomainPack,
    request: Request,
    *,
    event_time: int,
    source: Source,
    received_at: int = 0,
    joined_at: int = 0,
) -> JoinedRequest:
    """Return the request with exactly what it may see.

    Of the user: events with event time up to the request's. Of everybody: what has been applied so far. The id table
    lists the user's own items, then what follows the last one, what is near and what is popular.
    """
    index_of: dict[str, int] = {}
    context = context_as_of(user, event_time, request.context)
    history, last = history_as_of(user, event_time, request.session_id, index_of)
    signals = everybody.signals
    followers = signals.followers(pack.name, last) if last is not None else {}
    ranked = sorted(followers, key=lambda item: (-followers[item], item))[:MAX_FOLLOWED]
    origin = context.location or (everybody.places.location(last) if last is not None else None)
    near = everybody.near(pack.name, origin, pack.near_metres) if origin else []
    for item in (*ranked, *near, *everybody.popular(pack.name)):
        index_of.setdefault(item, len(index_of))
    items = list(index_of)
    return JoinedRequest(
        request=request,
        event_time=event_time,
        source=source,
        context=context,
        items=items,
        history=history,
        signals=Signals(
            popularity=signals.popularity(signals.numbers(pack.name, items)).tolist(),
            popularity_total=signals.total(pack.name).tolist(),
            followed=[followers.get(item, 0) for item in items],
            followed_total=sum(followers.values()),
        ),
        received_at=received_at,
        joined_at=joined_at,
    )
