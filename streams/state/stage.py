"""What the state stage does with one event. No Kafka in here: events come in, changed rows and records go out."""

import heapq
import time as clock
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from models.item_signals import ItemRow, RowKey
from models.join import GlobalState, join
from models.pseudonyms import Pseudonyms
from models.redaction import redact_attributes, redact_request
from models.user_state import (
    Slate,
    UserState,
    already_applied,
    apply_context,
    apply_feedback,
    apply_recommendation,
)
from schemas.codec import DecodeError, decode, decode_key, encode
from schemas.domains import pack_for
from schemas.errors import BadInputError
from schemas.records import (
    Context,
    Erasure,
    Feedback,
    Item,
    JoinedRequest,
    Recommendation,
    Request,
    Source,
    TrainingExample,
)
from schemas.topics import (
    RECOMMENDATIONS,
    REQUESTS_JOINED,
    RETRAINING,
    USERS_CONTEXT,
    USERS_FEEDBACK,
    Topic,
)
from streams.attribution import action_example, attribute, no_action_example
from streams.privacy import for_training, without_id
from streams.settings import StateSettings
from streams.state.rows import Rows
from streams.tracing import Headers

DAY_MS = 24 * 3600 * 1000
MAX_CONTEXT_BYTES = 16 * 1024  # a row keeps several
MAX_REQUEST_BYTES = 512 * 1024  # joined with what a row can hold it still fits into `requests.joined`


class Served(msgspec.Struct, array_like=True):
    """A joined request, kept until the attribution window of its list has closed."""

    time: int  # event time, milliseconds
    user: bytes
    joined: msgspec.Raw
    erasures: int = 0  # past the last erasure applied before: one that is read again must not take what came after it


class EventTimeError(BadInputError):
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
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Outbound:
    """One record to publish; it goes to the partition of its input."""

    topic: Topic
    partition: int
    time: int
    key: bytes
    value: bytes
    source: Source | None = None  # of a training example: which request it is about
    headers: Headers = ()


@dataclass
class Due:
    """Event-time timers of one partition."""

    watermark: int = 0
    joined: int = -1  # highest offset of `users.requests` joined in this process
    erasures: int = 0  # past the last offset of `users.erasure` applied in this process
    windows: list[tuple[int, int, bytes]] = field(default_factory=list)  # (when it closes, request's offset, user)
    idle: list[tuple[int, bytes]] = field(default_factory=list)  # (when to look whether the user has been idle, user)


class StateStage:
    """The rows and what events do to them. Calling a method again with the same record changes nothing."""

    def __init__(
        self,
        settings: StateSettings,
        users: Rows[UserState],
        items: Rows[ItemRow],
        served: Rows[Served],
        pseudonyms: Pseudonyms,
        *,
        training_text: bool = True,
    ) -> None:
        self.settings = settings
        self.pseudonyms = pseudonyms
        self._training_text = training_text
        self.users, self.items, self.served = users, items, served
        self.tables: tuple[Rows[Any], ...] = (users, items, served)
        self.everybody = GlobalState()
        self.outbox: list[Outbound] = []
        self._due: dict[int, Due] = defaultdict(Due)
        self._window_ms = settings.attribution_minutes * 60_000
        self._idle_ms = settings.idle_days * DAY_MS

    def recovered(self, partitions: Collection[int]) -> None:
        """Build what is derived from the rows of these partitions, after they have been recovered from the changelogs.

        What everybody does in other partitions, ``put_item_row`` adds.
        """
        for rows in self.tables:
            rows.reset()
        self.outbox.clear()
        self._due.clear()
        places = self.everybody.places
        self.everybody = GlobalState()
        self.everybody.places = places
        for key, row in self.items:
            row_key = _row_key(key)
            if row_key[0] in partitions:
                self.everybody.signals.load(row_key, row)
        for key, user in self.users:
            if user.partition not in partitions:
                continue
            self._remind(user.partition, key, user.last_time + self._idle_ms)
            for slate in user.slates:
                self._open_window(slate.source, slate.time, key)
        for key, served in self.served:
            partition, offset = (int(number) for number in key.decode().split("/"))
            if partition in partitions:
                self._open_window(Source(partition=partition, offset=offset), served.time, served.user)

    def put_item_row(self, key: bytes, value: bytes | None) -> None:
        """Follow the item rows of a partition that another process writes; None removes the row."""
        if value is None:
            self.everybody.signals.unload(_row_key(key))
        else:
            self.everybody.signals.load(_row_key(key), msgspec.msgpack.decode(value, type=ItemRow))

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
        _check_size(record, MAX_CONTEXT_BYTES)
        context = decode(Context, record.value)
        if not self.pseudonyms.keep_raw:
            context = msgspec.structs.replace(context, fields=redact_attributes(context.fields))
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
        if already_applied(user, USERS_FEEDBACK.name, record.offset):
            # A row is written after everything that its events caused: examples and item rows have this one.
            self._advance(record)
            return
        attributed = attribute(user.slates, feedback, record.time, self._window_ms)
        if attributed is not None and feedback.kind == "impression":
            slate = attributed[0]
            if feedback.item_id not in slate.impressions:
                slate.impressions.append(feedback.item_id)
        elif attributed is not None:
            slate, how = attributed
            slate.acted = True
            served = self.served.get(_served_key(slate.source))
            if served is not None:
                named, joined = self._for_training(record.key or b"", slate, served)
                example = action_example(named, how, feedback, record.time, joined, pack)
                self._publish_example(slate.source, record.time, record.key or b"", example)
        previous = apply_feedback(user, record.time, feedback)
        if feedback.kind not in {"impression", "dismissal"}:
            self._count(record, feedback.item_id, pack.name, previous)
        self._advance(record)

    def list_is_known(self, record: Inbound) -> bool:
        """Tell whether a feedback names a list that its user's row has: then no other can be the one it belongs to."""
        try:
            feedback = decode(Feedback, record.value)
        except DecodeError:
            return False
        user = self.users.get(record.key or b"")
        return user is not None and any(slate.request_id == feedback.request_id for slate in user.slates)

    def on_recommendation(self, record: Inbound) -> None:
        """Remember a list for attribution, unless its window has closed or its user has been forgotten meanwhile."""
        self.check(record)
        recommendation = decode(Recommendation, record.value)
        source = recommendation.source
        # After a crash a list may come back before its request has been joined once more.
        if self.served.get(_served_key(source)) is not None or source.offset > self._due[record.partition].joined:
            user = self._user(record)
            if not already_applied(user, RECOMMENDATIONS.name, record.offset):
                for closed in apply_recommendation(user, record.time, recommendation):
                    self._close(closed.source, record.key or b"", closed)
                self._open_window(source, record.time, record.key or b"")
        self._advance(record)

    def on_erasure(self, record: Inbound) -> None:
        """Forget a user."""
        self.check(record)
        decode(Erasure, record.value)
        due = self._due[record.partition]
        for _, offset, key in due.windows:
            name = _served_key(Source(partition=record.partition, offset=offset))
            served = self.served.get(name) if key == record.key else None
            if served is not None and served.erasures <= record.offset:
                self.served.delete(name, record.partition)
        due.erasures = max(due.erasures, record.offset + 1)
        self.users.delete(record.key or b"", record.partition)
        self._advance(record)

    def read_request(self, record: Inbound) -> Request:
        """Return the request of a record, without what in its words may name people.

        Redacted here, so that the model is trained on the very words that it is served with.

        Raises:
            ValueError: it is not one, or its domain is unknown.

        """
        self.check(record)
        _check_size(record, MAX_REQUEST_BYTES)
        request = decode(Request, record.value)
        pack_for(request.domain)
        return request if self.pseudonyms.keep_raw else redact_request(request)

    def join(self, record: Inbound, request: Request, received_at: int) -> Outbound:
        """Return the joined request: the same bytes again if it has been joined before."""
        source = Source(partition=record.partition, offset=record.offset)
        served = self.served.get(_served_key(source))
        if served is None:
            user = self.users.get(record.key or b"") or UserState()
            joined = join(
                user,
                self.everybody,
                pack_for(request.domain),
                request,
                event_time=record.time,
                source=source,
                received_at=received_at,
                joined_at=int(clock.time() * 1000),
            )
            served = self._serve(source, record, encode(joined))
        self._due[record.partition].joined = record.offset
        self._advance(record)
        return Outbound(REQUESTS_JOINED, record.partition, record.time, record.key or b"", bytes(served.joined))

    def on_joined(self, record: Inbound, *, before: int) -> None:
        """Take a request of an offset less than ``before`` as joined that has been, with the state it saw then."""
        source = decode(JoinedRequest, record.value).source
        due = self._due[record.partition]
        if due.joined < source.offset < before:  # after a crash, one may have been joined again
            self._serve(source, record, record.value or b"")
            due.joined = source.offset
            self._advance(record)

    def _serve(self, source: Source, record: Inbound, joined: bytes) -> Served:
        key = record.key or b""
        served = Served(record.time, key, msgspec.Raw(joined), self._due[record.partition].erasures)
        self.served.put(_served_key(source), record.partition, served)
        self._open_window(source, record.time, key)
        return served

    def _user(self, record: Inbound) -> UserState:
        known = self.users.get(record.key or b"") is not None
        user = self.users.change(record.key or b"", record.partition)
        if not known:
            user.partition = record.partition
            self._remind(record.partition, record.key or b"", record.time + self._idle_ms)
        return user

    def _count(self, record: Inbound, item_id: str, domain: str, previous: str | None) -> None:
        signals = self.everybody.signals
        for key in signals.apply(record.partition, record.offset, record.time, domain, item_id, previous):
            self.items.put("/".join(map(str, key)).encode(), record.partition, signals.rows[key])

    def _for_training(self, user: bytes, slate: Slate, served: Served) -> tuple[Slate, bytes]:
        """Return a list and its joined request without what names the user."""
        request_id = without_id(slate.request_id, user, self.pseudonyms)
        joined = for_training(bytes(served.joined), user, self.pseudonyms, text=self._training_text)
        return msgspec.structs.replace(slate, request_id=request_id), joined

    def _publish_example(self, source: Source, time: int, user: bytes, example: TrainingExample) -> None:
        """Send an example to its user's partition, under the user's pseudonym."""
        self.outbox.append(
            Outbound(RETRAINING, source.partition, time, self.pseudonyms.of(user), encode(example), source)
        )

    def _remind(self, partition: int, key: bytes, when: int) -> None:
        heapq.heappush(self._due[partition].idle, (when, key))

    def _open_window(self, source: Source, time: int, key: bytes) -> None:
        heapq.heappush(self._due[source.partition].windows, (time + self._window_ms, source.offset, key))

    def _advance(self, record: Inbound) -> None:
        due = self._due[record.partition]
        due.watermark = max(due.watermark, record.time)

    def watermarks(self) -> dict[int, int]:
        """Return the newest event time applied in each partition."""
        return {partition: due.watermark for partition, due in self._due.items()}

    def expire(self, watermarks: Mapping[int, int]) -> None:
        """Close the windows and drop the idle users that are due by these event times.

        Only call it when everything posted before the watermarks has been applied: a topic that is read ahead of the
        others, as after an outage, must not close a window whose feedback is still to be read.
        """
        for partition, watermark in watermarks.items():
            due = self._due[partition]
            while due.windows and due.windows[0][0] < watermark:
                _, offset, key = heapq.heappop(due.windows)
                source = Source(partition=partition, offset=offset)
                user = self.users.get(key)
                slate = next((slate for slate in user.slates if slate.source == source), None) if user else None
                if slate is not None:
                    self.users.change(key, partition).slates.remove(slate)
                self._close(source, key, slate)
            while due.idle and due.idle[0][0] < watermark:
                _, key = heapq.heappop(due.idle)
                user = self.users.get(key)
                if user is None:
                    continue
                if user.last_time + self._idle_ms < watermark:
                    self.users.delete(key, partition)
                else:
                    self._remind(partition, key, user.last_time + self._idle_ms)

    def _close(self, source: Source, key: bytes, slate: Slate | None) -> None:
        """Write the example of a list that got no action, and let go of its joined request."""
        served = self.served.get(_served_key(source))
        if served is not None and slate is not None and not slate.acted:
            named, joined = self._for_training(key, slate, served)
            example = no_action_example(named, joined)
            self._publish_example(source, slate.time + self._window_ms, key, example)
        self.served.delete(_served_key(source), source.partition)


def _served_key(source: Source) -> bytes:
    return b"%d/%d" % (source.partition, source.offset)


def _check_size(record: Inbound, most: int) -> None:
    if record.value is not None and len(record.value) > most:
        raise DecodeError(f"{len(record.value)} bytes; a record of {record.topic.name} has at most {most}")


def _row_key(key: bytes) -> RowKey:
    partition, domain, item_id = key.decode().split("/", 2)
    return int(partition), domain, item_id
