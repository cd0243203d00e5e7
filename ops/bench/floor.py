"""The floors: the same work done by the bare libraries, each in a process of its own."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ops.bench.testbed import Offsets
from streams.kafka import client_options
from streams.settings import KafkaSettings

T = TypeVar("T")
WARM_UP_TEXTS = 128
BATCH = 32


@dataclass(frozen=True)
class Cost:
    """What a piece of work took."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class KafkaCost:
    """How many records were read, and what that took together with what was written."""

    records: int
    cost: Cost


@dataclass(frozen=True)
class OnnxCost:
    """What encoding the same texts took, in seconds."""

    encode: float  # our tokenizer call, runs and pooling
    bare: float  # the model's session alone, on arrays that were ready before


async def in_own_process(function: Callable[..., T], *arguments: Any) -> T:
    """Run a function in a fresh process, so that its processor time is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)


def raw_aiokafka(
    kafka: KafkaSettings, starts: Offsets, ends: Offsets, topic: str, values: Sequence[bytes]
) -> KafkaCost:
    """Read everything from ``starts`` to ``ends`` and write ``values`` meanwhile; start-up does not count."""
    return asyncio.run(_raw_aiokafka(kafka, starts, ends, topic, values))


async def _raw_aiokafka(
    kafka: KafkaSettings, starts: Offsets, ends: Offsets, topic: str, values: Sequence[bytes]
) -> KafkaCost:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

    options = client_options(kafka)
    consumer = AIOKafkaConsumer(**options, isolation_level="read_committed")
    producer = AIOKafkaProducer(**options, enable_idempotence=True, linger_ms=0, max_batch_size=256 * 1024)
    await asyncio.gather(consumer.start(), producer.start())
    try:
        consumer.assign(list(starts))
        for partition, offset in starts.items():
            consumer.seek(partition, offset)
        total = sum(ends.values()) - sum(starts.values())
        began, cpu_began = time.monotonic(), time.process_time()
        records = written = 0
        sent: list[asyncio.Future[Any]] = []
        while not all([await consumer.position(partition) >= end for partition, end in ends.items()]):
            batches = await consumer.getmany(timeout_ms=100, max_records=500)
            records += sum(map(len, batches.values()))
            while written < len(values) and written * total <= records * len(values):
                sent.append(await producer.send(topic, values[written]))
                written += 1
        sent += [await producer.send(topic, value) for value in values[written:]]
        await asyncio.gather(*sent)
        cost = Cost(time.monotonic() - began, time.process_time() - cpu_began)
        return KafkaCost(records, cost)
    finally:
        await asyncio.gather(consumer.stop(), producer.stop())


def raw_onnx(model: str | Path, texts: Sequence[str]) -> OnnxCost:
    """Encode texts with the encoder of the stage's ``model`` and with nothing but its ONNX Runtime session."""
    from models.artefact import load_recommender

    encoder, _ = load_recommender(model)
    encoder.encode(encoder.tokenize(texts[:WARM_UP_TEXTS], "query"))
    began = time.monotonic()
    tokens = encoder.tokenize(texts, "query")
    encoder.encode(tokens)
    encode = time.monotonic() - began

    inputs = []
    ordered = sorted(tokens, key=len)
    for start in range(0, len(ordered), BATCH):
        rows = ordered[start : start + BATCH]
        ids = np.full((len(rows), len(rows[-1])), encoder.manifest.padding_id, np.int64)
        mask = np.zeros_like(ids)
        for row, token_ids in enumerate(rows):
            ids[row, : len(token_ids)] = token_ids
            mask[row, : len(token_ids)] = 1
        inputs.append({"input_ids": ids, "attention_mask": mask})
    session = encoder._sessions["query"]  # noqa: SLF001 - the very session, so that nothing but our code around it differs
    with ThreadPoolExecutor(encoder.threads) as pool:
        began = time.monotonic()
        for _ in pool.map(lambda arrays: session.run(None, arrays), inputs):
            pass
        bare = time.monotonic() - began
    encoder.close()
    return OnnxCost(encode, bare)
