"""``tablecast forget``: have a user forgotten, look whether it was done, and say what can only age out."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from rich.table import Table

from models.pseudonyms import Pseudonyms
from ops.cluster import connected
from ops.errors import explained
from ops.terminal import Terminal
from schemas.codec import decode, decode_key, encode
from schemas.records import Erasure
from schemas.topics import (
    DEADLETTERS,
    RECOMMENDATIONS,
    REQUESTS_JOINED,
    RETRAINING,
    USERS_CONTEXT,
    USERS_ERASURE,
    USERS_FEEDBACK,
    USERS_REQUESTS,
    Topic,
)
from streams.kafka import client_options, committed_offsets, full_name
from streams.privacy import load_pseudonyms
from streams.refusals import principal
from streams.settings import KafkaSettings, Settings, load_settings
from streams.state.changelogs import APPLICATION, CHANGELOGS, TABLES
from streams.state.stage import Served
from streams.topic_admin import ExistingTopic, existing_topics

RAW = (USERS_CONTEXT, USERS_REQUESTS, USERS_FEEDBACK, USERS_ERASURE, REQUESTS_JOINED, RECOMMENDATIONS)
PSEUDONYMOUS = (RETRAINING, DEADLETTERS)
USERS, SERVED = (CHANGELOGS[TABLES.index(name)] for name in ("users", "served"))
MAX_LAG, SEGMENT, RETENTION = "max.compaction.lag.ms", "segment.ms", "retention.ms"
FOREVER_MS = 2**62  # more than this is Kafka's way to say "no limit"


class Done(msgspec.Struct, frozen=True):
    """One thing that was done, and how it was seen."""

    where: str
    what: str
    holds: bool


class AgesOut(msgspec.Struct, frozen=True):
    """What stays until Kafka deletes it, and until when at the latest, by the topic's settings on the cluster."""

    where: str
    what: str
    until: str | None  # ISO 8601; None: its settings give no limit


class Receipt(msgspec.Struct, frozen=True):
    """What became of an erasure. It does not name the user, so that it can be filed."""

    user: str  # pseudonym
    erasure: str  # id
    asked_by: str
    asked_at: str
    topic: str
    partition: int
    offset: int
    applied: bool  # by the state stage
    done: list[Done]
    ages_out: list[AgesOut]


def forget(
    user: Annotated[str, typer.Argument(help="The user's id, as apps use it for the record key.")],
    *,
    reason: Annotated[str, typer.Option(help="Kept with the erasure; name nobody in it.")] = "",
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the state stage.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the receipt as JSON.")] = False,
) -> None:
    """Forget a user: post the erasure, see that the state stage carries it out, and print a receipt.

    Exit code 1: it is posted, but nobody has carried it out yet; the state stage does when it runs.

    Example: tablecast forget u000581 --json > receipt.json
    """
    with explained():
        decode_key(user.encode())
        decode(Erasure, encode(Erasure(request_id="e", reason=reason)))
        settings = connected(load_settings())
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what goes wrong is said once, in our own sentence
        with Terminal(stderr=True).status("waiting for the state stage to carry the erasure out"):
            receipt = asyncio.run(erase(settings, user.encode(), reason, wait))
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(receipt), ensure_ascii=False))
    else:
        _print(receipt)
    if not receipt.applied or not all(done.holds for done in receipt.done):
        raise typer.Exit(1)


async def erase(settings: Settings, user: bytes, reason: str, wait: float) -> Receipt:
    """Post an erasure and return what became of it within ``wait`` seconds."""
    kafka, pseudonyms = settings.kafka, load_pseudonyms(settings)
    erasure = Erasure(request_id=uuid.uuid4().hex, reason=reason)
    asked_ms = int(time.time() * 1000)
    async with AIOKafkaProducer(**client_options(kafka), enable_idempotence=True) as producer:
        posted = await producer.send_and_wait(
            full_name(kafka, USERS_ERASURE), encode(erasure), user, timestamp_ms=asked_ms
        )
    applied = await _applied(kafka, posted.topic_partition, posted.offset, wait)
    return Receipt(
        user=Pseudonyms(pseudonyms.keys).of(user).decode(),
        erasure=erasure.request_id,
        asked_by=principal(kafka),
        asked_at=_date(asked_ms),
        topic=posted.topic,
        partition=posted.partition,
        offset=posted.offset,
        applied=applied,
        done=await _done(kafka, user, posted.partition) if applied else [],
        ages_out=await _ages_out(kafka),
    )


async def _applied(kafka: KafkaSettings, partition: TopicPartition, offset: int, wait: float) -> bool:
    """Wait until the state stage has released the erasure: it does when rows and tombstones are written."""
    deadline = time.monotonic() + wait
    admin = AIOKafkaAdminClient(**client_options(kafka))
    await admin.start()
    try:
        while True:
            committed = await committed_offsets(admin, kafka.prefix + APPLICATION, [partition])
            if partition in committed and committed[partition].offset > offset:
                return True
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(0.1)
    finally:
        await admin.close()


async def _done(kafka: KafkaSettings, user: bytes, partition: int) -> list[Done]:
    """Read the changelogs of the user's partition to their ends and return what they say of the user now."""
    row: ConsumerRecord | None = None
    async for record in _records(kafka, USERS, partition):
        if record.key == user:
            row = record
    row_gone = row is None or row.value is None
    lists: dict[bytes, bool] = {}  # the user's joined requests; whether they are still there
    async for record in _records(kafka, SERVED, partition):
        if record.value is not None and msgspec.msgpack.decode(record.value, type=Served).user == user:
            lists[record.key] = True
        elif record.key in lists:
            lists[record.key] = False
    left = sum(lists.values())
    where = full_name(kafka, USERS)
    return [
        Done(
            "state table users",
            "there was no row" if row is None else "the row, with contexts, interactions and lists, is removed",
            row_gone,
        ),
        Done(
            f"{where}, partition {partition}",
            "holds nothing" if row is None else f"the last record of the user is a tombstone, at offset {row.offset}",
            row_gone,
        ),
        Done(
            f"pending attribution: {full_name(kafka, SERVED)}, partition {partition}",
            f"joined requests removed: {len(lists) - left}, left: {left}",
            not left,
        ),
        Done(
            full_name(kafka, RETRAINING),
            f"examples under the user's pseudonyms are left out of every later reading for training, as long as "
            f"{full_name(kafka, USERS_ERASURE)} keeps this erasure, which is longer than examples are kept",
            True,
        ),
    ]


async def _records(kafka: KafkaSettings, topic: Topic, number: int) -> AsyncIterator[ConsumerRecord]:
    """Yield a partition from its beginning to its present end."""
    partition = TopicPartition(full_name(kafka, topic), number)
    # Not sought: a search for the newest offset, the default, may be under way by then and overwrite the position.
    options = {**client_options(kafka), "isolation_level": "read_committed", "auto_offset_reset": "earliest"}
    async with AIOKafkaConsumer(**options) as consumer:
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        while await consumer.position(partition) < end:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    yield record


async def _ages_out(kafka: KafkaSettings) -> list[AgesOut]:
    names = [full_name(kafka, topic) for topic in (*RAW, *PSEUDONYMOUS, USERS, SERVED)]
    existing = await existing_topics(kafka, names)
    now = int(time.time() * 1000)
    aging = []
    for topic in (*RAW, *PSEUDONYMOUS, USERS, SERVED):
        name = full_name(kafka, topic)
        if name not in existing:
            continue
        if topic in RAW:
            what = "records as they were posted or answered, with the user's id"
        elif topic in PSEUDONYMOUS:
            what = "records under the user's pseudonym"
        else:
            what = f"values from before the tombstones, until Kafka compacts them away ({MAX_LAG} bounds it)"
        longest = _longest_ms(existing[name], compacted=topic.cleanup == "compact")
        aging.append(AgesOut(name, what, None if longest is None else _date(now + longest)))
    return [*aging, AgesOut("models", "what was learnt from the user before, until the next training", None)]


def _longest_ms(topic: ExistingTopic, *, compacted: bool) -> int | None:
    """Return the longest that a record written now can stay, or None: Kafka deletes segments, once they are closed."""
    kept = int(topic.config.get(MAX_LAG if compacted else RETENTION, FOREVER_MS))
    if not 0 <= kept < FOREVER_MS:
        return None
    return kept if compacted else kept + int(topic.config.get(SEGMENT, 0))


def _date(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def _print(receipt: Receipt) -> None:
    console = Terminal()
    console.print(
        f"erasure {receipt.erasure} of {receipt.user}, asked for by {receipt.asked_by} at {receipt.asked_at}: "
        f"{receipt.topic}, partition {receipt.partition}, offset {receipt.offset}"
    )
    if not receipt.applied:
        console.print("not carried out yet: start the state stage (`tablecast state`), then ask again", style="yellow")
    table = Table("where", "what was done", "seen")
    for done in receipt.done:
        table.add_row(done.where, done.what, "yes" if done.holds else "NO")
    if receipt.done:
        console.print(table)
    table = Table("where", "what can only age out", "gone by")
    for entry in receipt.ages_out:
        table.add_row(entry.where, entry.what, entry.until or "no limit is set")
    console.print(table)
