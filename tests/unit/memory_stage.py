"""The state stage without Kafka: tables in memory, records by hand, crashes at will."""

from collections.abc import Iterable
from typing import Any

import msgspec

from models.item_signals import ItemRow
from models.pseudonyms import Pseudonyms
from models.user_state import UserState
from schemas.codec import decode, encode
from schemas.records import Item, JoinedRequest, Recommendation, RecommendedItem, Record, TrainingExample
from schemas.topics import RECOMMENDATIONS, REQUESTS_JOINED, RETRAINING, Topic
from streams.settings import StateSettings
from streams.state.rows import Rows
from streams.state.stage import Inbound, Outbound, Served, StateStage

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
PSEUDONYMS = Pseudonyms((b"a key of tests only",))
NOON = 1_767_268_800_000  # 2026-01-01 12:00 UTC


class Table:
    """What Rows needs of a Faust table."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}


class Log:
    """Topics in memory: gives records the offsets that Kafka would."""

    def __init__(self) -> None:
        self._next: dict[tuple[str, int], int] = {}

    def record(self, topic: Topic, time: int, value: Record, user: str = "user", partition: int = 0) -> Inbound:
        offset = self._next.get((topic.name, partition), 0)
        self._next[topic.name, partition] = offset + 1
        return Inbound(topic, partition, offset, time, user.encode(), encode(value))


class MemoryStage:
    """One life after another of a state stage; ``durable`` is what its changelogs hold."""

    def __init__(self, settings: StateSettings | None = None, items: Iterable[tuple[str, Item]] = ()) -> None:
        self.settings = settings or StateSettings()
        self.catalogue = list(items)
        self.durable: list[dict[bytes, bytes]] = [{}, {}, {}]
        self.published: list[Outbound] = []
        self.start()

    def start(self) -> None:
        """Begin a life with what the changelogs hold."""
        tables = [Table() for _ in self.durable]
        for table, rows in zip(tables, self.durable, strict=True):
            table.data = dict(rows)
        self.stage = StateStage(
            self.settings,
            Rows(tables[0], UserState, UserState),
            Rows(tables[1], ItemRow, ItemRow),
            Rows(tables[2], Served, lambda: Served(0, b"", msgspec.Raw())),
            PSEUDONYMS,
        )
        for item_id, item in self.catalogue:
            self.stage.put_item(item_id, item)
        self.stage.recovered(range(64))

    def apply(self, record: Inbound) -> JoinedRequest | None:
        """Do what the agents do with one record; return the joined request, if it was a request."""
        handlers: dict[str, Any] = {
            "users.context": self.stage.on_context,
            "users.feedback": self.stage.on_feedback,
            "users.erasure": self.stage.on_erasure,
            RECOMMENDATIONS.name: self.stage.on_recommendation,
        }
        if record.topic.name in handlers:
            handlers[record.topic.name](record)
            self.stage.expire(self.stage.watermarks())
            return None
        outbound = self.stage.join(record, self.stage.read_request(record), received_at=0)
        self.stage.expire(self.stage.watermarks())
        self.published.append(outbound)
        return decode(JoinedRequest, outbound.value)

    def flush(self, writes: int | None = None) -> None:
        """Publish, then write the changed rows, users' rows last; die after a number of writes if one is given."""
        self.published += self.stage.outbox
        self.stage.outbox = []
        changes = [list(rows.drain()) for rows in self.stage.tables]
        left = [(number, key, value) for number in (2, 1, 0) for _, key, value in changes[number]]
        for number, key, value in left if writes is None else left[:writes]:
            if value is None:
                self.durable[number].pop(key, None)
            else:
                self.durable[number][key] = value

    def examples(self) -> dict[str, TrainingExample]:
        """Return the training examples published so far; of one published twice, the first."""
        found = [decode(TrainingExample, sent.value) for sent in self.published if sent.topic == RETRAINING]
        return {example.example_id: example for example in reversed(found)}

    def joined(self) -> list[JoinedRequest]:
        return [decode(JoinedRequest, sent.value) for sent in self.published if sent.topic == REQUESTS_JOINED]

    def user(self, name: str = "user") -> UserState | None:
        return self.stage.users.get(name.encode())

    def reload(self) -> None:
        """Flush, and go on in a new life."""
        self.flush()
        self.start()


def answer(joined: JoinedRequest, items: Iterable[str], propensity: float = 1.0) -> Recommendation:
    """Return what the inference stage might say."""
    return Recommendation(
        request_id=joined.request.request_id,
        domain=joined.request.domain,
        model="model@1",
        items=[RecommendedItem(item_id=item, score=1.0, propensity=propensity) for item in items],
        source=joined.source,
    )
