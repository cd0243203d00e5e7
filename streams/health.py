"""Whether a stage is alive and ready, how far it is behind, and the pages that say so.

Alive: the event loop runs, and of what there is to do something gets done. Ready: everything that was there when the
process got its partitions has been processed, which it only begins with tables, catalogue and model in memory.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from prometheus_client import make_wsgi_app

from streams import metrics
from streams.settings import MetricsSettings, SettingsError

MEASURE_SECONDS = 1.0
ASK_SECONDS = 5.0  # longest wait for the broker to say where topics end
LOOP_SECONDS = 30.0
STUCK_SECONDS = 120.0


@dataclass(frozen=True)
class Position:
    """How far a partition has been processed."""

    offset: int  # of the next record
    event_time: int = 0  # of the newest record processed, milliseconds; 0: none yet


Positions = Callable[[], Mapping[TopicPartition, Position]]
Ends = Callable[[Collection[TopicPartition]], Awaitable[Mapping[TopicPartition, int]]]


class Progress:
    """How far a stage has come. The loop writes, the pages' threads read."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix  # of topic names, which metrics leave out
        self._beat = self._measured = self._since = time.monotonic()
        self._stood = 0.0  # seconds in which there was lag and nothing got done
        self._assigned = self._caught_up = False
        self._generation = 0
        self._goal: Mapping[TopicPartition, int] | None = None
        self._offsets: dict[TopicPartition, int] = {}
        metrics.READY.set_function(lambda: not self.why_not_ready())

    def assigned(self) -> None:
        """Note that processing begins; the goal is what is there now."""
        self._assigned, self._stood = True, 0.0

    def revoked(self) -> None:
        """Note that partitions are being handed over."""
        if self._assigned:
            self._since = time.monotonic()
        self._assigned = self._caught_up = False
        self._goal = None
        self._generation += 1
        metrics.LAG_RECORDS.clear()
        metrics.LAG_SECONDS.clear()

    async def watch(self, positions: Positions, ends: Ends) -> None:
        """Measure once a second. A broker that can't be asked says nothing about the stage: what was known stays."""
        while True:
            self._beat = time.monotonic()
            if self._assigned:
                generation, reached = self._generation, positions()
                with contextlib.suppress(KafkaError, TimeoutError):
                    async with asyncio.timeout(ASK_SECONDS):
                        found = await ends(reached) if reached else {}
                    if generation == self._generation:
                        self.note(reached, found)
            await asyncio.sleep(MEASURE_SECONDS)

    def note(self, reached: Mapping[TopicPartition, Position], ends: Mapping[TopicPartition, int]) -> None:
        """Take a measurement in: how far the partitions are processed, and where they end."""
        now = time.monotonic()
        if self._goal is None:
            self._goal = dict(ends)
        if not self._caught_up and all(reached[partition].offset >= end for partition, end in self._goal.items()):
            self._caught_up = True
            metrics.CAUGHT_UP_SECONDS.set(now - self._since)
        lag = {partition: max(0, end - reached[partition].offset) for partition, end in ends.items()}
        offsets = {partition: position.offset for partition, position in reached.items()}
        if offsets != self._offsets or not any(lag.values()):
            self._stood = 0.0
        else:  # what was not measured, as while the broker was away, does not count
            self._stood += min(now - self._measured, ASK_SECONDS)
        self._offsets, self._measured = offsets, now
        for name in {partition.topic for partition in ends}:
            of_topic = [partition for partition in ends if partition.topic == name]
            times = [reached[partition].event_time for partition in of_topic if lag[partition]]
            age = max((time.time() - moment / 1000 for moment in times if moment), default=0.0)
            label = name.removeprefix(self._prefix)
            metrics.LAG_RECORDS.labels(label).set(sum(lag[partition] for partition in of_topic))
            metrics.LAG_SECONDS.labels(label).set(max(0.0, age))

    def why_not_alive(self) -> str:
        """Return what is wrong; empty if nothing is."""
        now = time.monotonic()
        if now - self._beat > LOOP_SECONDS:
            return f"the event loop has not run for {now - self._beat:.0f} s"
        if self._assigned and self._stood > STUCK_SECONDS:
            return f"there is lag, and no record was processed for {self._stood:.0f} s"
        return ""

    def why_not_ready(self) -> str:
        """Return what is still to come; empty if nothing is."""
        if why := self.why_not_alive():
            return why
        if not self._assigned:
            return "waits for tables, catalogue, model or partitions"
        return "" if self._caught_up else "catches up with what was there when it got its partitions"


def serve(settings: MetricsSettings, progress: Progress) -> WSGIServer | None:
    """Serve /metrics, /health and /ready from threads of their own, as long as the process lives; None: switched off.

    Raises:
        SettingsError: nothing can listen there.

    """
    if settings.port is None:
        return None
    numbers = make_wsgi_app()

    def page(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                found: Iterable[bytes] = numbers(environ, start_response)
                return found
            case "/health":
                return _said(progress.why_not_alive(), start_response)
            case "/ready":
                return _said(progress.why_not_ready(), start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"there are /metrics, /health and /ready\n"]

    try:
        server = make_server(settings.host, settings.port, page, _Server, _Quiet)
    except OSError as error:
        raise SettingsError(f"metrics can't be served on {settings.host}:{settings.port}: {error.strerror}") from error
    metrics.watch_gpus()
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


def _said(why: str, start_response: StartResponse) -> Iterable[bytes]:
    status = HTTPStatus.SERVICE_UNAVAILABLE if why else HTTPStatus.OK
    start_response(f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{why or 'ok'}\n".encode()]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    timeout = 10  # seconds for a request to come in

    def log_message(self, *_: Any) -> None:
        """Nothing: a log has no use for every scrape."""
