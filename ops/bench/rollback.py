"""A sabotaged canary and a healthy one, pushed past the gate by hand, with the simulated city's people using it.

State, inference and trainer stage run as they always do; the trainer's guard has to find out by itself. People react as
their true click probabilities say, so how much worse the sabotaged one is can be told exactly. Event time goes as fast
as the machine answers.

The sabotaged one has its items' embeddings shuffled, the components of each in an order of its own. The restaurants say
in prose alone what they are: where categories and attributes say it too, lists are hardly worse without embeddings.
"""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, ConsumerRecord

from models.artefact import SHIPPED_RANKER, write_model
from models.encoder import MANIFEST, MODEL, PASSAGES, PASSAGES_MANIFEST, file_sha256
from models.export import load_shipped_encoder, shipped_encoder_folder
from models.roles import with_role
from models.shadow_report import Differences, differences
from models.store import ModelStore
from ops.bench.deployment import Deployment, deployed, next_record, reading
from ops.simulator.choice import click_probabilities, react
from ops.simulator.events import Event, catalogue, events
from ops.simulator.publish import post_all
from ops.simulator.world import World, moment_of
from schemas.codec import decode
from schemas.records import Item, ModelDecision, ModelVersion, Recommendation, Record, Request, ShadowComparison
from schemas.topics import MODELS_DECISIONS, MODELS_SHADOW, RECOMMENDATIONS, USERS_FEEDBACK, Topic
from streams.follower import Follower
from streams.model_roles import change_roles
from streams.settings import Settings

WAVE = 200  # requests posted at once; reactions to one wave are posted with the next
SHADOW_WAVES = 5  # at most, before a model is canary
LOADING_SECONDS = 900.0
WILD = 1e4  # so large that the sine of a hidden state times this is as good as chance
START_MS = 1_788_220_800_000  # 2026-09-01, 08:00 in the city: places are open
Say = Callable[[str], None]
R = TypeVar("R", bound=Record)


@dataclass
class Judged:
    """What became of one canary."""

    name: str
    version: str
    wanted: str  # decision
    decision: str = "none"
    reason: str = ""
    requests: int = 0  # while it was the canary, of everybody
    users: set[str] = field(default_factory=set)  # who were answered by it
    judged_users: float = 0  # of them, who were counted with what they did
    true_click_rates: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    hours: float = 0.0  # of event time from its first answer to the last that was counted
    shadow: Differences | None = None  # how its lists differed before it was canary

    def look_at(self, decided: Sequence[ModelDecision]) -> None:
        """Take in what has been decided of it, if anything."""
        for decision in decided:
            if decision.version == self.version:
                self.decision, self.reason = decision.decision, decision.reason
                self.judged_users = decision.figures["not clicked: canary answers"]
                self.hours = (decision.end - decision.start) / 3_600_000

    def figures(self) -> dict[str, float | str | None]:
        """Return every figure by name. A true click rate is a list's probability of at least one click."""
        rates = {side: round(float(np.mean(of)), 4) if of else None for side, of in self.true_click_rates.items()}
        return {
            "canary": self.name,
            "decision": self.decision,
            "users_who_saw_it": len(self.users),
            "users_judged_by_their_clicks": self.judged_users,
            "requests_of_everybody": self.requests,
            "hours_of_event_time": round(self.hours, 2),
            "true_click_rate_canary": rates[True],
            "true_click_rate_champion": rates[False],
            "reason": self.reason,
            **{
                f"as_shadow_{name}": getattr(self.shadow, name, None)
                for name in ("requests", "identical", "reordered", "same_first", "overlap", "rank_correlation")
            },
        }


async def measure_rollback(
    settings: Settings, world: World, share: float, most_requests: int, rate: float, say: Say
) -> list[Judged]:
    """Let a sabotaged and then a healthy canary be judged.

    Args:
        settings: of the cluster; without one, a broker is started.
        world: who asks; each user counts once, so there must be many.
        share: of users, for a canary.
        most_requests: given up after so many for one canary.
        rate: requests a second of event time; an hour of them passes before the first missing click counts.
        say: told what goes on.

    """
    trainer = settings.trainer.model_copy(update={"examples": 10**9, "hours": 1e9})  # nothing is trained meanwhile
    settings = settings.model_copy(update={"trainer": trainer})
    say("starting broker and stages")
    items = map(in_prose, catalogue(world, START_MS))
    async with deployed(settings, items, ("state", "inference", "trainer")) as deployment:
        store = ModelStore(deployment.settings.model_store)
        folder = deployment.settings.data_dir
        life = events(world, START_MS, rate, daily_rhythm=False)
        results = []
        async with (
            _followed(deployment, MODELS_DECISIONS, ModelDecision) as decided,
            _followed(deployment, MODELS_SHADOW, ShadowComparison) as compared,
            reading(deployment, RECOMMENDATIONS) as consumer,
        ):
            for name, make, wanted in (
                ("shuffled", shuffled_model, "roll back"),
                ("healthy", healthy_model, "promote"),
            ):
                model = await asyncio.to_thread(make, folder / name)
                judged = Judged(name, store.put(model), wanted)
                say(f"{name}: until the inference stage has taken it")
                await _announce(deployment, store, judged.version, "shadow")
                await _until_swapped(deployment, judged.version)
                before, reactions = len(compared), list[Event]()
                for _ in range(SHADOW_WAVES):  # a shadow leaves requests out, and is behind
                    reactions = await _ask(deployment, world, life, judged, consumer, reactions)
                    if len(compared) - before >= WAVE:
                        break
                judged.shadow = next(iter(differences(compared[before:])), None)
                await _announce(deployment, store, judged.version, "canary", share)
                while judged.requests < most_requests and judged.decision == "none":
                    reactions = await _ask(deployment, world, life, judged, consumer, reactions)
                    judged.requests += WAVE
                    say(f"{name}: {judged.requests:,} requests, {len(judged.users):,} users have seen it")
                    judged.look_at(decided)
                results.append(judged)
        return results


@contextlib.asynccontextmanager
async def _followed(deployment: Deployment, topic: Topic, kind: type[R]) -> AsyncIterator[list[R]]:
    """Yield the records of a topic, a list that grows with them."""
    found: list[R] = []

    async def on_records(records: Sequence[ConsumerRecord]) -> None:
        found.extend(decode(kind, record.value) for record in records)

    follower = Follower(deployment.settings.kafka, topic, on_records)
    await follower.start()
    try:
        yield found
    finally:
        await follower.stop()


async def _announce(
    deployment: Deployment, store: ModelStore, version: str, role: Literal["shadow", "canary"], share: float = 1.0
) -> None:
    announced = ModelVersion(version=version, role=role, sha256=store.manifest(version)[1], share=share)
    name = deployment.settings.inference.model_name
    await change_roles(
        deployment.settings.kafka, name, lambda current: with_role(current, announced, "pushed past the gate by hand")
    )


async def _until_swapped(deployment: Deployment, version: str) -> None:
    log = deployment.stages["inference"].log_file
    async with asyncio.timeout(LOADING_SECONDS):
        while True:
            lines = [line for line in log.read_text(errors="replace").splitlines() if version in line]
            if any("model refused" in line for line in lines):
                raise deployment.stalled(f"the inference stage does not take {version}")
            if any("models swapped" in line for line in lines):
                return
            await asyncio.sleep(0.5)


async def _ask(
    deployment: Deployment,
    world: World,
    life: Iterator[Event],
    judged: Judged,
    consumer: AIOKafkaConsumer,
    reactions: Sequence[Event],
) -> list[Event]:
    """Post a wave of requests with the reactions to an earlier one; return the reactions to what was answered."""
    await post_all(deployment.settings, sorted([*reactions, *_wave(life)], key=lambda event: event.time_ms))
    return [
        reaction
        for _ in range(WAVE)
        for reaction in _take(world, judged, await next_record(deployment, consumer, "recommendation"))
    ]


def _wave(life: Iterator[Event]) -> Iterator[Event]:
    left = WAVE
    for event in life:
        yield event
        left -= isinstance(event.record, Request)
        if not left:
            return


def _take(world: World, judged: Judged, record: ConsumerRecord) -> Iterator[Event]:
    """Count an answer and yield how its user reacts."""
    answer, user = decode(Recommendation, record.value), record.key.decode()
    items = [item.item_id for item in answer.items]
    canary = answer.model.endswith(f"@{judged.version}")
    if canary:
        judged.users.add(user)
    moment = moment_of(world, answer.request_id)
    missed = np.prod(1 - np.array(click_probabilities(world, moment, items)))
    judged.true_click_rates[canary].append(float(1 - missed))
    for action in react(world, answer.request_id, items):
        yield Event(record.timestamp + action.delay_ms, USERS_FEEDBACK, user, action.feedback)


def healthy_model(folder: Path) -> Path:
    """Make the shipped model under another version."""
    load_shipped_encoder().close()  # exported, if it was not yet
    note = folder.with_name(f"{folder.name}-note")
    note.mkdir()
    (note / "note.json").write_text(json.dumps({"made": "for tablecast bench rollback"}))
    encoder = shipped_encoder_folder()
    write_model(folder, name="tablecast", base="shipped", encoder=encoder, ranker=SHIPPED_RANKER, weights=note)
    return folder


def shuffled_model(folder: Path) -> Path:
    """Make the shipped model with every item's embedding shuffled in an order of its own: no request fits any item."""
    load_shipped_encoder().close()
    encoder = folder.with_name(f"{folder.name}-encoder")
    shutil.copytree(shipped_encoder_folder(), encoder)
    _shuffle(encoder / PASSAGES)
    # Vectors in the embedding cache are known by the manifest of what reads passages.
    _set_sha256(encoder / PASSAGES_MANIFEST, {MODEL: encoder / PASSAGES})
    _set_sha256(encoder / MANIFEST, {name: encoder / name for name in (PASSAGES, PASSAGES_MANIFEST)})
    write_model(folder, name="tablecast", base="shuffled", encoder=encoder, ranker=SHIPPED_RANKER)
    return folder


def _shuffle(path: Path) -> None:
    """Have a model give out its hidden states with their components in an order that only this text has."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    (output,) = graph.output
    dim = output.type.tensor_type.shape.dim[-1].dim_value
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = ["in_order" if name == output.name else name for name in names]
    constants = {"zero": np.int64(0), "one": np.array([1]), "dim": np.array([dim]), "wild": np.float32(WILD)}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    graph.node.extend(
        [
            helper.make_node("Gather", ["in_order", "zero"], ["first_token"], axis=1),
            helper.make_node("Mul", ["first_token", "wild"], ["phases"]),
            helper.make_node("Sin", ["phases"], ["keys"]),
            helper.make_node("TopK", ["keys", "dim"], ["sorted_keys", "order"]),
            helper.make_node("Unsqueeze", ["order", "one"], ["order_of_texts"]),
            helper.make_node("Shape", ["in_order"], ["shape"]),
            helper.make_node("Expand", ["order_of_texts", "shape"], ["order_of_tokens"]),
            helper.make_node("GatherElements", ["in_order", "order_of_tokens"], [output.name], axis=2),
        ]
    )
    onnx.save(model, path)


def _set_sha256(manifest: Path, files: Mapping[str, Path]) -> None:
    fields = json.loads(manifest.read_bytes())
    fields["sha256"] |= {name: file_sha256(path) for name, path in files.items()}
    manifest.write_text(json.dumps(fields))


def in_prose(event: Event) -> Event:
    """Return a restaurant that says what it is in its name and description alone."""
    assert isinstance(event.record, Item)
    return event._replace(record=msgspec.structs.replace(event.record, categories=[], attributes={}))
