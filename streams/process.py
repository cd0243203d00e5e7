"""The life of a stage's process: it says when it is ready, and ends when it is asked to, whatever hangs."""

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

log = structlog.get_logger(__name__)

CLOSING_SECONDS = 15.0  # for what is in memory to be written
SWITCH_SECONDS = 0.0005
COLLECT_AFTER = (20_000, 20, 100)  # allocations; young collections; middle collections


def notify_ready() -> None:
    """Send READY=1 to ``NOTIFY_SOCKET``, as systemd has it, the first time; without that variable nothing is sent.

    What has been loaded by then stays: the garbage collector is told not to look at it again, which took it 100 ms.
    What is allocated after it is freed by reference counts, but for the rare cycle: it looks at that seldom, because
    under load it found nothing in 100 to 200 ms every few seconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    address = os.environ.pop("NOTIFY_SOCKET", None)  # whoever listens stops with the first message
    if address is None:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.send(b"READY=1")


@contextmanager
def closing_in_time() -> Iterator[None]:
    """Exit with code 1 if what a stage does to close takes longer than ``CLOSING_SECONDS``.

    Clients of a broker that has gone, or of a group that has gone on without them, can neither flush nor be cancelled.
    What was not committed is read again.
    """
    timer = _timer()
    try:
        yield
    finally:
        timer.cancel()


def _timer() -> threading.Timer:
    timer = threading.Timer(CLOSING_SECONDS, _give_up)
    timer.daemon = True
    timer.start()
    return timer


def _give_up() -> None:
    log.warning("ended while a client still waited for the broker; what was not committed is read again")
    os._exit(1)


def run_until_signalled(stage: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run a stage that ends when the event it is given is set; SIGTERM and SIGINT set it.

    Raises:
        Exception: whatever ended the stage.

    """

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, end, stop)
        await stage(stop)

    def end(stop: asyncio.Event) -> None:
        stop.set()
        _timer()

    # The interpreter changes threads after this time: 5 ms by default, which a request would wait several times over.
    sys.setswitchinterval(SWITCH_SECONDS)
    asyncio.run(run())
