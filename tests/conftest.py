"""One broker for the whole run, and topic names of its own for every test."""

import uuid
from collections.abc import Iterator

import pytest

from ops.broker import Broker, kafka, standin, start_broker

BROKER_NAME = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Apache Kafka where there is Java and Maven, else the stand-in. Tests that kill a broker start their own."""
    if (missing := kafka.missing_tools()) and not standin.installed():
        request.config.stash[BROKER_NAME] = f"none, as {missing} is missing: tests that need one were skipped"
        pytest.skip(f"no broker on this machine: {missing} is missing, and so is the stand-in")
    with start_broker(tmp_path_factory.mktemp("broker")) as started:
        request.config.stash[BROKER_NAME] = f"{started.kind}. {started.limits}".strip()
        yield started


@pytest.fixture
def bootstrap(broker: Broker) -> str:
    """The address that clients of the session's broker connect to."""
    return broker.bootstrap


@pytest.fixture
def topic_prefix() -> str:
    """What this test puts before the name of each topic, group and transactional id, so that no two tests meet."""
    return f"t-{uuid.uuid4().hex[:12]}."


@pytest.fixture(autouse=True)
def _skip_without_kafka(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("kafka"):
        limits = request.getfixturevalue("broker").limits
        if limits:
            pytest.skip(limits)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    name = config.stash.get(BROKER_NAME, None)
    if name:
        terminalreporter.write_line(f"broker: {name}")
