"""The trainer stage on Kafka.

A run goes through five phases: reading, training, exporting, uploading, announcing. Which run it is, and the phase it
is in, is recorded in the offset commits of the trainer's group (see ``plan``). What a phase makes is a folder that
appears at once, so a trainer that is killed at any moment goes on, when it is started again, with the phase it was in,
and one on another machine does the same run from the beginning with the same result. Equal runs make equal versions, a
version is stored once and announced once, so that doing the last steps again changes nothing.

One trainer at a time works on a model: the one that its group has given the one partition of the topic ``models``. All
it writes to Kafka it writes under one transactional id per model, so a trainer that was frozen and has been replaced is
fenced: it can finish its phase, and announce nothing.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.structs import OffsetAndMetadata

from models import retraining
from models.calibration import Calibration, promised
from models.drift import Observation, Reference, drift, observation
from models.feedback_training import NothingToLearnError
from models.gate import Verdict
from models.pseudonyms import Pseudonyms
from models.roles import holder, with_role
from models.shown_lists import ShownList
from models.store import ModelStore
from schemas.codec import encode
from schemas.errors import ExplainedError
from schemas.records import ModelAnnouncement, ModelDecision, ModelVersion
from schemas.topics import (
    CATALOG_ITEMS,
    DEADLETTERS,
    MIB,
    MODELS,
    MODELS_DECISIONS,
    RECOMMENDATIONS,
    RETRAINING,
    USERS_ERASURE,
    Topic,
)
from streams import metrics
from streams.acls import require_access
from streams.health import Progress, serve
from streams.kafka import client_options, committed_offsets, full_name
from streams.model_roles import change_roles, read_roles
from streams.process import notify_ready
from streams.settings import Settings
from streams.tracing import Hop, tracer
from streams.trainer import making
from streams.trainer.guard import Guard
from streams.trainer.plan import PHASES, Arrivals, Phase, RangeError, Run, day_to_check, due, marks, plan, recorded
from streams.trainer.reading import Reader

log = structlog.get_logger(__name__)

GROUP = "trainer"
POLL_SECONDS = 1.0
OWNERSHIP_SECONDS = 30.0


class NotTheTrainerError(ExplainedError):
    """Another trainer works on this model."""


class TrainerApp:
    """One process of the trainer stage; the others of its model stand by."""

    def __init__(self, settings: Settings, pseudonyms: Pseudonyms) -> None:
        self.settings, self._pseudonyms = settings, pseudonyms
        self.kafka, self._name = settings.kafka, settings.inference.model_name
        self._store = ModelStore(settings.model_store)
        self._folder = settings.data_dir / "trainer" / settings.instance / self._name
        self._topic = full_name(self.kafka, RETRAINING)
        self._group = f"{self.kafka.prefix}{GROUP}-{self._name}"
        options = client_options(self.kafka)
        self._lock = AIOKafkaConsumer(
            **options,
            group_id=self._group,
            group_instance_id=f"{self._group}-{settings.instance}",
            # Who works on a run keeps the model. A class of its own: the assignor's memory is in the class.
            partition_assignment_strategy=(type("Sticky", (StickyPartitionAssignor,), {}),),
            enable_auto_commit=False,
            session_timeout_ms=10_000,
            heartbeat_interval_ms=2_000,
        )
        self._producer = AIOKafkaProducer(
            **options, transactional_id=self._group, transaction_timeout_ms=30_000, max_request_size=4 * MIB
        )
        self._admin = AIOKafkaAdminClient(**options)
        self._reader = Reader(self.kafka)
        self._tracer = tracer(settings, "trainer")
        self.progress = Progress(self.kafka.prefix)
        self._mine = asyncio.Event()
        self._trained: dict[int, int] = {}  # partition -> end of the last run

    async def run(self, stop: asyncio.Event) -> None:
        """Train whenever it is time, until ``stop`` is set or a part of the stage fails.

        Raises:
            Exception: whatever ended the stage; the next process goes on with the run.

        """
        await self._until(stop, self._lead, self._judge_canaries)

    async def run_once(self, stop: asyncio.Event) -> None:
        """Finish the run in progress if there is one, else train on the examples there are now.

        Raises:
            NotTheTrainerError: another trainer works on this model.

        """
        await self._until(stop, self._lead_once)

    async def _until(self, stop: asyncio.Event, *working: Callable[[], Coroutine[Any, Any, None]]) -> None:
        serve(self.settings.metrics, self.progress)
        topics = (RETRAINING, USERS_ERASURE, CATALOG_ITEMS, MODELS, MODELS_DECISIONS, RECOMMENDATIONS, DEADLETTERS)
        await require_access(
            self.kafka, [topic.name for topic in topics], [self._group.removeprefix(self.kafka.prefix)]
        )
        await self._admin.start()
        await self._reader.start()
        await self._lock.start()
        self._lock.subscribe([full_name(self.kafka, MODELS)], listener=_Ownership(self._mine, self.progress))
        watching = self.progress.watch(dict, self._lock.end_offsets)  # nothing of it is behind: it waits for its time
        works = (*(begin() for begin in working), self._hold(), watching, stop.wait())
        tasks = [asyncio.create_task(work) for work in works]
        try:
            finished, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._reader.stop()
            await self._producer.stop()
            await self._lock.stop()
            await self._admin.close()

    async def _hold(self) -> None:
        """Stay a member of the group: a consumer that does not poll is taken for dead."""
        while True:
            await self._lock.getmany(timeout_ms=1_000)

    async def _lead(self) -> None:
        await self._mine.wait()
        left = await self._take_over()
        while True:
            if left is not None:
                await self._finish(*left)
                left = None
            why, drifted = await self._wait_until_due()
            await self._finish(await self._plan(why), None, drifted)

    async def _judge_canaries(self) -> None:
        await self._mine.wait()
        await Guard(self.settings, self._pseudonyms, f"{self._group}-guard").run()

    async def _lead_once(self) -> None:
        try:
            async with asyncio.timeout(OWNERSHIP_SECONDS):
                await self._mine.wait()
        except TimeoutError as error:
            raise NotTheTrainerError(
                f"another trainer works on the model {self._name!r}: it trains by itself when it is time"
            ) from error
        run, reached = await self._take_over() or (await self._plan("command"), None)
        if run.examples:
            await self._finish(run, reached)
        else:
            log.info("no new examples", topic=self._topic)

    # -- which run ---------------------------------------------------------------------------------------------------

    async def _take_over(self) -> tuple[Run, Phase] | None:
        """Return the run that was not finished. Whoever was the trainer before can't write any more from here on."""
        await self._producer.start()  # waits for the end of an earlier trainer's transaction, so offsets are final
        committed = await committed_offsets(self._admin, self._group)
        stood = {
            partition.partition: (entry.offset, entry.metadata)
            for partition, entry in committed.items()
            if partition.topic == self._topic
        }
        self._trained = {number: offset for number, (offset, _) in stood.items()}
        found = recorded(self._topic, stood)
        for folder in self._folder.glob("*"):
            if found is None or folder.name != found[0].id:
                shutil.rmtree(folder, ignore_errors=True)
        if found is not None:
            log.info("taking up a run", run=found[0].name, id=found[0].id, phase=found[1])
        return found

    async def _wait_until_due(self) -> tuple[str, ModelDecision | None]:
        """Return why it is time for a run, and the drift that it is to follow, if that is why."""
        arrivals, read = Arrivals(), dict(self._trained)
        checked = None
        while True:
            beginnings, ends = await self._reader.bounds(RETRAINING)
            spans = {number: (max(read.get(number, 0), beginnings[number]), end) for number, end in ends.items()}
            await self._reader.read(RETRAINING, spans, lambda record: arrivals.add(record.timestamp))
            read = {number: max(span) for number, span in spans.items()}
            metrics.TRAINING_WAITING.set(arrivals.examples)
            day = day_to_check(arrivals, self.settings.state.attribution_minutes * 60_000)
            if day is not None and day != checked:
                checked = day
                if drifted := await self._drift(day):
                    return drifted.reason, drifted
            if why := due(self.settings.trainer, arrivals):
                return why, None
            await asyncio.sleep(POLL_SECONDS)

    async def _drift(self, day: int) -> ModelDecision | None:
        """Return what has moved on a day away from what the champion was trained on, if anything."""
        champion = holder((await read_roles(self.kafka)).get(self._name), "champion")
        if champion is None:
            return None
        manifest, _ = await asyncio.to_thread(self._store.manifest, champion.version)
        reference = msgspec.convert(manifest.training.get("reference"), Reference | None)
        if reference is None:
            return None  # it was not made by this stage
        _, items = await self._reader.bounds(CATALOG_ITEMS)
        lists = await self._reader.read_day(day, self._pseudonyms)
        catalogue = await self._reader.read_items(items[0])
        calibration = msgspec.convert(manifest.training.get("calibration"), Calibration | None)
        scores = await self._reader.read_scores(day, f"{self._name}@{champion.version}", lists) if calibration else {}

        def seen(each: ShownList) -> Observation:
            given = scores.get(each.key, {})
            return observation(
                each, catalogue, promised(calibration, [given.get(shown.item_id) for shown in each.shown], each.shown)
            )

        report = await asyncio.to_thread(lambda: drift(reference, map(seen, lists)))
        log.info("looked for drift", champion=champion.version, moved=report.moved, lists=report.examples, day=day)
        if not report.moved:
            return None
        return ModelDecision(
            decision="train",
            version=champion.version,
            reason=("drift: " + "; ".join(check.sentence for check in report.checks if check.moved))[:1_000],
            figures={check.name: check.value for check in report.checks},
            start=report.start,
            end=report.end,
        )

    async def _plan(self, why: str) -> Run:
        beginnings, ends = await self._reader.bounds(RETRAINING)
        for number, offset in self._trained.items():
            if offset < beginnings[number]:
                log.warning(
                    "examples were deleted before they were learned from: train more often or keep them longer",
                    topic=self._topic, partition=number, offset=offset, begins=beginnings[number],
                )  # fmt: skip
        _, items = await self._reader.bounds(CATALOG_ITEMS)
        run = plan(
            self._topic, ends, beginnings, self._trained,
            items_end=items[0], parent=await self._champion(), replay=self.settings.trainer.replay,
        )  # fmt: skip
        log.info("planned", run=run.name, id=run.id, why=why, champion=run.parent)
        return run

    async def _champion(self) -> str:
        """Return the version that is served; one that was never announced is put into the store."""
        champion = holder((await read_roles(self.kafka)).get(self._name), "champion")
        if champion is not None:
            return champion.version
        with tempfile.TemporaryDirectory(prefix="tablecast-") as folder:
            model = await asyncio.to_thread(
                retraining.starting_model, Path(folder) / "model", self.settings.inference.model, self._name
            )
            return await asyncio.to_thread(self._store.put, model)

    # -- the phases --------------------------------------------------------------------------------------------------

    async def _finish(self, run: Run, reached: Phase | None, drifted: ModelDecision | None = None) -> None:
        """Do what is left of a run that has been recorded up to a phase, measured and traced."""
        hop = self._tracer.begin(f"train {run.name}") if self._tracer is not None else None
        try:
            metrics.run_ended(await self._through_phases(run, reached, drifted, hop))
        except Exception as error:
            if hop is not None:
                hop.failed(error)
            raise
        finally:
            if hop is not None:
                hop.end()

    async def _through_phases(
        self, run: Run, reached: Phase | None, drifted: ModelDecision | None, hop: Hop | None
    ) -> metrics.RunOutcome:
        since = time.monotonic()

        def done(phase: Phase) -> None:
            nonlocal since
            metrics.phase_ended(phase, time.monotonic() - since)
            since = time.monotonic()
            if hop is not None:
                hop.reached(phase)

        async def enter(phase: Phase, beside: Sequence[tuple[Topic, bytes, bytes]] = ()) -> None:
            nonlocal reached
            if reached is None or PHASES.index(phase) > PHASES.index(reached):
                await self._record(run, phase, beside)
                reached = phase

        work = self._folder / run.id
        trained, model = work / "trained", work / "model"
        # Told with the run that follows from it: once, if not at all before that is planned.
        await enter("reading", [(MODELS_DECISIONS, self._name.encode(), encode(drifted))] if drifted else ())
        champion = await asyncio.to_thread(self._store.fetch, run.parent)
        if retraining.read_report(trained) is None:
            try:
                examples = await self._reader.read_examples(run, self._pseudonyms)
            except RangeError as error:
                log.warning("the run is given up", run=run.name, reason=str(error))
                await self._end(run)
                return "given up"
            metrics.records_read(RETRAINING.name, run.examples)
            if self._tracer is not None and hop is not None:
                self._tracer.link(hop, examples.headers)
            items = await self._reader.read_items(run.items_end)
            done("reading")
            await enter("training", [(DEADLETTERS, *fault) for fault in examples.faults])
            try:
                await asyncio.to_thread(making.train, trained, champion, examples, items, run)
            except NothingToLearnError as error:
                log.warning("nothing to learn", run=run.name, reason=str(error))
                await self._end(run)
                return "nothing to learn"
            done("training")
        await enter("exporting")
        manifest = await asyncio.to_thread(making.export, model, trained, champion, self._name, run)
        done("exporting")
        await enter("uploading")
        await asyncio.to_thread(self._store.put, model)
        done("uploading")
        await enter("announcing")
        await self._announce(run, manifest.version)
        await self._end(run)
        done("announcing")
        shutil.rmtree(work, ignore_errors=True)
        return "passed" if msgspec.convert(manifest.training["gate"], Verdict).passed else "not passed"

    async def _record(self, run: Run, phase: Phase, beside: Sequence[tuple[Topic, bytes, bytes]]) -> None:
        """Record how far the run has come; a trainer that has been replaced gets no further than this."""
        if not self._mine.is_set():
            raise NotTheTrainerError(f"{run.name}: another trainer has taken over before {phase}")
        log.info("phase", phase=phase, run=run.name, id=run.id)
        async with self._producer.transaction():
            for topic, key, value in beside:
                await self._producer.send(full_name(self.kafka, topic), value, key, partition=0)
            await self._producer.send_offsets_to_transaction(_offsets(self._topic, marks(run, phase)), self._group)

    async def _announce(self, run: Run, version: str) -> None:
        """Give the candidate its role. One that has been announced keeps what it has: this may be done twice."""
        manifest, sha256 = await asyncio.to_thread(self._store.manifest, version)

        verdict = msgspec.convert(manifest.training["gate"], Verdict)

        def change(current: ModelAnnouncement | None) -> ModelAnnouncement | None:
            if current is not None and any(listed.version == version for listed in current.versions):
                return None
            taken_back = current is not None and version in current.rolled_back
            # A canary that is being judged is not disturbed.
            serve = verdict.passed and not taken_back and holder(current, "canary") is None
            candidate = ModelVersion(
                version=version,
                role="canary" if serve else "candidate",
                sha256=sha256,
                location=self._store.url,
                share=self.settings.trainer.canary_share if serve else 1.0,
                metrics=manifest.metrics,
            )
            log.info("announcing", version=version, role=candidate.role, run=run.name, gate=verdict.reason)
            return with_role(current, candidate, f"trained on {run.name}; {verdict.reason}"[:4_000], manifest.metrics)

        await change_roles(self.kafka, self._name, change)

    async def _end(self, run: Run) -> None:
        """Move on to the end of the range."""
        ends = {number: span.end for number, span in run.spans.items()}
        async with self._producer.transaction():
            await self._producer.send_offsets_to_transaction(
                _offsets(self._topic, {number: (end, "") for number, end in ends.items()}), self._group
            )
        self._trained = ends


def _offsets(topic: str, entries: Mapping[int, tuple[int, str]]) -> dict[TopicPartition, OffsetAndMetadata]:
    return {
        TopicPartition(topic, number): OffsetAndMetadata(offset, metadata)
        for number, (offset, metadata) in entries.items()
    }


class _Ownership(ConsumerRebalanceListener):  # type: ignore[misc]
    """Knows whether this process is its model's trainer."""

    def __init__(self, mine: asyncio.Event, progress: Progress) -> None:
        self._mine, self._progress = mine, progress

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Nothing: whether a partition is really gone is known when they are assigned again."""

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        if list(assigned):
            self._mine.set()
        else:
            self._mine.clear()
        notify_ready()
        self._progress.assigned()
