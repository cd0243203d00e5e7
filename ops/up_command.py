"""``tablecast up``: everything in one command, with a live view."""

import asyncio
import contextlib
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import typer
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from rich.live import Live

from ops.cluster import broker_folder, with_bootstrap
from ops.dead_letters.letters import DECISIONS
from ops.errors import explained
from ops.live_view import LiveView
from ops.simulator.events import catalogue
from ops.simulator.publish import post_all, run_simulation
from ops.simulator.world import World, build_world
from ops.stages import Stage
from ops.terminal import Terminal
from schemas.topics import REQUESTS_JOINED, USERS_REQUESTS
from streams.kafka import client_options, committed_offsets, full_name
from streams.logs import configure_logs
from streams.settings import Settings, load_settings
from streams.state.changelogs import APPLICATION, CHANGELOGS
from streams.topic_admin import apply_topics

INFERENCE_GROUP = "inference"


def up(
    *,
    rate: Annotated[float, typer.Option(min=0.01, max=1000, help="Simulated requests per second.")] = 5.0,
    users: Annotated[int, typer.Option(min=1, help="Simulated people.")] = 3_000,
    restaurants: Annotated[int, typer.Option(min=1, help="Simulated restaurants.")] = 2_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same city.")] = 1,
    simulate: Annotated[bool, typer.Option(help="Let simulated people use it; without, only the stages run.")] = True,
    duration: Annotated[
        float | None, typer.Option(min=1, help="Stop after so many seconds.", show_default=False)
    ] = None,
) -> None:
    """Start broker, topics, stages and a simulated city, and watch them.

    Uses the configured cluster (kafka.bootstrap); without one it starts Apache Kafka on loopback and keeps its data
    between runs. What the city posts is simulated; everything else is the real system. Stop with Ctrl-C.

    Example: tablecast up --rate 20
    """
    with explained(), contextlib.suppress(KeyboardInterrupt):
        settings = load_settings()
        configure_logs("up", "warning")
        console = Terminal(stderr=True)
        with contextlib.ExitStack() as stack:
            # Beside the broker, which takes its time to start.
            meanwhile = stack.enter_context(ThreadPoolExecutor(1))
            city = meanwhile.submit(build_world, seed, users=users, restaurants=restaurants) if simulate else None
            if settings.kafka.bootstrap is None:
                from ops.broker import start_broker

                broker = stack.enter_context(start_broker(broker_folder(settings)))
                settings, kind = with_bootstrap(settings, broker.bootstrap), f"{broker.kind} at {broker.bootstrap}"
                if broker.limits:
                    console.print(broker.limits, style="yellow")
            else:
                kind = f"configured cluster at {settings.kafka.bootstrap}"
            console.print(f"broker: {kind}")
            asyncio.run(_run(settings, kind, city.result() if city else None, rate, duration, console))


async def _run(
    settings: Settings, kind: str, world: World | None, rate: float, duration: float | None, console: Terminal
) -> None:
    started = time.monotonic()
    await apply_topics(settings.kafka, extra=(*CHANGELOGS, DECISIONS))
    logs = settings.data_dir / "logs"
    names = ("state", "inference", *(["trainer"] if settings.trainer.enabled else []))
    stages = [Stage(name, settings, logs / f"{name}.log") for name in names]
    view = LiveView(kind, stages)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        # Posted before the stages start: they are ready when they have read it.
        if world is not None:
            await post_all(settings, catalogue(world, int(time.time() * 1000)))
        with console.status("starting the stages (the first start exports the language model: about two minutes)"):
            starting = asyncio.gather(*(stage.start(timeout=1800) for stage in stages))
            stopped = asyncio.create_task(stop.wait())
            waits: list[asyncio.Future[Any]] = [starting, stopped]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                starting.cancel()
                return
            await starting
        console.print(f"stages ready after {time.monotonic() - started:.1f} s; their logs are in {logs}")
        work: list[asyncio.Task[Any]] = [asyncio.create_task(stage.supervise()) for stage in stages]
        work.append(asyncio.create_task(_follow_lag(settings, view)))
        work.append(stopped)
        if world is not None:
            work.append(
                asyncio.create_task(
                    run_simulation(
                        settings, world, rate=rate, duration=duration, statistics=view.statistics, on_event=view.add
                    )
                )
            )
        elif duration is not None:
            work.append(asyncio.create_task(asyncio.sleep(duration)))
        work.append(asyncio.create_task(_say_first_answer(view, started, console)))
        with Live(view, console=console, refresh_per_second=2) if console.is_terminal else contextlib.nullcontext():
            reporter = None if console.is_terminal else asyncio.create_task(_report(view))
            enders = work[:-1]
            finished, _ = await asyncio.wait(enders, return_when=asyncio.FIRST_COMPLETED)
            for task in [*work, *([reporter] if reporter else [])]:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
        for task in finished:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        sys.stderr.write(view.line() + "\n")
    finally:
        await asyncio.gather(*(stage.stop() for stage in stages))


async def _say_first_answer(view: LiveView, started: float, console: Terminal) -> None:
    while view.first_answer is None:
        await asyncio.sleep(0.05)
    console.print(f"first recommendation {time.monotonic() - started:.1f} s after the broker was up")


async def _report(view: LiveView) -> None:
    while True:
        await asyncio.sleep(5)
        sys.stderr.write(view.line() + "\n")


async def _follow_lag(settings: Settings, view: LiveView) -> None:
    """Keep the view's lag: records that a stage's group has not committed yet."""
    options = client_options(settings.kafka)
    groups = {APPLICATION: USERS_REQUESTS, INFERENCE_GROUP: REQUESTS_JOINED}
    admin, consumer = AIOKafkaAdminClient(**options), AIOKafkaConsumer(**options)
    await asyncio.gather(admin.start(), consumer.start())
    try:
        while True:
            for group, topic in groups.items():
                name = full_name(settings.kafka, topic)
                partitions = [TopicPartition(name, number) for number in range(settings.kafka.partitions)]
                ends = await consumer.end_offsets(partitions)
                committed = await committed_offsets(admin, settings.kafka.prefix + group)
                view.lag[group] = sum(
                    end - (committed[partition].offset if partition in committed else 0)
                    for partition, end in ends.items()
                )
            await asyncio.sleep(1)
    finally:
        await asyncio.gather(admin.close(), consumer.stop())
