import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from ops.broker import BrokerError, kafka, running_broker, standin, start_broker

needs_kafka = pytest.mark.kafka


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


async def create_topic(bootstrap: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()


async def produce(bootstrap: str, topic: str, values: list[bytes]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        await asyncio.gather(*[await producer.send(topic, value, partition=0) for value in values])


async def read(bootstrap: str, topic: str, *, isolation_level: str = "read_uncommitted") -> list[bytes]:
    """Everything in partition 0 up to the end that `isolation_level` sees now."""
    async with AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level=isolation_level, auto_offset_reset="earliest"
    ) as consumer:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        values: list[bytes] = []
        async with asyncio.timeout(20):
            while await consumer.position(partition) < end:
                batch = await consumer.getmany(timeout_ms=200)
                values += [record.value for record in batch.get(partition, [])]
        return values


@pytest.fixture
def empty_path(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)


@pytest.fixture
def own_cache(monkeypatch, tmp_path, broker) -> Path:
    """A cache that this test may break: a copy of the real one, which the session's broker has filled."""
    copy = tmp_path / "cache" / "tablecast" / kafka._cache().name
    shutil.copytree(kafka._cache(), copy)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return copy


async def test_records_come_back_in_order(bootstrap, topic_prefix):
    topic = topic_prefix + "records"
    await create_topic(bootstrap, topic)
    sent = [b"%d" % number for number in range(500)]

    await produce(bootstrap, topic, sent)

    assert await read(bootstrap, topic) == sent


async def test_readers_of_committed_records_see_no_aborted_transaction(bootstrap, topic_prefix):
    topic = topic_prefix + "transactions"
    await create_topic(bootstrap, topic)

    async with AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=topic_prefix + "writer") as producer:
        for value, commit in [(b"one", True), (b"two", False), (b"three", True)]:
            await producer.begin_transaction()
            await producer.send_and_wait(topic, value, partition=0)
            await (producer.commit_transaction() if commit else producer.abort_transaction())

    assert await read(bootstrap, topic, isolation_level="read_committed") == [b"one", b"three"]
    assert await read(bootstrap, topic) == [b"one", b"two", b"three"]


def test_it_listens_on_loopback_only(broker):
    listening = [
        connection.laddr
        for connection in psutil.Process(broker.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]

    assert broker.bootstrap in [f"{address.ip}:{address.port}" for address in listening]
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_a_second_start_on_the_same_folder_names_the_broker_that_runs(broker):
    assert running_broker(broker.data_dir) == (broker.pid, broker.bootstrap)

    with pytest.raises(BrokerError, match=f"pid {broker.pid} at {broker.bootstrap}"):
        start_broker(broker.data_dir)


@needs_kafka
async def test_acknowledged_records_survive_a_kill_and_the_port_can_stay(tmp_path):
    sent = [b"%d" % number for number in range(2_000)]
    killed = start_broker(tmp_path)
    try:
        await create_topic(killed.bootstrap, "records")
        await produce(killed.bootstrap, "records", sent)
    finally:
        killed.kill()
    assert running_broker(tmp_path) is None

    with start_broker(tmp_path, port=int(killed.bootstrap.rpartition(":")[2])) as restarted:
        assert restarted.bootstrap == killed.bootstrap
        assert await read(restarted.bootstrap, "records") == sent


@needs_kafka
async def test_a_clean_stop_keeps_the_data_and_leaves_no_process(tmp_path):
    with start_broker(tmp_path) as first:
        await create_topic(first.bootstrap, "records")
        await produce(first.bootstrap, "records", [b"kept"])
    assert not psutil.pid_exists(first.pid)
    assert running_broker(tmp_path) is None
    first.stop()  # a second time does nothing

    with start_broker(tmp_path) as second:
        assert await read(second.bootstrap, "records") == [b"kept"]


def test_the_broker_ends_with_the_process_that_started_it(tmp_path):
    starter = f"""
from pathlib import Path
from ops.broker import start_broker
print(start_broker(Path({str(tmp_path)!r})).pid, flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", starter], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert psutil.pid_exists(pid)
        os.kill(owner.pid, signal.SIGKILL)

    assert eventually(lambda: not psutil.pid_exists(pid))


async def test_it_can_be_started_from_a_thread_that_ends(tmp_path):
    started = await asyncio.to_thread(start_broker, tmp_path)
    with started:
        await create_topic(started.bootstrap, "records")
        await produce(started.bootstrap, "records", [b"value"])
        assert started.process.poll() is None


@needs_kafka
def test_a_broker_that_exits_at_start_is_reported_with_the_end_of_its_log(tmp_path):
    with pytest.raises(BrokerError, match=r"(?s)exited with status 1 before it answered.*no\.such\.Reporter"):
        start_broker(tmp_path, properties={"metric.reporters": "no.such.Reporter"})


@needs_kafka
def test_a_taken_port_is_reported(broker, tmp_path):
    port = int(broker.bootstrap.rpartition(":")[2])

    with pytest.raises(BrokerError, match=rf"can't listen on port {port} of 127\.0\.0\.1 \(Address already in use\)"):
        start_broker(tmp_path, port=port)


@needs_kafka
@pytest.mark.parametrize("harm", [lambda jar: jar.unlink(), lambda jar: jar.write_bytes(b"half a jar")])
def test_a_jar_that_is_missing_or_damaged_is_fetched_again(own_cache, harm):
    jar = next((own_cache / "jars").glob("kafka_2.13-*.jar"))
    whole = jar.read_bytes()
    harm(jar)

    kafka._fetch_if_incomplete(own_cache)

    assert jar.read_bytes() == whole


@needs_kafka
def test_a_fetch_that_fails_says_so_and_leaves_nothing_half_done(own_cache, tmp_path, monkeypatch):
    maven = tmp_path / "bin" / "mvn"
    maven.parent.mkdir()
    maven.write_text("#!/bin/sh\necho unknown host; exit 1\n")
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{maven.parent}:{os.environ['PATH']}")
    shutil.rmtree(own_cache)

    with pytest.raises(BrokerError, match=r"(?s)could not fetch Apache Kafka.*Check the network.*unknown host"):
        start_broker(tmp_path / "data")

    assert [path.name for path in own_cache.parent.iterdir()] == [f"{own_cache.name}.lock"]


@needs_kafka
def test_a_filled_cache_needs_no_maven(own_cache, tmp_path, monkeypatch):
    java = kafka._java()
    assert java is not None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").symlink_to(java)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    assert kafka.missing_tools() == ""
    shutil.rmtree(own_cache)
    assert kafka.missing_tools().startswith("Maven")


def test_without_java_and_stand_in_the_error_says_what_to_install(empty_path, tmp_path, monkeypatch):
    monkeypatch.setattr(standin, "installed", lambda: False)

    with pytest.raises(BrokerError, match=r"Java was not found\. Install Java 17 or newer and Maven"):
        start_broker(tmp_path)


@pytest.mark.skipif(not standin.installed(), reason="the extra `standin` is not installed")
async def test_without_java_the_stand_in_starts_and_says_what_it_can_not_do(empty_path, tmp_path):
    with start_broker(tmp_path) as started:
        await create_topic(started.bootstrap, "records")
        await produce(started.bootstrap, "records", [b"value"])

        assert await read(started.bootstrap, "records") == [b"value"]
        assert started.kind.startswith("noida-db")
        assert "because Java was not found" in started.limits
    assert not psutil.pid_exists(started.pid)
