"""The broker's operating-system process: one per data folder, ready before it is handed out, gone when its owner is."""

import asyncio
import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from aiokafka.admin import AIOKafkaAdminClient

from schemas.errors import ExplainedError

HOST = "127.0.0.1"
LOG_NAME = "broker.log"
LOCK_NAME = "broker.lock"
NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})
READY_SECONDS = 120.0  # a start takes seconds; recovery of large logs after a crash may take a minute
STOP_SECONDS = 60.0  # a controlled shutdown flushes every log; only a hung broker needs longer
PROBE_SECONDS = 0.05
LOCK_TRIES = 5
PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


class BrokerError(ExplainedError):
    """The broker can't be started; the message says why and what to do."""


class RunningBroker(NamedTuple):
    pid: int
    bootstrap: str


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker that answers at `bootstrap`. As a context manager it stops at the end."""

    bootstrap: str
    kind: str  # name and version, for people
    limits: str  # one sentence on what this kind can't do; empty for Apache Kafka
    data_dir: Path
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> None:
        """Shut down in order; a broker that does not within `STOP_SECONDS` is killed. Stopping twice is harmless."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill without warning (SIGKILL), as a crash would, and return once the process is gone."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def claim(data_dir: Path) -> Iterator[int]:
    """Lock `data_dir` and yield the lock's file descriptor, which the broker process inherits.

    The lock therefore lasts exactly as long as the broker lives, whatever kills it, and can't go stale.
    Raises `BrokerError` when a broker holds it already.
    """
    lock = os.open(data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock_exclusively(lock)
    except BlockingIOError:
        other = _holder(data_dir)
        who = f"pid {other.pid} at {other.bootstrap}" if other else "it is just starting"
        raise BrokerError(
            f"A broker already runs on {data_dir} ({who}). Use that one, stop it first, or choose another data folder."
        ) from None
    else:
        os.truncate(lock, 0)
        yield lock
    finally:
        os.close(lock)


def _lock_exclusively(lock: int) -> None:
    for _ in range(LOCK_TRIES - 1):  # whoever asks `running_broker` holds the lock for a moment
        with suppress(BlockingIOError):
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(PROBE_SECONDS)
    return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def running_broker(data_dir: Path) -> RunningBroker | None:
    """Return the broker that runs on `data_dir` now, or None (also in the moment before one has its pid)."""
    try:
        lock = os.open(data_dir / LOCK_NAME, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(data_dir)
    finally:
        os.close(lock)
    return None


def _holder(data_dir: Path) -> RunningBroker | None:
    match (data_dir / LOCK_NAME).read_text().split():
        case [pid, bootstrap]:
            return RunningBroker(int(pid), bootstrap)
    return None


def free_ports(count: int) -> list[int]:
    """Return `count` different loopback ports that nothing listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def _require_free(port: int) -> None:
    # checked before the start: another broker on the port would answer in place of the one that could not listen
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as brokers do: closing connections don't count
        try:
            probe.bind((HOST, port))
        except OSError as problem:
            raise BrokerError(
                f"The broker can't listen on port {port} of {HOST} ({problem.strerror}). Stop what uses it, or choose "
                "another port."
            ) from None


def launch(
    command: Sequence[str],
    data_dir: Path,
    lock: int,
    *,
    port: int,
    kind: str,
    limits: str = "",
    client: Mapping[str, Any] = NO_ARGUMENTS,
) -> Broker:
    """Start `command`, which listens on `port`, and return once it answers a metadata request.

    Raises `BrokerError` when the port is taken, and with the end of the broker's log when that exits or stays silent
    for `READY_SECONDS`.
    """
    _require_free(port)
    bootstrap = f"{HOST}:{port}"
    log = data_dir / LOG_NAME
    log_start = log.stat().st_size if log.exists() else 0
    process = _spawn(command, data_dir, lock)
    os.pwrite(lock, f"{process.pid} {bootstrap}".encode(), 0)
    broker = Broker(bootstrap, kind, limits, data_dir, process)
    try:
        _wait_until_ready(process, port, client)
    except BaseException as problem:
        broker.kill()
        if not isinstance(problem, TimeoutError | ChildProcessError):
            raise
        with log.open("rb") as lines:
            lines.seek(log_start)
            tail = "\n".join(lines.read().decode(errors="replace").splitlines()[-15:])
        raise BrokerError(
            f"{kind} on {data_dir} {problem}. Check that {data_dir} is writable, has room and was not written by a "
            f"newer version; the whole log is {log}. It ends:\n{tail or '(nothing logged)'}"
        ) from None
    return broker


def _spawn(command: Sequence[str], data_dir: Path, lock: int) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, so that Ctrl-C reaches it only through `Broker.stop`."""
    owner = os.getpid()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def end_with_owner() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != owner:  # it died before the call above
                os._exit(1)

    started: Future[subprocess.Popen[bytes]] = Future()

    def start_and_stay() -> None:
        try:
            with (data_dir / LOG_NAME).open("ab") as log:
                process = subprocess.Popen(
                    command,
                    cwd=data_dir,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[lock],
                    start_new_session=True,
                    preexec_fn=end_with_owner,  # noqa: PLW1509  (one system call, nothing that takes a lock)
                )
        except OSError as problem:
            started.set_exception(problem)
        else:
            started.set_result(process)
            process.wait()

    # Linux sends the death signal when the starting *thread* ends, so that thread stays as long as the broker does.
    Thread(target=start_and_stay, name="broker-owner", daemon=True).start()
    return started.result()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, client: Mapping[str, Any]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    # a thread of its own: the caller may be inside a running event loop
    with ThreadPoolExecutor(max_workers=1) as prober:
        while not prober.submit(_answers, port, client).result():
            if process.poll() is not None:
                raise ChildProcessError(f"exited with status {process.returncode} before it answered")
            if time.monotonic() > deadline:
                raise TimeoutError(f"did not answer within {READY_SECONDS:.0f} s")
            time.sleep(PROBE_SECONDS)


def _answers(port: int, client: Mapping[str, Any]) -> bool:
    try:
        # a plain connection first: cheaper than a client, and without its warnings while nobody listens
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return asyncio.run(_describes_cluster(f"{HOST}:{port}", client))


async def _describes_cluster(bootstrap: str, client: Mapping[str, Any]) -> bool:
    admin = AIOKafkaAdminClient(**{**client, "bootstrap_servers": bootstrap}, request_timeout_ms=5_000)
    try:
        await admin.start()
        cluster = await admin.describe_cluster()
    except (OSError, RuntimeError, TimeoutError):  # aiokafka's errors are RuntimeErrors
        return False
    finally:
        await admin.close()
    return bool(cluster["brokers"])
