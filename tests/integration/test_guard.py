"""A canary on a real broker is judged by what its users do, once, whatever happens to the guard."""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from canary_answers import CANARY, CHAMPION, life
from guarded import NAME, PATIENCE_SECONDS, group, guarded_settings, guarding, until, write
from trainer_deployment import announcements, everything_on

from models.canary import Evidence
from models.roles import RoleError, holder, with_role
from ops.stages import variables
from schemas.codec import decode
from schemas.records import ModelDecision
from schemas.topics import MODELS_DECISIONS
from streams.kafka import client_options, committed_offsets
from streams.model_roles import change_roles, read_roles

pytestmark = pytest.mark.kafka


def clicks(canary, champion):
    return lambda is_canary: canary if is_canary else champion


@pytest.fixture
async def settings(bootstrap, topic_prefix, tmp_path):
    return await guarded_settings(bootstrap, topic_prefix, tmp_path, click_margin=0.4)


async def decisions(settings):
    return [decode(ModelDecision, value) for _, value in await everything_on(settings, MODELS_DECISIONS)]


async def evidence(settings):
    """Return what the guard has kept."""
    admin = AIOKafkaAdminClient(**client_options(settings.kafka))
    await admin.start()
    try:
        committed = await committed_offsets(admin, group(settings))
    finally:
        await admin.close()
    kept = [
        mark["evidence"] for entry in committed.values() if "evidence" in (mark := msgspec.json.decode(entry.metadata))
    ]
    return msgspec.convert(kept[0], Evidence) if kept else None


async def answers_counted(settings):
    """Return how many users have been counted, and for how many of them it is known what they did."""
    kept = await evidence(settings)
    if kept is None:
        return 0, 0
    counted = {
        name: sum(c.answers for c in (of.canary, of.champion, of.canary_block, of.champion_block))
        for name, of in kept.state.items()
    }
    return counted["slow"], counted["not clicked"]


async def test_a_canary_whose_lists_are_clicked_less_is_rolled_back_and_it_is_told_why(settings):
    async with guarding(settings) as watching:
        await until(settings, evidence, watching)
        await write(settings, life(400, clicks(0.1, 0.5)))
        await until(settings, decisions, watching)

    (decision,) = await decisions(settings)
    assert (decision.decision, decision.version, decision.champion) == ("roll back", CANARY, CHAMPION)
    assert "not clicked" in decision.reason
    assert decision.figures["not clicked: canary"] > decision.figures["not clicked: champion"] + 0.2
    held = (await read_roles(settings.kafka))[NAME]
    assert (holder(held, "champion").version, holder(held, "canary"), held.rolled_back) == (CHAMPION, None, [CANARY])
    assert held.figures == decision.figures

    again = next(each for each in held.versions if each.version == CANARY)
    again = msgspec.structs.replace(again, role="canary")
    with pytest.raises(RoleError, match="--force"):
        await change_roles(settings.kafka, NAME, lambda current: with_role(current, again, "once more"))
    forced = await change_roles(settings.kafka, NAME, lambda now: with_role(now, again, "once more", force=True))
    assert holder(forced, "canary").version == CANARY

    async def begun_anew(settings):
        kept = await evidence(settings)
        return kept.rolled_back == 1 and kept.start is None

    async with guarding(settings) as watching:
        await until(settings, begun_anew, watching)
    assert len(await decisions(settings)) == 1


async def test_a_healthy_canary_becomes_the_champion(settings):
    async with guarding(settings) as watching:
        await until(settings, evidence, watching)
        await write(settings, life(3_900, clicks(0.5, 0.5)))
        await until(settings, decisions, watching)

    (decision,) = await decisions(settings)
    assert (decision.decision, decision.version) == ("promote", CANARY)
    held = (await read_roles(settings.kafka))[NAME]
    assert (holder(held, "champion").version, held.former) == (CANARY, [CHAMPION])


@contextlib.asynccontextmanager
async def held(where, settings):
    """Start a guard in a process of its own, and yield when it has got there; it is killed then."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).parents[1] / "chaos" / "held_guard.py"),
        where,
        env={**os.environ, **variables(settings)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (line := await process.stdout.readline()) != b"held\n":
                assert line, "the guard ended before it was held"
        yield
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize(("where", "decided_before"), [("before", 0), ("after", 1)])
async def test_a_guard_killed_while_it_decides_decides_once(where, decided_before, settings):
    async with guarding(settings) as watching:
        await until(settings, evidence, watching)
    await write(settings, life(400, clicks(0.1, 0.5)))
    async with held(where, settings):
        pass
    assert len(await decisions(settings)) == decided_before

    async with guarding(settings) as watching:
        await until(settings, decisions, watching)
        generations = [each.generation for each in await announcements(settings)]
        assert generations == [1, 2, 3]
        version = "d" * 16  # the guard goes on with the next canary, so it is done with this one
        retired = next(each for each in (await announcements(settings))[-1].versions if each.version == CANARY)
        following = msgspec.structs.replace(retired, version=version, role="canary", share=0.5)
        await change_roles(settings.kafka, NAME, lambda current: with_role(current, following, "the next"))

        async def watched(settings):
            return (await evidence(settings)).canary == f"{NAME}@{version}"

        await until(settings, watched, watching)
    (decision,) = await decisions(settings)
    assert (decision.decision, decision.version) == ("roll back", CANARY)


async def test_a_guard_killed_while_it_counts_counts_everybody_once(settings):
    users = list(life(300, clicks(0.5, 0.5)))

    async def begun(settings):
        kept = await evidence(settings)
        return kept and kept.start is not None

    async with guarding(settings) as watching:
        await until(settings, evidence, watching)
        await write(settings, users[:1])
        await until(settings, begun, watching)
    await write(settings, users[1:200])
    async with held("counting", settings):
        pass
    assert (await answers_counted(settings))[0] > 0
    await write(settings, users[200:])

    async def everybody_counted(settings):
        return await answers_counted(settings) == (300, 300)

    async with guarding(settings) as watching:
        await until(settings, everybody_counted, watching)
    assert await decisions(settings) == []
