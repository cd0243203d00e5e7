"""Events of a source in columns, their splits and sessions, and the requests that their labels make.

A few dozen bytes an event: the largest public sets (tens of millions of events) fit into the memory of a laptop.
Splits are numbers here: 0 train, 1 valid, 2 test.
"""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.dataset import Interaction, Item, Meta, Request, Split, write_dataset

from .source import Progress, Tally

SPLITS: tuple[Split, Split, Split] = ("train", "valid", "test")
TRAIN, VALID, TEST = range(3)
SESSION_GAP = 24 * 3_600_000
TRAIN_SHARE, VALID_SHARE = 0.8, 0.1
EXCERPTS_PER_ITEM, EXCERPT_LENGTH = 10, 400

Integers = NDArray[np.int64]


class Names:
    """Strings numbered in the order of their first appearance."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        number = self._numbers.setdefault(name, len(self.names))
        if number == len(self.names):
            self.names.append(name)
        return number

    def __contains__(self, name: str) -> bool:
        return name in self._numbers


class Events:
    """The good events of a source in the order they were read; an event's row number becomes its id."""

    def __init__(self) -> None:
        self.users, self.items, self.kinds, self.sessions = Names(), Names(), Names(), Names()
        self._user, self._item, self._kind, self._session = array("i"), array("i"), array("b"), array("i")
        self._time, self._rating, self._split = array("q"), array("d"), array("b")

    def add(
        self,
        user_id: str,
        item_id: str,
        event_time: int,
        kind: str,
        *,
        rating: float | None = None,
        session_id: str | None = None,
        split: int = TRAIN,
    ) -> None:
        self._user.append(self.users.number(user_id))
        self._item.append(self.items.number(item_id))
        self._time.append(event_time)
        self._kind.append(self.kinds.number(kind))
        self._rating.append(np.nan if rating is None else rating)
        self._session.append(-1 if session_id is None else self.sessions.number(session_id))
        self._split.append(split)

    def __len__(self) -> int:
        return len(self._time)

    # One number per row, in row order; -1 for no session.

    @property
    def user(self) -> Integers:
        return np.array(self._user, dtype=np.int64)

    @property
    def item(self) -> Integers:
        return np.array(self._item, dtype=np.int64)

    @property
    def time(self) -> Integers:
        return np.array(self._time, dtype=np.int64)

    @property
    def session(self) -> Integers:
        return np.array(self._session, dtype=np.int64)

    @property
    def split(self) -> Integers:
        return np.array(self._split, dtype=np.int64)

    def rating(self, row: int) -> float | None:
        rating = self._rating[row]
        return None if np.isnan(rating) else rating

    def kind(self, row: int) -> str:
        return self.kinds.names[self._kind[row]]


@dataclass(frozen=True)
class Plan:
    """What becomes of each event. All arrays have one entry per row of the events.

    order: row numbers by event time, ties in row order.
    split: number of the split the event belongs to.
    is_label: whether a request is made that this event answers.
    session: session number, names in session_names; empty names where the source has no sessions.
    """

    protocol: str
    order: Integers
    split: Integers
    is_label: NDArray[np.bool_]
    session: Integers
    session_names: list[str]


def next_in_session(events: Events, *, splits_given: bool) -> Plan:
    """Predict the last event of each session of at least two, as the literature on check-ins does.

    Sessions are the source's trajectories, else a user's events with gaps of less than 24 hours. Unless the source
    gives its splits, sessions are split by the time of their last event, so that of the labels 80% are in train, 10% in
    valid and 10% in test. A label counts only if its user and its item appear in train: that, too, is the convention.
    """
    user, item, order = events.user, events.item, _by_time(events)
    given = events.session
    session, names = (given, events.sessions.names) if (given >= 0).all() else _sessions_by_gap(events)
    position = _inverse(order)
    last = np.full(len(names), -1, dtype=np.int64)
    np.maximum.at(last, session, position)
    label_positions = np.sort(last[np.bincount(session, minlength=len(names)) >= 2])
    split = events.split if splits_given else _split_by_time(last[session], label_positions)
    is_label = np.zeros(len(events), dtype=np.bool_)
    is_label[order[label_positions]] = True
    train = split == TRAIN
    is_label &= ~train & np.isin(user, user[train]) & np.isin(item, item[train])
    return Plan("next in session", order, split, is_label, session, names)


def next_event(events: Events) -> Plan:
    """Predict every event of a user after the first. 80% of those, by time, are in train, 10% in valid, 10% in test."""
    order = _by_time(events)
    position = _inverse(order)
    first_positions = np.unique(events.user[order], return_index=True)[1]
    label_positions = np.setdiff1d(np.arange(len(events)), first_positions)
    split = _split_by_time(position, label_positions)
    is_label = (split != TRAIN) & ~np.isin(position, first_positions)
    return Plan("next event, split by time", order, split, is_label, *_no_sessions(events))


def leave_one_out(events: Events) -> Plan:
    """Predict the last event of each user (test) and the one before (valid); users with fewer than three only train."""
    user, order = events.user, _by_time(events)
    count = np.bincount(user, minlength=len(events.users.names))
    # Rows user by user, each user's by time: how many of the user's events come after this one.
    rows = order[np.argsort(user[order], kind="stable")]
    ends = np.cumsum(count)
    after = np.empty(len(events), dtype=np.int64)
    after[rows] = ends[user[rows]] - 1 - np.arange(len(events))
    held_out = (after < 2) & (count[user] >= 3)
    split = np.where(held_out, TEST - after, TRAIN)
    return Plan("leave one out", order, split, held_out, *_no_sessions(events))


def train_texts(plan: Plan, texts: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Join what users wrote about each item in train, ten excerpts of 400 characters at most.

    texts: item id and text of every event, in row order. What was written in valid and test stays out: the text of
    a review that is to be predicted would give the answer away.
    """
    excerpts: defaultdict[str, list[str]] = defaultdict(list)
    for split, (item_id, text) in zip(plan.split.tolist(), texts, strict=True):
        if split == TRAIN and text and len(excerpts[item_id]) < EXCERPTS_PER_ITEM:
            excerpts[item_id].append(" ".join(text[:EXCERPT_LENGTH].split()))
    return {item_id: "\n".join(parts) for item_id, parts in excerpts.items()}


def save(
    destination: Path,
    items: Iterable[Item],
    events: Events,
    plan: Plan,
    *,
    tallies: Sequence[Tally],
    progress: Progress,
    domain: str,
    source: str,
    time: str = "UTC",
) -> Meta:
    """Write the dataset directory; its meta.json tells how many rows were read and why some were left out.

    Raises:
        DatasetError: the destination can't be written.

    """
    meta = Meta(
        domain=domain,
        source=source,
        protocol=plan.protocol,
        time=time,
        rows_read=sum(tally.good + tally.bad.total() for tally in tallies),
        rows_bad={f"{tally.path.name}: {why}": count for tally in tallies for why, count in tally.bad.items()},
    )
    return write_dataset(destination, items, _interactions(events, plan, progress), _requests(events, plan), meta)


def _interactions(events: Events, plan: Plan, progress: Progress) -> Iterator[Interaction]:
    user, item, time = events.user, events.item, events.time
    for done, row in enumerate(plan.order.tolist()):
        if done % 10_000 == 0:
            progress("writing interactions", done, len(events))
        yield Interaction(
            event_id=str(row),
            user_id=events.users.names[user[row]],
            item_id=events.items.names[item[row]],
            kind=events.kind(row),
            event_time=int(time[row]),
            session_id=plan.session_names[plan.session[row]] if plan.session_names else None,
            split=SPLITS[plan.split[row]],
            rating=events.rating(row),
        )
    progress("writing interactions", len(events), len(events))


def _requests(events: Events, plan: Plan) -> Iterator[Request]:
    # At the event time of the label: a request is posted just before the event that answers it.
    user, item, time = events.user, events.item, events.time
    for row in plan.order[plan.is_label[plan.order]].tolist():
        yield Request(
            request_id=f"r-{row}",
            user_id=events.users.names[user[row]],
            event_time=int(time[row]),
            split=SPLITS[plan.split[row]],
            session_id=plan.session_names[plan.session[row]] if plan.session_names else None,
            relevant=(events.items.names[item[row]],),
            label_event_id=str(row),
        )


def _by_time(events: Events) -> Integers:
    return np.argsort(events.time, kind="stable")


def _inverse(order: Integers) -> Integers:
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    return position


def _no_sessions(events: Events) -> tuple[Integers, list[str]]:
    return np.zeros(len(events), dtype=np.int64), []


def _sessions_by_gap(events: Events) -> tuple[Integers, list[str]]:
    user, time = events.user, events.time
    order = np.lexsort((time, user))
    new_user = np.diff(user[order], prepend=-1) != 0
    starts = new_user | (np.diff(time[order], prepend=0) >= SESSION_GAP)
    session = np.empty(len(order), dtype=np.int64)
    session[order] = np.cumsum(starts) - 1
    names, ordinal = [], 0
    for row, is_new_user in zip(order[starts].tolist(), new_user[starts].tolist(), strict=True):
        ordinal = 0 if is_new_user else ordinal + 1
        names.append(f"{events.users.names[user[row]]}_{ordinal}")
    return session, names


def _split_by_time(position: Integers, label_positions: Integers) -> Integers:
    """Split by position in time order, at the labels where train and valid have had their share."""
    labels = len(label_positions)
    # 1e-9: 0.8 + 0.1 is a little less than 0.9.
    cuts = [int(labels * share + 1e-9) for share in (TRAIN_SHARE, TRAIN_SHARE + VALID_SHARE)]
    bounds = [label_positions[cut] if cut < labels else np.inf for cut in cuts]
    return (position >= bounds[0]).astype(np.int64) + (position >= bounds[1])
