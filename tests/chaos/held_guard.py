"""A guard that stops for good where it is told, so that a test can kill it there.

python held_guard.py before    # prints "held" when it is there; settings come from the environment
"""

import asyncio
import sys
import threading
from typing import Any

from streams.privacy import load_pseudonyms
from streams.settings import load_settings
from streams.trainer import guard
from streams.trainer.guard import Guard


def held() -> None:
    print("held", flush=True)
    threading.Event().wait()


async def main(where: str) -> None:
    settings = load_settings()
    change, commit = guard.change_roles, Guard._commit

    async def deciding(*arguments: Any) -> Any:
        if where == "before":
            held()
        await change(*arguments)
        held()

    async def counting(self: Guard, counted: Any, starts: Any, evidence: Any) -> None:
        await commit(self, counted, starts, evidence)
        if where == "counting" and counted != starts:
            held()

    guard.change_roles, Guard._commit = deciding, counting  # type: ignore[assignment, method-assign]
    group = f"{settings.kafka.prefix}trainer-{settings.inference.model_name}-guard"
    await Guard(settings, load_pseudonyms(settings), group).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
