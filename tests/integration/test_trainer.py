"""Examples on a real broker become a candidate in the store and its announcement."""

import asyncio

import msgspec
import pytest
from shown_examples import ITEMS, NOON, examples, joined_request
from trainer_deployment import (
    PATIENCE_SECONDS,
    announcements,
    everything_on,
    post,
    producer,
    tiny_model,
    trainer_settings,
)

from models.artefact import load_recommender
from models.calibration import Calibration
from models.chunks import item_chunks
from models.pseudonyms import Pseudonyms
from models.roles import promoted
from models.store import ModelStore
from schemas.codec import decode, encode
from schemas.domains import pack_for
from schemas.records import DeadLetter, Erasure, JoinedRequest, ModelDecision, Recommendation, RecommendedItem
from schemas.topics import DEADLETTERS, MODELS_DECISIONS, RECOMMENDATIONS, RETRAINING, USERS_ERASURE
from streams.kafka import full_name
from streams.model_roles import change_roles
from streams.privacy import load_pseudonyms
from streams.trainer import app as trainer_app
from streams.trainer.app import NotTheTrainerError, TrainerApp
from streams.trainer.plan import RangeError
from streams.trainer.repeat import repeat

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
async def settings(bootstrap, topic_prefix, model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return await trainer_settings(bootstrap, topic_prefix, model, tmp_path)


async def train_once(settings):
    async with asyncio.timeout(PATIENCE_SECONDS):
        await TrainerApp(settings, load_pseudonyms(settings)).run_once(asyncio.Event())


def manifest(settings, version):
    return ModelStore(settings.model_store).manifest(version)[0]


async def newest(settings):
    """Return the version that was announced last."""
    return (await announcements(settings))[-1].versions[0]


async def test_feedback_becomes_a_candidate_that_ranks_what_people_choose_higher(settings, model):
    await post(settings, examples(150, partitions=2))
    await train_once(settings)

    ((announced,),) = [each.versions for each in await announcements(settings)]
    assert (announced.role, announced.share) == ("canary", settings.trainer.canary_share)
    made = manifest(settings, announced.version)
    assert made.training["range"] == f"{full_name(settings.kafka, RETRAINING)}[0:0-150,1:0-150]"

    def mean_price(folder):
        encoder, recommender = load_recommender(folder, threads=1)
        for item_id, item in ITEMS.items():
            texts = item_chunks(pack_for(item.domain), item)
            recommender.put([item_id], [item], [encoder.encode(encoder.tokenize(texts, "passage"))])
        (shown,) = recommender.recommend([joined_request(1)], [None])
        return sum(ITEMS[item.item_id].price for item in shown) / len(shown)

    store = ModelStore(settings.model_store)
    assert mean_price(store.fetch(announced.version)) < 0.7 * mean_price(model)


async def test_the_next_training_begins_where_the_last_ended_and_replays_older_lists(settings):
    await post(settings, examples(60, partitions=2))
    await train_once(settings)
    await post(settings, examples(50, partitions=2, first=60, seed=2))
    await train_once(settings)

    second = await newest(settings)
    assert second.role == "candidate", "the canary before it is still being judged"
    made = manifest(settings, second.version)
    assert made.training["range"].endswith("[0:60-110,1:60-110]")
    assert made.training["replayed"] > 50


async def test_a_candidate_that_does_not_pass_the_gate_is_kept_and_explained_and_not_served(settings):
    await post(settings, examples(60, partitions=2))
    await train_once(settings)

    (announced,) = await announcements(settings)
    assert announced.versions[0].role == "candidate"
    assert "refused: all: 1" in announced.reason, "too few lists were held back to tell"
    assert not manifest(settings, announced.versions[0].version).training["gate"]["passed"]


async def test_nothing_new_trains_nothing(settings):
    await train_once(settings)
    assert await announcements(settings) == []


async def test_the_same_range_gives_the_same_sha256(settings):
    await post(settings, examples(80, partitions=2))
    await train_once(settings)
    announced = await newest(settings)
    await post(settings, examples(50, partitions=2, first=80))  # what comes later changes nothing

    found = await repeat(settings, load_pseudonyms(settings), announced.version)

    assert found.same
    assert found.same_catalogue
    assert found.repeated == announced.version


async def test_users_to_be_forgotten_are_in_no_training(settings):
    pseudonyms = load_pseudonyms(settings)
    user = b"u3"
    given = [each._replace(key=pseudonyms.of(each.key)) for each in examples(80, partitions=2)]
    theirs = sum(each.key == pseudonyms.of(user) for each in given)
    await post(settings, given)
    async with producer(settings) as to:
        await to.send(full_name(settings.kafka, USERS_ERASURE), encode(Erasure(request_id="e")), user, partition=1)

    await train_once(settings)

    made = manifest(settings, (await newest(settings)).version)
    assert made.training["erased"] == theirs > 0
    assert made.training["new"] + made.training["held_back"] == len(given) - theirs


async def test_a_record_that_is_no_example_is_set_aside_once_and_the_rest_is_learned_from(settings):
    await post(settings, examples(40, partitions=2))
    async with producer(settings) as to:
        await to.send(full_name(settings.kafka, RETRAINING), b"no example", b"u1", partition=1)
    await post(settings, examples(20, partitions=2, first=40))
    await train_once(settings)

    (value,) = [value for _, value in await everything_on(settings, DEADLETTERS)]
    letter = decode(DeadLetter, value)
    assert (letter.stage, letter.partition, letter.offset) == ("trainer", 1, 40)
    assert manifest(settings, (await newest(settings)).version).training["new"] > 0


async def test_a_range_that_retention_has_cut_is_refused_and_named(settings):
    await post(settings, examples(60, partitions=2))
    await train_once(settings)
    announced = await newest(settings)
    await delete_before(settings, partition=1, offset=7)

    with pytest.raises(RangeError, match=r"retraining/1 .* before 7"):
        await repeat(settings, load_pseudonyms(settings), announced.version)


async def delete_before(settings, partition, offset):
    from aiokafka import TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap)
    await admin.start()
    try:
        name = full_name(settings.kafka, RETRAINING)
        await admin.delete_records({TopicPartition(name, partition): RecordsToDelete(before_offset=offset)})
    finally:
        await admin.close()


async def test_the_stage_trains_by_itself_when_enough_has_come(settings):
    stop = asyncio.Event()
    running = asyncio.create_task(TrainerApp(settings, load_pseudonyms(settings)).run(stop))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await post(settings, examples(20))
            await asyncio.sleep(0)
            assert await announcements(settings) == []
            await post(settings, examples(40, first=20))
            while not await announcements(settings):
                assert not running.done()
                await asyncio.sleep(0.1)
    finally:
        stop.set()
        await running


async def test_a_day_that_looks_different_starts_a_training_and_is_told_with_it(settings):
    first = await champion_of_a_sunny_day(settings)
    await post(settings, [every_six_minutes(each, "rain") for each in examples(2 * DAY, first=DAY)])

    decision = await what_the_stage_decides(settings)
    assert (decision.decision, decision.version) == ("train", first)
    assert decision.reason.startswith("drift: weather: sunny went from 9")
    assert decision.figures["weather"] > 1


async def test_scores_that_promise_what_does_not_happen_start_a_training(settings):
    first = await champion_of_a_sunny_day(settings)
    promises = msgspec.convert(manifest(settings, first).training["calibration"], Calibration)
    by_champion = [
        every_six_minutes(each, "sunny", f"tablecast@{first}") for each in examples(2 * DAY, first=DAY, seed=3)
    ]
    await post_answers(settings, by_champion, score=1_000.0)
    await post(settings, by_champion)

    decision = await what_the_stage_decides(settings)
    assert (decision.decision, decision.version) == ("train", first)
    assert promises.promised([1_000.0], [0]) == pytest.approx([1.0])
    assert decision.reason.startswith("drift: 100.00% of what is shown was expected to be clicked, ")
    assert decision.figures["calibration"] > 0.5


async def champion_of_a_sunny_day(settings):
    await post(settings, [every_six_minutes(each, "sunny") for each in examples(DAY)])
    await train_once(settings)
    first = await newest(settings)
    await change_roles(settings.kafka, "tablecast", lambda current: promoted(current, first.version, "for this test"))
    return first.version


async def what_the_stage_decides(settings):
    """Run the stage, which has no other reason to train, until it has decided something."""
    patient = settings.model_copy(update={"trainer": settings.trainer.model_copy(update={"examples": 10**6})})
    stop = asyncio.Event()
    running = asyncio.create_task(TrainerApp(patient, load_pseudonyms(patient)).run(stop))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (decided := await everything_on(patient, MODELS_DECISIONS)):
                assert not running.done()
                await asyncio.sleep(0.1)
    finally:
        stop.set()
        await running
    ((_, value),) = decided
    return decode(ModelDecision, value)


async def post_answers(settings, given, score):
    """Write the answers that examples are about, where the inference stage would."""
    async with producer(settings) as to:
        for each in given:
            joined = decode(JoinedRequest, bytes(each.example.joined))
            answer = Recommendation(
                request_id=joined.request.request_id,
                domain=joined.request.domain,
                model=each.example.model,
                items=[RecommendedItem(item_id=shown.item_id, score=score) for shown in each.example.shown],
                source=joined.source,
            )
            await to.send(
                full_name(settings.kafka, RECOMMENDATIONS),
                encode(answer),
                each.key,
                partition=each.partition,
                timestamp_ms=joined.event_time,
            )


DAY = 240  # lists, one every six minutes


def every_six_minutes(each, weather, model="tiny@1"):
    """Return an example of a list that a model showed six times as late, in some weather."""
    joined = decode(JoinedRequest, bytes(each.example.joined))
    asked = NOON + 6 * (joined.event_time - NOON)
    context = msgspec.structs.replace(joined.context, weather=weather)
    joined = msgspec.structs.replace(joined, event_time=asked, context=context)
    example = msgspec.structs.replace(each.example, joined=msgspec.Raw(encode(joined)), model=model)
    return each._replace(time=asked + 60_000, example=example)


async def test_a_second_trainer_of_a_model_stands_by(settings, monkeypatch):
    monkeypatch.setattr(trainer_app, "OWNERSHIP_SECONDS", 3.0)
    stop = asyncio.Event()
    first = TrainerApp(settings, load_pseudonyms(settings))
    running = asyncio.create_task(first.run(stop))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await first._mine.wait()
            second = TrainerApp(settings.model_copy(update={"instance": "1"}), Pseudonyms((b"0" * 16,)))
            with pytest.raises(NotTheTrainerError, match="another trainer"):
                await second.run_once(asyncio.Event())
            assert first._mine.is_set()
    finally:
        stop.set()
        await running
