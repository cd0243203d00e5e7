"""What every Kafka client of Tablecast shares: connection options, topic names, the wait for an answer."""

import ssl
from typing import Any

from schemas.topics import Topic
from streams.settings import KafkaSettings


def client_options(kafka: KafkaSettings) -> dict[str, Any]:
    """Return the connection arguments that all aiokafka clients take.

    Raises:
        ValueError: no bootstrap server is set.

    """
    if kafka.bootstrap is None:
        raise ValueError("no Kafka cluster: set TABLECAST_KAFKA__BOOTSTRAP=host:port, or run `tablecast up`")
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap,
        "security_protocol": kafka.security_protocol,
    }
    if kafka.security_protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=kafka.ca_file)
        if kafka.certificate_file:
            context.load_cert_chain(kafka.certificate_file, kafka.key_file)
        options["ssl_context"] = context
    if kafka.security_protocol.startswith("SASL"):
        if kafka.sasl_username is None or kafka.sasl_password is None:
            raise ValueError("SASL needs TABLECAST_KAFKA__SASL_USERNAME and TABLECAST_KAFKA__SASL_PASSWORD")
        options |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.sasl_username,
            "sasl_plain_password": kafka.sasl_password.get_secret_value(),
        }
    return options


def full_name(kafka: KafkaSettings, topic: Topic) -> str:
    """Return the topic's name on the cluster."""
    return kafka.prefix + topic.name
