"""What is wrong with an installation, and how to put it right.

Each check looks at one thing, changes nothing, and returns findings. What is ``wrong`` stops or damages the service;
a ``warning`` may be on purpose.
"""

import asyncio
import importlib.metadata
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, KafkaError
from packaging.requirements import Requirement

from models.artefact import BASE, SHIPPED, read_model
from models.base_model import cache_folder
from models.roles import holder
from models.store import ModelStore
from ops.dead_letters.letters import DECISIONS
from schemas.errors import ExplainedError
from schemas.topics import REQUESTS_JOINED, USERS_CONTEXT, USERS_FEEDBACK, USERS_REQUESTS, Topic
from streams.inference.app import GROUP as INFERENCE
from streams.kafka import client_options, committed_offsets, full_name
from streams.model_roles import read_roles
from streams.refusals import unreachable
from streams.settings import Settings
from streams.state.changelogs import APPLICATION, CHANGELOGS
from streams.topic_admin import Plan, apply_topics

REACH_SECONDS = 20.0
GIB = 1024**3
LEAST_FREE_BYTES = 2 * GIB
LEAST_FREE_SHARE = 0.05
LAG_SECONDS = 60.0  # unanswered for longer is told
NEWEST = 20  # records of a partition whose timestamps are looked at

GROUPS: Mapping[str, Topic] = {APPLICATION: USERS_REQUESTS, INFERENCE: REQUESTS_JOINED}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; ``fix`` says what to do about what is not good."""

    check: str
    state: Literal["good", "warning", "wrong"]
    found: str
    fix: str = ""


async def examine(settings: Settings) -> list[Finding]:
    """Return the findings of all checks; what can't be asked of the broker is left out."""
    findings = [*versions(), *disk(settings), *model_folder(settings)]
    try:
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(REACH_SECONDS):
                admin = AIOKafkaAdminClient(**client_options(settings.kafka))
                await admin.start()
                stack.push_async_callback(admin.close)
                consumer = AIOKafkaConsumer(**client_options(settings.kafka), isolation_level="read_committed")
                await consumer.start()
                stack.push_async_callback(consumer.stop)
                cluster = await admin.describe_cluster()
            findings += broker(settings, len(cluster["brokers"]))
            found = topics(await apply_topics(settings.kafka, dry_run=True, extra=(*CHANGELOGS, DECISIONS)))
            findings += found
            if any(finding.state == "wrong" for finding in found):
                return findings
            findings += await clocks(settings, consumer)
            for name in GROUPS:
                findings += await _stage(settings, admin, consumer, name)
            findings += await announced_model(settings)
    except (KafkaError, TimeoutError, OSError, ExplainedError) as error:
        lost = isinstance(error, KafkaConnectionError)
        why = await unreachable(settings.kafka) if lost else str(error) or type(error).__name__
        fix = "start it, or set kafka.bootstrap and the security settings of [kafka] to what the cluster has"
        findings.append(Finding("broker", "wrong", f"can't be asked: {why}", fix))
    return findings


def versions() -> list[Finding]:
    """Compare the packages that are installed with those that Tablecast asks for."""
    wrong = []
    for line in importlib.metadata.requires("tablecast") or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(installed, prereleases=True):
            wrong.append(f"{wanted.name} {installed} is not {wanted.specifier}")
    if wrong:
        return [Finding("versions", "wrong", "; ".join(wrong), "pip install --constraint constraints.txt .")]
    own = importlib.metadata.version("tablecast")
    return [Finding("versions", "good", f"tablecast {own} on Python {sys.version.split()[0]}, packages as it asks for")]


def disk(settings: Settings) -> list[Finding]:
    """See that the folders that grow have room to."""
    findings = []
    for name, folder in (("data_dir", settings.data_dir), ("cache", cache_folder())):
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        usage = shutil.disk_usage(there)
        found = f"{name} {folder}: {usage.free / GIB:.1f} of {usage.total / GIB:.0f} GiB free"
        little = usage.free < LEAST_FREE_BYTES or usage.free < LEAST_FREE_SHARE * usage.total
        fix = "make room, or move data_dir" if name == "data_dir" else "make room"
        findings.append(Finding("disk", "wrong", found, fix) if little else Finding("disk", "good", found))
    return findings


def model_folder(settings: Settings) -> list[Finding]:
    """Check every file of the model that the settings name, if it is a folder."""
    model = settings.inference.model
    if model in {SHIPPED, BASE}:
        return []
    try:
        manifest = read_model(Path(model))
    except (ExplainedError, OSError) as error:
        return [Finding("model", "wrong", str(error), "set inference.model to a whole model, or copy it again")]
    found = f"{model}: {manifest.name}@{manifest.version}, {len(manifest.files)} files, each with its sha256"
    return [Finding("model", "good", found)]


def broker(settings: Settings, brokers: int) -> list[Finding]:
    """Judge the cluster that answered."""
    found = f"{settings.kafka.bootstrap}: {brokers} broker{'s' * (brokers != 1)}"
    if brokers < settings.kafka.replication:
        fix = f"set kafka.replication to at most {brokers}, or add brokers"
        return [Finding("broker", "wrong", f"{found}, and kafka.replication = {settings.kafka.replication}", fix)]
    if settings.kafka.replication == 1 and brokers > 1:
        return [Finding("broker", "warning", f"{found}, and one copy of each record", "set kafka.replication = 3")]
    return [Finding("broker", "good", found)]


def topics(todo: Plan) -> list[Finding]:
    """Judge what `tablecast topics apply` would do."""
    findings = [
        Finding("topics", "wrong", refusal, "see `tablecast topics apply --dry-run`") for refusal in todo.refusals
    ]
    if todo.changes:
        found = "; ".join(f"{change.name}: {change}" for change in todo.changes)
        findings.append(Finding("topics", "wrong", f"not as the contract says: {found}", "tablecast topics apply"))
    return findings or [Finding("topics", "good", "as the contract says")]


async def clocks(settings: Settings, consumer: AIOKafkaConsumer) -> list[Finding]:
    """Compare the newest timestamps that apps have posted with this machine's clock."""
    ahead: dict[str, int] = {}
    for topic in (USERS_CONTEXT, USERS_REQUESTS, USERS_FEEDBACK):
        if times := await _newest_times(settings, consumer, topic):
            ahead[topic.name] = max(times) - int(time.time() * 1000)
    return judged_clocks(ahead, settings.state.future_ms)


def judged_clocks(ahead: Mapping[str, int], most: int) -> list[Finding]:
    """Judge by how many milliseconds each topic's newest records are ahead of this machine's clock."""
    fix = "set the clocks of the apps' machines and of this one by NTP; timestamps are milliseconds since 1970, UTC"
    findings = [
        Finding(
            "clocks", "wrong" if early > most else "warning",
            f"the newest records of {topic} are {early / 1000:.1f} s ahead of this machine's clock", fix,
        )
        for topic, early in ahead.items()
        if early > min(most, 1000)
    ]  # fmt: skip
    return findings or [Finding("clocks", "good", "no record of users is ahead of this machine's clock")]


async def _newest_times(settings: Settings, consumer: AIOKafkaConsumer, topic: Topic) -> list[int]:
    """Return the timestamps, in milliseconds, of some of the newest records of each partition."""
    name = full_name(settings.kafka, topic)
    partitions = [TopicPartition(name, number) for number in range(topic.partitions(settings.kafka.partitions))]
    begins, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    unread = {partition for partition in partitions if ends[partition] > begins[partition]}
    found: list[int] = []
    if unread:
        consumer.assign(sorted(unread))
        for partition in unread:
            consumer.seek(partition, max(begins[partition], ends[partition] - NEWEST))
    deadline = time.monotonic() + REACH_SECONDS
    while unread and time.monotonic() < deadline:
        for records in (await consumer.getmany(timeout_ms=500)).values():
            found += [record.timestamp for record in records]
        unread = {partition for partition in unread if await consumer.position(partition) < ends[partition]}
    return found


async def _stage(
    settings: Settings, admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer, name: str
) -> list[Finding]:
    group, topic = settings.kafka.prefix + name, full_name(settings.kafka, GROUPS[name])
    partitions = [TopicPartition(topic, number) for number in range(settings.kafka.partitions)]
    committed = await committed_offsets(admin, group)
    begins, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    next_ones = {
        partition: max(committed[partition].offset if partition in committed else 0, begins[partition])
        for partition in partitions
    }
    behind = {partition: ends[partition] - next_ones[partition] for partition in partitions}
    oldest = None
    if late := [partition for partition in partitions if behind[partition] > 0]:
        consumer.assign(late)
        for partition in late:
            consumer.seek(partition, next_ones[partition])
        for records in (await consumer.getmany(timeout_ms=5000, max_records=len(late))).values():
            oldest = min([record.timestamp for record in records] + ([oldest] if oldest is not None else []))
    (response,) = await admin.describe_consumer_groups([group])
    members = sum(len(entry[-1]) for entry in response.groups)
    age = time.time() - oldest / 1000 if oldest is not None else 0.0
    return stage(name, members, sum(max(0, number) for number in behind.values()), age)


def stage(name: str, members: int, lag: int, age_seconds: float) -> list[Finding]:
    """Judge a stage by the processes in its group, the records it has not committed, and the age of the oldest."""
    if members == 0:
        found = f"no process of {name} runs" + (f", and {lag:,} records wait" if lag else "")
        return [Finding("lag", "wrong" if lag else "warning", found, f"start it: tablecast {name}, or tablecast up")]
    found = f"{name}: {members} process{'es' * (members != 1)}, {lag:,} records behind"
    if lag and age_seconds > LAG_SECONDS:
        fix = f"add processes of {name}, at most one per partition; if the lag does not fall, look at its log"
        return [Finding("lag", "warning", f"{found}, the oldest {age_seconds:,.0f} s old", fix)]
    return [Finding("lag", "good", found)]


async def announced_model(settings: Settings) -> list[Finding]:
    """Fetch the champion that is announced, as the inference stage would, and check every file."""
    name = settings.inference.model_name
    champion = holder((await read_roles(settings.kafka)).get(name), "champion")
    if champion is None:
        return [Finding("model", "good", f"none of {name!r} is announced: inference.model is served")]
    try:
        store = ModelStore(settings.model_store)
        await asyncio.to_thread(store.fetch, champion.version, champion.sha256)
    except (ExplainedError, OSError) as error:
        fix = "set models.store to where the trainer puts versions, or train and announce another version"
        return [Finding("model", "wrong", f"champion {champion.version}: {error}", fix)]
    return [Finding("model", "good", f"champion {name}@{champion.version}: every file has its sha256")]
