"""Why a cluster does not let a client in, or do what it wants: one sentence that names what to change.

aiokafka logs why a connection failed and raises only that it did. So the connection is tried once more here, and looked
at.
"""

import ssl
from collections.abc import Iterable
from typing import Any

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from schemas.errors import BadInputError
from streams.kafka import client_options
from streams.settings import KafkaSettings

PROBE_MS = 5_000
AUTHORIZATION = {
    TopicAuthorizationFailedError: "topic",
    GroupAuthorizationFailedError: "group",
    TransactionalIdAuthorizationFailed: "transactional id",
    ClusterAuthorizationFailedError: "the cluster",
}


def principal(kafka: KafkaSettings) -> str:
    """Return who the cluster takes this client for, as far as the settings tell."""
    if kafka.security_protocol.startswith("SASL") and kafka.sasl_username is not None:
        return f"User:{kafka.sasl_username}"
    return "this client" if kafka.security_protocol != "PLAINTEXT" else "User:ANONYMOUS"


def denied(kafka: KafkaSettings, error: KafkaError) -> str | None:
    """Return what an authorisation error says and which ACLs to change; None for any other error."""
    kind = next((kind for error_type, kind in AUTHORIZATION.items() if isinstance(error, error_type)), None)
    if kind is None:
        return None
    named = error.args[0] if error.args else None
    names = ", ".join(sorted(map(str, named))) if isinstance(named, Iterable) and not isinstance(named, str) else named
    what = kind if kind == "the cluster" else f"{kind} {names}" if names else f"a {kind}"
    return (
        f"{principal(kafka)} may not use {what}: `tablecast topics acls` lists what each role needs, and with --apply "
        "--role ROLE --user NAME gives it (as a user who may alter ACLs)"
    )


async def unreachable(kafka: KafkaSettings) -> str:
    """Return why none of the bootstrap servers takes this client's connection, or that one does by now."""
    try:
        options = client_options(kafka)
    except BadInputError as error:
        return str(error)
    servers = options.pop("bootstrap_servers")
    reasons = []
    for host, port, _ in collect_hosts(servers):
        why = await _try(kafka, host, port, options)
        if why is None:
            return f"Kafka at {host}:{port} can be reached now, and could not a moment ago: try again"
        reasons.append(f"{host}:{port} {why}")
    return f"Kafka can't be reached: {'; '.join(dict.fromkeys(reasons))}"


async def _try(kafka: KafkaSettings, host: str, port: int, options: dict[str, Any]) -> str | None:
    """Connect once; return what went wrong, with the setting to change, or None."""
    connection = None
    try:
        connection = await create_conn(host, port, request_timeout_ms=PROBE_MS, **options)
        await connection.send(MetadataRequest([]))
    except ssl.SSLCertVerificationError as error:
        return (
            f"shows a certificate that is not trusted ({error.verify_message}): set kafka.ca_file to the certificate "
            "of who signed it, and kafka.bootstrap to a name that it is made out to"
        )
    except ssl.SSLError as error:
        return (
            f"does not agree on TLS ({error.reason or error}): check that kafka.bootstrap is a TLS port, else set "
            "kafka.security_protocol to PLAINTEXT or SASL_PLAINTEXT; if the broker asks for a client certificate, set "
            "kafka.certificate_file and kafka.key_file"
        )
    except (SaslAuthenticationFailed, AuthenticationFailedError) as error:
        secret = "kafka.sasl_token_file or kafka.sasl_token_url" if _by_token(kafka) else "kafka.sasl_password"
        return (
            f"refuses {principal(kafka)} ({error.args[0] if error.args else error}): check kafka.sasl_username, "
            f"{secret} and kafka.sasl_mechanism"
        )
    except (UnsupportedSaslMechanismError, IllegalSaslStateError):
        return (
            f"does not take {kafka.sasl_mechanism} for {kafka.security_protocol}: check kafka.sasl_mechanism and "
            "kafka.security_protocol"
        )
    except BadInputError as error:
        return f"was not asked: {error}"
    except ConnectionRefusedError:
        return "does not listen: check kafka.bootstrap, or run `tablecast up`"
    except (KafkaConnectionError, ConnectionError, EOFError):
        return f"closes the connection: {_other_protocol(kafka)}"
    except TimeoutError:
        return (
            f"does not answer within {PROBE_MS / 1000:.0f} s: check kafka.bootstrap and firewalls; "
            f"{_other_protocol(kafka)}"
        )
    except (OSError, KafkaError) as error:
        return f"can't be connected to ({error}): check kafka.bootstrap"
    finally:
        if connection is not None:
            connection.close()
    return None


def _by_token(kafka: KafkaSettings) -> bool:
    return kafka.sasl_mechanism == "OAUTHBEARER"


def _other_protocol(kafka: KafkaSettings) -> str:
    """Return what to look at when two sides do not speak the same protocol."""
    asks = "TLS or a password" if kafka.security_protocol == "PLAINTEXT" else "another protocol"
    return (
        f"perhaps its port asks for {asks}; kafka.security_protocol is {kafka.security_protocol}, and may have to be "
        "SSL, SASL_SSL or SASL_PLAINTEXT, or the broker asks for kafka.certificate_file and kafka.key_file"
    )
