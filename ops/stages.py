"""Stages as child processes: started, waited for, stopped, and started again when they die."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, SecretStr, TypeAdapter

from schemas.errors import ExplainedError
from streams.settings import Settings

NAMES = ("state", "inference", "trainer")


class StageError(ExplainedError):
    """A stage did not come up; the message ends with what it said last."""


class Stage:
    """One stage process. Its log goes to a file; it says by itself when it is ready (systemd's protocol)."""

    def __init__(self, name: str, settings: Settings, log_file: Path, extra: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.log_file = log_file
        self._environment = {**os.environ, **variables(settings), **(extra or {})}
        if settings.metrics.port is not None:  # on one machine each stage needs a port of its own
            self._environment["TABLECAST_METRICS__PORT"] = str(settings.metrics.port + NAMES.index(name))
        self._process: asyncio.subprocess.Process | None = None
        self.restarts = 0

    @property
    def pid(self) -> int:
        """The process id of the running stage."""
        assert self._process is not None
        return self._process.pid

    async def start(self, *, timeout: float = 300.0) -> None:
        """Start the process and wait until it is ready.

        Raises:
            StageError: it ended or did not get ready in time.

        """
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        loop = asyncio.get_running_loop()
        with (
            tempfile.TemporaryDirectory(prefix="tablecast-") as folder,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel,
        ):
            address = f"{folder}/ready"
            channel.bind(address)
            channel.setblocking(False)
            with self.log_file.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "ops", self.name,
                    env={**self._environment, "NOTIFY_SOCKET": address},
                    stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
                    preexec_fn=_die_with_parent,
                )  # fmt: skip
            ready = asyncio.create_task(loop.sock_recv(channel, 64))
            ended = asyncio.create_task(self._process.wait())
            done, _ = await asyncio.wait([ready, ended], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for task in (ready, ended):
                if task not in done:
                    task.cancel()
            if ready not in done:
                why = (
                    f"ended with exit code {ended.result()}"
                    if ended in done
                    else f"was not ready after {timeout:.0f} s"
                )
                await self.stop()
                raise StageError(
                    f"the {self.name} stage {why}; its log {self.log_file} ends with:\n{self.last_words()}"
                )

    async def wait(self) -> int:
        """Return the exit code when the process has ended."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self, *, timeout: float = 20.0) -> None:
        """Ask the process to stop; kill it if it does not."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), timeout)
        except TimeoutError:
            self.kill()
            await self._process.wait()

    def kill(self) -> None:
        """Kill the process, as a crash would."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def supervise(self) -> None:
        """Start the stage again whenever it ends, after a pause that grows while it keeps failing."""
        pause = 0.5
        while True:
            await self.wait()
            self.restarts += 1
            await asyncio.sleep(pause)
            with contextlib.suppress(StageError, OSError):
                await self.start()
                pause = 0.5
                continue
            pause = min(pause * 2, 30.0)

    def last_words(self, lines: int = 15) -> str:
        """Return the end of the stage's log."""
        try:
            log = self.log_file.read_text(errors="replace")
        except OSError as error:
            return f"(its log can't be read: {error})"
        return "\n".join(log.splitlines()[-lines:])


def variables(settings: Settings) -> dict[str, str]:
    """Return the settings as environment variables, so that a child sees exactly what its parent has."""
    found = {}
    for name, value in settings:
        section = dict(value) if isinstance(value, BaseModel) else {"": value}
        for field, setting in section.items():
            key = f"TABLECAST_{name.upper()}" + (f"__{field.upper()}" if field else "")
            if isinstance(setting, SecretStr):
                found[key] = setting.get_secret_value()
            elif isinstance(setting, dict):
                found[key] = TypeAdapter(dict).dump_json(setting).decode()
            elif setting is not None:
                found[key] = str(setting).lower() if isinstance(setting, bool) else str(setting)
    return found


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent dies, however it dies."""
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
