"""A joined request's history as arrays: what features, candidates and models of what comes next all start from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.user_state import DISMISSAL, KIND_CODE
from schemas.records import JoinedRequest

Array = NDArray[np.float64]

HOUR_MS = 3_600_000
DAY = 24.0  # hours, as all times here
CLICK_WORTH = 0.2  # of a choice
MOMENT_NUMBERS = 10
NO_GAP = DAY  # stands for the gap before a choice that opens a session
LATELY = 30  # choices that say how often the user tries something new


@dataclass(frozen=True, slots=True)
class History:
    """A request's history as arrays [n], without dismissals, oldest first."""

    item: NDArray[np.int64]  # number in ``JoinedRequest.items``
    worth: Array  # a click counts less than a choice
    age: Array  # hours before the request
    hour: Array  # hour of the day, UTC
    day: NDArray[np.int64]  # day of the week, Monday 0
    session: NDArray[np.int64]
    previous: NDArray[np.int64]  # position of the choice before in its session, -1 for none
    last_of_session: NDArray[np.bool_]

    def near_hour(self, time: int, width: float = 2.5) -> Array:
        """Return how near each choice's hour of the day is to a moment's (milliseconds): 1 for the same [n]."""
        apart = np.abs(self.hour - time / HOUR_MS % 24)
        bell: Array = np.exp(-0.5 * (np.minimum(apart, 24 - apart) / width) ** 2)
        return bell


def read_history(joined: JoinedRequest) -> History:
    """Return the history of a joined request as arrays."""
    raw = joined.history
    kind = np.array(raw.kind, np.int64)
    kept = kind != DISMISSAL
    time = np.array(raw.time, np.int64)[kept]
    session = np.array(raw.session, np.int64)[kept]
    previous = np.full(len(session), -1, np.int64)
    last = np.zeros(len(session), bool)
    newest: dict[int, int] = {}
    for position, number in enumerate(session.tolist()):
        previous[position] = newest.get(number, -1)
        newest[number] = position
    last[list(newest.values())] = True
    if raw.open_session is not None:
        last[session == raw.open_session] = False
    return History(
        item=np.array(raw.item, np.int64)[kept],
        worth=np.where(kind[kept] == KIND_CODE["click"], CLICK_WORTH, 1.0),
        age=np.maximum(joined.event_time - time, 0) / HOUR_MS,
        hour=time / HOUR_MS % 24,
        day=(time // (24 * HOUR_MS) + 3) % 7,  # 1970 began on a Thursday
        session=session,
        previous=previous,
        last_of_session=last,
    )


def last_two(joined: JoinedRequest, history: History) -> tuple[int, int]:
    """Return the history positions of the last two choices, within the session if there is one; -1 for none."""
    if joined.request.session_id is None:
        total = len(history.item)
        return total - 1, max(total - 2, -1)
    session = np.flatnonzero(history.session == joined.history.open_session)
    return (int(session[-1]) if len(session) else -1), (int(session[-2]) if len(session) > 1 else -1)


def moment_of(joined: JoinedRequest, history: History) -> Array:
    """Return what tells the moment of a request from others, whatever there is to choose [MOMENT_NUMBERS]."""
    item, length = history.item, len(history.item)
    latest, _ = last_two(joined, history)
    gap = history.age[latest] if latest >= 0 else NO_GAP
    session = history.session == joined.history.open_session if joined.request.session_id is not None else np.zeros(0)
    hours = joined.event_time / HOUR_MS
    turns = (turn(2 * np.pi * hours / period) for period in (DAY, DAY / 2) for turn in (np.sin, np.cos))
    weekend = int(hours // DAY + 3) % 7 >= 5  # 1970 began on a Thursday
    return np.array(
        (
            np.log1p(gap),
            np.log1p(np.count_nonzero(session)),
            np.log1p(length),
            *turns,
            weekend,
            len(np.unique(item[-LATELY:])) / max(min(length, LATELY), 1),
            len(np.unique(item)) / max(length, 1),
        )
    )
