"""A run once more, from the manifest of the model that it made: the same offsets must give the same weights."""

import asyncio
import tempfile
from pathlib import Path

import msgspec

from models import retraining
from models.pseudonyms import Pseudonyms
from models.store import ModelStore
from schemas.errors import BadInputError
from streams.settings import Settings
from streams.trainer import making
from streams.trainer.plan import Run
from streams.trainer.reading import Reader


class Repeated(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    range: str
    version: str  # of the model in the store
    repeated: str  # of the model made now
    erased: int  # examples left out now, because their users are to be forgotten
    same_catalogue: bool  # as far as the topic, which is compacted, still has it

    @property
    def same(self) -> bool:
        """Whether every file has the same sha256."""
        return self.version == self.repeated


async def repeat(settings: Settings, pseudonyms: Pseudonyms, version: str) -> Repeated:
    """Train a version again and throw it away.

    Raises:
        BadInputError: the version was not made by the trainer.
        RangeError: retention has deleted offsets of its range.
        StoreError: the store does not hold it or its champion.

    """
    store = ModelStore(settings.model_store)
    manifest, _ = await asyncio.to_thread(store.manifest, version)
    try:
        run = msgspec.convert(manifest.training["run"], Run, strict=False)
    except (KeyError, msgspec.ValidationError) as error:
        raise BadInputError(f"version {version} was not made by the trainer: its manifest names no run") from error
    champion = await asyncio.to_thread(store.fetch, run.parent)
    reader = Reader(settings.kafka)
    await reader.start()
    try:
        examples = await reader.read_examples(run, pseudonyms)
        items = await reader.read_items(run.items_end)
    finally:
        await reader.stop()
    with tempfile.TemporaryDirectory(prefix="tablecast-") as folder:
        trained = Path(folder) / "trained"
        await asyncio.to_thread(making.train, trained, champion, examples, items, run)
        made = await asyncio.to_thread(making.export, Path(folder) / "model", trained, champion, manifest.name, run)
    return Repeated(
        range=run.name,
        version=version,
        repeated=made.version,
        erased=examples.erased,
        same_catalogue=retraining.catalogue_sha256(items) == manifest.training.get("catalogue_sha256"),
    )
