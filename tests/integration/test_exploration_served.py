"""A stage that explores logs how likely each placing was, and the training examples carry it."""

import time

import pytest
from unit.tiny_models import tiny_encoder

from models.artefact import write_model
from models.base_model import load_base
from models.exploration import Exploration, draw
from models.export import export_encoder
from ops.bench.deployment import deployed, next_record, reading
from ops.simulator.events import Event
from schemas.codec import decode, encode
from schemas.records import Feedback, Item, Recommendation, Request, TrainingExample
from schemas.topics import CATALOG_ITEMS, RECOMMENDATIONS, RETRAINING, USERS_FEEDBACK, USERS_REQUESTS
from streams.kafka import full_name
from streams.settings import ExplorationSettings, InferenceSettings, KafkaSettings, Settings

pytestmark = pytest.mark.kafka

ITEMS = {f"i{number}": Item(domain="restaurant", name=f"house {number}") for number in range(12)}
POLICY = {"method": "epsilon", "top": 6, "epsilon": 0.8}


@pytest.fixture
def settings(broker, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base = load_base(str(tiny_encoder(tmp_path / "base", seed=1)))
    write_model(
        tmp_path / "model", name="tiny", base="tiny", encoder=export_encoder(base, tmp_path / "encoder", "fp32")
    )
    exploration = {"restaurant": ExplorationSettings(**POLICY)}
    return Settings(
        kafka=KafkaSettings(bootstrap=broker.bootstrap, partitions=1),
        inference=InferenceSettings(model=str(tmp_path / "model"), threads=1, exploration=exploration),
    )


async def test_propensities_go_from_the_list_into_the_training_examples(settings):
    items = [Event(1, CATALOG_ITEMS, item_id, item) for item_id, item in ITEMS.items()]
    async with deployed(settings, items) as deployment:

        async def post(topic, value, at):
            name = full_name(deployment.settings.kafka, topic)
            await deployment.producer.send_and_wait(name, encode(value), b"u1", timestamp_ms=at)

        async with reading(deployment, RECOMMENDATIONS) as answers, reading(deployment, RETRAINING) as examples:
            now = time.time_ns() // 1_000_000
            for number in range(5):
                request = Request(request_id=f"r{number}", domain="restaurant", text=f"house {number}", k=len(ITEMS))
                await post(USERS_REQUESTS, request, now + number)
                record = await next_record(deployment, answers, "answer")
                shown = decode(Recommendation, record.value)
                chosen = Feedback(
                    item_id=shown.items[2].item_id, domain="restaurant", kind="click", request_id=request.request_id
                )
                await post(USERS_FEEDBACK, chosen, now + number + 10)
                example = decode(TrainingExample, (await next_record(deployment, examples, "example")).value)

                scores = sorted((item.score for item in shown.items), reverse=True)
                order, propensities = draw(
                    scores, Exploration(**POLICY), f"{shown.model}/{request.request_id}", len(ITEMS)
                )
                assert [item.score for item in shown.items] == [scores[rank] for rank in order]
                assert [item.propensity for item in shown.items] == propensities
                assert propensities[0] < 1
                assert propensities[6:] == [1.0] * 6
                assert [(each.item_id, each.propensity) for each in example.shown] == [
                    (item.item_id, item.propensity) for item in shown.items
                ]
