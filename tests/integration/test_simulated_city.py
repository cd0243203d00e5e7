"""The simulated city on a real cluster, with a recommender that shows everybody the same list."""

import asyncio
import contextlib

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from ops.simulator.events import history
from ops.simulator.poison import poison
from ops.simulator.publish import Statistics, post_all, run_simulation
from ops.simulator.world import build_world
from schemas.codec import decode, decode_key, encode
from schemas.records import Feedback, Recommendation, RecommendedItem, Request, Source
from schemas.topics import CATALOG_ITEMS, RECOMMENDATIONS, USERS_CONTEXT, USERS_FEEDBACK, USERS_REQUESTS
from streams.kafka import full_name
from streams.settings import KafkaSettings, Settings
from streams.topic_admin import apply_topics

START_MS = 1_788_220_800_000
SHOWN = [f"r{number:05d}" for number in range(10)]


@pytest.fixture(scope="module")
def world():
    return build_world(7, users=50, restaurants=60)


@pytest.fixture
async def settings(bootstrap, topic_prefix):
    made = Settings(kafka=KafkaSettings(bootstrap=bootstrap, prefix=topic_prefix, partitions=2, keep_history=True))
    await apply_topics(made.kafka)
    return made


@contextlib.asynccontextmanager
async def recommender(settings):
    """Answer every request with the same list."""
    kafka = settings.kafka
    source = full_name(kafka, USERS_REQUESTS)
    consumer = AIOKafkaConsumer(source, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest")
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap)

    async def answer():
        async for message in consumer:
            request = decode(Request, message.value)
            recommendation = Recommendation(
                request_id=request.request_id,
                domain=request.domain,
                model="fixed@1",
                items=[RecommendedItem(item_id=item_id, score=0.0) for item_id in SHOWN],
                source=Source(partition=message.partition, offset=message.offset),
            )
            await producer.send(
                full_name(kafka, RECOMMENDATIONS),
                encode(recommendation),
                key=message.key,
                timestamp_ms=message.timestamp,
            )

    async with contextlib.AsyncExitStack() as stack:
        for client in (consumer, producer):
            stack.push_async_callback(client.stop)
            await client.start()
        task = asyncio.create_task(answer())
        yield
        task.cancel()


async def everything_on(settings, topic):
    """Return the messages that are on a topic now."""
    name = full_name(settings.kafka, topic)
    async with AIOKafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap, auto_offset_reset="earliest", isolation_level="read_committed"
    ) as consumer:
        partitions = [TopicPartition(name, number) for number in range(topic.partitions(settings.kafka.partitions))]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        messages = []
        async with asyncio.timeout(30):
            for partition in partitions:
                while await consumer.position(partition) < ends[partition]:
                    batch = await consumer.getmany(partition, timeout_ms=1000)
                    messages += batch.get(partition, [])
        return messages


async def test_people_ask_see_what_is_recommended_and_act_on_it(settings, world):
    posted = []
    async with recommender(settings):
        statistics = await run_simulation(
            settings, world, rate=20, duration=5, start_ms=START_MS, speed=5, on_event=posted.append
        )
    assert statistics.requests > 20
    assert statistics.recommendations == statistics.requests
    assert statistics.unanswered == 0
    assert statistics.shown == 10 * statistics.requests
    assert 0 < statistics.latency_ms(0.5) <= statistics.latency_ms(0.99) < 10_000
    assert statistics.true_click_rate > 0

    catalogue = await everything_on(settings, CATALOG_ITEMS)
    assert {decode_key(message.key) for message in catalogue} == set(world.city.items)
    requests = await everything_on(settings, USERS_REQUESTS)
    asked_at = {decode(Request, message.value).request_id: message.timestamp for message in requests}
    assert len(asked_at) == statistics.requests
    assert len(await everything_on(settings, USERS_CONTEXT)) == statistics.contexts
    feedback = await everything_on(settings, USERS_FEEDBACK)
    assert len(feedback) == statistics.feedback
    reactions = [(message, decode(Feedback, message.value)) for message in feedback]
    reactions = [(message, reaction) for message, reaction in reactions if reaction.request_id]
    assert {reaction.request_id for _, reaction in reactions} == set(asked_at)
    assert sum(reaction.kind == "click" for _, reaction in reactions) == statistics.clicks
    assert all(message.timestamp > asked_at[reaction.request_id] for message, reaction in reactions)
    assert {reaction.item_id for _, reaction in reactions} <= set(SHOWN)
    topics = [event.topic for event in posted]
    assert topics.count(RECOMMENDATIONS) == topics.count(USERS_REQUESTS) == statistics.requests


async def test_the_clock_of_a_live_run_is_the_wall_clock(settings, world):
    times = []
    async with recommender(settings), asyncio.timeout(60):
        await run_simulation(settings, world, rate=20, duration=1, on_event=lambda event: times.append(event.time_ms))
    requests = await everything_on(settings, USERS_REQUESTS)
    assert max(message.timestamp for message in requests) - min(message.timestamp for message in requests) < 1_000
    assert all(message.timestamp in times for message in requests)
    assert all(START_MS - 86_400_000 * 3_650 < time < START_MS * 2 for time in times)


async def test_ends_at_once_when_cancelled(settings, world):
    statistics = Statistics()
    running = asyncio.create_task(run_simulation(settings, world, rate=50, statistics=statistics))
    async with asyncio.timeout(30):
        while statistics.requests < 20:
            await asyncio.sleep(0.01)
    running.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_without_topics_says_so(bootstrap, topic_prefix, world):
    settings = Settings(kafka=KafkaSettings(bootstrap=bootstrap, prefix=topic_prefix))
    async with asyncio.timeout(60):
        with pytest.raises(ValueError, match="tablecast topics apply"):
            await run_simulation(settings, world, rate=1, duration=1)


async def test_posts_a_past_and_poison_as_they_are(settings, world):
    past = list(history(world, START_MS, days=2))
    spoilt = list(poison(past, 1.0, seed=1))
    assert await post_all(settings, [*past, *spoilt]) == 2 * len(past)
    assert len(await everything_on(settings, USERS_FEEDBACK)) == 2 * len(past)
