"""A trainer that stops for good in the middle of the phase it is told, so that a test can kill it there.

python held_trainer.py uploading    # prints "held" when it is there; settings come from the environment
"""

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from models import artefact, retraining
from streams.privacy import load_pseudonyms
from streams.settings import load_settings
from streams.trainer.app import TrainerApp
from streams.trainer.reading import Reader


def held() -> None:
    print("held", flush=True)
    threading.Event().wait()


def before_it_is_there(written_at_once: Any) -> Any:
    """Hold when all has been written into the draft, and the folder has not got its name."""

    @contextmanager
    def holding(folder: Path) -> Iterator[Path]:
        with written_at_once(folder) as draft:
            yield draft
            held()

    return holding


def in_reading() -> None:
    read = Reader.read

    async def some(self: Reader, topic: Any, spans: Any, take: Callable[..., None]) -> None:
        await read(self, topic, spans, take)
        if topic.name == "retraining":
            held()

    Reader.read = some  # type: ignore[method-assign]


def in_training() -> None:
    retraining.written_at_once = before_it_is_there(retraining.written_at_once)  # type: ignore[attr-defined]


def in_exporting() -> None:
    artefact.written_at_once = before_it_is_there(artefact.written_at_once)  # type: ignore[attr-defined]


def in_uploading() -> None:
    """Hold when some of the candidate's files are in the store; the champion, which has no ranker, gets there."""
    put = LocalFileSystem.put_file

    def some(self: LocalFileSystem, source: str, target: str, *arguments: Any, **more: Any) -> None:
        if "ranker.txt" in target:
            Path(target).write_bytes(Path(source).read_bytes()[:100])
            held()
        put(self, source, target, *arguments, **more)

    LocalFileSystem.put_file = some


def in_announcing() -> None:
    """Hold when the candidate has been announced, and the range has not been left behind."""

    async def end(*_: Any) -> None:
        held()

    TrainerApp._end = end  # type: ignore[method-assign]


def in_freezing() -> None:
    """Wait for a line before the candidate is announced; meanwhile the test freezes this process."""
    announce = TrainerApp._announce

    async def late(self: TrainerApp, *arguments: Any) -> None:
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await announce(self, *arguments)

    TrainerApp._announce = late  # type: ignore[method-assign]


async def main() -> None:
    settings = load_settings()
    await TrainerApp(settings, load_pseudonyms(settings)).run_once(asyncio.Event())


if __name__ == "__main__":
    globals()[f"in_{sys.argv[1]}"]()
    asyncio.run(main())
