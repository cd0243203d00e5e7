"""Model after model is announced while users ask: no request may be lost or answered twice, or take much longer.

Every announced model has an encoder of its own as far as the stage can tell, so each swap embeds the whole catalogue.
"""

import asyncio
import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from models.artefact import write_model
from models.encoder import MANIFEST
from models.export import default_encoder_folder, load_default_encoder
from models.roles import with_role
from models.store import ModelStore
from ops.bench.latency import WARM_UP_SECONDS
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
PAUSE_SECONDS = 10.0  # between a swap and the next announcement: what answers take outside is measured there
SWAP_SECONDS = 600.0  # longest wait for a model to take over
LAST_ANSWERS_SECONDS = 60.0
Say = Callable[[str], None]


@dataclass
class Swaps:
    """What came of it. Times are seconds on one monotonic clock."""

    capacity: float  # requests per second
    rate: float
    posted: dict[str, float] = field(default_factory=dict)  # request id -> when it was acknowledged
    answered: dict[str, float] = field(default_factory=dict)  # request id -> when its first answer was read
    answers: Counter[str] = field(default_factory=Counter)
    by_model: Counter[str] = field(default_factory=Counter)
    spans: list[tuple[float, float]] = field(default_factory=list)  # from an announcement to the first answer by it
    counted_from: float = 0.0

    def milliseconds(self, *, during: bool) -> list[float]:
        """Return how long requests took that were posted during swaps, or outside of them and after the warm-up."""
        return [
            (self.answered[request] - posted) * 1000
            for request, posted in self.posted.items()
            if request in self.answered
            and posted >= self.counted_from
            and any(start <= posted <= end for start, end in self.spans) == during
        ]

    def figures(self) -> dict[str, float]:
        """Return every figure by name."""
        figures: dict[str, float] = {
            "capacity_requests_per_second": self.capacity,
            "rate_requests_per_second": self.rate,
            "swaps": len(self.spans),
            "seconds_per_swap": float(np.mean([end - start for start, end in self.spans])),
            "requests": len(self.posted),
            "lost": len(self.posted.keys() - self.answers.keys()),
            "answered_twice": sum(number > 1 for number in self.answers.values()),
            "models": len(self.by_model),
        }
        for name, during in (("during", True), ("outside", False)):
            times = self.milliseconds(during=during)
            figures[f"requests_{name}"] = len(times)
            for quantile in (50, 99):
                figures[f"p{quantile}_ms_{name}"] = float(np.percentile(times, quantile)) if times else float("nan")
        figures["p99_ratio"] = figures["p99_ms_during"] / figures["p99_ms_outside"]
        return figures

    def faults(self) -> list[str]:
        """Return every broken promise as a sentence."""
        figures = self.figures()
        found = [
            f"{figures[name]:.0f} requests were {what}"
            for name, what in (("lost", "not answered"), ("answered_twice", "answered more than once"))
            if figures[name]
        ]
        if not figures["p99_ratio"] <= LARGEST_RATIO:
            found.append(
                f"p99 during swaps is {figures['p99_ratio']:.2f} times that outside, allowed {LARGEST_RATIO:g}"
            )
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
        capacity, _ = await measure_capacity(bed, capacity_requests, answers)
        result = Swaps(capacity, LOAD * capacity)
        # Its own cache: what made-up models leave there is nobody's.
        cache = {"XDG_CACHE_HOME": str(bed.folder / "cache")}
        inference = bed.settings.inference.model_copy(update={"model": str(_model(bed.folder, 0))})
        own = bed.settings.model_copy(update={"inference": inference})
        stage = Stage("inference", own, bed.folder / "inference.log", cache)
        async with bed.stage("state"), bed.reader(RECOMMENDATIONS) as reader:
            await bed.state_done()
            await stage.start(timeout=1800)
            try:
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
        result.counted_from = time.monotonic()
        store = ModelStore(bed.settings.model_store)
        await asyncio.sleep(PAUSE_SECONDS)
        for number in range(1, times + 1):
            say(f"swap {number} of {times}")
            folder = await asyncio.to_thread(_model, bed.folder, number)
            version = await asyncio.to_thread(store.put, folder)
            await asyncio.to_thread(shutil.rmtree, folder)
            champion = ModelVersion(version=version, role="champion", sha256=store.manifest(version)[1])
            start = time.monotonic()
            await change_roles(
                bed.settings.kafka,
                bed.settings.inference.model_name,
                lambda current: with_role(current, champion, "a swap"),  # noqa: B023 - called here
            )
            while not result.by_model[f"{bed.settings.inference.model_name}@{version}"]:
                await asyncio.sleep(0.02)
                if time.monotonic() - start > SWAP_SECONDS or reading.done() or asking.done():
                    raise StalledError(f"{version} did not take over; the stage's log ends with:\n{stage.last_words()}")
            result.spans.append((start, time.monotonic()))
            await asyncio.to_thread(store.remove, version)
            await asyncio.sleep(PAUSE_SECONDS)
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


def _model(folder: Path, number: int) -> Path:
    """Make a model whose encoder differs from every other in what its manifest calls it."""
    load_default_encoder().close()  # exported, if it was not yet
    draft, target = folder / f"encoder-{number}", folder / f"model-{number}"
    shutil.copytree(default_encoder_folder(), draft)
    path = draft / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"base": f"swap {number}"}), "utf-8")
    write_model(target, name="tablecast", base=f"swap {number}", encoder=draft)
    shutil.rmtree(draft)
    return target
