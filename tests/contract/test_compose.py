"""What docker-compose.yml promises: pinned, unprivileged, bounded, watched, and reachable from this machine alone."""

from pathlib import Path

import pytest
import yaml

from ops.broker.kafka import version
from ops.cli import COMMANDS
from ops.stages import NAMES
from streams.process import CLOSING_SECONDS
from streams.settings import Settings

FOLDER = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((FOLDER / "docker-compose.yml").read_text("utf-8"))
SERVICES = COMPOSE["services"]
each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
STAGES = [name for name, service in SERVICES.items() if service["image"] == "tablecast"]


@each_service
def test_nothing_listens_beyond_loopback(service):
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@each_service
def test_nothing_runs_as_root(service):
    assert service["user"].partition(":")[0] not in {"", "0", "root"}
    assert service["cap_drop"] == ["ALL"]


@each_service
def test_memory_and_processors_are_limited(service):
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}


@each_service
def test_what_runs_on_is_watched(service):
    runs_on = service["restart"] != "no"
    assert runs_on == ("test" in service["healthcheck"])


@each_service
def test_volumes_are_declared_and_what_is_mounted_is_there_and_not_changed(service):
    for volume in service.get("volumes", []):
        name, *inside = volume.split(":")
        if name.startswith("./"):
            assert (FOLDER / name).exists()
            assert inside[-1] == "ro"
        else:
            assert name in COMPOSE["volumes"]


def test_the_broker_is_the_one_that_up_starts():
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{version()}"


@pytest.mark.parametrize("name", STAGES)
def test_a_container_runs_a_command_that_there_is(name):
    assert SERVICES[name]["command"][0] in COMMANDS


@pytest.mark.parametrize("name", STAGES)
def test_settings_of_a_container_are_settings_that_there_are(name, monkeypatch):
    for variable, value in SERVICES[name]["environment"].items():
        monkeypatch.setenv(variable, value)
    settings = Settings()
    assert settings.kafka.bootstrap == "kafka:19092"
    watched = SERVICES[name]["healthcheck"].get("test")
    assert watched is None or f":{settings.metrics.port}/ready" in watched[-1]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_has_the_time_to_write_what_it_has(name):
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > CLOSING_SECONDS


def test_all_stages_run_and_the_trainer_stores_models_where_inference_looks():
    assert set(NAMES) <= {service["command"][0] for service in SERVICES.values() if "command" in service}
    data = str(Settings().data_dir.relative_to(Path.home()))
    trainer, inference = (
        next(volume for volume in SERVICES[name]["volumes"] if volume.endswith(data))
        for name in ("trainer", "inference")
    )
    assert trainer == inference


def test_the_stages_of_one_kind_have_names_of_their_own():
    assert SERVICES["inference-gpu"]["environment"]["TABLECAST_INSTANCE"] != Settings().instance


def test_the_image_holds_what_it_copies():
    dockerfile = (FOLDER / "ops" / "Dockerfile").read_text("utf-8")
    copied = [line.split()[1:-1] for line in dockerfile.splitlines() if line.startswith("COPY ")]
    ignored = (FOLDER / ".dockerignore").read_text("utf-8").splitlines()
    for path in (path for paths in copied for path in paths):
        assert (FOLDER / path).exists()
        assert f"!{path}" in ignored
