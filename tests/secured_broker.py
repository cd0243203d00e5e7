"""A broker that lets nobody in without TLS and a name, and lets nobody do what no ACL gives: for tests of safety."""

import base64
import json
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ops.broker import Broker, start_broker
from ops.broker.process import HOST, free_ports
from streams.settings import KafkaSettings

ADMIN = "admin"
STRANGER = "stranger"  # may connect, and has no role
USERS = (ADMIN, STRANGER, "app", "merchant", "state", "inference", "trainer", "backfill", "ops")
MECHANISM = "SCRAM-SHA-512"


def password_of(user: str) -> str:
    """Return a password that is easy to find where it should not be."""
    return f"secret-of-{user}-5f1d"


@dataclass(frozen=True)
class Secured:
    """The broker, and how its clients reach it."""

    broker: Broker
    folder: Path
    ca: trustme.CA
    mutual_port: int

    def settings(self, user: str, prefix: str = "", **changes: object) -> KafkaSettings:
        """Return what a user with a password connects with; the password comes from a file."""
        secret = self.folder / f"{user}.password"
        if not secret.exists():
            secret.touch(mode=0o600)
            secret.write_text(password_of(user) + "\n")
        fields = {
            "bootstrap": self.broker.bootstrap,
            "prefix": prefix,
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": MECHANISM,
            "sasl_username": user,
            "sasl_password_file": secret,
            "ca_file": self.folder / "ca.pem",
        }
        return KafkaSettings(**{**fields, **changes})

    def with_certificate(self, user: str, prefix: str = "") -> KafkaSettings:
        """Return what a user with a certificate of its own connects with."""
        return KafkaSettings(
            bootstrap=f"{HOST}:{self.mutual_port}",
            prefix=prefix,
            security_protocol="SSL",
            ca_file=self.folder / "ca.pem",
            certificate_file=_certificate(self.ca, self.folder, user),
            key_file=self.folder / f"{user}.pem",
        )

    def token_file(self, user: str, seconds: float = 60) -> Path:
        """Write a token for a user, which the broker takes although nobody signed it, and return its file."""
        parts = ({"alg": "none"}, {"sub": user, "iat": time.time() - 5, "exp": time.time() + seconds})
        token = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
        file = self.folder / f"{user}.token"
        file.write_text(token + ".")
        return file


@contextmanager
def secured_broker(folder: Path) -> Iterator[Secured]:
    """Run Apache Kafka with SCRAM, OAUTHBEARER, TLS, mutual TLS and ACLs."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    own = _certificate(ca, folder, "broker")
    port, mutual_port, controller_port = free_ports(3)
    listener = "listener.name.broker"
    properties = {
        "listeners": f"BROKER://{HOST}:{port},MUTUAL://{HOST}:{mutual_port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"BROKER://{HOST}:{port},MUTUAL://{HOST}:{mutual_port}",
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "listener.security.protocol.map": "BROKER:SASL_SSL,MUTUAL:SSL,CONTROLLER:SSL",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(own),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "ca.pem"),
        "listener.name.mutual.ssl.client.auth": "required",
        "listener.name.controller.ssl.client.auth": "required",
        "ssl.principal.mapping.rules": "RULE:^.*CN=([^,]*).*$/$1/,DEFAULT",
        "sasl.enabled.mechanisms": f"{MECHANISM},OAUTHBEARER",
        "sasl.mechanism.inter.broker.protocol": MECHANISM,
        f"{listener}.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required "
            f'username="{ADMIN}" password="{password_of(ADMIN)}";'
        ),
        f"{listener}.oauthbearer.sasl.jaas.config": (
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required "
            f'unsecuredLoginStringClaim_sub="{ADMIN}";'
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{ADMIN};User:broker",
    }
    client = {
        "security_protocol": "SASL_SSL",
        "ssl_context": ssl.create_default_context(cafile=str(folder / "ca.pem")),
        "sasl_mechanism": MECHANISM,
        "sasl_plain_username": ADMIN,
        "sasl_plain_password": password_of(ADMIN),
    }
    users = {user: password_of(user) for user in USERS}
    with start_broker(folder / "data", port=port, properties=properties, users=users, client=client) as broker:
        yield Secured(broker, folder, ca, mutual_port)


def _certificate(ca: trustme.CA, folder: Path, name: str) -> Path:
    """Write a name's certificate with its key, which Kafka takes in PKCS #8 only, and return the file."""
    file = folder / f"{name}.pem"
    if not file.exists():
        issued = ca.issue_cert("127.0.0.1", "localhost", common_name=name)
        key = load_pem_private_key(issued.private_key_pem.bytes(), None)
        parts = [key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())]
        parts += [blob.bytes() for blob in issued.cert_chain_pems]
        file.touch(mode=0o600)
        file.write_bytes(b"".join(parts))
    return file
