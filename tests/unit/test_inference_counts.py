"""What the inference stage has answered is counted, and is how far it has come."""

import asyncio
import time
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition
from prometheus_client import REGISTRY

from models.recommender import Answer
from schemas.records import Context, JoinedRequest, Request, Source
from streams.health import Position
from streams.inference import app as stage
from streams.inference.answered import Wakefulness
from streams.inference.batcher import Waiting
from streams.settings import KafkaSettings, Settings

NOW = time.time_ns() // 1_000_000
PARTITION = TopicPartition("p.requests.joined", 1)


@pytest.mark.asyncio
async def test_answers_that_are_durable_are_counted_and_move_the_stage_on(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "cache_folder", lambda: tmp_path)
    app = stage.InferenceApp(Settings(data_dir=tmp_path, kafka=KafkaSettings(bootstrap="127.0.0.1:1", prefix="p.")))
    monkeypatch.setattr(app._consumer, "assignment", lambda: {PARTITION})

    async def send(*_, **__):
        return asyncio.sleep(0)

    monkeypatch.setattr(app._producer, "send", send)
    app._wakefulness = Wakefulness(3600.0)
    model = SimpleNamespace(
        version="m@1",
        recommender=SimpleNamespace(catalogue=["item"]),
        lists=lambda requests, vectors: [Answer([]) for _ in requests],
    )
    joined = JoinedRequest(
        request=Request(request_id="r", domain="shop"),
        event_time=NOW,
        received_at=NOW,
        joined_at=NOW,
        source=Source(partition=1, offset=5),
        context=Context(),
    )
    entry = Waiting(1, 5, NOW, b"user", joined, model=model, consumed_at=NOW)
    before = REGISTRY.get_sample_value("tablecast_answer_seconds_count")
    app._answer(model, [entry], [], NOW)
    await app._send([entry])

    assert REGISTRY.get_sample_value("tablecast_answer_seconds_count") == before + 1
    assert REGISTRY.get_sample_value("tablecast_answers_total", {"model": "m@1"}) >= 1
    assert app._positions() == {PARTITION: Position(6, NOW)}
