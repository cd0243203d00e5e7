"""Roles of models on the topic ``models``: read them, follow them, change them.

Only one change of a model's roles can go on at a time. Whoever begins one fences out those who began before (a
transactional id for each model), then reads what holds: of two operators, the later one sees the earlier one's change
or the earlier one fails, and no generation is announced twice.
"""

from collections.abc import Callable, Sequence

import structlog
from aiokafka import AIOKafkaProducer, ConsumerRecord
from aiokafka.errors import ProducerFenced

from models.roles import RoleError, newer
from schemas.codec import DecodeError, decode, decode_key, encode
from schemas.records import ModelAnnouncement, ModelDecision
from schemas.topics import MODELS, MODELS_DECISIONS
from streams.follower import Follower
from streams.kafka import client_options, full_name
from streams.settings import KafkaSettings

log = structlog.get_logger(__name__)

Change = Callable[[ModelAnnouncement | None], ModelAnnouncement | None]


async def read_roles(kafka: KafkaSettings) -> dict[str, ModelAnnouncement]:
    """Return what holds now, by model name. Records that can't be read are logged and left out.

    Raises:
        BadInputError: the topic does not exist.

    """
    roles: dict[str, ModelAnnouncement] = {}

    async def on_records(records: Sequence[ConsumerRecord]) -> None:
        for record in records:
            try:
                name, announced = decode_announcement(record)
            except DecodeError as error:
                log.warning("unreadable", topic=record.topic, offset=record.offset, reason=str(error))
            else:
                roles[name] = newer(roles.get(name), announced)

    follower = Follower(kafka, MODELS, on_records)
    try:
        await follower.start()
        await follower.wait_until_caught_up()
    finally:
        await follower.stop()
    return roles


async def change_roles(
    kafka: KafkaSettings, name: str, change: Change, decision: ModelDecision | None = None
) -> ModelAnnouncement | None:
    """Announce what ``change`` makes of what holds, and return what holds then; None of it changes nothing.

    A ``decision`` is published with the change that it led to, both or neither.

    Raises:
        RoleError: somebody else changed the roles of this model meanwhile; or ``change`` raised it.

    """
    producer = AIOKafkaProducer(**client_options(kafka), transactional_id=f"{kafka.prefix}{MODELS.name}-{name}")
    try:
        await producer.start()  # from here on, who began before can't write any more
        current = (await read_roles(kafka)).get(name)
        announcement = change(current)
        if announcement is None:
            return current
        async with producer.transaction():
            if decision is not None:
                decisions = full_name(kafka, MODELS_DECISIONS)
                await producer.send_and_wait(decisions, encode(decision), name.encode(), partition=0)
            await producer.send_and_wait(full_name(kafka, MODELS), encode(announcement), name.encode(), partition=0)
    except ProducerFenced as error:
        raise RoleError(
            f"somebody else changed the roles of {name} at the same time: see `tablecast model list` and try again"
        ) from error
    finally:
        await producer.stop()
    return announcement


def decode_announcement(record: ConsumerRecord) -> tuple[str, ModelAnnouncement]:
    """Return the model's name and its announcement.

    Raises:
        DecodeError: the record is not one.

    """
    return decode_key(record.key), decode(ModelAnnouncement, record.value)
