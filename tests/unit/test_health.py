"""A stage is ready when it has caught up, alive while it gets something done, and says so over HTTP."""

import math
import socket
import time
import urllib.error
import urllib.request

import pytest
from aiokafka import TopicPartition
from prometheus_client import REGISTRY

from streams import health
from streams.health import Position, Progress, serve
from streams.settings import MetricsSettings, SettingsError

FIRST, SECOND = TopicPartition("here.users.requests", 0), TopicPartition("here.users.requests", 1)


@pytest.fixture
def progress():
    return Progress("here.")


def sample(name, **labels):
    return REGISTRY.get_sample_value(name, labels)


def test_it_is_ready_when_what_was_there_at_the_start_has_been_processed(progress):
    assert "waits for" in progress.why_not_ready()
    progress.assigned()
    progress.note({FIRST: Position(3), SECOND: Position(0)}, {FIRST: 10, SECOND: 0})
    assert "catches up" in progress.why_not_ready()
    progress.note({FIRST: Position(10), SECOND: Position(0)}, {FIRST: 25, SECOND: 5})  # more has come since
    assert progress.why_not_ready() == ""
    assert sample("tablecast_ready") == 1
    assert sample("tablecast_recovery_seconds") >= 0


def test_a_process_that_stands_by_without_partitions_is_ready(progress):
    progress.assigned()
    progress.note({}, {})
    assert progress.why_not_ready() == ""


def test_after_a_rebalance_it_catches_up_again(progress):
    progress.assigned()
    progress.note({FIRST: Position(1)}, {FIRST: 1})
    progress.revoked()
    assert "waits for" in progress.why_not_ready()
    assert sample("tablecast_lag_records", topic="users.requests") is None  # somebody else's now
    progress.assigned()
    progress.note({SECOND: Position(0)}, {SECOND: 4})
    assert "catches up" in progress.why_not_ready()


def test_lag_is_told_in_records_and_in_seconds_of_event_time(progress):
    progress.assigned()
    hour_ago = int(time.time() * 1000) - 3_600_000
    progress.note({FIRST: Position(3, hour_ago), SECOND: Position(7, 1)}, {FIRST: 10, SECOND: 7})
    assert sample("tablecast_lag_records", topic="users.requests") == 7
    assert sample("tablecast_lag_seconds", topic="users.requests") == pytest.approx(3600, abs=60)
    progress.note({FIRST: Position(10, hour_ago), SECOND: Position(7, 1)}, {FIRST: 10, SECOND: 7})
    assert sample("tablecast_lag_seconds", topic="users.requests") == 0


def test_it_is_not_alive_when_there_is_lag_and_nothing_gets_done(progress, monkeypatch):
    monkeypatch.setattr(health, "STUCK_SECONDS", 0.0)
    progress.assigned()
    progress.note({FIRST: Position(3)}, {FIRST: 10})
    assert progress.why_not_alive() == ""
    time.sleep(0.001)
    progress.note({FIRST: Position(3)}, {FIRST: 10})
    assert "no record was processed" in progress.why_not_alive()
    progress.note({FIRST: Position(4)}, {FIRST: 10})
    assert progress.why_not_alive() == ""


def test_the_time_in_which_the_broker_could_not_be_asked_does_not_count(progress, monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(health.time, "monotonic", lambda: now)
    progress.assigned()
    progress.note({FIRST: Position(3)}, {FIRST: 10})
    now += 3600
    progress.note({FIRST: Position(3)}, {FIRST: 10})
    monkeypatch.setattr(health, "LOOP_SECONDS", math.inf)
    assert progress.why_not_alive() == ""


def test_it_is_not_alive_when_its_loop_hangs(progress, monkeypatch):
    monkeypatch.setattr(health, "LOOP_SECONDS", -1.0)
    assert "event loop" in progress.why_not_alive()
    assert "event loop" in progress.why_not_ready()


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_the_pages_say_so_over_http(progress, port):
    server = serve(MetricsSettings(port=port), progress)
    try:
        assert get(port, "/health") == (200, "ok\n")
        assert get(port, "/ready")[0] == 503
        progress.assigned()
        progress.note({}, {})
        assert get(port, "/ready") == (200, "ok\n")
        assert "tablecast_ready 1.0" in get(port, "/metrics")[1]
        assert get(port, "/elsewhere")[0] == 404
        with pytest.raises(SettingsError, match=f"127.0.0.1:{port}"):
            serve(MetricsSettings(port=port), progress)
    finally:
        server.shutdown()
        server.server_close()


def test_without_a_port_nothing_listens(progress):
    assert serve(MetricsSettings(), progress) is None
