"""What could not be processed is counted by its reason, and when corrected answered exactly once."""

import asyncio
import json

import pytest
from typer.testing import CliRunner

from ops.bench.dead_letters import dead_letters_on
from ops.cli import app

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="session")]

LETTERS = 35


async def test_corrected_dead_letters_are_answered_exactly_once_though_a_retry_dies_and_is_repeated(deployment, world):
    report = await dead_letters_on(deployment, world, LETTERS)

    assert report.faults == []
    assert report.letters == report.retried == report.answered == LETTERS
    assert report.retried_uncorrected == report.retried_again == 0
    assert report.by_error == {"DecodeError": 25, "EventTimeError": 5, "UnknownDomainError": 5}


async def test_the_commands_list_show_count_export_and_discard(deployment, tmp_path):
    kafka = deployment.settings.kafka
    variables = {"TABLECAST_KAFKA__BOOTSTRAP": kafka.bootstrap, "TABLECAST_KAFKA__PREFIX": kafka.prefix}

    async def command(*arguments):
        return await asyncio.to_thread(CliRunner().invoke, app, ["deadletters", *arguments], env=variables)

    producer = deployment.producer
    place = await producer.send_and_wait(f"{kafka.prefix}users.context", b"\x81\xa6device\x01", b"somebody", 0)
    name = f"users.context/0/{place.offset}"
    async with asyncio.timeout(60):
        while (shown := await command("show", name, "--json")).exit_code != 0:
            assert "there is no dead letter" in shown.stderr
    assert json.loads(shown.stdout)["decoded"] == [{"device": 1}]
    assert json.loads(shown.stdout)["fault_now"] is not None

    of_topic = ("--topic", "users.context", "--json")
    assert [json.loads(line)["name"] for line in (await command("list", *of_topic)).stdout.splitlines()] == [name]
    (counted,) = json.loads((await command("count", *of_topic)).stdout)
    assert (counted["error"], counted["count"]) == ("DecodeError", 1)
    assert (await command("export", str(tmp_path / "letters.jsonl"))).exit_code == 0
    assert (await command("retry")).exit_code == 2
    assert "1 left alone: still faulty" in (await command("retry", name)).stdout
    assert "1 discarded" in (await command("discard", name)).stdout
    assert "0 retried" in (await command("retry", name)).stdout
    assert (await command("list", *of_topic)).stdout == ""
