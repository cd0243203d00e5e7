"""A broker for people who have none running: Apache Kafka where there is Java, else the pip-installed stand-in."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ops.broker import kafka, standin
from ops.broker.process import Broker, BrokerError, claim, running_broker

__all__ = ["Broker", "BrokerError", "running_broker", "start_broker"]

NO_PROPERTIES: Mapping[str, str] = MappingProxyType({})


def start_broker(
    data_dir: Path,
    *,
    port: int | None = None,
    properties: Mapping[str, str] = NO_PROPERTIES,
    users: Mapping[str, str] = NO_PROPERTIES,
    client: Mapping[str, Any] = NO_PROPERTIES,
) -> Broker:
    """Start a broker on 127.0.0.1 that keeps its data in `data_dir`, and return once it answers.

    `port` is a free one unless given. `properties` are Kafka server properties laid over `kafka.PROPERTIES`; the
    stand-in has none and ignores them. `users` are names and passwords for SCRAM-SHA-512, made with the data; `client`
    are the connection arguments with which a broker that `properties` close to strangers is asked whether it answers.
    The broker ends with this process, however that ends.

    Raises `BrokerError` when a broker already runs on `data_dir`, when none can be started on this machine, or when
    the one started exits before it answers.
    """
    data_dir = data_dir.absolute()
    data_dir.mkdir(parents=True, exist_ok=True)
    with claim(data_dir) as lock:
        missing = kafka.missing_tools()
        if not missing:
            return kafka.start(data_dir, lock, port=port, properties=properties, users=users, client=client)
        if standin.installed():
            return standin.start(data_dir, lock, port=port, missing=missing)
    raise BrokerError(
        f"There is no broker to start: {missing} was not found. Install Java {kafka.OLDEST_JAVA} or newer and Maven "
        "(on Debian and Ubuntu: apt install default-jre-headless maven), or the stand-in broker for a quick look "
        "(pip install 'tablecast[standin]'), or point Tablecast at a Kafka cluster that is already running."
    )
