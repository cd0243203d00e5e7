"""What a backfill makes of the recorded past is what the running stage has made of it."""

import asyncio
import os
import sys
import time

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from models.user_state import UserState
from ops.backfill import StillRunningError, backfill
from ops.bench.deployment import committed_records, deployed, end_offsets, next_record, reading
from ops.dead_letters.letters import DECISIONS
from ops.simulator.events import catalogue
from ops.stages import variables
from schemas.codec import decode, encode
from schemas.records import Context, Erasure, Feedback, JoinedRequest, Recommendation, Request
from schemas.topics import (
    RECOMMENDATIONS,
    REQUESTS_JOINED,
    RETRAINING,
    TOPICS,
    USERS_CONTEXT,
    USERS_ERASURE,
    USERS_FEEDBACK,
    USERS_REQUESTS,
)
from streams.kafka import client_options, committed_offsets, full_name
from streams.state.app import INPUTS
from streams.state.changelogs import APPLICATION, CHANGELOGS, TABLES

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="session")]

USERS = [f"user-{number}" for number in range(20)]
ACTING, FORGOTTEN = USERS[:10], USERS[19]
MINUTE, HOUR = 60_000, 3_600_000
PATIENCE_SECONDS = 120
FRESH = (*TOPICS, *CHANGELOGS, DECISIONS)  # what a backfill makes
USER_ROWS = CHANGELOGS[TABLES.index("users")]


class Past:
    """Posts what happened to a deployment, in the order of event time."""

    def __init__(self, deployment):
        self.deployment, self.kafka = deployment, deployment.settings.kafka
        self.start = time.time_ns() // 1_000_000 - 6 * HOUR

    async def post(self, topic, user, minutes, value):
        value = value if isinstance(value, bytes) else encode(value)
        await self.deployment.producer.send_and_wait(
            full_name(self.kafka, topic), value, user.encode(), timestamp_ms=self.start + minutes * MINUTE
        )

    async def ask(self, users, minutes, round_):
        """Post a request of each user and return the first item that each was recommended."""
        ends = await end_offsets(self.deployment, RECOMMENDATIONS)
        for user in users:
            await self.post(USERS_REQUESTS, user, minutes, Request(request_id=f"{user}/{round_}", domain="restaurant"))
        first = {}
        async with reading(self.deployment, RECOMMENDATIONS, ends) as consumer:
            while len(first) < len(users):
                record = await next_record(self.deployment, consumer, "recommendation")
                first[record.key.decode()] = decode(Recommendation, record.value).items[0].item_id
        return first

    async def processed(self):
        """Wait until the state stage has committed all there is."""
        admin = AIOKafkaAdminClient(**client_options(self.kafka))
        await admin.start()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                ends = {}
                for topic in INPUTS:
                    ends |= await end_offsets(self.deployment, topic)
                while True:
                    committed = await committed_offsets(admin, self.kafka.prefix + APPLICATION)
                    if all(not end or (tp in committed and committed[tp].offset >= end) for tp, end in ends.items()):
                        return
                    await asyncio.sleep(0.1)
        finally:
            await admin.close()


async def examples(deployment):
    """Return key, time and bytes of every training example, sorted."""
    async with reading(deployment, RETRAINING) as consumer:
        start = await consumer.beginning_offsets(deployment.partitions(RETRAINING))
    found = [
        (record.key, record.timestamp, record.value)
        async for record in committed_records(deployment, RETRAINING, start)
    ]
    return sorted(found)


async def rows(deployment):
    """Return the users' rows that the changelog holds."""
    found = {}
    start = dict.fromkeys(deployment.partitions(USER_ROWS), 0)
    async for record in committed_records(deployment, USER_ROWS, start):
        found[record.key] = record.value
    return {key: value for key, value in found.items() if value is not None}


async def live_a_little(past):
    """Let users ask and act, one be forgotten, lists grow old, and some be pending in the end."""
    for user in USERS:
        await past.post(USERS_CONTEXT, user, 0, Context(weather="rain"))
    first = await past.ask(USERS, 1, "a")
    for number, user in enumerate(ACTING):
        seen = {"item_id": first[user], "domain": "restaurant"}
        named = {"request_id": f"{user}/a"} if number % 2 else {}
        await past.post(USERS_FEEDBACK, user, 2, Feedback(kind="impression", request_id=f"{user}/a", **seen))
        await past.post(USERS_FEEDBACK, user, 3, Feedback(kind="click", **named, **seen))
    await past.post(USERS_FEEDBACK, USERS[0], 3, b"\xc1 not a record")
    await past.processed()
    await past.post(USERS_ERASURE, FORGOTTEN, 4, Erasure(request_id="e"))
    await past.processed()
    for user in USERS[:19]:
        await past.post(USERS_CONTEXT, user, 200, Context(weather="sun"))
    await past.deployment.wait_until("training examples", _Count(past.deployment), 19)  # nine lists without an action
    await past.ask(USERS[:5], 201, "b")
    await past.processed()


class _Count:
    """How many training examples there are, looked up in the background."""

    def __init__(self, deployment):
        self.found = 0
        self._task = asyncio.create_task(self._look(deployment))

    async def _look(self, deployment):
        while self.found < 19:
            self.found = len(await examples(deployment))
            await asyncio.sleep(0.2)

    def __call__(self):
        return self.found


async def test_what_is_made_again_equals_what_is_there_and_takes_its_place(stage_settings, exported_encoder, world):
    async with deployed(stage_settings, catalogue(world, 0)) as deployment:
        past, settings = Past(deployment), deployment.settings
        await live_a_little(past)
        originals = await examples(deployment)

        state = await backfill(settings, "state", switch=False)
        assert {topic: set(counts) for topic, counts in state.counts.items()} == {
            topic.name: {"same"} for topic in CHANGELOGS
        }
        assert state.counts[USER_ROWS.name]["same"] == 19
        assert state.missing == []
        again = await backfill(settings, "retraining", switch=False)
        assert again.counts == {RETRAINING.name: {"same": len(originals)}}

        with pytest.raises(StillRunningError, match="tablecast state"):
            await backfill(settings, "state", switch=True)
        both = await asyncio.gather(*(backfill(settings, "state", switch=False) for _ in "ab"), return_exceptions=True)
        assert any(isinstance(each, StillRunningError) and "another backfill" in str(each) for each in both)

        await killed_half_way(settings)
        assert (await backfill(settings, "state", switch=False)).leftovers == len(FRESH)
        assert await fresh_topics(settings) == []

        # A row is lost, another belongs to nobody: the switch puts that right.
        deployment.supervision[0].cancel()
        await deployment.stages["state"].stop()
        good = await rows(deployment)
        lost = USERS[1].encode()
        number = msgspec.msgpack.decode(good[lost], type=UserState).partition
        for key, value in ((lost, None), (b"nobody", good[lost])):
            await deployment.producer.send_and_wait(full_name(settings.kafka, USER_ROWS), value, key, number)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    state = await backfill(settings, "state", switch=True)
                    break
                except StillRunningError:  # its group takes ten seconds to notice
                    await asyncio.sleep(0.5)
        assert state.counts[USER_ROWS.name] == {"same": 18, "added": 1, "removed": 1}
        assert await rows(deployment) == good | {lost: (await rows(deployment))[lost]}
        await deployment.stages["state"].start()
        joins = await end_offsets(deployment, REQUESTS_JOINED)
        chosen = await past.ask([USERS[1]], 202, "c")
        (joined,) = [
            decode(JoinedRequest, record.value)
            async for record in committed_records(deployment, REQUESTS_JOINED, joins)
        ]
        assert chosen
        assert joined.history.item  # the click of the first round
        assert joined.context.weather == "sun"

        await past.processed()
        switched = await backfill(settings, "retraining", switch=True)
        assert switched.counts == {RETRAINING.name: {"same": len(originals)}}
        assert await examples(deployment) == originals  # each once: the ones before are deleted

        await retention_takes(deployment, REQUESTS_JOINED)
        kept = await backfill(settings, "retraining", switch=True)
        assert kept.missing == [REQUESTS_JOINED.name]
        assert kept.counts == {RETRAINING.name: {"same": len(originals)}}
        assert await examples(deployment) == originals


async def killed_half_way(settings):
    """Run the command and kill it as soon as all its topics are there."""
    # Who is killed leaves a folder behind: in that of the deployment, which goes with it.
    environment = {**os.environ, **variables(settings), "TMPDIR": str(settings.data_dir)}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "ops", "backfill", "state", env=environment)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(await fresh_topics(settings)) < len(FRESH):
            assert process.returncode is None
    process.kill()
    await process.wait()


async def fresh_topics(settings):
    admin = AIOKafkaAdminClient(**client_options(settings.kafka))
    await admin.start()
    try:
        return [name for name in await admin.list_topics() if name.startswith(f"{settings.kafka.prefix}backfill-")]
    finally:
        await admin.close()


async def retention_takes(deployment, topic):
    """Delete the first record of each partition."""
    admin = AIOKafkaAdminClient(**client_options(deployment.settings.kafka))
    await admin.start()
    try:
        ends = await end_offsets(deployment, topic)
        await admin.delete_records({partition: RecordsToDelete(1) for partition, end in ends.items() if end})
    finally:
        await admin.close()
