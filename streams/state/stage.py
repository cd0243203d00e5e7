"""What the state stage does with one event. No Kafka in here: events come in, changed rows and records go out."""

import heapq
import time as clock
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import msgspec

from models.item_signals import ItemRow
from models.join import GlobalState, join
from models.user_state import (
    Slate,
    UserState,
    already_applied,
    apply_context,
    apply_feedback,
    apply_recommendation,
    chosen_before,
)
from schemas.codec import decode, decode_key, encode
from schemas.domains import pack_for
from schemas.records import Context, Erasure, Feedback, Item, JoinedRequest, Recommendation, Request, Source
from schemas.topics import (
    REQUESTS_JOINED,
    RETRAINING,
    USERS_CONTEXT,
    USERS_FEEDBACK,
    Topic,
)
from streams.attribution import action_example, attribute, no_action_example
from streams.settings import StateSettings
from streams.state.rows import Rows

DAY_MS = 24 * 3600 * 1000


class Served(msgspec.Struct, array_like=True):
    """A joined request, kept until the attribution window of its list has closed."""

    time: int
    partition: int
    user: bytes
    joined: msgspec.Raw


class EventTimeError(ValueError):
    """The record's timestamp can't be an event time."""


@dataclass(frozen=True, slots=True)
class Inbound:
    """One record as it was read."""

    topic: Topic
    partition: int
    offset: int
    time: int  # record timestamp, milliseconds
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Outbound:
    """One record to publish; it goes to the partition of its input."""

    topic: Topic
    partition: int
    time: int
    key: bytes
    value: bytes


@dataclass
class Due:
    """Event-time timers of one partition."""

    watermark: int = 0
    slates: list[tuple[int, bytes, str]] = field(default_factory=list)  # (when its window closes, user, request id)
    idle: list[tuple[int, bytes]] = field(default_factory=list)  # (when to look whether the user has been idle, user)


class StateStage:
    """The rows and what events do to them. Calling a method again with the same record changes nothing."""

    def __init__(
        self, settings: StateSettings, users: Rows[UserState], items: Rows[ItemRow], served: Rows[Served]
    ) -> None:
        self.settings = settings
        self.users, self.items, self.served = users, items, served
        self.tables: tuple[Rows[Any], ...] = (users, items, served)
        self.everybody = GlobalState()
        self.outbox: list[Outbound] = []
        self._due: dict[int, Due] = defaultdict(Due)
        self._window_ms = settings.attribution_minutes * 60_000
        self._idle_ms = settings.idle_days * DAY_MS

    def recovered(self) -> None:
        """Build what is derived from the rows, after they have been recovered from the changelogs."""
        for rows in self.tables:
            rows.reset()
        self.outbox.clear()
        self._due.clear()
        places = self.everybody.places
        self.everybody = GlobalState()
        self.everybody.places = places
        for key, row in self.items:
            partition, item_id = key.decode().split("/", 1)
            self.everybody.signals.load(int(partition), item_id, row)
        for key, user in self.users:
            self._remind(user.partition, key, user.last_time + self._idle_ms)
            for slate in user.slates:
                heapq.heappush(self._due[user.partition].slates, (slate.time + self._window_ms, key, slate.request_id))

    def put_item(self, item_id: str, item: Item | None) -> None:
        """Follow the catalogue; None removes the item."""
        if item is None:
            self.everybody.places.remove(item_id)
        else:
            self.everybody.places.put(item_id, pack_for(item.domain).name, item.location)

    def check(self, record: Inbound) -> None:
        """Refuse what can't be the record of any topic keyed by user.

        Raises:
            DecodeError: no usable key.
            EventTimeError: a timestamp that is missing or lies in the future.

        """
        decode_key(record.key)
        latest = int(clock.time() * 1000) + self.settings.future_ms
        if not 0 <= record.time <= latest:
            raise EventTimeError(
                f"record timestamp {record.time} ms is not an event time: it must be between 1970 and now "
                f"(at most {self.settings.future_ms} ms ahead of this machine's clock)"
            )

    def on_context(self, record: Inbound) -> None:
        """Apply a context update."""
        self.check(record)
        context = decode(Context, record.value)
        user = self._user(record)
        if not already_applied(user, USERS_CONTEXT.name, record.offset):
            apply_context(user, record.time, context)
        self._advance(record)

    def on_feedback(self, record: Inbound) -> None:
        """Apply an interaction to its user and to its item, and write the training example if it belongs to a list."""
        self.check(record)
        feedback = decode(Feedback, record.value)
        pack = pack_for(feedback.domain)
        user = self._user(record)
        attributed = attribute(user.slates, feedback, record.time, self._window_ms)
        if attributed is not None and feedback.kind == "impression":
            slate = attributed[0]
            if feedback.item_id not in slate.impressions:
                slate.impressions.append(feedback.item_id)
        elif attributed is not None:
            slate, how = attributed
            slate.acted = True
            served = self.served.get(_served_key(record.key, slate.request_id))
            if served is not None:
                example = action_example(slate, how, feedback, record.time, bytes(served.joined), pack)
                self._publish(RETRAINING, record.partition, record.time, record.key, encode(example))
        if already_applied(user, USERS_FEEDBACK.name, record.offset):
            previous = chosen_before(user, record.time, feedback)
        else:
            previous = apply_feedback(user, record.time, feedback)
        if feedback.kind not in {"impression", "dismissal"}:
            self._count(record, feedback.item_id, pack.name, previous)
        self._advance(record)

    def on_recommendation(self, record: Inbound) -> None:
        """Remember a list for attribution."""
        recommendation = decode(Recommendation, record.value)
        user = self._user(record)
        for closed in apply_recommendation(user, record.time, recommendation):
            self._close(record.partition, record.key or b"", closed)
        if any(slate.request_id == recommendation.request_id for slate in user.slates):
            due = record.time + self._window_ms
            heapq.heappush(self._due[record.partition].slates, (due, record.key or b"", recommendation.request_id))
        self._advance(record)

    def on_erasure(self, record: Inbound) -> None:
        """Forget a user."""
        self.check(record)
        decode(Erasure, record.value)
        user = self._user(record)
        for slate in user.slates:
            self.served.delete(_served_key(record.key, slate.request_id), record.partition)
        self.users.delete(record.key or b"", record.partition)

    def read_request(self, record: Inbound) -> Request:
        """Return the request of a record.

        Raises:
            ValueError: it is not one, or its domain is unknown.

        """
        self.check(record)
        request = decode(Request, record.value)
        pack_for(request.domain)
        return request

    def join(self, record: Inbound, request: Request, received_at: int) -> Outbound:
        """Return the joined request: the same bytes again if it has been joined before."""
        key = _served_key(record.key, request.request_id)
        served = self.served.get(key)
        value = bytes(served.joined) if served is not None else b""
        if not value or decode(JoinedRequest, value).source.offset != record.offset:
            user = self.users.get(record.key or b"") or UserState()
            joined = join(
                user,
                self.everybody,
                pack_for(request.domain),
                request,
                event_time=record.time,
                source=Source(partition=record.partition, offset=record.offset),
                received_at=received_at,
                joined_at=int(clock.time() * 1000),
            )
            value = encode(joined)
            self.served.put(
                key, record.partition, Served(record.time, record.partition, record.key or b"", msgspec.Raw(value))
            )
        self._advance(record)
        return Outbound(REQUESTS_JOINED, record.partition, record.time, record.key or b"", value)

    def _user(self, record: Inbound) -> UserState:
        known = self.users.get(record.key or b"") is not None
        user = self.users.change(record.key or b"", record.partition)
        if not known:
            user.partition = record.partition
            self._remind(record.partition, record.key or b"", record.time + self._idle_ms)
        return user

    def _count(self, record: Inbound, item_id: str, domain: str, previous: str | None) -> None:
        signals = self.everybody.signals
        for partition, changed in signals.apply(
            record.partition, record.offset, record.time, domain, item_id, previous
        ):
            self.items.put(f"{partition}/{changed}".encode(), partition, signals.rows[partition, changed])

    def _publish(self, topic: Topic, partition: int, time: int, key: bytes | None, value: bytes) -> None:
        self.outbox.append(Outbound(topic, partition, time, key or b"", value))

    def _remind(self, partition: int, key: bytes, when: int) -> None:
        heapq.heappush(self._due[partition].idle, (when, key))

    def _advance(self, record: Inbound) -> None:
        """Move the partition's event time and do what has come due."""
        due = self._due[record.partition]
        due.watermark = max(due.watermark, record.time)
        while due.slates and due.slates[0][0] < due.watermark:
            _, key, request_id = heapq.heappop(due.slates)
            user = self.users.get(key)
            slate = next((slate for slate in user.slates if slate.request_id == request_id), None) if user else None
            if user is not None and slate is not None and slate.time + self._window_ms < due.watermark:
                self.users.change(key, record.partition).slates.remove(slate)
                self._close(record.partition, key, slate)
        while due.idle and due.idle[0][0] < due.watermark:
            _, key = heapq.heappop(due.idle)
            user = self.users.get(key)
            if user is None:
                continue
            if user.last_time + self._idle_ms < due.watermark:
                self.users.delete(key, record.partition)
            else:
                self._remind(record.partition, key, user.last_time + self._idle_ms)

    def _close(self, partition: int, key: bytes, slate: Slate) -> None:
        """Write the example of a list that got no action, and let go of its joined request."""
        served_key = _served_key(key, slate.request_id)
        served = self.served.get(served_key)
        if served is None:
            return
        if not slate.acted:
            example = no_action_example(slate, bytes(served.joined))
            self._publish(RETRAINING, partition, slate.time + self._window_ms, key, encode(example))
        self.served.delete(served_key, partition)


def _served_key(user: bytes | None, request_id: str) -> bytes:
    return (user or b"") + b"\0" + request_id.encode()
