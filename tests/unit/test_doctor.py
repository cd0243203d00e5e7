"""What the doctor finds, and that what is not good comes with what to do about it."""

import json
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from ops import doctor
from ops.cli import app
from streams.settings import InferenceSettings, KafkaSettings, Settings
from streams.topic_admin import CreateTopic, Plan, WantedTopic


class Usage(NamedTuple):
    total: int
    used: int
    free: int


MISSING = CreateTopic(WantedTopic("users.requests", 4, 1, {"cleanup.policy": "delete"}))


@pytest.fixture
def settings(tmp_path):
    return Settings(data_dir=tmp_path / "not" / "there" / "yet")


def only(findings):
    (finding,) = findings
    assert bool(finding.fix) == (finding.state != "good")
    return finding


def test_topics_that_are_missing_or_refused_are_wrong_and_the_rest_is_good():
    assert only(doctor.topics(Plan())).state == "good"
    missing = only(doctor.topics(Plan(changes=(MISSING,))))
    assert (missing.state, missing.fix) == ("wrong", "tablecast topics apply")
    assert "users.requests" in missing.found
    refused = only(doctor.topics(Plan(refusals=("topic a: 8 partitions, wanted 4",))))
    assert (refused.state, refused.found) == ("wrong", "topic a: 8 partitions, wanted 4")


@pytest.mark.parametrize(
    ("members", "lag", "age", "state"),
    [
        (1, 0, 0, "good"),
        (2, 500, 3, "good"),
        (2, 500, 300, "warning"),
        (0, 0, 0, "warning"),  # may be on purpose
        (0, 1, 0, "wrong"),
    ],
)
def test_a_stage_is_judged_by_who_works_and_how_long_records_wait(members, lag, age, state):
    assert only(doctor.stage("inference", members, lag, age)).state == state


@pytest.mark.parametrize(("ahead", "state"), [(-5_000, "good"), (400, "good"), (20_000, "warning"), (400_000, "wrong")])
def test_clocks_of_apps_may_lag_but_not_run_ahead(ahead, state):
    finding = only(doctor.judged_clocks({"users.context": ahead}, most=300_000))
    assert finding.state == state
    assert ("users.context" in finding.found) == (state != "good")


def test_copies_that_the_brokers_can_not_hold_are_wrong():
    three = Settings(kafka=KafkaSettings(bootstrap="b:9092", replication=3))
    assert only(doctor.broker(three, brokers=1)).state == "wrong"
    assert only(doctor.broker(three, brokers=3)).state == "good"


def test_a_folder_that_is_not_there_yet_has_the_room_of_the_disk_it_will_be_on(settings, monkeypatch):
    assert all("GiB free" in finding.found for finding in doctor.disk(settings))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(100 * doctor.GIB, 99 * doctor.GIB, doctor.GIB))
    assert {finding.state for finding in doctor.disk(settings)} == {"wrong"}


def test_a_model_folder_that_is_not_whole_is_named(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    finding = only(doctor.model_folder(Settings(inference=InferenceSettings(model=str(tmp_path)))))
    assert finding.state == "wrong"
    assert str(tmp_path) in finding.found


def test_packages_that_are_too_old_or_missing_are_named(monkeypatch):
    asked = ["numpy>=999", "no-such-package", 'only-elsewhere; extra == "other"']
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda _: asked)
    finding = only(doctor.versions())
    assert finding.state == "wrong"
    assert "numpy" in finding.found
    assert "no-such-package is missing" in finding.found
    assert "only-elsewhere" not in finding.found


def test_without_a_broker_the_command_says_so_and_exits_with_1(monkeypatch):
    monkeypatch.setenv("TABLECAST_KAFKA__BOOTSTRAP", "127.0.0.1:1")
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert findings["settings"]["state"] == "good"
    assert findings["broker"]["state"] == "wrong"
    assert "kafka.bootstrap" in findings["broker"]["fix"]


def test_a_wrong_setting_is_a_finding(monkeypatch):
    monkeypatch.setenv("TABLECAST_KAFKA__PARTITIONS", "none")
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    (finding,) = json.loads(done.stdout)
    assert "kafka.partitions" in finding["found"]
