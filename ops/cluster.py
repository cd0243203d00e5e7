"""Which cluster a command talks to: the configured one, or the embedded broker that `tablecast up` runs."""

import contextlib
from pathlib import Path

from schemas.errors import BadInputError
from streams.settings import Settings


def broker_folder(settings: Settings) -> Path:
    """Return where the embedded broker keeps its log."""
    return settings.data_dir / "kafka"


def connected(settings: Settings) -> Settings:
    """Return the settings with a cluster to talk to.

    Raises:
        BadInputError: none is configured and no embedded broker runs.

    """
    from ops.broker import running_broker

    if settings.kafka.bootstrap is not None:
        return settings
    broker = running_broker(broker_folder(settings))
    if broker is None:
        raise BadInputError("no Kafka cluster: set TABLECAST_KAFKA__BOOTSTRAP=host:port, or run `tablecast up`")
    return with_bootstrap(settings, broker.bootstrap)


def connected_or_started(settings: Settings, stack: contextlib.AsyncExitStack) -> Settings:
    """Return the settings with a cluster to talk to; without one, start a broker that ends with ``stack``."""
    from ops.broker import start_broker

    try:
        return connected(settings)
    except BadInputError:
        broker = stack.enter_context(start_broker(broker_folder(settings)))
        return with_bootstrap(settings, broker.bootstrap)


def with_bootstrap(settings: Settings, bootstrap: str) -> Settings:
    """Return the settings with another bootstrap server."""
    return settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"bootstrap": bootstrap})})
