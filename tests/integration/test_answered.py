"""The newest recommendation of a partition tells how far its requests have been answered."""

import pytest
from aiokafka import AIOKafkaProducer

from schemas.codec import encode
from schemas.records import Recommendation, Source
from schemas.topics import RECOMMENDATIONS
from streams.inference.answered import last_answered
from streams.kafka import full_name
from streams.settings import KafkaSettings
from streams.topic_admin import apply_topics

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="session")]


async def test_the_newest_answer_of_each_partition_counts_and_junk_behind_it_does_not(bootstrap, topic_prefix):
    kafka = KafkaSettings(bootstrap=bootstrap, prefix=topic_prefix, partitions=4)
    await apply_topics(kafka)
    name = full_name(kafka, RECOMMENDATIONS)

    def answer(offset, partition):
        source = Source(partition=partition, offset=offset)
        return encode(
            Recommendation(request_id=f"r{offset}", domain="restaurant", model="m@1", items=[], source=source)
        )

    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for offset in range(40):
            await producer.send_and_wait(name, answer(offset, 0), partition=0)
        await producer.send_and_wait(name, answer(7, 2), partition=2)
        await producer.send_and_wait(name, b"\xc1 junk", partition=2)
        await producer.send_and_wait(name, b"\xc1 junk", partition=3)

    assert await last_answered(kafka, range(4)) == {0: 39, 2: 7}
    assert await last_answered(kafka, [1]) == {}
