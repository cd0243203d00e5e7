"""A joined request's history as arrays: what features, candidates and models of what comes next all start from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.user_state import DISMISSAL, KIND_CODE
from schemas.records import JoinedRequest

Array = NDArray[np.float64]

HOUR_MS = 3_600_000
CLICK_WORTH = 0.2  # of a choice


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
