"""The catalogue, as the topic tells it, in every model that is served or about to be."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from aiokafka import ConsumerRecord
from numpy.typing import NDArray

from models.catalogue import CatalogueError
from models.chunks import item_chunks
from models.embedding_cache import EmbeddingCache
from schemas.codec import DecodeError, decode, decode_key
from schemas.domains import UnknownDomainError, pack_for
from schemas.records import Item
from streams.inference.served_model import ServedModel

ITEMS_PER_STEP = 4  # an item takes a millisecond or two
TEXTS_PER_STEP = 8  # a long item has up to 20
REST = 3.0  # how much longer than it works what prepares a model rests meanwhile: the processor is for the requests

Report = Callable[[ConsumerRecord, Exception], None]


class ItemChange(NamedTuple):
    """An item that was added or replaced, or (None) removed; the record that says so, if it is new."""

    item_id: str
    item: Item | None
    record: ConsumerRecord | None = None


class CatalogueFeed:
    """Puts every change into the catalogue of every model, in order; ``report`` is told what can't be taken in."""

    def __init__(self, cache: EmbeddingCache, report: Report) -> None:
        self.items: dict[str, Item] = {}
        self._taken_in: set[str] = set()  # of them, those that no model refused as they are
        self._cache, self._report = cache, report
        self._models: list[ServedModel] = []
        self._joining: dict[ServedModel, list[ItemChange]] = {}  # what has changed while a model was catching up
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="items")  # reads and writes the cache

    async def on_records(self, records: Sequence[ConsumerRecord]) -> None:
        """Take a batch of catalogue records in."""
        changes = []
        for record in records:
            try:
                item = decode(Item, record.value) if record.value is not None else None
                if item is not None:
                    pack_for(item.domain)
                item_id = decode_key(record.key)
            except (DecodeError, UnknownDomainError) as error:
                self._report(record, error)
                continue
            if item is None:
                self.items.pop(item_id, None)
            elif item_id in self._taken_in and item == self.items[item_id]:
                continue  # posted again as it was: a topic is compacted now and then, and holds a catalogue many times
            else:
                self.items[item_id] = item
            self._taken_in.discard(item_id)
            changes.append(ItemChange(item_id, item, record))
        for missed in self._joining.values():
            missed.extend(changes)
        refused: set[str] = set()
        for model in {id(model.recommender.catalogue): model for model in self._models}.values():
            refused |= await self._apply(model, changes)
        self._taken_in.update(
            item_id for item_id, item, _ in changes if item_id in self.items and item_id not in refused
        )

    async def join(self, model: ServedModel) -> None:
        """Fill a model's catalogue with what there is, and keep it up to date from then on."""
        if any(model.recommender.catalogue is other.recommender.catalogue for other in self._models):
            self._models.append(model)
            return
        self._joining[model] = [ItemChange(item_id, item) for item_id, item in self.items.items()]
        try:
            while changes := self._joining[model]:
                self._joining[model] = []
                await self._apply(model, changes, rest=REST if self._models else 0.0)
            self._models.append(model)  # nothing else ran since the last look at what it missed
        finally:
            del self._joining[model]

    def leave(self, model: ServedModel) -> None:
        """Stop keeping a model up to date."""
        self._models.remove(model)

    def texts(self, items: Sequence[Item]) -> list[str]:
        """Return all texts that are embedded for items."""
        return [text for item in items for text in item_chunks(pack_for(item.domain), item)]

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown()

    async def _apply(self, model: ServedModel, changes: Sequence[ItemChange], rest: float = 0.0) -> set[str]:
        """Put changes into a model's catalogue and return the ids of items that it refused.

        After each step it rests so many times as long as that took.
        """
        refused = set()
        # In small steps: requests wait for the encoder or the interpreter behind one step, not behind a catalogue.
        for start in range(0, len(changes), ITEMS_PER_STEP):
            began = time.monotonic()
            step = changes[start : start + ITEMS_PER_STEP]
            embeddings = await self._embed(model, step)
            faults = await model.in_thread(lambda: _change(model, step, embeddings))  # noqa: B023 - awaited here
            for (item_id, _, record), fault in faults:
                refused.add(item_id)
                if record is not None:
                    self._report(record, fault)
            if rest:
                await asyncio.sleep(rest * (time.monotonic() - began))
        return refused

    async def _embed(self, model: ServedModel, step: Sequence[ItemChange]) -> list[NDArray[np.float32]]:
        """Return the embeddings [chunks, dim] of each item; none of an item that is removed."""
        loop = asyncio.get_running_loop()
        chunks = [[] if change.item is None else self.texts([change.item]) for change in step]
        texts = [text for several in chunks for text in several]
        vectors = [np.empty((0, model.encoder.dim), np.float32)]
        for place in range(0, len(texts), TEXTS_PER_STEP):
            some = texts[place : place + TEXTS_PER_STEP]
            vectors.append(await loop.run_in_executor(self._thread, self._cache.encode, model.encoder, some))
        return np.split(np.concatenate(vectors), np.cumsum([len(several) for several in chunks])[:-1])


def _change(
    model: ServedModel, step: Sequence[ItemChange], embeddings: Sequence[NDArray[np.float32]]
) -> list[tuple[ItemChange, CatalogueError]]:
    faults = []
    for change, several in zip(step, embeddings, strict=True):
        try:
            if change.item is None:
                model.recommender.catalogue.remove(change.item_id)
            else:
                model.recommender.put([change.item_id], [change.item], [several])
        except CatalogueError as error:
            faults.append((change, error))
    return faults
