"""What is kept per user: one small, bounded row, updated event by event and read as of an event time.

Pure functions over a row; nothing here knows Kafka. Applying an event whose source offset the row has already seen
changes nothing, so a stage that reads a topic again after a crash counts nothing twice.
"""

import zlib
from bisect import bisect_right, insort
from collections.abc import Iterable
from typing import Any

import msgspec

from models.panes import Panes
from schemas.records import (
    INTERACTION_KINDS,
    Attributes,
    Context,
    Feedback,
    FeedbackKind,
    History,
    Recommendation,
    Source,
)

MAX_INTERACTIONS = 300
MAX_OLDER_ITEMS = 200
MAX_CONTEXTS = 8
MAX_CONTEXT_FIELDS = 100  # of all kinds that only a domain knows; what the contract allows in one record
MAX_SLATES = 4
CONTEXT_TTL_MS = 24 * 3600 * 1000
KIND_CODE: dict[FeedbackKind, int] = {kind: code for code, kind in enumerate(INTERACTION_KINDS)}
DISMISSAL = KIND_CODE["dismissal"]
PLAIN_FIELDS = tuple(name for name in Context.__struct_fields__ if name != "fields")


class Slate(msgspec.Struct, array_like=True):
    """A list that was recommended and may still get feedback."""

    source: Source  # of its request, which tells lists apart: apps may use a request id twice
    request_id: str
    time: int  # event time of its request, milliseconds
    model: str
    items: list[str]
    propensities: list[float]
    impressions: list[str] = []  # ids the app reported as shown; empty: take the whole list as shown
    acted: bool = False  # whether any action has been attributed to it


class UserState(msgspec.Struct, array_like=True):
    """One user's row. The four interaction columns have one length and are in event-time order."""

    offsets: dict[str, int] = {}  # input topic -> last applied offset
    last_time: int = 0  # newest event time applied, milliseconds; what idleness is measured from
    item: list[str] = []
    kind: list[int] = []
    time: list[int] = []
    session: list[int] = []  # checksum of the session id, 0 where there is none
    older: dict[str, Panes] = {}  # interactions that have left the columns, per item
    contexts: list[tuple[int, Context]] = []
    slates: list[Slate] = []
    partition: int = -1  # of the user topics that this user's events come from


def session_code(session_id: str | None) -> int:
    """Return the number a session is stored under: 0 for none, else a checksum of its id."""
    return zlib.crc32(session_id.encode()) or 1 if session_id else 0


def already_applied(state: UserState, topic: str, offset: int) -> bool:
    """Tell whether the row contains this event already; if not, note that it is about to."""
    if offset <= state.offsets.get(topic, -1):
        return True
    state.offsets[topic] = offset
    return False


def apply_context(state: UserState, time: int, context: Context) -> None:
    """Add a context update, keeping the newest few by event time, and older ones that alone know a field.

    An app that posts a location every minute must not push out the weather of an hour ago.
    """
    insort(state.contexts, (time, context), key=lambda entry: entry[0])
    state.last_time = max(state.last_time, time)
    kept: list[tuple[int, Context]] = []
    known: set[str] = set()
    for entry in reversed(state.contexts[:-MAX_CONTEXTS]):
        names = _set_fields(entry[1])
        if not names <= known and len(kept) < MAX_CONTEXTS:
            kept.insert(0, entry)
        known |= names
    state.contexts[:-MAX_CONTEXTS] = kept


def apply_feedback(state: UserState, time: int, feedback: Feedback) -> str | None:
    """Add an interaction; impressions are no interaction.

    Returns:
        The item the user chose right before this one (in the session, where there is one), or None. A dismissal has no
        predecessor.

    """
    state.last_time = max(state.last_time, time)
    if feedback.kind == "impression":
        return None
    session = session_code(feedback.session_id)
    position = bisect_right(state.time, time)
    previous = None if feedback.kind == "dismissal" else last_chosen(state, position, session)
    state.item.insert(position, feedback.item_id)
    state.kind.insert(position, KIND_CODE[feedback.kind])
    state.time.insert(position, time)
    state.session.insert(position, session)
    if len(state.item) > MAX_INTERACTIONS:
        _fold_oldest(state)
    return previous


def last_chosen(state: UserState, position: int, session: int) -> str | None:
    """Return the last item chosen before ``position``; with a session (not 0), within that session only."""
    for index in range(position - 1, -1, -1):
        if state.kind[index] != DISMISSAL and session in (0, state.session[index]):
            return state.item[index]
    return None


def _fold_oldest(state: UserState) -> None:
    item, kind, time = state.item.pop(0), state.kind.pop(0), state.time.pop(0)
    state.session.pop(0)
    if kind == DISMISSAL:
        return
    state.older.setdefault(item, Panes()).add(time)
    if len(state.older) > MAX_OLDER_ITEMS:
        del state.older[min(state.older, key=lambda name: (state.older[name].total, name))]


def context_as_of(state: UserState, time: int, override: Context | None) -> Context:
    """Return the context at an event time: per field the newest value of the last day, overridden by the request."""
    known = [context for at, context in state.contexts if time - CONTEXT_TTL_MS <= at <= time]
    if override is not None:
        known.append(override)
    return merge_contexts(known)


def merge_contexts(contexts: Iterable[Context]) -> Context:
    """Return one context in which later ones win, field by field; of too many domain fields the newest stay."""
    merged: dict[str, Any] = {}
    fields: Attributes = {}
    for context in contexts:
        merged |= {name: value for name in PLAIN_FIELDS if (value := getattr(context, name)) is not None}
        for name, value in context.fields.items():
            fields.pop(name, None)
            fields[name] = value
    return Context(**merged, fields=dict(list(fields.items())[-MAX_CONTEXT_FIELDS:]))


def _set_fields(context: Context) -> set[str]:
    return {name for name in PLAIN_FIELDS if getattr(context, name) is not None} | {
        f"fields.{k}" for k in context.fields
    }


def history_as_of(
    state: UserState, time: int, session_id: str | None, index_of: dict[str, int]
) -> tuple[History, str | None]:
    """Return the user's interactions up to an event time, and the item chosen last.

    ``index_of`` is the id table being built for the joined request: ids get the next free number as they appear.
    """
    end = bisect_right(state.time, time)
    session = session_code(session_id)
    numbers: dict[int, int] = {}
    sessions = [numbers.setdefault(code, len(numbers)) for code in state.session[:end]]
    items = [index_of.setdefault(item, len(index_of)) for item in state.item[:end]]
    older = [(item, panes.total) for item, panes in state.older.items()]
    history = History(
        item=items,
        kind=state.kind[:end],
        time=state.time[:end],
        session=sessions,
        open_session=numbers.get(session) if session else None,
        older_item=[index_of.setdefault(item, len(index_of)) for item, _ in older],
        older=[count for _, count in older],
    )
    return history, last_chosen(state, end, session)


def apply_recommendation(state: UserState, time: int, recommendation: Recommendation) -> list[Slate]:
    """Remember a list for attribution and return the ones that had to make room."""
    slate = Slate(
        source=recommendation.source,
        request_id=recommendation.request_id,
        time=time,
        model=recommendation.model,
        items=[item.item_id for item in recommendation.items],
        propensities=[item.propensity for item in recommendation.items],
    )
    insort(state.slates, slate, key=lambda entry: entry.time)
    state.last_time = max(state.last_time, time)
    closed = state.slates[:-MAX_SLATES]
    del state.slates[:-MAX_SLATES]
    return closed
