"""Creates the topics and keeps them as the contract says, without ever moving or losing a record by surprise.

The rules for a topic that exists already:

- Partitions are never removed (Kafka can't) and are added only to a topic that was never written to: afterwards the
  records of a key would lie in two partitions.
- The cleanup policy is changed only on a topic that was never written to: compaction would drop records that
  ``delete`` promised to keep, and the other way round.
- Any other setting is changed only when asked for (``allow_changes``), and so are the two changes above.
- The replication factor may be higher than wanted. Raising it moves replicas, which is left to Kafka's own tools.

A plan with a refusal is not carried out at all.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAlreadyExistsError, for_code

from schemas.errors import BadInputError
from schemas.topics import TOPICS, Topic
from streams.kafka import client_options, full_name
from streams.refusals import denied, unreachable
from streams.settings import KafkaSettings

_REQUEST_MS = 15_000
_VISIBLE_SECONDS = 30.0  # how long new topics may take to be known to the brokers
_SET_ON_TOPIC = 1  # the source of a configuration entry in Kafka's protocol: this topic, not a default


class TopicsError(BadInputError):
    """The topics can't be brought to what the contract says; one sentence for people."""


@dataclass(frozen=True)
class ExistingTopic:
    """A topic as the cluster has it."""

    partitions: int
    replication: int
    config: Mapping[str, str]  # every entry that the broker reports
    own_config: Mapping[str, str] = field(default_factory=dict)  # those set on the topic itself
    written: bool = True  # whether a record was ever written to it


@dataclass(frozen=True)
class WantedTopic:
    """A topic as the contract and the settings want it, by its name on the cluster."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]


@dataclass(frozen=True)
class CreateTopic:
    """Create a topic that is missing."""

    topic: WantedTopic

    @property
    def name(self) -> str:
        return self.topic.name

    def __str__(self) -> str:
        return (
            f"create with {_counted(self.topic.partitions, 'partition')}, cleanup {self.topic.config['cleanup.policy']}"
        )


@dataclass(frozen=True)
class AddPartitions:
    """Give an empty topic more partitions."""

    name: str
    current: int
    wanted: int

    def __str__(self) -> str:
        return f"partitions {self.current} -> {self.wanted}"


@dataclass(frozen=True)
class SetConfig:
    """Change settings of a topic: for each, the value it has and the value it gets."""

    name: str
    changed: Mapping[str, tuple[str, str]]
    whole: Mapping[str, str]  # all that is then set on the topic; Kafka's request replaces everything

    def __str__(self) -> str:
        return ", ".join(f"{key} {current} -> {wanted}" for key, (current, wanted) in self.changed.items())


Change = CreateTopic | AddPartitions | SetConfig


@dataclass(frozen=True)
class Plan:
    """What has to change, and what stands in the way. ``refusals`` are whole sentences."""

    changes: tuple[Change, ...] = ()
    refusals: tuple[str, ...] = ()


def wanted_topics(kafka: KafkaSettings, extra: Sequence[Topic] = ()) -> list[WantedTopic]:
    """Return the contract's topics, and further ones, under the settings."""
    return [
        WantedTopic(
            name=full_name(kafka, topic),
            partitions=topic.partitions(kafka.partitions),
            replication=kafka.replication,
            config=topic.config(keep_history=kafka.keep_history),
        )
        for topic in (*TOPICS, *extra)
    ]


def plan(current: Mapping[str, ExistingTopic], wanted: Iterable[WantedTopic], *, allow_changes: bool = False) -> Plan:
    """Return the changes that turn the current topics into the wanted ones, and the refusals."""
    changes: list[Change] = []
    refused: dict[str, list[str]] = {}  # reason -> topics
    for topic in wanted:
        existing = current.get(topic.name)
        if existing is None:
            changes.append(CreateTopic(topic))
            continue
        reasons = _forbidden(existing, topic)
        differing = _differences(existing, topic)
        if differing and not reasons and not allow_changes:
            listed = "; ".join(str(change) for change in differing)
            reasons = [f"not as the contract says ({listed}): existing topics are changed only with --allow-changes"]
        for reason in reasons:
            refused.setdefault(reason, []).append(topic.name)
        changes += differing
    refusals = [f"topic{'s' * (len(names) > 1)} {', '.join(names)}: {reason}" for reason, names in refused.items()]
    return Plan(tuple(changes), tuple(refusals))


def _forbidden(existing: ExistingTopic, wanted: WantedTopic) -> list[str]:
    reasons = []
    if existing.partitions > wanted.partitions:
        reasons.append(
            f"{_counted(existing.partitions, 'partition')}, wanted {wanted.partitions}: Kafka can't remove "
            "partitions; set kafka.partitions to what the topics have, or take another kafka.prefix"
        )
    if existing.partitions < wanted.partitions and existing.written:
        reasons.append(
            f"{_counted(existing.partitions, 'partition')} with records in them, wanted {wanted.partitions}: "
            "with more, the records of a key would lie in two; set kafka.partitions to what the topics have, or take "
            "another kafka.prefix and replay into it"
        )
    if existing.replication < wanted.replication:
        reasons.append(
            f"replication factor {existing.replication}, wanted {wanted.replication}: move the replicas with "
            "kafka-reassign-partitions, or set kafka.replication to what the topics have"
        )
    policy, wanted_policy = existing.config.get("cleanup.policy"), wanted.config["cleanup.policy"]
    if policy is not None and policy != wanted_policy and existing.written:
        reasons.append(
            f"cleanup.policy {policy} and records in the topic, wanted {wanted_policy}: changing it could delete some; "
            "take another kafka.prefix, or change it by hand if that is what you want"
        )
    return reasons


def _differences(existing: ExistingTopic, wanted: WantedTopic) -> list[Change]:
    changes: list[Change] = []
    if existing.partitions < wanted.partitions:
        changes.append(AddPartitions(wanted.name, existing.partitions, wanted.partitions))
    # A broker that doesn't report an entry doesn't know it: there is nothing to change then.
    changed = {
        key: (existing.config[key], value)
        for key, value in wanted.config.items()
        if existing.config.get(key, value) != value
    }
    if changed:
        changes.append(SetConfig(wanted.name, changed, {**existing.own_config, **wanted.config}))
    return changes


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


async def apply_topics(
    kafka: KafkaSettings, *, dry_run: bool = False, allow_changes: bool = False, extra: Sequence[Topic] = ()
) -> Plan:
    """Bring the cluster's topics to what the contract wants and return what was done.

    Returns only when every topic is there as wanted, so that clients started next find it. With ``dry_run`` nothing is
    changed and the plan comes back with its refusals.

    Raises:
        TopicsError: no cluster, the cluster can't be reached, it refuses a change, or the plan has refusals.

    """
    wanted = wanted_topics(kafka, extra)
    done: list[Change] = []
    async with _admin(kafka) as admin:
        while True:
            todo = await _plan_with_offsets(kafka, admin, wanted, allow_changes=allow_changes)
            if dry_run:
                return todo
            if todo.refusals:
                raise TopicsError("; ".join(todo.refusals))
            taken = await _carry_out(admin, todo)
            done += [change for change in todo.changes if change.name not in taken]
            await _until_in_place(admin, wanted, taken)
            if not taken:
                return Plan(tuple(done))


async def delete_topics(kafka: KafkaSettings, topics: Iterable[Topic]) -> None:
    """Delete topics with all their records: those of an isolated run, under a prefix of its own.

    Raises:
        TopicsError: there is no prefix (those would be the system's own topics), or the cluster can't be reached.

    """
    if not kafka.prefix:
        raise TopicsError("topics without a prefix are not deleted: set kafka.prefix")
    names = [full_name(kafka, topic) for topic in topics]
    async with _admin(kafka) as admin:
        await admin.delete_topics(list(await _existing(admin, names)))


async def existing_topics(kafka: KafkaSettings, names: Iterable[str]) -> dict[str, ExistingTopic]:
    """Return those of the named topics that the cluster has.

    Raises:
        TopicsError: no cluster, or it can't be reached.

    """
    async with _admin(kafka) as admin:
        return await _existing(admin, names)


async def partition_counts(kafka: KafkaSettings, names: Iterable[str]) -> dict[str, int]:
    """Return how many partitions each of the named topics has that this client may see; needs no look at settings.

    Raises:
        TopicsError: no cluster, or it can't be reached.

    """
    async with _admin(kafka) as admin:
        present = sorted(set(await admin.list_topics()) & set(names))
        described = await admin.describe_topics(present) if present else []
        return {topic["topic"]: len(topic["partitions"]) for topic in described}


@asynccontextmanager
async def _admin(kafka: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    try:
        admin = AIOKafkaAdminClient(**client_options(kafka), request_timeout_ms=_REQUEST_MS)
    except (ValueError, OSError) as error:  # no bootstrap server, no password, a certificate that isn't there
        raise TopicsError(str(error)) from error
    try:
        await admin.start()
        yield admin
    except KafkaConnectionError as error:
        raise TopicsError(await unreachable(kafka)) from error
    except (KafkaError, TimeoutError) as error:
        if isinstance(error, KafkaError) and (sentence := denied(kafka, error)):
            raise TopicsError(sentence) from error
        raise TopicsError(f"the Kafka cluster at {kafka.bootstrap} answered: {error!r}") from error
    finally:
        await admin.close()


async def _plan_with_offsets(
    kafka: KafkaSettings, admin: AIOKafkaAdminClient, wanted: Sequence[WantedTopic], *, allow_changes: bool
) -> Plan:
    """Plan as if every topic had records; only where that is in the way, look whether they have."""
    current = await _existing(admin, [topic.name for topic in wanted])
    cautious = plan(current, wanted, allow_changes=allow_changes)
    if not cautious.refusals:
        return cautious
    written = await _written(kafka, current)
    return plan(
        {name: replace(topic, written=name in written) for name, topic in current.items()},
        wanted,
        allow_changes=allow_changes,
    )


async def _existing(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, ExistingTopic]:
    # Asking for one topic by name could create it, where the broker is set to do that; the list of all can't.
    present = set(await admin.list_topics()) & set(names)
    if not present:
        return {}
    described = {topic["topic"]: topic for topic in await admin.describe_topics(sorted(present))}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in sorted(present)]
    entries: dict[str, list[tuple[str, str, int]]] = {}
    for response in await admin.describe_configs(resources):
        for code, message, _, name, values in response.resources:
            _raise_for(code, f"topic {name}: {message}")
            entries[name] = [(key, value, source) for key, value, _, source, *_ in values]
    return {
        name: ExistingTopic(
            partitions=len(topic["partitions"]),
            replication=min((len(partition["replicas"]) for partition in topic["partitions"]), default=0),
            config={key: value for key, value, _ in entries[name]},
            own_config={key: value for key, value, source in entries[name] if source == _SET_ON_TOPIC},
        )
        for name, topic in described.items()
    }


async def _written(kafka: KafkaSettings, topics: Mapping[str, ExistingTopic]) -> set[str]:
    """Return the topics that ever had a record: retention lets the start move on, but never the end back."""
    consumer = AIOKafkaConsumer(**client_options(kafka), request_timeout_ms=_REQUEST_MS)
    await consumer.start()
    try:
        ends = await consumer.end_offsets(
            [TopicPartition(name, number) for name, topic in topics.items() for number in range(topic.partitions)]
        )
    finally:
        await consumer.stop()
    return {partition.topic for partition, end in ends.items() if end > 0}


async def _carry_out(admin: AIOKafkaAdminClient, todo: Plan) -> set[str]:
    """Make the changes; return the topics that somebody else created meanwhile: how they are is to be looked at."""
    taken = set()
    new = [
        NewTopic(
            change.name,
            change.topic.partitions,
            change.topic.replication,
            topic_configs=dict(change.topic.config),
        )
        for change in todo.changes
        if isinstance(change, CreateTopic)
    ]
    if new:
        response = await admin.create_topics(new)
        for name, code, *message in response.topic_errors:
            if code == TopicAlreadyExistsError.errno:
                taken.add(name)
            else:
                _raise_for(code, f"topic {name}: {message[0] if message else 'not created'}")
    more = {change.name: NewPartitions(change.wanted) for change in todo.changes if isinstance(change, AddPartitions)}
    if more:
        await admin.create_partitions(more)
    configs = [
        ConfigResource(ConfigResourceType.TOPIC, change.name, dict(change.whole))
        for change in todo.changes
        if isinstance(change, SetConfig)
    ]
    if configs:
        for response in await admin.alter_configs(configs):
            for code, message, _, name in response.resources:
                _raise_for(code, f"topic {name}: {message}")
    return taken


async def _until_in_place(admin: AIOKafkaAdminClient, wanted: Sequence[WantedTopic], taken: Collection[str]) -> None:
    """Wait until the brokers show every topic, and as wanted if it wasn't created by somebody else."""
    names = {topic.name for topic in wanted}
    ours = [topic for topic in wanted if topic.name not in taken]
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while True:
        current = await _existing(admin, names)
        if current.keys() == names and plan(current, ours) == Plan():
            return
        if time.monotonic() > deadline:
            raise TopicsError(
                f"the Kafka cluster took the changes but does not show them after {_VISIBLE_SECONDS:.0f} s: "
                "look at its controller"
            )
        await asyncio.sleep(0.05)


def _raise_for(code: int, message: str) -> None:
    if code:
        raise TopicsError(f"{message} ({for_code(code).__name__})")
