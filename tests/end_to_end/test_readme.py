"""The producer of POSTING.md and the consumer of READING.md run as printed, against real stages."""

import asyncio
import os
import re
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

import schemas
from ops.broker import start_broker
from ops.stages import Stage
from streams.settings import KafkaSettings, Settings
from streams.state.changelogs import CHANGELOGS
from streams.topic_admin import apply_topics

pytestmark = pytest.mark.kafka

ANSWER_SECONDS = 60
RUNS = 20  # of the producer, until the restaurant it posts is recommended


def program(page):
    """Return the one Python program that a page shows."""
    (code,) = re.findall(r"```python\n(.*?)```", (Path(schemas.__file__).parent / page).read_text("utf-8"), re.DOTALL)
    return code


@pytest.fixture(scope="module")
def own_broker(broker, tmp_path_factory):  # `broker` skips where none can be started
    """The programs know no prefix, so their topics need a broker of their own."""
    with start_broker(tmp_path_factory.mktemp("readme-broker")) as started:
        yield started


@asynccontextmanager
async def running(code, folder, bootstrap):
    """Run a program with no sight of the project, and end it if it goes on for ever."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-u", "-c", code,
        cwd=folder, env={**os.environ, "TABLECAST_KAFKA__BOOTSTRAP": bootstrap}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def post(code, folder, bootstrap):
    """Run the producer and return the id of its request."""
    async with running(code, folder, bootstrap) as producer:
        said = (await producer.communicate())[0].decode()
        assert producer.returncode == 0
        return said.removeprefix("asked ").strip()


async def answer(consumer, request_id):
    """Return what the consumer prints about a request: the line that names it, and the next one."""
    async with asyncio.timeout(ANSWER_SECONDS):
        async for line in consumer.stdout:
            if request_id in line.decode():
                return line.decode().rstrip(), (await consumer.stdout.readline()).decode().rstrip()
    raise AssertionError("the consumer ended")


async def test_the_consumer_prints_the_answer_to_the_producers_request(own_broker, tmp_path):
    bootstrap = own_broker.bootstrap
    settings = Settings(data_dir=tmp_path / "data", kafka=KafkaSettings(bootstrap=bootstrap))
    await apply_topics(settings.kafka, extra=CHANGELOGS)
    async with AsyncExitStack() as stack:
        stages = [Stage(name, settings, tmp_path / f"{name}.log") for name in ("state", "inference")]
        for stage in stages:
            stack.push_async_callback(stage.stop)
        await asyncio.gather(*(stage.start() for stage in stages))
        consumer = await stack.enter_async_context(running(program("READING.md"), tmp_path, bootstrap))

        for _ in range(RUNS):
            request_id = await post(program("POSTING.md"), tmp_path, bootstrap)
            heading, best = await answer(consumer, request_id)
            if "rain-lane" in best:
                break

    assert re.fullmatch(rf"ana: {request_id} by tablecast@\w+ in \d+ ms", heading)
    score, item_id, why, parts = re.fullmatch(r"  (\S+) (\S+) (.+) \((.+)\)", best).groups()
    parts = {name: float(value) for name, value in (part.split() for part in parts.split(", "))}
    assert item_id == "rain-lane"
    assert re.search("[一-鿿]", why), "the request was in Chinese"
    assert parts["visited"] > 0, "the visit was posted before the request"
    assert sum(parts.values()) == pytest.approx(float(score), abs=0.01 * len(parts))  # as rounded for printing
