"""Replays of what the running stages have answered: exactness, speed beside live, memory.

Requests of the simulated city are answered live in rounds, with the reactions to each round's lists in the next. Then
all of them are replayed: from the joined requests; the same with every stage killed on the way, the replay's and the
live ones; from the raw topics, with a state built anew; and by another model.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from ops.bench.deployment import Deployment, deployed, end_offsets, next_record, reading
from ops.bench.workload import Answer, Workload
from ops.replay.command import as_figures
from ops.replay.run import Plan, Progress, clean_up, compare, replay
from ops.replay.selection import From, Selection
from ops.simulator.events import catalogue
from ops.simulator.publish import post_all
from ops.simulator.world import World, build_world
from schemas.topics import RECOMMENDATIONS
from streams.settings import Settings

ROUNDS = 4
MIB = 1024 * 1024


@dataclass
class Run:
    """One replay."""

    seconds: float  # with the start of its stages
    requests_per_second: float  # from the first answer to the last
    comparison: dict[str, object]
    megabytes: dict[str, int]  # resident, of this process and of the replay's stages, at 1/4, 1/2 and the end


@dataclass
class ReplayReport:
    """What was answered live and what replays of it gave."""

    requests: int
    live_requests_per_second: float
    runs: dict[str, Run] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


async def run_replays(
    settings: Settings, requests: int, model: str, say: Callable[[int], None] = lambda _: None
) -> ReplayReport:
    """Record so many requests on topics and stages of their own and replay them.

    Raises:
        StageError: a stage does not start.
        StalledError: answers stopped coming.

    """
    world = build_world(1, users=1_000, restaurants=500)
    async with deployed(settings, catalogue(world, time.time_ns() // 1_000_000)) as deployment:
        report = ReplayReport(requests, await _live(deployment, world, requests))
        report.runs["joined"] = await _replayed(deployment, "joined", say=say)
        for stage in deployment.stages.values():
            stage.kill()
        report.runs["joined, all stages killed"] = await _replayed(deployment, "joined", kill=True, say=say)
        report.runs["raw"] = await _replayed(deployment, "raw", say=say)
        report.runs[f"model {model}"] = await _replayed(deployment, "joined", model=model, say=say)
    for name in ("joined", "joined, all stages killed"):
        verdicts = report.runs[name].comparison["verdicts"]
        if verdicts != {"identical": requests}:
            report.faults.append(f"{name}: {verdicts} of {requests} requests")
    return report


async def _live(deployment: Deployment, world: World, requests: int) -> float:
    """Have the requests answered and return how many were a second, rounds without pauses taken together."""
    workload, answers, seconds = Workload(world), list[Answer](), 0.0
    await post_all(deployment.settings, workload.past())
    async with reading(deployment, RECOMMENDATIONS, await end_offsets(deployment, RECOMMENDATIONS)) as consumer:
        for number in range(ROUNDS):
            share = requests * (number + 1) // ROUNDS - requests * number // ROUNDS
            load = workload.round(share, answers)
            began = time.monotonic()
            await post_all(deployment.settings, load)
            read = [await next_record(deployment, consumer, "answer") for _ in range(share)]
            seconds += time.monotonic() - began
            answers = [Answer(record.timestamp, record.key.decode(), record.value) for record in read]
    return round(requests / seconds, 1)


async def _replayed(
    deployment: Deployment,
    source: From,
    *,
    model: str | None = None,
    kill: bool = False,
    say: Callable[[int], None],
) -> Run:
    plan = Plan(f"{time.time_ns():x}", source, Selection(), model)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    total = sum((await end_offsets(deployment, RECOMMENDATIONS)).values())
    megabytes: dict[str, int] = {}
    moments: list[tuple[float, int]] = []
    killed = False

    def watch(progress: Progress) -> None:
        nonlocal killed
        say(progress.answered)
        if progress.answered and (not moments or progress.answered > moments[-1][1]):
            moments[1:] = [(time.monotonic(), progress.answered)]
        for name, share in (("at 1/4", 0.25), ("at 1/2", 0.5)):
            if name not in megabytes and progress.answered >= share * total:
                megabytes[name] = _resident(before)
        if progress.answered >= total:
            megabytes["at the end"] = _resident(before)
        if kill and not killed and progress.answered >= total // 3:
            killed = True
            for child in _stages(before):
                os.kill(child.pid, signal.SIGKILL)

    began = time.monotonic()
    await replay(deployment.settings, plan, watch)
    seconds = time.monotonic() - began
    comparison = as_figures(await compare(deployment.settings, plan))
    await clean_up(deployment.settings, plan)
    (start, first), (end, last) = moments[0], moments[-1]
    rate = (last - first) / (end - start) if end > start else 0.0
    return Run(round(seconds, 1), round(rate, 1), comparison, megabytes)


def _stages(before: set[int]) -> list[psutil.Process]:
    """Return the replay's stages: the children that were not there before it, apart from the live ones started anew."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if child.pid not in before and "replay-" in child.environ().get("TABLECAST_KAFKA__PREFIX", "")
    ]


def _resident(before: set[int]) -> int:
    return sum(int(process.memory_info().rss) for process in (psutil.Process(), *_stages(before))) // MIB
