"""Models take over, or do not, while requests are answered: none is lost, none answered twice."""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace
from unit.tiny_models import tiny_encoder

from models.artefact import read_model, write_model
from models.base_model import load_base
from models.export import export_encoder
from models.roles import on_canary, promoted, rolled_back, with_role
from models.store import ModelStore
from ops.bench.deployment import Deployment, deployed, reading
from ops.simulator.events import Event
from schemas.codec import decode, encode
from schemas.records import (
    Context,
    Item,
    JoinedRequest,
    ModelAnnouncement,
    ModelVersion,
    Recommendation,
    Request,
    ShadowComparison,
    Source,
)
from schemas.topics import CATALOG_ITEMS, MODELS_SHADOW, RECOMMENDATIONS, REQUESTS_JOINED
from streams.kafka import full_name, partition_of
from streams.model_roles import change_roles
from streams.settings import InferenceSettings, KafkaSettings, ModelsSettings, Settings

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="session")]

PATIENCE_SECONDS = 120
USERS = [f"u{number}" for number in range(40)]
ITEMS = {f"i{number}": Item(domain="restaurant", name=f"house {number}") for number in range(12)}


@dataclass
class City:
    """A running inference stage, the models made for it, and who asks it."""

    deployment: Deployment
    store: ModelStore
    folders: dict[str, Path]
    name: str = "tablecast"
    offsets: dict[int, itertools.count] = field(default_factory=dict)
    numbers: itertools.count = field(default_factory=itertools.count)
    asked: list[str] = field(default_factory=list)

    def version(self, model: str) -> str:
        return read_model(self.folders[model]).version

    async def ask(self, user: str, k: int = 5) -> str:
        partitions = self.deployment.settings.kafka.partitions
        partition = partition_of(user, partitions)
        offset = next(self.offsets.setdefault(partition, itertools.count()))
        request_id = f"r{next(self.numbers)}"
        now = time.time_ns() // 1_000_000
        joined = JoinedRequest(
            request=Request(request_id=request_id, domain="restaurant", text=f"house {offset % 12} please", k=k),
            event_time=now,
            source=Source(partition=partition, offset=offset),
            context=Context(),
        )
        topic = full_name(self.deployment.settings.kafka, REQUESTS_JOINED)
        await self.deployment.producer.send_and_wait(topic, encode(joined), user.encode(), partition, timestamp_ms=now)
        self.asked.append(request_id)
        return request_id

    async def announce(self, change: Callable[[ModelAnnouncement | None], ModelAnnouncement]) -> None:
        await change_roles(self.deployment.settings.kafka, self.name, change)

    def put(self, model: str, role: str, share: float = 1.0) -> ModelVersion:
        version = self.store.put(self.folders[model])
        return ModelVersion(version=version, role=role, sha256=self.store.manifest(version)[1], share=share)

    def log(self) -> str:
        return self.deployment.stages["inference"].log_file.read_text(errors="replace")

    async def until_said(self, *words: str) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not any(all(word in line for word in words) for line in self.log().splitlines()):
                await asyncio.sleep(0.05)


@dataclass
class Answers:
    """What was answered, with the user who asked."""

    all: list[tuple[str, Recommendation]] = field(default_factory=list)

    def models(self) -> dict[str, str]:
        return {answer.request_id: answer.model.partition("@")[2] for _, answer in self.all}


@contextlib.asynccontextmanager
async def answered_once(city: City, *, load: bool = True):
    """Ask all the time; each request of that time gets exactly one answer, which what is yielded then has."""
    answers, stop, first = Answers(), asyncio.Event(), len(city.asked)

    async def go_on() -> None:
        for user in itertools.cycle(USERS):
            if stop.is_set():
                return
            await city.ask(user)
            await asyncio.sleep(0.02)

    async with reading(city.deployment, RECOMMENDATIONS) as consumer:
        asking = asyncio.create_task(go_on()) if load else None
        try:
            yield answers
        finally:
            stop.set()
            if asking is not None:
                await asking
        wanted = city.asked[first:]
        async with asyncio.timeout(PATIENCE_SECONDS):
            more = True
            while more or len(answers.all) < len(wanted):  # once more than needed: a second answer would follow
                batches = await consumer.getmany(timeout_ms=300)
                more = bool(batches)
                for record in itertools.chain.from_iterable(batches.values()):
                    answers.all.append((record.key.decode(), decode(Recommendation, record.value)))
    assert Counter(answer.request_id for _, answer in answers.all) == Counter(wanted)


async def ask_all(city: City, k: int = 5) -> Answers:
    async with answered_once(city, load=False) as answers:
        for user in USERS:
            await city.ask(user, k)
    return answers


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Models of a few kilobytes: five that are quick, and one that is not."""
    root = tmp_path_factory.mktemp("rollout")
    made = {}
    for seed, name in enumerate(("first", "second", "third", "fourth", "damaged", "slow")):
        size = {"hidden": 256, "layers": 12} if name == "slow" else {}
        base = load_base(str(tiny_encoder(root / f"{name}-base", seed=seed, **size)))
        encoder = export_encoder(base, root / f"{name}-encoder", "fp32")
        made[name] = root / name
        write_model(made[name], name="tablecast", base="tiny", encoder=encoder)
    return made


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def city(broker, folders, tmp_path_factory):
    root = tmp_path_factory.mktemp("rollout-stage")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(root / "cache"))
        settings = Settings(
            kafka=KafkaSettings(bootstrap=broker.bootstrap),
            inference=InferenceSettings(model=str(folders["first"]), threads=1, max_slowdown=2.0),
            models=ModelsSettings(store=str(root / "store")),
        )
        items = [Event(1, CATALOG_ITEMS, item_id, item) for item_id, item in ITEMS.items()]
        async with deployed(settings, items, stages=("inference",)) as deployment:
            yield City(deployment, ModelStore(settings.model_store, root / "own-cache"), folders)


async def test_an_announced_model_takes_over_without_a_lost_request_and_knows_what_came_meanwhile(city):
    second = city.put("second", "champion")
    async with answered_once(city) as answers:
        await city.announce(lambda current: with_role(current, second, "better"))
        for number in range(20):  # while it is being prepared, and after
            topic = full_name(city.deployment.settings.kafka, CATALOG_ITEMS)
            item = encode(Item(domain="restaurant", name=f"new house {number}"))
            await city.deployment.producer.send_and_wait(topic, item, f"new{number}".encode(), 0)
            await asyncio.sleep(0.1)
        await city.until_said("models swapped", second.version)
        await city.ask(USERS[0])  # the load may not have brought a request since
    assert set(answers.models().values()) == {city.version("first"), second.version}

    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            after = await ask_all(city, k=50)
            lists = [{item.item_id for item in answer.items} for _, answer in after.all]
            if all(len(items) == len(ITEMS) + 20 for items in lists):
                break
    assert set(after.models().values()) == {second.version}


async def test_a_canary_answers_its_share_of_users_and_then_everybody(city):
    third = city.put("third", "canary", 0.5)
    champion = city.version("second")
    async with answered_once(city):
        await city.announce(lambda current: with_role(current, third, "half of the users"))
        await city.until_said("models swapped", f'"canary": "tablecast@{third.version}"')
    answers = await ask_all(city)
    sides = {user: answer.model for user, answer in answers.all}
    assert sides == {
        user: f"tablecast@{third.version if on_canary(user, third.version, 0.5) else champion}" for user in USERS
    }
    assert len(set(sides.values())) == 2

    async with answered_once(city):
        await city.announce(lambda current: promoted(current, third.version, "better"))
        await city.until_said("models swapped", f'"champion": "tablecast@{third.version}"', '"canary": null')
    assert set((await ask_all(city)).models().values()) == {third.version}


async def test_a_shadow_says_what_it_would_have_answered_and_apps_see_nothing_of_it(city):
    fourth = city.put("fourth", "shadow")
    async with reading(city.deployment, MODELS_SHADOW) as consumer:
        await city.announce(lambda current: with_role(current, fourth, "to compare"))
        await city.until_said("models swapped", f'"shadow": "tablecast@{fourth.version}"')
        answers = await ask_all(city)
        assert set(answers.models().values()) == {city.version("third")}
        compared: dict[str, ShadowComparison] = {}
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not compared.keys() >= answers.models().keys():
                comparison = decode(ShadowComparison, (await consumer.getone()).value)
                compared[comparison.request_id] = comparison
    for _, answer in answers.all:
        comparison = compared[answer.request_id]
        assert (comparison.model, comparison.shadow) == (answer.model, f"tablecast@{fourth.version}")
        assert [item.item_id for item in comparison.answered] == [item.item_id for item in answer.items]
        assert len(comparison.would_have) == len(answer.items)
    assert any(comparison.answered != comparison.would_have for comparison in compared.values())

    await city.announce(lambda current: with_role(current, replace(fourth, role="retired"), "seen enough"))
    await city.until_said("models swapped", '"shadow": null', city.version("third"))


async def test_a_damaged_a_missing_and_a_slow_model_leave_the_old_one_serving_and_are_said(city):
    damaged, slow = city.put("damaged", "champion"), city.put("slow", "champion")
    path = Path(city.store.url) / damaged.version / "encoder" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    missing = ModelVersion(version="0123456789abcdef", role="champion", sha256="0" * 64)
    reasons = {damaged.version: "model.onnx has", missing.version: "has no version", slow.version: "max_slowdown"}
    async with answered_once(city) as answers:
        for wanted in (damaged, missing, slow):
            await city.announce(lambda current, wanted=wanted: with_role(current, wanted, "pushed by hand"))
            await city.until_said("model refused", wanted.version, reasons[wanted.version], '"level": "error"')
    assert set(answers.models().values()) == {city.version("third")}

    for _ in range(3):
        await city.announce(lambda current: rolled_back(current, "they were not better"))
    assert set((await ask_all(city)).models().values()) == {city.version("third")}


async def test_a_stage_that_is_killed_comes_back_with_the_champion_that_was_announced(city):
    async with answered_once(city) as answers:
        city.deployment.stages["inference"].kill()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while city.log().count("partitions assigned") < 2:
                await asyncio.sleep(0.05)
    assert set(answers.models().values()) == {city.version("third")}


async def test_rolling_back_to_before_the_first_champion_serves_what_the_stage_came_with(city):
    async with answered_once(city):
        for _ in range(2):
            await city.announce(lambda current: rolled_back(current, "start again"))
        first = city.version("first")
        await city.until_said("models swapped", f'"champion": "tablecast@{first}"')
    assert set((await ask_all(city)).models().values()) == {first}
