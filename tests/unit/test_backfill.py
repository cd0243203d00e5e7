"""What a backfill writes where retention has taken the beginning of the history, and what it says."""

import dataclasses
import json
from collections import Counter

import pytest
from memory_stage import MINUTE, NOON, Log, MemoryStage, answer
from typer.testing import CliRunner

from ops import backfill
from ops.cli import app
from schemas.records import Feedback, Request
from schemas.topics import RECOMMENDATIONS, RETRAINING, USERS_FEEDBACK, USERS_REQUESTS
from streams.settings import KafkaSettings

KAFKA = KafkaSettings(bootstrap="nowhere:9092")


class Sent:
    """What a producer was given."""

    def __init__(self):
        self.records = []

    async def send(self, topic, value, key, partition, timestamp_ms):
        self.records.append((key, timestamp_ms, value))


class Read:
    """A training example as it was read."""

    def __init__(self, outbound):
        self.key, self.value, self.timestamp = outbound.key, outbound.value, outbound.time


async def yielding(entries):
    for entry in entries:
        yield entry


@pytest.fixture
def originals():
    """Return the examples of two lists, one hour apart, each with a click."""
    stage, log = MemoryStage(), Log()
    for number in range(2):
        time = NOON + number * 60 * MINUTE
        request = log.record(USERS_REQUESTS, time, Request(request_id=f"r{number}", domain="restaurant"))
        stage.apply(log.record(RECOMMENDATIONS, time, answer(stage.apply(request), "ab")))
        click = Feedback(item_id="a", domain="restaurant", kind="click", request_id=f"r{number}")
        stage.apply(log.record(USERS_FEEDBACK, time + MINUTE, click))
    stage.flush()
    return [sent for sent in stage.published if sent.topic == RETRAINING]


async def written(monkeypatch, originals, made, since):
    monkeypatch.setattr(backfill, "_partition", lambda *_: yielding(map(Read, originals)))
    sent = Sent()
    history = backfill._History({}, 0, since)
    await backfill._write_examples(KAFKA, KAFKA, sent, {}, history, yielding(made), 0)
    return sorted(sent.records)


def as_read(originals):
    return sorted((each.key, each.time, each.value) for each in originals)


async def test_of_a_whole_history_only_what_was_made_again_is_written(monkeypatch, originals):
    assert await written(monkeypatch, originals, originals[1:], since=0) == as_read(originals[1:])


async def test_examples_that_can_not_be_made_again_are_copied(monkeypatch, originals):
    assert await written(monkeypatch, originals, originals[1:], since=NOON) == as_read(originals)


async def test_a_list_whose_feedback_may_be_gone_is_not_made_again_but_copied(monkeypatch, originals):
    first, second = originals
    made = [dataclasses.replace(first, time=first.time + 1), second]
    assert await written(monkeypatch, originals, made, since=NOON) == as_read(originals)


def test_rows_that_history_does_not_reach_stay():
    verdict = backfill._verdict
    assert verdict(None, b"row", dict, whole_history=False) == "kept"
    assert verdict(None, b"row", dict, whole_history=True) == "removed"
    assert verdict(b"row", None, dict, whole_history=True) == "added"
    assert verdict(b"\x82\xa1a\x01\xa1b\x02", b"\x82\xa1b\x02\xa1a\x01", dict, whole_history=True) == "same"
    assert verdict(b"\x81\xa1a\x01", b"\x81\xa1a\x02", dict, whole_history=True) == "changed"


def test_the_command_prints_what_was_made_for_programs(monkeypatch):
    async def made(*_, **__):
        return backfill.Backfill(records=3, counts={"state-users-changelog": Counter(same=2, changed=1)})

    monkeypatch.setattr(backfill, "backfill", made)
    environment = {"TABLECAST_KAFKA__BOOTSTRAP": "127.0.0.1:1"}
    run = CliRunner().invoke(app, ["backfill", "state", "--json"], env=environment)
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["counts"] == {"state-users-changelog": {"same": 2, "changed": 1}}
