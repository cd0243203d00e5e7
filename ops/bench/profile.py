"""Where a stage's time goes: the stage runs in this process under load, and a thread looks at its stacks.

Shares are of the moments in which a thread was doing something, in Python or in native code called from it. A sampler
in Python sees other threads where they let go of the interpreter; ``SWITCH_SECONDS`` makes them let go anywhere, else
only system calls would ever be seen.
"""

import asyncio
import contextlib
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import psutil

from ops.bench.testbed import Testbed, read_answers, testbed
from ops.simulator.world import World
from schemas.topics import RECOMMENDATIONS
from streams.settings import Settings

INTERVAL_SECONDS = 0.005
SWITCH_SECONDS = 0.000_05
IDLE = {  # file and function that a waiting thread is in
    ("selectors.py", "select"), ("threading.py", "wait"), ("thread.py", "_worker"), ("queue.py", "get"),
    ("subprocess.py", "_try_wait"),
}  # fmt: skip
RUNNERS = {"asyncio/events:Handle._run", "concurrent/futures/thread:_WorkItem.run"}
StageName = Literal["state", "inference"]


@dataclass
class Profile:
    """Samples of one run."""

    stacks: Counter[tuple[str, ...]] = field(default_factory=Counter)  # thread, then frames from the outermost
    seconds: float = 0.0
    thread_seconds: dict[str, float] = field(default_factory=dict)  # processor time by thread
    events: int = 0  # records (state stage) or requests (inference stage) that were worked on

    @property
    def samples(self) -> int:
        """Number of busy moments seen."""
        return self.stacks.total()

    def shares(self) -> list[tuple[str, float, float]]:
        """Return (function, its own share, its share with all it called), by own share."""
        own: Counter[str] = Counter()
        cumulative: Counter[str] = Counter()
        for (_, *frames), count in self.stacks.items():
            own[frames[-1]] += count
            for name in set(frames):
                cumulative[name] += count
        total = max(self.samples, 1)
        return [(name, own[name] / total, count / total) for name, count in cumulative.most_common()]

    def collapsed(self) -> str:
        """Return the stacks in the format that flame graph tools read."""
        return "".join(f"{';'.join(stack)} {count}\n" for stack, count in sorted(self.stacks.items()))


@contextlib.contextmanager
def sampling(profile: Profile) -> Iterator[None]:
    """Sample every thread of this process while the block runs."""
    stop = threading.Event()
    names = {thread.ident: _group(thread.name) for thread in threading.enumerate()}

    def sample() -> None:
        me = threading.get_ident()
        while not stop.wait(INTERVAL_SECONDS):
            for ident, frame in sys._current_frames().items():  # noqa: SLF001 - documented, despite its name
                if ident != me and not _idle(frame):
                    if ident not in names:
                        names.update((each.ident, _group(each.name)) for each in threading.enumerate())
                    profile.stacks[names.get(ident, "?"), *_frames(frame)] += 1

    before, switch, began = _thread_seconds(), sys.getswitchinterval(), time.monotonic()
    sampler = threading.Thread(target=sample, name="sampler")
    sys.setswitchinterval(SWITCH_SECONDS)
    sampler.start()
    try:
        yield
    finally:
        stop.set()
        profile.seconds += time.monotonic() - began
        for name, seconds in (_thread_seconds() - before).items():
            if name != "sampler":
                profile.thread_seconds[name] = profile.thread_seconds.get(name, 0.0) + seconds
        sampler.join()
        sys.setswitchinterval(switch)


async def profile_stage(settings: Settings, world: World, stage: StageName, requests: int) -> Profile:
    """Return the profile of a stage that works off what one round of so many requests makes."""
    profile = Profile()
    async with testbed(settings, world) as bed:
        # A first round by the stages as they are: it warms the state and gives users lists to react to.
        await bed.post(bed.workload.round(requests, []))
        async with bed.reader(RECOMMENDATIONS) as reader, bed.stage("state"), bed.stage("inference"):
            answers, _ = await read_answers(reader, requests)
            if stage == "inference":
                await bed.state_done()
        await bed.post(bed.workload.round(requests, answers))
        if stage == "inference":
            async with bed.stage("state"):
                await bed.state_done()
        await _run_sampled(bed, stage, profile)
    return profile


async def _run_sampled(bed: Testbed, stage: StageName, profile: Profile) -> None:
    backlog = bed.state_backlog if stage == "state" else bed.inference_backlog
    waiting = await backlog()
    stop = asyncio.Event()
    running = asyncio.create_task(_stage(stage, bed.settings, stop))
    try:
        while (at_start := await backlog()) == waiting:
            await _pause(running)
        with sampling(profile):
            while await backlog():
                await _pause(running)
        profile.events = at_start
    finally:
        stop.set()
        await running


async def _pause(running: "asyncio.Task[None]") -> None:
    await asyncio.wait([running], timeout=0.1)
    if running.done():
        running.result()


def _stage(stage: StageName, settings: Settings, stop: asyncio.Event) -> Coroutine[Any, Any, None]:
    if stage == "state":
        from streams.state.app import StateApp

        return StateApp(settings).run(stop)
    from streams.inference.app import InferenceApp

    return InferenceApp(settings).run(stop)


def _idle(frame: FrameType) -> bool:
    return (Path(frame.f_code.co_filename).name, frame.f_code.co_name) in IDLE


def _frames(frame: FrameType | None) -> list[str]:
    """Return a stack from the task or callback that the thread was running, without the loop around it."""
    names: list[str] = []
    while frame is not None:
        code = frame.f_code
        name = f"{_module(code.co_filename)}:{code.co_qualname}"
        if names and name in RUNNERS:
            break
        names.append(name)
        frame = frame.f_back
    return names[::-1]


def _module(file: str) -> str:
    """Return a source file's path from its package on."""
    parts = Path(file).with_suffix("").parts
    for root in ("site-packages", f"python{sys.version_info.major}.{sys.version_info.minor}"):
        if root in parts:
            return "/".join(parts[parts.index(root) + 1 :])
    return "/".join(parts[-3:])


def _group(thread: str) -> str:
    return re.split("[-_]", thread, maxsplit=1)[0]


def _thread_seconds() -> Counter[str]:
    """Return the processor time by thread; native threads, which Python does not know, go together."""
    names = {thread.native_id: _group(thread.name) for thread in threading.enumerate()}
    seconds: Counter[str] = Counter()
    for thread in psutil.Process().threads():
        seconds[names.get(thread.id, "native")] += thread.user_time + thread.system_time
    return seconds
