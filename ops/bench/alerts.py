"""Alerts on real processes: Prometheus with the project's rules scrapes the stages, and each is stopped for a while.

What is measured is what somebody on call would see: how long after the stop the alert fires, and how long after the
start it is gone. Needs `prometheus` on the PATH (Debian: apt install prometheus).
"""

import asyncio
import contextlib
import json
import shutil
import socket
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ops.bench.deployment import Deployment, deployed
from ops.simulator.events import catalogue
from ops.simulator.world import build_world
from ops.stages import NAMES
from schemas.errors import BadInputError
from streams.settings import MetricsSettings, Settings

RULES = Path(__file__).parents[1] / "prometheus" / "alerts.yml"
SCRAPE_SECONDS = 10  # as ops/prometheus/prometheus.yml has it
METRICS_PORT = 9464  # or the next that is free
ALERT = "StageDown"
PATIENCE_SECONDS = 180.0
Alerts = set[tuple[str, str]]  # that fire: name and job


@dataclass
class AlertsReport:
    """By stage that was stopped: seconds until the alert fired, and until it was gone."""

    fired_after_stop: dict[str, float] = field(default_factory=dict)
    cleared_after_start: dict[str, float] = field(default_factory=dict)  # from the start of the process
    other_alerts: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


async def run_alerts(settings: Settings, say: Callable[[int], None] = lambda _: None) -> AlertsReport:
    """Stop and start each stage of a deployment of its own, under the rules as they are.

    Raises:
        BadInputError: there is no `prometheus` on the PATH.
        StageError: a stage does not start.

    """
    require_prometheus()
    watched = settings.model_copy(update={"metrics": MetricsSettings(port=settings.metrics.port or METRICS_PORT)})
    items = catalogue(build_world(1, users=10, restaurants=100), time.time_ns() // 1_000_000)
    async with deployed(watched, items) as deployment:
        return await alerts_on(deployment, RULES, SCRAPE_SECONDS, say)


async def alerts_on(
    deployment: Deployment, rules: Path, scrape_seconds: int, say: Callable[[int], None] = lambda _: None
) -> AlertsReport:
    """Run it on stages that serve their metrics. They are supervised no longer afterwards, and run."""
    report = AlertsReport()
    for task in deployment.supervision:
        task.cancel()  # who would start what was stopped again
    await asyncio.gather(*deployment.supervision, return_exceptions=True)
    async with _prometheus(deployment, rules, scrape_seconds) as firing:
        others: Alerts = set()
        for number, (name, stage) in enumerate(deployment.stages.items()):
            down = (ALERT, name)
            await _until(firing, down, fires=False)
            await stage.stop()
            began = time.monotonic()
            found = await _until(firing, down, fires=True)
            if down not in found:
                report.faults.append(f"{name} was stopped, and {ALERT} had not fired {PATIENCE_SECONDS:.0f} s later")
            report.fired_after_stop[name] = round(time.monotonic() - began, 1)
            others |= found - {down}
            began = time.monotonic()
            await stage.start()
            found = await _until(firing, down, fires=False)
            if down in found:
                report.faults.append(f"{name} runs, and {ALERT} still fired {PATIENCE_SECONDS:.0f} s later")
            report.cleared_after_start[name] = round(time.monotonic() - began, 1)
            say(number + 1)
        report.other_alerts = sorted(f"{alert} of {job}" for alert, job in others)
    return report


def require_prometheus() -> str:
    """Return where the program is.

    Raises:
        BadInputError: it is not on the PATH.

    """
    found = shutil.which("prometheus")
    if found is None:
        raise BadInputError("there is no `prometheus` on the PATH: apt install prometheus, or put its folder there")
    return found


@contextlib.asynccontextmanager
async def _prometheus(
    deployment: Deployment, rules: Path, scrape_seconds: int
) -> AsyncIterator[Callable[[], Alerts | None]]:
    """Run a Prometheus that scrapes the stages; yield what says which alerts fire, None while nobody answers."""
    with tempfile.TemporaryDirectory(prefix="tablecast-prometheus-") as folder:
        first = deployment.settings.metrics.port
        assert first is not None
        every = f"{scrape_seconds}s"
        configuration = {  # JSON is YAML
            "global": {"scrape_interval": every, "evaluation_interval": every, "scrape_timeout": every},
            "rule_files": [str(rules)],
            "scrape_configs": [
                {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{first + NAMES.index(name)}"]}]}
                for name in deployment.stages
            ],
        }
        (Path(folder) / "prometheus.json").write_text(json.dumps(configuration), encoding="utf-8")
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        with (Path(folder) / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                require_prometheus(), f"--config.file={folder}/prometheus.json", f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={address}", "--log.level=warn", stdout=log, stderr=log,
            )  # fmt: skip

        def firing() -> Alerts | None:
            try:
                targets, alerts = (_ask(address, what) for what in ("targets?state=active", "alerts"))
            except OSError:
                return None
            if any(target["health"] == "unknown" for target in targets["activeTargets"]):
                return None  # it has not looked yet
            active = [alert["labels"] for alert in alerts["alerts"] if alert["state"] == "firing"]
            return {(labels["alertname"], labels.get("job", "")) for labels in active}

        try:
            yield firing
        finally:
            process.terminate()
            await process.wait()


def _ask(address: str, what: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{address}/api/v1/{what}", timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)["data"]
    return found


async def _until(firing: Callable[[], Alerts | None], alert: tuple[str, str], *, fires: bool) -> Alerts:
    """Return all that fires as soon as the alert does or does not, as wished, or when patience has ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    found: Alerts | None = None
    while time.monotonic() < deadline:
        found = await asyncio.to_thread(firing)
        if found is not None and (alert in found) == fires:
            break
        await asyncio.sleep(0.5)
    return found or set()
