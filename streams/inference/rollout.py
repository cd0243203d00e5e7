"""Which model answers whom: follows the announcements, prepares new models, and swaps them in between two batches.

A new model is fetched, checked and its embeddings are made in other processes, and its catalogue is filled while the
old one goes on answering; one with the old one's encoder, as the trainer makes them, shares the old one's. Then both
answer the same requests, and a model that fails, or takes too much longer than the old one, is refused: the old one
goes on, and the log says why. What was announced stays announced; a refused model is tried again with the next
announcement, or after a while if it could not be fetched.
"""

import asyncio
import statistics
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import msgspec
import structlog
from aiokafka import ConsumerRecord

from models.artefact import ENCODER
from models.base_model import cache_folder
from models.encoder import encoder_version
from models.load_ahead import STORE_FAILED
from models.roles import Role, holder, newer, on_canary
from models.store import ModelStore, StoreError
from schemas.codec import DecodeError
from schemas.errors import ExplainedError
from schemas.records import Context, JoinedRequest, ModelAnnouncement, ModelVersion, Request, Source
from schemas.topics import MODELS
from streams import metrics
from streams.follower import Follower
from streams.inference.catalogue_feed import REST, CatalogueFeed, Report
from streams.inference.served_model import ServedModel
from streams.model_roles import decode_announcement
from streams.settings import Settings

log = structlog.get_logger(__name__)

EMBEDDINGS = "embeddings.sqlite"  # in the cache folder
REHEARSED = 16  # requests that a new model answers before it takes over
FETCH_AGAIN_SECONDS = 30.0


class RefusedError(ExplainedError):
    """A model can't take over; the message says why."""


@dataclass(frozen=True)
class Serving:
    """The models in memory, by role."""

    champion: ServedModel
    canary: ServedModel | None = None
    share: float = 0.0  # of users, for the canary
    shadow: ServedModel | None = None

    def model_for(self, user: str) -> ServedModel:
        """Return the model that answers a user."""
        canary = self.canary
        if canary is None or canary.announced is None or not on_canary(user, canary.announced, self.share):
            return self.champion
        return canary

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """All models in memory, each once."""
        models = (self.champion, self.canary, self.shadow)
        return tuple(dict.fromkeys(model for model in models if model is not None))


class Rollout:
    """Keeps ``serving`` as announced. Read it once for each batch of requests."""

    serving: Serving

    def __init__(self, settings: Settings, feed: CatalogueFeed, report: Report) -> None:
        self.recent: deque[JoinedRequest] = deque(maxlen=REHEARSED)  # what a new model is rehearsed with
        self._settings, self._feed, self._report = settings, feed, report
        self._store = ModelStore(settings.model_store)
        self._name = settings.inference.model_name
        self._announced: ModelAnnouncement | None = None
        self._changed = asyncio.Event()
        self._follower = Follower(settings.kafka, MODELS, self._on_records)
        self._refused = 0

    async def start(self) -> None:
        """Load the announced champion, or if it can't be, what the stage came with; the catalogue is still empty.

        Raises:
            ArtefactError: not even that can be loaded.

        """
        await self._follower.start()
        await self._follower.wait_until_caught_up()
        champion = holder(self._announced, "champion")
        try:
            model = await self._load(await self._source(champion), champion)
        except Exception as error:
            if champion is None:
                raise
            self._refuse("champion", champion, error)
            model = await self._load(await self._source(None), None)
        self.serving = Serving(model)
        await self._feed.join(model)

    async def run(self) -> None:
        """Follow the announcements; ends only with an error of the reader."""
        while True:
            following = asyncio.create_task(self._reconcile())
            try:
                await asyncio.wait([following, self._follower.task], return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    self._follower.task.result()
                timeout = FETCH_AGAIN_SECONDS if following.result() else None
            finally:
                following.cancel()
            changed = asyncio.create_task(self._changed.wait())
            await asyncio.wait([changed, self._follower.task], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            if self._follower.task.done():
                self._follower.task.result()

    async def stop(self) -> None:
        """Stop following."""
        await self._follower.stop()

    async def _on_records(self, records: Sequence[ConsumerRecord]) -> None:
        for record in records:
            try:
                name, announced = decode_announcement(record)
            except DecodeError as error:
                self._report(record, error)
                continue
            if name == self._name and (held := newer(self._announced, announced)) is not self._announced:
                self._announced = held
                self._changed.set()

    async def _reconcile(self) -> bool:
        """Bring ``serving`` to what is announced, one model after the other; return whether to try again later."""
        self._changed.clear()
        announced, again = self._announced, False
        roles: tuple[Role, ...] = ("champion", "canary", "shadow")
        for role in roles:
            wanted = holder(announced, role)
            model = None
            if wanted is not None or role == "champion":
                try:
                    model = self._in_memory(wanted) or await self._prepare(wanted)
                except StoreError as error:
                    again = True
                    self._refuse(role, wanted, error)
                except Exception as error:  # a model may fail in any way; what serves goes on serving
                    self._refuse(role, wanted, error)
            if self._changed.is_set():  # and this may not be wanted any more
                if model is not None and model not in self.serving.models:
                    self._feed.leave(model)
                return False
            self._swap(role, model, wanted.share if wanted is not None else 0.0)
        return again

    def _in_memory(self, wanted: ModelVersion | None) -> ServedModel | None:
        version = wanted.version if wanted is not None else None
        return next((model for model in self.serving.models if model.announced == version), None)

    def _swap(self, role: Role, model: ServedModel | None, share: float) -> None:
        before = self.serving
        if role == "champion":
            self.serving = replace(before, champion=model or before.champion)
        elif role == "canary":
            self.serving = replace(before, canary=model, share=share)
        else:
            self.serving = replace(before, shadow=model)
        for gone in set(before.models) - set(self.serving.models):
            self._feed.leave(gone)
        if self.serving != before:
            metrics.model_changed(role, "swapped")
            roles = {name: getattr(value, "version", value) for name, value in vars(self.serving).items()}
            log.info("models swapped", **roles)

    async def _source(self, wanted: ModelVersion | None) -> str | Path:
        if wanted is None:
            return self._settings.inference.model
        return await asyncio.to_thread(self._store.fetch, wanted.version, wanted.sha256)

    async def _load(self, source: str | Path, wanted: ModelVersion | None) -> ServedModel:
        return await asyncio.to_thread(
            ServedModel.load,
            source,
            name=self._name,
            threads=self._settings.inference.threads,
            announced=wanted.version if wanted is not None else None,
        )

    async def _prepare(self, wanted: ModelVersion | None) -> ServedModel:
        """Return a model that is ready to take over, with its catalogue full and kept up to date."""
        if wanted is not None:
            await _ahead("--fetch", self._store.url, wanted.version, wanted.sha256)
        source = self._settings.inference.model if wanted is None else self._store.folder(wanted.version)
        champion = self.serving.champion
        # Not of a shadow: what it does must not stand in the way of the thread that answers.
        if wanted is not None and wanted.role != "shadow" and champion.encoder.version == _encoder_of(source):
            await _ahead(str(source))
            model = await asyncio.to_thread(
                champion.with_ranker_of, Path(source), name=self._name, announced=wanted.version
            )
        else:
            texts = await asyncio.to_thread(self._feed.texts, list(self._feed.items.values()))
            await _ahead(str(source), str(cache_folder() / EMBEDDINGS), texts=texts)
            model = await self._load(source, wanted)
        await self._feed.join(model)
        try:
            await self._rehearse(model)
        except BaseException:
            self._feed.leave(model)
            raise
        return model

    async def _rehearse(self, model: ServedModel) -> None:
        """Have the new and the old model answer the same requests in turn.

        Raises:
            RefusedError: the new one takes too long.
            Exception: it can't answer.

        """
        old, limit = self.serving.champion, self._settings.inference.max_slowdown
        spent: dict[ServedModel, list[float]] = {old: [], model: []}
        for joined in (list(self.recent) or self._samples()) * 2:
            for each in (old, model):
                spent[each].append((await each.in_thread(lambda: each.answer_alone(joined)))[1])  # noqa: B023 - awaited
                await asyncio.sleep(REST * spent[each][-1])
        if not spent[model]:
            return  # no requests yet, and no items
        # The second time around: the first warms up.
        before, now = (statistics.median(times[len(times) // 2 :]) * 1000 for times in spent.values())
        log.info("model rehearsed", model=model.version, milliseconds=round(now, 2), before=round(before, 2))
        if now > limit * before:
            raise RefusedError(
                f"a request takes it {now:.1f} ms of work, and {old.version} {before:.1f} ms: more than "
                f"inference.max_slowdown = {limit:g} times as long"
            )

    def _samples(self) -> list[JoinedRequest]:
        """Return requests for what the catalogue has, for a stage that has not been asked yet."""
        return [
            JoinedRequest(
                request=Request(request_id=f"rehearsal-{item_id}"[:200], domain=item.domain, text=item.name),
                event_time=0,
                source=Source(partition=0, offset=0),
                context=Context(),
            )
            for item_id, item in list(self._feed.items.items())[:REHEARSED]
        ]

    def _refuse(self, role: Role, wanted: ModelVersion | None, error: Exception) -> None:
        self._refused += 1
        metrics.model_changed(role, "refused")
        log.error(
            "model refused",
            role=role,
            version=wanted.version if wanted is not None else self._settings.inference.model,
            reason=str(error) if isinstance(error, ExplainedError) else repr(error),
            refused=self._refused,
        )


def _encoder_of(source: str | Path) -> str:
    """Return the version of a model's encoder, "" where it has none of its own."""
    folder = Path(source) / ENCODER
    return encoder_version(folder) if folder.is_dir() else ""


async def _ahead(*arguments: str, texts: Sequence[str] = ()) -> None:
    """Run ``models.load_ahead``.

    Raises:
        StoreError: the model store failed, with what was said last.
        RefusedError: anything else did, likewise.

    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "models.load_ahead", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        _, said = await process.communicate(msgspec.msgpack.encode(texts))
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        _raise_last_words(said.decode(errors="replace"), process.returncode)


def _raise_last_words(said: str, code: int) -> NoReturn:
    last = said.strip().splitlines()[-1:] or [f"exit code {code}"]
    if code == STORE_FAILED:
        raise StoreError(last[0])
    raise RefusedError(f"it can't be fetched, loaded, or embed the catalogue: {last[0]}")
