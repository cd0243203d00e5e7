"""On a broker with TLS, passwords and ACLs the loop works, nobody does more than their role, users stay private."""

import asyncio
import json
import os
import stat
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
from secured_broker import STRANGER, USERS, Secured, password_of, secured_broker
from trainer_deployment import tiny_model

from ops.broker import kafka as apache_kafka
from ops.simulator.publish import run_simulation
from ops.simulator.world import build_world
from ops.stages import Stage, variables
from schemas.access import ROLES
from schemas.codec import decode, encode
from schemas.records import (
    Context,
    DeadLetter,
    Feedback,
    JoinedRequest,
    Recommendation,
    RecommendedItem,
    Request,
)
from schemas.topics import (
    DEADLETTERS,
    MODELS,
    RECOMMENDATIONS,
    REQUESTS_JOINED,
    RETRAINING,
    USERS_CONTEXT,
    USERS_FEEDBACK,
    USERS_REQUESTS,
)
from streams.acls import AccessError, acls_of, apply_acls, require_access
from streams.kafka import client_options, full_name
from streams.privacy import KEY_FILE, load_pseudonyms
from streams.refusals import denied, unreachable
from streams.settings import (
    InferenceSettings,
    ModelsSettings,
    PrivacySettings,
    Settings,
    TracingSettings,
    TrainerSettings,
)
from streams.state.app import StateApp
from streams.state.changelogs import CHANGELOGS
from streams.topic_admin import apply_topics

pytestmark = pytest.mark.asyncio(loop_scope="session")

PREFIX = "safe."
PATIENCE_SECONDS = 90
EXAMPLES = 20  # that start a training
# At night hardly anything is open, and the simulated people go nowhere: there must be examples all the same.
GUESTS = [f"guest-{number}" for number in range(EXAMPLES)]
ANN, BOB = "ann-lee-1987", "bob-stone-1990"
PHONE, EMAIL, ID_NUMBER, SPOKEN = "13800138000", "ann.lee@example.com", "11010519491231002X", "my mother's birthday"
TEXT = f"安静的川菜 电话{PHONE} {EMAIL} 身份证{ID_NUMBER}"


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    if missing := apache_kafka.missing_tools():
        pytest.skip(f"ACLs need Apache Kafka, and {missing} is missing")
    with secured_broker(tmp_path_factory.mktemp("secured")) as running:
        yield running


@dataclass(frozen=True)
class Loop:
    """Running stages, what they were started with, and what was said to them."""

    folder: Path  # of logs, models, spans and the key of pseudonyms
    settings: dict[str, Settings]
    stages: dict[str, Stage]
    texts: set[str]  # that people of the simulated city wrote
    people: set[str]  # the ids of all but Ann and Bob


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def loop(secured: Secured, tmp_path_factory):
    """Run all stages, each let in as its own user in a way of its own, traced, under the simulated city and two people.

    Until the trainer has learnt from what they did.
    """
    folder = tmp_path_factory.mktemp("stages")
    await apply_topics(secured.settings("admin", PREFIX), extra=CHANGELOGS)
    for role in ROLES:
        kafka = secured.settings("admin", PREFIX)
        await apply_acls(kafka, acls_of(kafka, role, role.name))
    clients = {
        "state": secured.with_certificate("state", PREFIX),
        "inference": _with_token(secured, "inference"),
        "trainer": secured.settings("trainer", PREFIX),
    }
    settings = {name: _settings(kafka, folder) for name, kafka in clients.items()}
    (folder / "tiny").mkdir()
    model = InferenceSettings(model=str(tiny_model(folder / "tiny")))
    settings = {name: each.model_copy(update={"inference": model}) for name, each in settings.items()}
    stages = {name: Stage(name, each, folder / f"{name}.log") for name, each in settings.items()}
    world, posted = build_world(3, users=20, restaurants=30), []
    async with AsyncExitStack() as stack:
        for stage in stages.values():
            stack.push_async_callback(stage.stop)
        await asyncio.gather(*(stages[name].start(timeout=300) for name in ("state", "inference")))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await run_simulation(
                _settings(secured.settings("admin", PREFIX), folder),
                world,
                rate=3,
                duration=60,
                speed=10,
                start_ms=(int(time.time()) - 600) * 1000,
                on_event=posted.append,
            )
        for user in (ANN, BOB, *GUESTS):
            await _use(secured, user)
        poison = encode(Request(request_id="r", domain=SPOKEN)), b"\xff" + f"{ANN} {PHONE}".encode(), b"\xc1"
        await _post(secured, "app", [(USERS_REQUESTS, ANN.encode(), value) for value in poison])
        wrong_kind = msgspec.msgpack.encode({"item_id": "i", "domain": "restaurant", "kind": f"it's {ANN}, {EMAIL}"})
        await _post(secured, "app", [(USERS_FEEDBACK, ANN.encode(), wrong_kind)])
        await _until(secured, DEADLETTERS, 4)
        wanted = {load_pseudonyms(Settings(data_dir=folder)).of(user.encode()) for user in (ANN, BOB)}
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not wanted <= {key for key, _ in await _until(secured, RETRAINING, EXAMPLES)}:
                await asyncio.sleep(0.1)
        await stages["trainer"].start(timeout=300)
        await _until(secured, MODELS, 1)
        asked = [event for event in posted if isinstance(event.record, Request)]
        catalogue = b"".join(encode(item) for item in world.city.items.values())
        # Who says no more than the name of a category ("noodles") is not betrayed by it: models count what was shown.
        texts = {event.record.text for event in asked if event.record.text.encode() not in catalogue}
        yield Loop(folder, settings, stages, texts, {*(event.key for event in asked), *GUESTS})


def _settings(kafka, folder: Path) -> Settings:
    return Settings(
        kafka=kafka,
        data_dir=folder,
        models=ModelsSettings(store=str(folder / "store")),
        trainer=TrainerSettings(examples=EXAMPLES, hours=1e6),
        tracing=TracingSettings(export=str(folder / "spans.jsonl")),
    )


def _with_token(secured: Secured, user: str):
    token = secured.token_file(user, 3600)
    return secured.settings(user, PREFIX, sasl_mechanism="OAUTHBEARER", sasl_token_file=token, sasl_username=None)


async def _use(secured: Secured, user: str) -> None:
    """Post a context and a request, wait for the list, and visit its first item: as one app for one user."""
    key = user.encode()
    asked = Request(request_id=f"{user}-1", session_id=f"{user}-today", domain="restaurant", text=f"{TEXT} {user}")
    await _post(secured, "app", [(USERS_CONTEXT, key, encode(Context(weather="rain", fields={"note": TEXT})))])
    await _post(secured, "app", [(USERS_REQUESTS, key, encode(asked))])
    answer = await _answer(secured, asked.request_id)
    visit = Feedback(item_id=answer.items[0].item_id, domain="restaurant", kind="visit", request_id=asked.request_id)
    await _post(secured, "app", [(USERS_FEEDBACK, key, encode(visit))])


async def _answer(secured: Secured, request_id: str) -> Recommendation:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            answers = [decode(Recommendation, value) for _, value in await _until(secured, RECOMMENDATIONS, 1, "app")]
            for answer in answers:
                if answer.request_id == request_id:
                    return answer
            await asyncio.sleep(0.1)


async def _post(secured: Secured, role: str, records, prefix: str = PREFIX) -> None:
    kafka = secured.settings(role, prefix)
    async with AIOKafkaProducer(**client_options(kafka)) as producer:
        for topic, key, value in records:
            await producer.send_and_wait(full_name(kafka, topic), value, key)


async def _until(
    secured: Secured, topic, count: int, role: str = "ops", prefix: str = PREFIX
) -> list[tuple[bytes, bytes | None]]:
    """Return all records of a topic as soon as there are so many."""
    kafka, found = secured.settings(role, prefix), []
    partitions = [
        TopicPartition(full_name(kafka, topic), number) for number in range(topic.partitions(kafka.partitions))
    ]
    async with (
        AIOKafkaConsumer(
            **client_options(kafka), isolation_level="read_committed", auto_offset_reset="earliest"
        ) as consumer,
        asyncio.timeout(PATIENCE_SECONDS),
    ):
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        while len(found) < count or any([await consumer.position(each) < end for each, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += [(record.key, record.value) for record in records]
    return found


async def _last_values(secured: Secured, topic) -> dict[bytes, bytes | None]:
    """Return what a changelog says of each key in the end, as compaction would leave it."""
    kafka, values = secured.settings("ops", PREFIX), {}
    partitions = [TopicPartition(full_name(kafka, topic), number) for number in range(kafka.partitions)]
    async with AIOKafkaConsumer(**client_options(kafka), auto_offset_reset="earliest") as consumer:
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                values |= {record.key: record.value for record in records}
    return values


# -- who gets in -------------------------------------------------------------------------------------------------------


async def test_passwords_tokens_and_certificates_let_a_client_in(secured, loop):
    token = secured.token_file("app", 600)
    for kafka in (
        secured.settings("app", PREFIX),
        secured.with_certificate("app", PREFIX),
        secured.settings("app", PREFIX, sasl_mechanism="OAUTHBEARER", sasl_token_file=token, sasl_username=None),
    ):
        await require_access(kafka, [USERS_REQUESTS.name, RECOMMENDATIONS.name], ["app-1"])
        with pytest.raises(AccessError, match=r"topic safe\.retraining"):
            await require_access(kafka, [RETRAINING.name], [])


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"sasl_password": "wrong"}, ["User:app", "kafka.sasl_password"]),
        ({"security_protocol": "PLAINTEXT"}, ["kafka.security_protocol is PLAINTEXT"]),
        ({"security_protocol": "SASL_PLAINTEXT"}, ["kafka.security_protocol is SASL_PLAINTEXT"]),
        ({"security_protocol": "SSL"}, ["kafka.security_protocol is SSL", "kafka.certificate_file"]),
        ({"ca_file": None}, ["kafka.ca_file"]),
        ({"sasl_mechanism": "SCRAM-SHA-256"}, ["kafka.sasl_mechanism"]),
        ({"bootstrap": "127.0.0.1:1"}, ["kafka.bootstrap"]),
    ],
)
async def test_who_is_not_let_in_is_told_the_setting_to_change(secured, changes, names):
    why = await unreachable(secured.settings("app", **changes))
    assert all(name in why for name in names), why
    assert "wrong" not in why
    assert "\n" not in why


async def test_a_token_that_has_expired_is_named(secured):
    token = secured.token_file(STRANGER, -5)
    why = await unreachable(secured.settings("app", sasl_mechanism="OAUTHBEARER", sasl_token_file=token))
    assert "kafka.sasl_token_file" in why
    assert "expired" in why


@pytest.mark.parametrize(("command", "code"), [(("topics", "apply"), 2), (("state",), 1)])
async def test_a_command_with_a_wrong_password_ends_with_one_sentence(secured, tmp_path, command, code):
    settings = Settings(kafka=secured.settings("app", sasl_password="not-this-one"), data_dir=tmp_path)
    run = await asyncio.to_thread(_tablecast, settings, *command)
    assert run.returncode == code
    assert "kafka.sasl_password" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr
    assert "not-this-one" not in run.stderr + run.stdout


# -- who may do what ---------------------------------------------------------------------------------------------------


async def test_an_app_can_not_write_recommendations_nor_read_training_examples_nor_pose_as_a_stage(secured, loop):
    kafka = secured.settings("app", PREFIX)
    options = client_options(kafka)
    async with AIOKafkaProducer(**options) as producer:
        with pytest.raises(TopicAuthorizationFailedError) as caught:
            await producer.send_and_wait(full_name(kafka, RECOMMENDATIONS), b"\x80", b"ann")
    assert "User:app may not use topic safe.recommendations" in denied(kafka, caught.value)
    assert "tablecast topics acls" in denied(kafka, caught.value)
    with pytest.raises(AccessError, match=r"User:app may not use topic safe\.retraining"):
        await require_access(kafka, [RETRAINING.name], [])
    consumer = AIOKafkaConsumer(full_name(kafka, RECOMMENDATIONS), group_id="safe.inference", **options)
    with pytest.raises(GroupAuthorizationFailedError) as caught:
        await consumer.start()
    await consumer.stop()
    assert "group safe.inference" in denied(kafka, caught.value)
    pretender = AIOKafkaProducer(transactional_id="safe.inference-0", **options)
    with pytest.raises(TransactionalIdAuthorizationFailed) as caught:
        await pretender.start()
    await pretender.stop()
    assert "transactional id safe.inference-0" in denied(kafka, caught.value)
    with pytest.raises(AccessError, match="may not change ACLs"):
        await apply_acls(kafka, acls_of(kafka, ROLES[0], "app"))


@pytest.mark.parametrize("user", ["app", STRANGER])
async def test_a_stage_without_its_permissions_ends_and_names_them(secured, loop, tmp_path, user):
    settings = Settings(kafka=secured.settings(user, PREFIX), data_dir=tmp_path)
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(AccessError, match=rf"User:{user} may not use .*{PREFIX}.*tablecast topics acls"):
            await StateApp(settings).run(asyncio.Event())


async def test_roles_touch_nothing_of_an_installation_with_another_prefix(secured, loop):
    with pytest.raises(AccessError):
        await require_access(secured.settings("state", "other."), [USERS_REQUESTS.name], [])


# -- what is kept of people ------------------------------------------------------------------------------------------


async def test_a_full_run_leaves_no_user_id_text_or_secret_in_logs_dead_letters_training_examples_and_traces(
    secured, loop
):
    letters = await _until(secured, DEADLETTERS, 4)
    examples = await _until(secured, RETRAINING, 2)
    secrets = [password_of(user) for user in USERS] + [(loop.folder / KEY_FILE).read_text().strip()]
    secrets += [(secured.folder / "inference.token").read_text()]
    kept = _kept(loop.folder, letters, examples)
    assert kept.keys() > {"state.log", "inference.log", "trainer.log", "spans.jsonl", "deadletters", "retraining"}
    assert any(name.startswith("store") for name in kept)
    assert all(kept.values())
    assert _found(kept, [ANN, BOB, PHONE, EMAIL, ID_NUMBER, SPOKEN, *secrets, *loop.people]) == set()
    assert loop.texts
    words = {name: what for name, what in kept.items() if name != "retraining"}  # that keeps them, redacted
    assert _found(words, [TEXT, *loop.texts]) == set()
    assert stat.S_IMODE((loop.folder / KEY_FILE).stat().st_mode) == 0o600
    pseudonyms = load_pseudonyms(Settings(data_dir=loop.folder))
    people = {pseudonyms.of(user.encode()) for user in loop.people}
    assert {key for key, _ in examples} - people == {pseudonyms.of(ANN.encode()), pseudonyms.of(BOB.encode())}
    assert {key for key, _ in examples} & people
    assert {key for key, _ in letters} == {pseudonyms.of(ANN.encode())}
    assert {decode(DeadLetter, value).payload for _, value in letters} == {"withheld"}
    assert "川菜 电话[phone] [email] 身份证[id number]" in kept["retraining"].decode(errors="replace")


def _kept(folder, letters, examples) -> dict[str, bytes]:
    """Return all that is kept of a run, by where it is."""
    files = [*folder.glob("*.log"), *folder.glob("*.jsonl"), *(folder / "store").rglob("*.json")]
    kept = {str(file.relative_to(folder)): file.read_bytes() for file in files}
    for topic, records in (("deadletters", letters), ("retraining", examples)):
        kept[topic] = b"\n".join(part for record in records for part in record if part)
    return kept


def _found(kept: dict[str, bytes], hidden: list[str]) -> set[tuple[str, str]]:
    return {(word, where) for where, what in kept.items() for word in hidden if word.encode() in what}


async def test_the_same_search_finds_all_that_a_stage_keeps_which_is_told_to(secured, tmp_path):
    raw, key = "raw.", ANN.encode()
    kafka = secured.settings("admin", raw)
    await apply_topics(kafka, extra=CHANGELOGS)
    settings = Settings(kafka=kafka, data_dir=tmp_path, privacy=PrivacySettings(keep_raw=True))
    stage = Stage("state", settings, tmp_path / "state.log")
    await stage.start(timeout=300)
    try:
        asked = Request(request_id=f"{ANN}-1", domain="restaurant", text=TEXT)
        records = [encode(asked), encode(Request(request_id="r", domain=SPOKEN))]
        await _post(secured, "admin", [(USERS_REQUESTS, key, value) for value in records], raw)
        [(_, value)] = await _until(secured, REQUESTS_JOINED, 1, "admin", raw)
        shown = RecommendedItem(item_id="i", score=1.0, propensity=1.0)
        source = decode(JoinedRequest, value).source
        answer = Recommendation(
            request_id=asked.request_id, domain="restaurant", model="m@1", items=[shown], source=source
        )
        visit = Feedback(item_id="i", domain="restaurant", kind="visit", request_id=asked.request_id)
        joined = (RECOMMENDATIONS, key, encode(answer)), (USERS_FEEDBACK, key, encode(visit))
        await _post(secured, "admin", joined, raw)
        letters = await _until(secured, DEADLETTERS, 1, "admin", raw)
        examples = await _until(secured, RETRAINING, 1, "admin", raw)
    finally:
        await stage.stop()
    found = _found(_kept(tmp_path, letters, examples), [ANN, PHONE, EMAIL, ID_NUMBER, SPOKEN])
    assert found >= {(word, "retraining") for word in (ANN, PHONE, EMAIL, ID_NUMBER)}
    assert found >= {(ANN, "deadletters"), (SPOKEN, "deadletters"), (SPOKEN, "state.log")}


async def test_an_example_lies_in_the_partition_of_its_user(secured, loop):
    kafka = secured.settings("ops", PREFIX)
    where: dict[str, set[int]] = {}
    async with AIOKafkaConsumer(**client_options(kafka)) as consumer:
        for topic in (REQUESTS_JOINED, RETRAINING):
            partitions = [TopicPartition(full_name(kafka, topic), number) for number in range(kafka.partitions)]
            ends = await consumer.end_offsets(partitions)
            where[topic.name] = {partition.partition for partition, end in ends.items() if end}
    assert where["retraining"] == where["requests.joined"]


async def test_a_replay_by_the_ops_user_answers_as_then_and_an_app_may_not_read_its_topics(secured, loop):
    settings = _settings(secured.settings("ops", PREFIX), loop.folder)
    model = loop.settings["inference"].inference.model  # and not what the trainer has announced since
    how = ("--compare", "--model", model, "--keep", "--name", "checked", "--json")
    run = await asyncio.to_thread(_tablecast, settings, "replay", *how)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["comparison"]["verdicts"].keys() == {"identical"}
    with pytest.raises(AccessError, match=r"safe\.replay-checked\.recommendations"):
        await require_access(secured.settings("app", PREFIX), ["replay-checked.recommendations"], [])


async def test_a_forgotten_user_is_in_no_table_no_changelog_and_no_later_training(secured, loop):
    settings = Settings(kafka=secured.settings("ops", PREFIX), data_dir=loop.folder)
    run = await asyncio.to_thread(_tablecast, settings, "forget", ANN, "--json")
    assert run.returncode == 0, run.stderr
    receipt = json.loads(run.stdout)
    assert receipt["applied"]
    assert all(done["holds"] for done in receipt["done"])
    assert any("joined requests removed: 1, left: 0" in done["what"] for done in receipt["done"])
    assert ANN not in run.stdout
    assert receipt["user"].encode() == load_pseudonyms(settings).of(ANN.encode())
    limits = {entry["where"]: entry["until"] for entry in receipt["ages_out"]}
    assert limits["safe.users.requests"] > receipt["asked_at"]
    assert limits["safe.retraining"] > limits["safe.users.requests"]
    for changelog in CHANGELOGS:
        live = {key: value for key, value in (await _last_values(secured, changelog)).items() if value is not None}
        assert not [key for key, value in live.items() if ANN.encode() in key + value]
    users = await _last_values(secured, CHANGELOGS[0])
    assert users[ANN.encode()] is None
    assert users[BOB.encode()] is not None

    names = load_pseudonyms(settings).names(ANN.encode())
    examples = await _until(secured, RETRAINING, 2)
    theirs = sum(key in names for key, _ in examples)
    assert theirs
    await loop.stages["trainer"].stop()
    run = await asyncio.to_thread(_tablecast, loop.settings["trainer"], "trainer", "--repeat", _trained(loop), "--json")
    repeated = json.loads(run.stdout)
    assert repeated["erased"] == theirs


def _trained(loop: Loop) -> str:
    """Return the first version that the trainer has made."""
    found = [json.loads(file.read_text()) for file in (loop.folder / "store").rglob("model.json")]
    return next(each["version"] for each in found if each["training"].get("range"))


async def test_a_backfill_is_its_own_users_and_nobody_elses(secured, loop):
    backfilling = loop.settings["state"].model_copy(update={"kafka": secured.settings("backfill", PREFIX)})
    refused = loop.settings["state"].model_copy(update={"kafka": secured.settings("app", PREFIX)})
    run = await asyncio.to_thread(_tablecast, refused, "backfill", "state")
    assert run.returncode == 1
    assert "User:app may not use" in run.stderr
    await loop.stages["state"].stop()
    async with asyncio.timeout(PATIENCE_SECONDS):  # Kafka takes seconds to notice that nobody is in the group
        while True:
            run = await asyncio.to_thread(_tablecast, backfilling, "backfill", "state", "--switch", "--json")
            if "a process works in the group" not in run.stderr:
                break
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["switched"]


def _tablecast(settings: Settings, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ops", *command],
        env={**os.environ, **variables(settings)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
