"""A place of one's own on the cluster: topics, consumer groups and files that no running system shares."""

import contextlib
import socket
import tempfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from ops.cluster import connected_or_started
from ops.dead_letters.letters import DECISIONS
from ops.stages import NAMES
from schemas.errors import BadInputError
from schemas.topics import TOPICS
from streams.settings import Settings
from streams.state.changelogs import CHANGELOGS
from streams.topic_admin import apply_topics, delete_topics


@contextlib.asynccontextmanager
async def isolated(settings: Settings, purpose: str) -> AsyncIterator[Settings]:
    """Make all topics under a prefix of their own and a folder for files; take them away in the end.

    Uses the cluster there is; without one, a broker runs for the time being. Nothing expires by age: what is posted
    there may be old. ``settings.data_dir`` is the folder.
    """
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"tablecast-{purpose}-")))
        settings = connected_or_started(settings, stack)
        settings = with_prefix(settings, f"{settings.kafka.prefix}{purpose}-{uuid.uuid4().hex[:8]}.")
        settings = settings.model_copy(update={"data_dir": folder})
        await apply_topics(settings.kafka, extra=(*CHANGELOGS, DECISIONS))
        stack.push_async_callback(delete_topics, settings.kafka, (*TOPICS, *CHANGELOGS, DECISIONS))
        yield settings


def with_prefix(settings: Settings, prefix: str) -> Settings:
    """Return the settings of another Tablecast beside this one, whose topics keep records of any age."""
    kafka = settings.kafka.model_copy(update={"prefix": prefix, "keep_history": True})
    metrics = settings.metrics
    if metrics.port is not None:
        metrics = metrics.model_copy(update={"port": _free_port(metrics.host, metrics.port)})
    return settings.model_copy(update={"kafka": kafka, "metrics": metrics})


def _free_port(host: str, port: int) -> int:
    """Return a port where nobody listens, nor on those behind it that the other stages get: this one or a higher one.

    Raises:
        BadInputError: there is none.

    """
    for first in range(port, 65536 - len(NAMES), len(NAMES)):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for number in range(len(NAMES)):
                stack.enter_context(socket.create_server((host, first + number)))
            return first
    raise BadInputError(f"no free ports for metrics from metrics.port {port} on")
