"""How much each stage gets through, beside the floor of the bare libraries, taken in turn in the same run."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition

from models.recommender import request_text
from ops.bench.floor import Cost, OnnxCost, in_own_process, raw_aiokafka, raw_onnx
from ops.bench.testbed import (
    STALLED_SECONDS,
    STATE_INPUTS,
    Offsets,
    StalledError,
    Testbed,
    cpu_seconds,
    read_answers,
    testbed,
)
from ops.bench.workload import Answer
from ops.simulator.world import World
from schemas.codec import decode
from schemas.records import JoinedRequest
from schemas.topics import RECOMMENDATIONS, REQUESTS_JOINED, RETRAINING
from streams.inference.app import GROUP as INFERENCE_GROUP
from streams.kafka import client_options, committed_offsets, full_name
from streams.settings import Settings
from streams.state.changelogs import APPLICATION

Say = Callable[[str], None]


@dataclass(frozen=True)
class Round:
    """One turn of every measurement."""

    requests: int
    events: int  # records the state stage read
    state: Cost
    kafka_floor: Cost
    texts: int  # requests that have one
    inference_requests: int  # answered after the first commit, in
    inference: Cost  # from the first commit to the last
    onnx: OnnxCost


@dataclass
class Throughput:
    """Rounds and the capacity of the whole pipeline. Figures are medians over the rounds."""

    rounds: list[Round] = field(default_factory=list)
    capacity: float = 0.0  # requests per second, both stages and the broker sharing the machine

    def figures(self) -> dict[str, float]:
        """Return every figure by name."""

        def median(of: Callable[[Round], float]) -> float:
            return statistics.median(map(of, self.rounds))

        return {
            "state_events": median(lambda r: r.events),
            "state_events_per_second": median(lambda r: r.events / r.state.seconds),
            "state_cpu_ms_per_event": median(lambda r: r.state.cpu_seconds / r.events * 1000),
            "aiokafka_events_per_second": median(lambda r: r.events / r.kafka_floor.seconds),
            "aiokafka_cpu_ms_per_event": median(lambda r: r.kafka_floor.cpu_seconds / r.events * 1000),
            "inference_requests": median(lambda r: r.requests),
            "inference_requests_per_second": median(_inference_rate),
            "inference_cpu_ms_per_request": median(lambda r: r.inference.cpu_seconds / r.inference_requests * 1000),
            "encoder_requests_per_second": median(lambda r: r.requests / r.onnx.encode),
            "onnx_requests_per_second": median(lambda r: r.requests / r.onnx.bare),
            "inference_share_of_encoder": median(lambda r: _inference_rate(r) * r.onnx.encode / r.requests),
            "inference_share_of_onnx": median(lambda r: _inference_rate(r) * r.onnx.bare / r.requests),
            "capacity_requests_per_second": self.capacity,
        }


def _inference_rate(measured: Round) -> float:
    return measured.inference_requests / measured.inference.seconds


async def measure_throughput(settings: Settings, world: World, requests: int, rounds: int, say: Say) -> Throughput:
    """Measure so many rounds of so many requests, after one that warms the state and is not counted."""
    result = Throughput()
    async with testbed(settings, world) as bed:
        answers: list[Answer] = []
        for number in range(rounds + 1):
            say(f"round {number} of {rounds}" if number else "filling the state with the users' past")
            await bed.post(bed.workload.round(requests, answers))
            measured, answers = await _round(bed, requests, say)
            if number:
                result.rounds.append(measured)
        say("both stages at once")
        result.capacity, _ = await measure_capacity(bed, requests, answers)
    return result


async def measure_capacity(bed: Testbed, requests: int, answers: list[Answer]) -> tuple[float, list[Answer]]:
    """Return the requests per second that the whole pipeline gets through when all are posted at once, and the answers.

    ``answers`` are an earlier round's: what users do with them is part of the load.
    """
    postings = bed.workload.round(requests, answers)
    async with bed.reader(RECOMMENDATIONS) as reader, bed.stage("state"), bed.stage("inference"):
        await bed.state_done()
        await bed.post(postings)
        answers, moments = await read_answers(reader, requests)
    after_first = sum(moment > moments[0] for moment in moments)
    return after_first / (moments[-1] - moments[0]), answers


async def _round(bed: Testbed, requests: int, say: Say) -> tuple[Round, list[Answer]]:
    kafka = bed.settings.kafka
    ends = await bed.ends(STATE_INPUTS)
    starts = await _committed(bed, APPLICATION, ends)
    say("state stage")
    state = await _run_state(bed)
    joined = await _read(bed, await _committed(bed, INFERENCE_GROUP, await bed.ends([REQUESTS_JOINED])), requests)
    say("raw aiokafka on the same bytes")
    scratch = full_name(kafka, RETRAINING)  # nothing here reads it
    floor = await in_own_process(raw_aiokafka, kafka, starts, ends, scratch, joined)
    say(f"inference stage: {requests:,} requests")
    answered, inference, answers = await _run_inference(bed, requests)
    texts = [text for value in joined if (text := request_text(decode(JoinedRequest, value)))]
    say(f"raw ONNX Runtime on the same {len(texts):,} texts")
    onnx = await in_own_process(raw_onnx, bed.settings.inference.model, texts)
    return Round(requests, floor.records, state, floor.cost, len(texts), answered, inference, onnx), answers


async def _run_state(bed: Testbed) -> Cost:
    async with bed.stage("state") as stage:
        began, cpu_began = time.monotonic(), cpu_seconds(stage.pid)
        await bed.state_done()
        return Cost(time.monotonic() - began, cpu_seconds(stage.pid) - cpu_began)


async def _run_inference(bed: Testbed, requests: int) -> tuple[int, Cost, list[Answer]]:
    """Return how many requests were answered after the first commit, what that took, and all answers."""
    async with bed.reader(RECOMMENDATIONS) as reader, bed.stage("inference") as stage:
        first, moments = await read_answers(reader, 1)
        began, cpu_began = moments[0], cpu_seconds(stage.pid)
        rest, moments = await read_answers(reader, requests - len(first))
        return len(rest), Cost(moments[-1] - began, cpu_seconds(stage.pid) - cpu_began), first + rest


async def _committed(bed: Testbed, group: str, ends: Offsets) -> Offsets:
    """Return where a group will go on reading the partitions of ``ends``."""
    committed = await committed_offsets(bed.admin, bed.settings.kafka.prefix + group)
    return {partition: committed[partition].offset if partition in committed else 0 for partition in ends}


async def _read(bed: Testbed, starts: dict[TopicPartition, int], count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(**client_options(bed.settings.kafka), isolation_level="read_committed")
    await consumer.start()
    try:
        consumer.assign(list(starts))
        for partition, offset in starts.items():
            consumer.seek(partition, offset)
        values: list[bytes] = []
        while len(values) < count:
            batches = await consumer.getmany(timeout_ms=int(STALLED_SECONDS * 1000))
            if not batches:
                raise StalledError(f"{count} requests were posted, but the state stage joined {len(values)}")
            values += [record.value for records in batches.values() for record in records]
        return values
    finally:
        await consumer.stop()
