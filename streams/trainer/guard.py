"""Watches the canary: counts its answers and the champion's, and promotes it or rolls it back.

It is a part of the trainer stage, which has one process at work on a model, and is what makes canaries. What it has
counted, and up to where, is in the offset commits of a group of its own, together in one transaction: a guard that is
killed at any moment goes on, when it is started again, from what had been counted, and reads the records before that
only to know whose answers they were (``models.canary``). The decision and the change of roles are one transaction too,
and change nothing if the canary is no canary any more: nothing is decided twice.
"""

import asyncio
import time as clock
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import OffsetAndMetadata

from models.canary import CanaryCount, Evidence, figures, new_evidence, rules_with
from models.gate import Limits
from models.pseudonyms import Pseudonyms
from models.roles import RoleError, canary_rolled_back, holder, newer, promoted
from models.sequential import Judgement, judge
from schemas.codec import DecodeError, decode, decode_key
from schemas.records import DeadLetter, ModelAnnouncement, ModelDecision, Recommendation, TrainingExample
from schemas.topics import DEADLETTERS, MIB, MODELS, RECOMMENDATIONS, RETRAINING
from streams.follower import Follower
from streams.kafka import client_options, committed_offsets, full_name
from streams.model_roles import change_roles, decode_announcement
from streams.settings import Settings

log = structlog.get_logger(__name__)

COUNTED = (RECOMMENDATIONS, RETRAINING, DEADLETTERS)
RECORDS_PER_READ = 500
COMMIT_SECONDS = 2.0


class Compared(NamedTuple):
    """Versions of a canary and of the champion beside it; None: what stages serve before the first champion."""

    canary: str
    champion: str | None
    rolled_back: int  # how often the canary was before: somebody who forces it gives it another chance


def compared_in(announced: ModelAnnouncement | None) -> Compared | None:
    """Return who is to be compared, if there is a canary."""
    canary, champion = holder(announced, "canary"), holder(announced, "champion")
    if announced is None or canary is None:
        return None
    before = announced.rolled_back.count(canary.version)
    return Compared(canary.version, champion.version if champion else None, before)


class _Mark(msgspec.Struct, omit_defaults=True):
    """What the metadata of a partition's commit says; one of them has the evidence. Kafka takes up to 4,096 bytes."""

    start: int  # offset where the canary began
    evidence: Evidence | None = None


class Guard:
    """Judges one canary after the other."""

    def __init__(self, settings: Settings, pseudonyms: Pseudonyms, group: str) -> None:
        self._kafka, self._name, self._group, self._pseudonyms = (
            settings.kafka, settings.inference.model_name, group, pseudonyms,
        )  # fmt: skip
        self._rules = rules_with(settings.trainer.click_margin)
        self._slow_ms = settings.inference.budget_ms or Limits().latency_ms
        self._window_ms = settings.state.attribution_minutes * 60_000
        options = client_options(self._kafka)
        self._consumer = AIOKafkaConsumer(
            **options, isolation_level="read_committed", enable_auto_commit=False, max_partition_fetch_bytes=4 * MIB
        )
        self._producer = AIOKafkaProducer(**options, transactional_id=group)
        self._admin = AIOKafkaAdminClient(**options)
        self._follower = Follower(self._kafka, MODELS, self._on_announcements)
        self._announced: ModelAnnouncement | None = None
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Watch; ends only with an error, such as that another process has taken over."""
        try:
            await self._producer.start()  # who was the guard before can't commit any more
            await self._admin.start()
            await self._consumer.start()
            await self._follower.start()
            await self._follower.wait_until_caught_up()
            watching = asyncio.create_task(self._watch())
            try:
                await asyncio.wait([watching, self._follower.task], return_when=asyncio.FIRST_COMPLETED)
                for task in (watching, self._follower.task):
                    if task.done():
                        task.result()
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        finally:
            await self._follower.stop()
            await self._consumer.stop()
            await self._producer.stop()
            await self._admin.close()

    async def _on_announcements(self, records: Sequence[ConsumerRecord]) -> None:
        for record in records:
            try:
                name, announced = decode_announcement(record)
            except DecodeError as error:
                log.warning("unreadable", topic=record.topic, offset=record.offset, reason=str(error))
                continue
            if name == self._name:
                self._announced = newer(self._announced, announced)
                self._changed.set()

    async def _watch(self) -> None:
        while True:
            self._changed.clear()
            compared = compared_in(self._announced)
            if compared is not None:
                await self._watch_one(compared)
            else:
                await self._changed.wait()

    async def _watch_one(self, compared: Compared) -> None:
        """Count until the canary has been judged, or the roles are others."""
        starts, counted, evidence = await self._resume(compared)
        log.info("watching the canary", **compared._asdict(), counted=evidence.end or None)
        count = CanaryCount(evidence, self._rules, slow_ms=self._slow_ms, window_ms=self._window_ms)
        beginnings = await self._consumer.beginning_offsets(list(starts))
        self._consumer.assign(list(starts))
        for partition, offset in starts.items():
            self._consumer.seek(partition, max(offset, beginnings[partition]))
        committed, committed_at = counted, clock.monotonic()
        while compared_in(self._announced) == compared:
            batches = await self._consumer.getmany(timeout_ms=500, max_records=RECORDS_PER_READ)
            for partition, records in batches.items():
                for record in records:
                    self._take(count, record, new=record.offset >= counted[partition])
            judgement = judge(evidence.state, self._rules)
            if judgement.decision != "continue" and await self._carry_out(compared, evidence, judgement):
                while compared_in(self._announced) == compared:  # it has not been read yet
                    self._changed.clear()
                    await self._changed.wait()
                return
            if clock.monotonic() - committed_at > COMMIT_SECONDS:
                # Where it still reads what had been counted before, it stays where it was.
                reached = {
                    partition: max(await self._consumer.position(partition), counted[partition]) for partition in starts
                }
                if reached != committed:
                    await self._commit(reached, starts, evidence)
                committed, committed_at = reached, clock.monotonic()

    async def _resume(
        self, compared: Compared
    ) -> tuple[dict[TopicPartition, int], Mapping[TopicPartition, int], Evidence]:
        """Return where the canary began in each partition, up to where was counted, and what came of it."""
        partitions = await self._partitions()
        canary = f"{self._name}@{compared.canary}"
        champion = compared.champion and f"{self._name}@{compared.champion}"
        committed = await committed_offsets(self._admin, self._group)
        marks = {
            partition: mark
            for partition, entry in committed.items()
            if partition in partitions and (mark := _read_mark(entry.metadata)) is not None
        }
        evidence = next((mark.evidence for mark in marks.values() if mark.evidence is not None), None)
        fresh = new_evidence(canary, champion, self._rules, rolled_back=compared.rolled_back)
        if evidence is not None and evidence.about == fresh.about:
            starts = {partition: marks[partition].start if partition in marks else 0 for partition in partitions}
            counted = {partition: committed[partition].offset if partition in marks else 0 for partition in partitions}
            return starts, counted, evidence
        starts = await self._consumer.end_offsets(partitions)
        await self._commit(starts, starts, fresh)
        return starts, starts, fresh

    async def _partitions(self) -> list[TopicPartition]:
        found = []
        for topic in COUNTED:
            name = full_name(self._kafka, topic)
            await self._consumer._client.set_topics([name])  # noqa: SLF001 - else its metadata may not be loaded yet
            found += [
                TopicPartition(name, number) for number in sorted(self._consumer.partitions_for_topic(name) or ())
            ]
        return found

    async def _commit(
        self, counted: Mapping[TopicPartition, int], starts: Mapping[TopicPartition, int], evidence: Evidence
    ) -> None:
        """Keep what has been counted with the offsets up to which it was, all at once."""
        keeper = TopicPartition(full_name(self._kafka, DEADLETTERS), 0)
        async with self._producer.transaction():
            await self._producer.send_offsets_to_transaction(
                {
                    partition: OffsetAndMetadata(
                        offset,
                        msgspec.json.encode(
                            _Mark(starts[partition], evidence if partition == keeper else None)
                        ).decode(),
                    )
                    for partition, offset in counted.items()
                },
                self._group,
            )

    def _take(self, count: CanaryCount, record: ConsumerRecord, *, new: bool) -> None:
        topic = record.topic.removeprefix(self._kafka.prefix)
        try:
            if topic == RETRAINING.name:
                example = decode(TrainingExample, record.value)
                count.on_example(record.partition, decode_key(record.key), record.timestamp, example, count=new)
            elif topic == RECOMMENDATIONS.name:
                user = self._pseudonyms.of(record.key or b"").decode(errors="replace")
                count.on_recommendation(user, record.timestamp, decode(Recommendation, record.value), count=new)
            else:
                user = (record.key or b"").decode(errors="replace")
                count.on_dead_letter(user, decode(DeadLetter, record.value), count=new)
        except (DecodeError, msgspec.DecodeError) as error:  # who reads it for its own sake sets it aside
            log.warning(
                "not counted", topic=record.topic, partition=record.partition, offset=record.offset, reason=repr(error)
            )

    async def _carry_out(self, compared: Compared, evidence: Evidence, judgement: Judgement) -> bool:
        """Change the roles and say why, if they are what was judged; False: somebody else is changing them now."""
        assert judgement.decision != "continue"
        rests_on, reason = figures(judgement), judgement.reason[:1_000]
        decision = ModelDecision(
            decision=judgement.decision,
            version=compared.canary,
            champion=compared.champion,
            reason=reason,
            figures=rests_on,
            start=evidence.start or 0,
            end=evidence.end,
        )

        def change(current: ModelAnnouncement | None) -> ModelAnnouncement | None:
            if compared_in(current) != compared:
                return None
            if judgement.decision == "promote":
                return promoted(current, compared.canary, f"promoted: {reason}", rests_on)
            return canary_rolled_back(current, f"rolled back: {reason}", rests_on)

        try:
            await change_roles(self._kafka, self._name, change, decision)
        except RoleError as error:
            log.warning("the roles could not be changed", reason=str(error), **compared._asdict())
            return False
        log.warning("the canary was judged", decision=judgement.decision, reason=reason, **compared._asdict())
        return True


def _read_mark(metadata: str) -> _Mark | None:
    """Return what a commit says; None of offsets that somebody has reset: the count begins anew."""
    try:
        return msgspec.json.decode(metadata, type=_Mark)
    except msgspec.DecodeError:
        return None
