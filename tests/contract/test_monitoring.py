"""Dashboard and alert rules ask only for what the stages measure, and Prometheus takes them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY

import models.embedding_cache  # noqa: F401 - defines metrics
import streams.metrics  # noqa: F401 - as above
from ops.bench.alerts import SCRAPE_SECONDS

OPS = Path(__file__).parents[2] / "ops"
SCENARIOS = Path(__file__).with_name("alert_scenarios.yml")
COMPOSE = yaml.safe_load((OPS.parent / "docker-compose.yml").read_text("utf-8"))
CONFIG = yaml.safe_load((OPS / "prometheus" / "prometheus.yml").read_text("utf-8"))
(GROUP,) = yaml.safe_load((OPS / "prometheus" / "alerts.yml").read_text("utf-8"))["groups"]
ALERTS = {rule["alert"]: rule for rule in GROUP["rules"]}
DASHBOARD = json.loads((OPS / "grafana" / "dashboards" / "tablecast.json").read_text("utf-8"))
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
MEASURED = {family.name + suffix for family in REGISTRY.collect() for suffix in SUFFIXES.get(family.type, ("",))}
EXPRESSIONS = {
    **{alert: rule["expr"] for alert, rule in ALERTS.items()},
    **{title: target["expr"] for title, panel in PANELS.items() for target in panel["targets"]},
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_what_is_asked_for_is_measured(name):
    asked = set(re.findall(r"\b(?:tablecast|process)_\w+", EXPRESSIONS[name]))
    assert asked <= MEASURED
    assert asked or "up{" in EXPRESSIONS[name]


def test_what_the_stages_measure_is_on_the_dashboard():
    shown = {name for panel in PANELS.values() for target in panel["targets"] for name in _names(target["expr"])}
    ours = {family.name for family in REGISTRY.collect() if family.name.startswith("tablecast_")}
    assert {name for name in ours if not any(each.startswith(name) for each in shown)} <= {
        "tablecast_records_published",  # what one stage publishes another one reads
    }


def _names(expression):
    return re.findall(r"\btablecast_\w+", expression)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_is_the_matter_and_what_to_do(alert):
    assert {"summary", "what_to_do"} <= set(ALERTS[alert]["annotations"])
    assert ALERTS[alert]["labels"]["severity"] in {"page", "ticket"}


def test_what_is_scraped_are_services_of_compose_on_the_port_they_serve():
    port = int(COMPOSE["x-environment"]["TABLECAST_METRICS__PORT"])
    for job in CONFIG["scrape_configs"]:
        (found,) = job["dns_sd_configs"]
        assert found["port"] == port
        assert set(found["names"]) <= set(COMPOSE["services"])


def test_the_bench_of_alerts_scrapes_as_often_as_a_deployment():
    assert CONFIG["global"]["scrape_interval"] == CONFIG["global"]["evaluation_interval"] == f"{SCRAPE_SECONDS}s"


def test_panels_do_not_lie_on_one_another_and_have_ids_of_their_own():
    panels = DASHBOARD["panels"]
    cells = [
        (place["x"] + right, place["y"] + down)
        for place in (panel["gridPos"] for panel in panels)
        for right in range(place["w"])
        for down in range(place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus's own checker is not installed")
def test_prometheus_takes_configuration_and_rules_and_fires_as_expected():
    for arguments in (
        ["check", "config", str(OPS / "prometheus" / "prometheus.yml")],
        ["test", "rules", str(SCENARIOS)],
    ):
        done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
