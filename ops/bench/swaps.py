"""Model after model is announced while users ask: no request may be lost or answered twice, or take much longer.

Most are as the trainer makes them: what reads the items is the old model's. Every tenth has an encoder of its own, as
far as the stage can tell, so that the whole catalogue is embedded before it takes over.
"""

import asyncio
import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from models.artefact import ENCODER, RANKER, write_model
from models.encoder import MANIFEST, PASSAGES_MANIFEST, file_sha256
from models.retraining import starting_model
from models.roles import with_role
from models.store import ModelStore
from ops.bench.latency import WARM_UP_SECONDS, live_capacity
from ops.bench.testbed import StalledError, Testbed, testbed
from ops.bench.throughput import measure_capacity
from ops.simulator.events import events
from ops.simulator.poison import posting
from ops.simulator.world import World
from ops.stages import Stage
from schemas.codec import decode
from schemas.records import ModelVersion, Recommendation, Request
from schemas.topics import RECOMMENDATIONS
from streams.kafka import client_options, full_name
from streams.model_roles import change_roles
from streams.settings import Settings

LOAD = 0.6  # of capacity
LARGEST_RATIO = 2.0  # of p99 during swaps to p99 outside
ANEW = 10  # every so many models, one reads the whole catalogue anew
PAUSE_SECONDS = 10.0  # before each announcement: what answers take outside is measured there
SWAP_SECONDS = 600.0  # longest wait for a model to take over
LAST_ANSWERS_SECONDS = 60.0
Say = Callable[[str], None]
Span = tuple[float, float]


@dataclass
class Swaps:
    """What came of it. Times are seconds on one monotonic clock."""

    capacity: float  # requests per second, posted one by one
    rate: float
    posted: dict[str, float] = field(default_factory=dict)  # request id -> when it was acknowledged
    answered: dict[str, float] = field(default_factory=dict)  # request id -> when its first answer was read
    answers: Counter[str] = field(default_factory=Counter)
    by_model: Counter[str] = field(default_factory=Counter)
    swaps: list[Span] = field(default_factory=list)  # from an announcement to the first answer by it, as trained
    swaps_anew: list[Span] = field(default_factory=list)  # likewise, of those that read the catalogue anew
    pauses: list[Span] = field(default_factory=list)  # without any

    def milliseconds(self, spans: Sequence[Span]) -> list[float]:
        """Return how long requests took that were posted within spans of time."""
        return [
            (self.answered[request] - posted) * 1000
            for request, posted in self.posted.items()
            if request in self.answered and any(start <= posted <= end for start, end in spans)
        ]

    def figures(self) -> dict[str, float]:
        """Return every figure by name."""
        figures: dict[str, float] = {
            "capacity_requests_per_second": self.capacity,
            "rate_requests_per_second": self.rate,
            "swaps": len(self.swaps) + len(self.swaps_anew),
            "seconds_per_swap": _mean_seconds(self.swaps),
            "seconds_per_swap_anew": _mean_seconds(self.swaps_anew),
            "requests": len(self.posted),
            "lost": len(self.posted.keys() - self.answers.keys()),
            "answered_twice": sum(number > 1 for number in self.answers.values()),
            "models": len(self.by_model),
        }
        during = {"during": self.swaps + self.swaps_anew, "as_trained": self.swaps, "anew": self.swaps_anew}
        for name, spans in {"outside": self.pauses, **during}.items():
            times = self.milliseconds(spans)
            figures[f"requests_{name}"] = len(times)
            for quantile in (50, 99):
                figures[f"p{quantile}_ms_{name}"] = float(np.percentile(times, quantile)) if times else float("nan")
        for name in during:
            figures[f"p99_ratio_{name}"] = figures[f"p99_ms_{name}"] / figures["p99_ms_outside"]
        return figures

    def faults(self) -> list[str]:
        """Return every broken promise as a sentence."""
        figures = self.figures()
        found = [
            f"{figures[name]:.0f} requests were {what}"
            for name, what in (("lost", "not answered"), ("answered_twice", "answered more than once"))
            if figures[name]
        ]
        ratio = figures["p99_ratio_during"]
        if not ratio <= LARGEST_RATIO:
            found.append(f"p99 during swaps is {ratio:.2f} times that outside, allowed {LARGEST_RATIO:g}")
        return found


async def measure_swaps(settings: Settings, world: World, times: int, capacity_requests: int, say: Say) -> Swaps:
    """Swap so many times at ``LOAD`` of the measured capacity.

    Raises:
        StalledError: a model did not take over, or requests are not answered any more.

    """
    async with testbed(settings, world) as bed:
        say("filling the state with the users' past")
        async with bed.stage("state"):
            await bed.state_done()
        say("measuring the capacity")
        _, answers = await measure_capacity(bed, capacity_requests, [])
        at_once, _ = await measure_capacity(bed, capacity_requests, answers)
        # Its own cache: what made-up models leave there is nobody's.
        cache = {"XDG_CACHE_HOME": str(bed.folder / "cache")}
        inference = bed.settings.inference.model_copy(update={"model": str(_model(bed.settings, bed.folder, 0))})
        own = bed.settings.model_copy(update={"inference": inference})
        stage = Stage("inference", own, bed.folder / "inference.log", cache)
        async with bed.stage("state") as state:
            await bed.state_done()
            await stage.start(timeout=1800)
            try:
                say(f"more than can be answered, {at_once:.1f} requests a second")
                capacity = await live_capacity(bed, at_once, {"state": state.pid, "inference": stage.pid})
                await bed.state_done()
                result = Swaps(capacity, LOAD * capacity)
                async with bed.reader(RECOMMENDATIONS) as reader:
                    await _run(bed, stage, reader, result, times, say)
            finally:
                await stage.stop()
        return result


async def _run(bed: Testbed, stage: Stage, reader: AIOKafkaConsumer, result: Swaps, times: int, say: Say) -> None:
    reading = asyncio.create_task(_read(reader, result))
    asking = asyncio.create_task(_ask(bed, result))
    try:
        say(f"{result.rate:.1f} requests a second; warming up for {WARM_UP_SECONDS:.0f} s")
        await asyncio.sleep(WARM_UP_SECONDS)
        store = ModelStore(bed.settings.model_store)
        for number in range(1, times + 1):
            say(f"swap {number} of {times}")
            folder = await asyncio.to_thread(_model, bed.settings, bed.folder, number)
            version = await asyncio.to_thread(store.put, folder)
            await asyncio.to_thread(shutil.rmtree, folder)
            champion = ModelVersion(version=version, role="champion", sha256=store.manifest(version)[1])
            paused = time.monotonic()
            await asyncio.sleep(PAUSE_SECONDS)
            start = time.monotonic()
            result.pauses.append((paused, start))
            await change_roles(
                bed.settings.kafka,
                bed.settings.inference.model_name,
                lambda current: with_role(current, champion, "a swap"),  # noqa: B023 - called here
            )
            while not result.by_model[f"{bed.settings.inference.model_name}@{version}"]:
                await asyncio.sleep(0.02)
                if time.monotonic() - start > SWAP_SECONDS or reading.done() or asking.done():
                    raise StalledError(f"{version} did not take over; the stage's log ends with:\n{stage.last_words()}")
            (result.swaps if number % ANEW else result.swaps_anew).append((start, time.monotonic()))
            await asyncio.to_thread(store.remove, version)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        deadline = time.monotonic() + LAST_ANSWERS_SECONDS
        while result.posted.keys() - result.answers.keys() and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
    finally:
        for task in (asking, reading):
            task.cancel()
        await asyncio.gather(asking, reading, return_exceptions=True)


async def _ask(bed: Testbed, result: Swaps) -> None:
    """Let users ask and tell of their context at random moments, for ever."""
    producer = AIOKafkaProducer(**client_options(bed.settings.kafka), enable_idempotence=True, linger_ms=2)
    await producer.start()
    posting_now: set[asyncio.Task[None]] = set()

    async def post(request_id: str | None, topic: str, value: bytes | None, key: bytes | None, at: int) -> None:
        await producer.send_and_wait(topic, value, key, timestamp_ms=at)
        if request_id is not None:
            result.posted[request_id] = time.monotonic()

    try:
        for event in events(bed.world, int(time.time() * 1000), result.rate, daily_rhythm=False):
            await asyncio.sleep(event.time_ms / 1000 - time.time())
            record = posting(event)
            request_id = event.record.request_id if isinstance(event.record, Request) else None
            topic = full_name(bed.settings.kafka, record.topic)
            task = asyncio.create_task(post(request_id, topic, record.value, record.key, record.time_ms))
            posting_now.add(task)
            task.add_done_callback(posting_now.discard)
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*posting_now)
        await producer.stop()


async def _read(reader: AIOKafkaConsumer, result: Swaps) -> None:
    async for record in reader:
        now = time.monotonic()
        answer = decode(Recommendation, record.value)
        result.answers[answer.request_id] += 1
        result.answered.setdefault(answer.request_id, now)
        result.by_model[answer.model] += 1


def _model(settings: Settings, folder: Path, number: int) -> Path:
    """Make a model that answers as ``inference.model`` does; every ``ANEW`` th has an encoder called otherwise."""
    draft, target, mark = (folder / f"{name}-{number}" for name in ("draft", "model", "mark"))
    shutil.copytree(starting_model(folder / f"start-{number}", settings.inference.model, "tablecast"), draft)
    encoder, changed = draft / ENCODER, {"base": f"swap {number // ANEW * ANEW}"}
    if (passages := encoder / PASSAGES_MANIFEST).is_file():
        _rewrite(passages, changed)
        known = json.loads((encoder / MANIFEST).read_text(encoding="utf-8"))["sha256"]
        _rewrite(encoder / MANIFEST, {"sha256": known | {PASSAGES_MANIFEST: file_sha256(passages)}})
    _rewrite(encoder / MANIFEST, changed)
    mark.mkdir()
    (mark / "number.json").write_text(str(number), "utf-8")  # in which all of them differ
    ranker = draft / RANKER
    write_model(
        target, name="tablecast", base="swap", encoder=encoder, ranker=ranker if ranker.is_dir() else None, weights=mark
    )
    for left in (draft, mark, folder / f"start-{number}"):
        shutil.rmtree(left, ignore_errors=True)
    return target


def _rewrite(manifest: Path, fields: Mapping[str, object]) -> None:
    manifest.write_text(json.dumps(json.loads(manifest.read_text(encoding="utf-8")) | fields), "utf-8")


def _mean_seconds(spans: Sequence[Span]) -> float:
    return float(np.mean([end - start for start, end in spans])) if spans else float("nan")
