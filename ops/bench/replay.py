"""Replays of what the running stages have answered: exactness, speed beside live, memory.

Requests of the simulated city are answered live in rounds, with the reactions to each round's lists in the next; in the
third round both stages are killed, so that its requests see a state that was recovered. Then all of them are replayed:
from the joined requests; the same with the replay's stages killed on the way; from the raw topics, with a state built
anew; and by another model.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil
from aiokafka import ConsumerRecord

from ops.bench.deployment import Deployment, deployed, end_offsets, next_record, reading
from ops.bench.workload import Answer, Workload
from ops.replay.command import as_figures
from ops.replay.comparing import Comparison
from ops.replay.run import Plan, Progress, clean_up, compare, replay
from ops.replay.selection import From, Selection
from ops.simulator.events import catalogue
from ops.simulator.publish import post_all
from ops.simulator.world import World, build_world
from schemas.topics import RECOMMENDATIONS
from streams.settings import Settings

ROUNDS = 4
KILLED_IN = 2  # the round in which the live stages are killed, the first being 0
SAMPLES = 10  # of memory, evenly over the answers
MIB = 1024 * 1024


@dataclass
class Run:
    """One replay."""

    seconds: float  # with the start of its stages
    requests_per_second: float  # from the first answer to the last
    comparison: Comparison
    megabytes: dict[str, list[int]]  # resident, by process, after each tenth of the answers


@dataclass
class ReplayReport:
    """What was answered live and what replays of it gave."""

    requests: int
    live_requests_per_second: float  # of the rounds without a kill
    live_restarts: int  # of killed stages, in the midst of the recording
    runs: dict[str, Run] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        runs = {name: {**vars(run), "comparison": as_figures(run.comparison)} for name, run in self.runs.items()}
        return {**vars(self), "runs": runs}


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
        rate = await _live(deployment, world, requests)
        report = ReplayReport(requests, rate, sum(stage.restarts for stage in deployment.stages.values()))
        report.runs["joined"] = await _replayed(deployment, "joined", say=say)
        report.runs["joined, its stages killed"] = await _replayed(deployment, "joined", kill=True, say=say)
        report.runs["raw"] = await _replayed(deployment, "raw", say=say)
        report.runs[f"model {model}"] = await _replayed(deployment, "joined", model=model, say=say)
    for name in ("joined", "joined, its stages killed"):
        verdicts = dict(report.runs[name].comparison.verdicts)
        if verdicts != {"identical": requests}:
            report.faults.append(f"{name}: {verdicts} of {requests} requests")
    return report


async def _live(deployment: Deployment, world: World, requests: int) -> float:
    """Have the requests answered and return how many were a second in the rounds that nothing disturbed."""
    workload, answers = Workload(world), list[Answer]()
    counted, seconds = 0, 0.0
    await post_all(deployment.settings, workload.past())
    async with reading(deployment, RECOMMENDATIONS, await end_offsets(deployment, RECOMMENDATIONS)) as consumer:
        for number in range(ROUNDS):
            share = requests * (number + 1) // ROUNDS - requests * number // ROUNDS
            load = workload.round(share, answers)
            began = time.monotonic()
            await post_all(deployment.settings, load)
            read = list[ConsumerRecord]()
            while len(read) < share:
                read.append(await next_record(deployment, consumer, "answer"))
                if number == KILLED_IN and len(read) == share // 2:
                    for stage in deployment.stages.values():
                        stage.kill()
            if number != KILLED_IN:
                counted, seconds = counted + share, seconds + time.monotonic() - began
            answers = [Answer(record.timestamp, record.key.decode(), record.value) for record in read]
    return round(counted / seconds, 1)


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
    megabytes: dict[str, list[int]] = {}
    sampled = 0
    moments: list[tuple[float, int]] = []
    killed = False

    def watch(progress: Progress) -> None:
        nonlocal killed, sampled
        say(progress.answered)
        if progress.answered and (not moments or progress.answered > moments[-1][1]):
            moments[1:] = [(time.monotonic(), progress.answered)]
        if progress.answered >= total * (sampled + 1) / SAMPLES:
            sampled += 1
            for name, size in _resident(before).items():
                megabytes.setdefault(name, []).append(size)
        if kill and not killed and progress.answered >= total // 3:
            killed = True
            for stage in _stages(before).values():
                stage.kill()

    began = time.monotonic()
    await replay(deployment.settings, plan, watch)
    seconds = time.monotonic() - began
    comparison = await compare(deployment.settings, plan)
    await clean_up(deployment.settings, plan)
    (start, first), (end, last) = moments[0], moments[-1]
    rate = (last - first) / (end - start) if end > start else 0.0
    return Run(round(seconds, 1), round(rate, 1), comparison, megabytes)


def _stages(before: set[int]) -> dict[str, psutil.Process]:
    """Return the replay's stages: the children that were not there before it, apart from the live ones started anew."""
    found = {}
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            program, own = child.cmdline(), child.environ().get("TABLECAST_KAFKA__PREFIX", "")
            if child.pid not in before and program[1:3] == ["-m", "ops"] and "replay-" in own:
                found[program[-1]] = child
    return found


def _resident(before: set[int]) -> dict[str, int]:
    sizes = {}
    for name, process in {"replay": psutil.Process(), **_stages(before)}.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            sizes[name] = int(process.memory_info().rss) // MIB
    return sizes
