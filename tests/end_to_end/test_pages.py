"""Running stages say that they are alive, ready, and what they have done; the doctor agrees."""

import asyncio
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ops.bench.campaign import campaign_on
from ops.doctor import examine
from ops.simulator.events import catalogue

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="session")]

REQUESTS = 100
PATIENCE_SECONDS = 60
LAGGING = 6  # topics that the two stages read
LETTERS = "tablecast_dead_letters_total"


async def page(deployment, stage, path):
    """Return what one of a stage's pages says; raises for any status but 200."""
    port = deployment.settings.metrics.port + list(deployment.stages).index(stage)

    def read():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.read().decode()

    return await asyncio.to_thread(read)


async def samples(deployment, stage):
    """Return a stage's samples by name and value of their only label."""
    families = text_string_to_metric_families(await page(deployment, stage, "/metrics"))
    return {(sample.name, *(sample.labels.values())): sample.value for family in families for sample in family.samples}


async def test_what_was_posted_and_answered_is_on_the_pages(deployment, world):
    before = await samples(deployment, "inference")
    report = await campaign_on(deployment, world, requests=REQUESTS, poison_fraction=0.05)

    answers = ("tablecast_answer_seconds_count",)
    async with asyncio.timeout(PATIENCE_SECONDS):  # lag is measured once a second, of one topic after the other
        while True:
            state, inference = await samples(deployment, "state"), await samples(deployment, "inference")
            lags = {key: value for key, value in (state | inference).items() if key[0] == "tablecast_lag_records"}
            measured = len(lags) >= LAGGING and not any(lags.values())
            if measured and inference[answers] - before[answers] >= report.answered:
                break
            await asyncio.sleep(0.2)

    assert len(lags) == LAGGING
    assert state["tablecast_ready",] == inference["tablecast_ready",] == 1
    assert state["tablecast_records_read_total", "users.requests"] >= REQUESTS
    assert state["tablecast_table_rows", "users"] > 0
    letters = [value for of in (state, inference) for key, value in of.items() if key[0] == LETTERS]
    assert sum(letters) >= report.poisonous > 0
    assert inference["tablecast_records_published_total", "recommendations"] == inference[answers]
    assert inference["tablecast_table_rows", "catalogue"] == len(list(catalogue(world, 0)))
    for stage in deployment.stages:
        assert await page(deployment, stage, "/health") == "ok\n"
        assert await page(deployment, stage, "/ready") == "ok\n"


async def test_the_doctor_finds_what_was_posted_wrongly_and_nothing_else(deployment):
    findings = {(finding.check, finding.state) for finding in await examine(deployment.settings)}
    assert {check for check, state in findings} == {"versions", "disk", "broker", "topics", "clocks", "lag", "model"}
    wrong = {check for check, state in findings if state == "wrong"}
    assert wrong - {"disk"} == {"clocks"}  # the campaign before has posted records from the future

    elsewhere = deployment.settings.kafka.model_copy(update={"prefix": "nothing-is-here."})
    found = await examine(deployment.settings.model_copy(update={"kafka": elsewhere}))
    assert ("topics", "tablecast topics apply") in {(finding.check, finding.fix) for finding in found}
