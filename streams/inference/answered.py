"""What has been answered already: the recommendations themselves tell.

The answers to a partition's requests lie in the partition of the same number of ``recommendations``, in the order of
the requests, each with the offset of its request. So the newest one says how far requests have been answered: the
record is its own proof, durable in the same instant, and a process that takes over needs nothing else to go on without
a gap and without answering twice. A Kafka transaction over answers and offsets would prove the same at the price of
five round trips and a commit marker in every partition for each batch (ops/bench/README.md: half of the latency).

What a transaction's fencing would add is a guard against a process that stood still for longer than the group waits and
then writes to partitions which others have by now: ``Wakefulness``.
"""

import time
from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.codec import DecodeError, decode
from schemas.records import Recommendation
from schemas.topics import RECOMMENDATIONS
from streams.kafka import client_options, full_name
from streams.settings import KafkaSettings

_LOOK_BACK = 16  # records; what is not a recommendation, which nobody but this stage should write, is passed over


class StoodStillError(RuntimeError):
    """The process did not run for so long that its partitions may have another owner: it must start anew."""


async def last_answered(kafka: KafkaSettings, partitions: Sequence[int]) -> dict[int, int]:
    """Return the highest offset of ``users.requests`` answered, by partition; without one where nothing has been."""
    name = full_name(kafka, RECOMMENDATIONS)
    wanted = [TopicPartition(name, number) for number in partitions]
    consumer = AIOKafkaConsumer(**client_options(kafka))
    await consumer.start()
    try:
        begins, ends = await consumer.beginning_offsets(wanted), await consumer.end_offsets(wanted)
        unread = {partition for partition in wanted if ends[partition] > begins[partition]}
        consumer.assign(sorted(unread))
        for partition in unread:
            consumer.seek(partition, max(begins[partition], ends[partition] - _LOOK_BACK))
        answered: dict[int, int] = {}
        while unread:
            for partition, records in (await consumer.getmany(*unread, timeout_ms=1000)).items():
                for record in records:
                    try:
                        offset = decode(Recommendation, record.value).source.offset
                    except DecodeError:
                        continue
                    answered[partition.partition] = max(offset, answered.get(partition.partition, -1))
            unread = {partition for partition in unread if await consumer.position(partition) < ends[partition]}
        return answered
    finally:
        await consumer.stop()


class Wakefulness:
    """Notices when the process stands still: stopped, swapped out, or its machine suspended."""

    def __init__(self, limit_seconds: float) -> None:
        self._limit, self._seen = limit_seconds, time.monotonic()

    def check(self) -> None:
        """Be called often, and right before anything is written.

        Raises:
            StoodStillError: the last call is longer ago than the limit; from then on, every time.

        """
        now = time.monotonic()
        if now - self._seen > self._limit:
            raise StoodStillError(
                f"the process stood still for {now - self._seen:.0f} s; its partitions may have another owner"
            )
        self._seen = now
