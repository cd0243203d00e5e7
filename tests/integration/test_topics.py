"""Topics on a real cluster."""

import asyncio
import json
import socket
import subprocess
import sys

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from typer.testing import CliRunner

from ops.dead_letters.letters import DECISIONS
from ops.topics_command import app
from schemas.topics import TOPICS, USERS_CONTEXT, Topic
from streams.settings import KafkaSettings
from streams.state.changelogs import CHANGELOGS
from streams.topic_admin import Plan, TopicsError, apply_topics, existing_topics

CONTEXT = USERS_CONTEXT.name


@pytest.fixture
def kafka(bootstrap, topic_prefix) -> KafkaSettings:
    return KafkaSettings(bootstrap=bootstrap, prefix=topic_prefix, partitions=3)


@pytest.fixture
def command(kafka, monkeypatch, tmp_path):
    """Run `tablecast topics ...` with these settings and no settings file."""
    monkeypatch.chdir(tmp_path)
    for name in ("bootstrap", "prefix", "partitions"):
        monkeypatch.setenv(f"TABLECAST_KAFKA__{name.upper()}", str(getattr(kafka, name)))
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def _names(kafka):
    return [kafka.prefix + topic.name for topic in TOPICS]


async def _create(kafka, partitions, config=None):
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(kafka.prefix + CONTEXT, partitions, 1, topic_configs=config)])
    finally:
        await admin.close()


async def _write(kafka):
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        await producer.send_and_wait(kafka.prefix + CONTEXT, b"x", key=b"user-1")


async def test_applying_creates_every_topic_as_the_contract_says(kafka):
    done = await apply_topics(kafka)
    assert [change.name for change in done.changes] == _names(kafka)
    existing = await existing_topics(kafka, _names(kafka))
    for topic in TOPICS:
        found = existing[kafka.prefix + topic.name]
        assert found.partitions == topic.partitions(3)
        assert found.config["cleanup.policy"] == topic.cleanup
        assert found.config["retention.ms"] == str(topic.retention_ms)


async def test_applying_twice_changes_nothing_the_second_time(kafka):
    await apply_topics(kafka)
    assert await apply_topics(kafka) == Plan()


async def test_two_processes_may_apply_at_the_same_time(kafka):
    await asyncio.gather(apply_topics(kafka), apply_topics(kafka))
    assert await apply_topics(kafka) == Plan()


async def test_a_dry_run_says_what_would_be_done_and_does_nothing(kafka):
    todo = await apply_topics(kafka, dry_run=True)
    assert len(todo.changes) == len(TOPICS)
    assert await existing_topics(kafka, _names(kafka)) == {}


async def test_a_stage_s_own_topics_are_created_with_the_contract_s(kafka):
    changelog = Topic("state.changelog", USERS_CONTEXT.record, "rows", "user id", "compact")
    await apply_topics(kafka, extra=[changelog])
    name = kafka.prefix + changelog.name
    assert (await existing_topics(kafka, [name]))[name].partitions == 3


async def test_history_is_kept_where_the_settings_say_so(kafka):
    await apply_topics(kafka.model_copy(update={"keep_history": True}))
    existing = await existing_topics(kafka, _names(kafka))
    assert {topic.config["retention.ms"] for topic in existing.values()} == {"-1"}


@pytest.mark.kafka
async def test_a_topic_with_fewer_partitions_grows_while_nobody_has_written_to_it(kafka):
    await _create(kafka, 2, USERS_CONTEXT.config())
    with pytest.raises(
        TopicsError, match=r"partitions 2 -> 3\): existing topics are changed only with --allow-changes"
    ):
        await apply_topics(kafka)
    await apply_topics(kafka, allow_changes=True)
    assert (await existing_topics(kafka, _names(kafka)))[kafka.prefix + CONTEXT].partitions == 3


async def test_a_topic_with_records_does_not_grow_and_then_nothing_at_all_is_done(kafka):
    await _create(kafka, 2)
    await _write(kafka)
    with pytest.raises(TopicsError, match="2 partitions with records in them, wanted 3"):
        await apply_topics(kafka, allow_changes=True)
    assert list(await existing_topics(kafka, _names(kafka))) == [kafka.prefix + CONTEXT]


async def test_partitions_are_not_removed(kafka):
    await apply_topics(kafka)
    with pytest.raises(TopicsError, match="3 partitions, wanted 2"):
        await apply_topics(kafka.model_copy(update={"partitions": 2}), allow_changes=True)


@pytest.mark.kafka
async def test_the_cleanup_policy_changes_only_before_the_first_record(kafka):
    await _create(kafka, 3, {**USERS_CONTEXT.config(), "cleanup.policy": "compact"})
    await apply_topics(kafka, allow_changes=True)
    name = kafka.prefix + CONTEXT
    assert (await existing_topics(kafka, [name]))[name].config["cleanup.policy"] == "delete"
    await _write(kafka)
    await _set_config(name, kafka, {**USERS_CONTEXT.config(), "cleanup.policy": "compact"})
    with pytest.raises(TopicsError, match=r"cleanup\.policy compact and records in the topic, wanted delete"):
        await apply_topics(kafka, allow_changes=True)


async def _set_config(name, kafka, config):
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, dict(config))])
    finally:
        await admin.close()


@pytest.mark.kafka
async def test_a_setting_changes_only_when_allowed_and_others_set_by_hand_stay(kafka):
    await _create(kafka, 3, {**USERS_CONTEXT.config(), "retention.ms": "1000", "segment.bytes": "1048576"})
    name = kafka.prefix + CONTEXT
    with pytest.raises(
        TopicsError, match=r"retention\.ms 1000 -> \d+\): existing topics are changed only with --allow-changes"
    ):
        await apply_topics(kafka)
    await apply_topics(kafka, allow_changes=True)
    config = (await existing_topics(kafka, [name]))[name].config
    assert config["retention.ms"] == str(USERS_CONTEXT.retention_ms)
    assert config["segment.bytes"] == "1048576"


async def test_a_cluster_that_is_not_there_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(TopicsError, match=f"Kafka can't be reached: 127.0.0.1:{port} does not listen"):
        await apply_topics(KafkaSettings(bootstrap=f"127.0.0.1:{port}"))


def test_the_command_prints_nothing_but_that_sentence(tmp_path):
    program = "from ops.topics_command import app; app()"
    for command in ("apply", "list"):
        run = subprocess.run(
            [sys.executable, "-c", program, command],
            cwd=tmp_path,
            env={"TABLECAST_KAFKA__BOOTSTRAP": "127.0.0.1:1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 2
        assert run.stdout == ""
        assert len(run.stderr.splitlines()) == 1
        assert run.stderr.startswith("error: Kafka can't be reached: 127.0.0.1:1 does not listen")


async def test_no_cluster_at_all_says_how_to_name_one():
    with pytest.raises(TopicsError, match="TABLECAST_KAFKA__BOOTSTRAP"):
        await apply_topics(KafkaSettings())


def test_the_commands_create_list_and_report(command, kafka):
    planned = json.loads(command("apply", "--dry-run", "--json").stdout)
    assert [change["topic"] for change in planned["changes"]] == _names(kafka) + [
        kafka.prefix + topic.name for topic in (*CHANGELOGS, DECISIONS)
    ]
    before = json.loads(command("list", "--json").stdout)
    assert {row["existing_partitions"] for row in before} == {None}

    created = command("apply")
    assert created.exit_code == 0
    assert "create with 3 partitions" in created.stdout
    assert command("apply").stdout == "every topic is as the contract says\n"
    rows = json.loads(command("list", "--json").stdout)
    assert {row["topic"]: row["existing_partitions"] for row in rows} == {
        kafka.prefix + topic.name: topic.partitions(3) for topic in TOPICS
    }
    assert "missing" not in command("list").stdout


@pytest.mark.parametrize("arguments", [("apply",), ("apply", "--dry-run"), ("apply", "--allow-changes")])
def test_a_refusal_is_one_sentence_and_exit_code_2(command, arguments, monkeypatch):
    assert command("apply").exit_code == 0
    monkeypatch.setenv("TABLECAST_KAFKA__PARTITIONS", "2")
    refused = command(*arguments)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: topics ")
    assert "3 partitions, wanted 2" in refused.stderr
    assert "Traceback" not in refused.output


def test_a_wrong_setting_is_one_sentence_and_exit_code_2(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TABLECAST_KAFKA__PARTITIONS", "none")
    for name in ("apply", "list"):
        refused = CliRunner().invoke(app, [name])
        assert refused.exit_code == 2
        assert refused.stderr.startswith("error: setting 'kafka.partitions'")
        assert len(refused.stderr.splitlines()) == 1
