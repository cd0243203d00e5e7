"""The roles of ``schemas.access`` as Kafka's access control lists."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import IntEnum

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    CoordinatorLoadInProgressError,
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    KafkaConnectionError,
    KafkaError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.admin import CreateAclsRequest

from schemas.access import Role
from schemas.errors import ExplainedError
from streams.kafka import client_options
from streams.refusals import denied, principal, unreachable
from streams.settings import KafkaSettings

ALLOW, ANY_HOST = 3, "*"
SECURITY_DISABLED = 54  # error code


class AccessError(ExplainedError):
    """A client may not do what it has to; the message says what to change."""


class Resource(IntEnum):
    """Kinds of things, by their numbers in Kafka's protocol."""

    TOPIC = 2
    GROUP = 3
    CLUSTER = 4
    TRANSACTIONAL_ID = 5


class Pattern(IntEnum):
    """How a name is meant."""

    LITERAL = 3
    PREFIXED = 4


class Operation(IntEnum):
    """What may be done. Reading and writing include describing."""

    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    ALTER = 7
    DESCRIBE = 8
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11


ADMINISTRATION = (
    Operation.CREATE, Operation.DELETE, Operation.ALTER, Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS,
    Operation.ALTER_CONFIGS,
)  # fmt: skip


@dataclass(frozen=True, order=True)
class Acl:
    """One permission."""

    principal: str
    resource: Resource
    pattern: Pattern
    name: str
    operation: Operation


def acls_of(kafka: KafkaSettings, role: Role, user: str) -> list[Acl]:
    """Return what a user needs to have a role in this installation (``kafka.prefix``)."""
    granted = [
        *_grants(Resource.TOPIC, role.reads, (Operation.READ,)),
        *_grants(Resource.TOPIC, role.writes, (Operation.WRITE,)),
        *_grants(Resource.TOPIC, role.administers, ADMINISTRATION),
        *_grants(Resource.GROUP, role.groups, (Operation.READ,)),
        *_grants(Resource.GROUP, role.watches, (Operation.DESCRIBE,)),
        *_grants(Resource.TRANSACTIONAL_ID, role.transactions, (Operation.WRITE, Operation.DESCRIBE)),
    ]
    acls = []
    for resource, name, operation in granted:
        whole = kafka.prefix + name
        # Alone, the star is Kafka's own sign for every name.
        prefixed = whole.endswith("*") and whole != "*"
        pattern = Pattern.PREFIXED if prefixed else Pattern.LITERAL
        acls.append(Acl(f"User:{user}", resource, pattern, whole.removesuffix("*") if prefixed else whole, operation))
    if role.administers:  # a cluster has this one name
        acls.append(Acl(f"User:{user}", Resource.CLUSTER, Pattern.LITERAL, "kafka-cluster", Operation.DESCRIBE))
    return acls


def _grants(
    resource: Resource, names: Iterable[str], operations: Iterable[Operation]
) -> Iterator[tuple[Resource, str, Operation]]:
    return ((resource, name, operation) for name in names for operation in operations)


async def apply_acls(kafka: KafkaSettings, acls: Iterable[Acl]) -> None:
    """Give these permissions; those that are there already stay as they are, and none is taken away.

    Raises:
        AccessError: the cluster can't be reached, has no authoriser, or does not let this client change ACLs.

    """
    async with _admin(kafka) as admin:
        for acl in acls:
            request = CreateAclsRequest(
                acl.resource, acl.name, acl.pattern, acl.principal, ANY_HOST, acl.operation, ALLOW
            )
            response = await admin._send_request(request)  # noqa: SLF001 - the client has no method for it
            for code, _ in response.creation_responses:
                if code == ClusterAuthorizationFailedError.errno:
                    raise AccessError(
                        f"{principal(kafka)} may not change ACLs: that needs Alter on the cluster, or a super user"
                    )
                if code == SECURITY_DISABLED:
                    raise AccessError("the brokers have no ACLs: set authorizer.class.name on them")
                if code:
                    raise AccessError(f"the cluster does not take {acl}: {for_code(code).__name__}")


async def require_access(kafka: KafkaSettings, topics: Iterable[str], groups: Iterable[str]) -> None:
    """See, before a stage starts, that it will see its topics and groups; names without the prefix.

    Without this it would hang: aiokafka asks without a pause for the offsets of a topic that it may not see.

    Raises:
        AccessError: it will not; the message names what is missing.

    """
    async with _admin(kafka) as admin:
        described = await admin.describe_topics([kafka.prefix + name for name in topics])
        hidden = {topic["topic"] for topic in described if topic["error_code"] == TopicAuthorizationFailedError.errno}
        error: KafkaError | None = TopicAuthorizationFailedError(hidden) if hidden else None
        for group in groups:
            try:
                await admin.find_coordinator(kafka.prefix + group)
            except GroupAuthorizationFailedError:
                error = GroupAuthorizationFailedError(kafka.prefix + group)
            except (GroupCoordinatorNotAvailableError, CoordinatorLoadInProgressError):
                continue  # a cluster that has just started makes its offsets topic first
    if error is not None:
        raise AccessError(denied(kafka, error))


@asynccontextmanager
async def _admin(kafka: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**client_options(kafka))
    try:
        await admin.start()
        yield admin
    except KafkaConnectionError as error:
        raise AccessError(await unreachable(kafka)) from error
    finally:
        await admin.close()
