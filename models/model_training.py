"""The whole model from a data set: the language model fine-tuned, the ranker trained, one folder written.

    data = read_dataset(Path("data/city"))
    train_model(data, pack_for(data.meta.domain), Path("models/city"), TrainingSettings(), ...)

The language model is left as it is where the data set says nothing in words, and the ranker is left out where nobody
chose anything. What is finished lies in a folder beside the result until all of it is: a run that was cut off goes on
there when it is called again with the same arguments.
"""

import hashlib
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import structlog

from models import artefact
from models.artefact import ModelManifest, read_model, write_model
from models.base_model import PACKAGED, BaseModel, cache_folder, load_base, save_base, written_at_once
from models.catalogue import Catalogue
from models.dataset import Dataset, check_new
from models.embedding_cache import EmbeddingCache
from models.encoder import Encoder
from models.evaluation import fill_catalogue
from models.export import ExportError, export_encoder
from models.fine_tuning import tracking
from models.fine_tuning.augmentation import paraphrases_of
from models.fine_tuning.checkpoints import TRAINED
from models.fine_tuning.pairs import TrainingData
from models.fine_tuning.result import MANIFEST, MODEL, FineTuned, load_fine_tuned, read_manifest
from models.fine_tuning.settings import Settings
from models.fine_tuning.training import fine_tune
from models.ranker_training import Progress, train_ranker
from models.sequence_training import SequenceSettings
from models.training_data import training_data
from schemas.domains import DomainPack
from schemas.errors import BadInputError

Part = Literal["encoder", "ranker"]
Tell = Callable[[str, int, int], None]

_CURVE_POINTS = 200  # of the learning curve that the manifest keeps
_log = structlog.get_logger(__name__)


class RankerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the ranker's training; ``ranker_training.train_ranker`` says what they mean."""

    requests: int = 16000
    lists: int = 9000
    rounds: int = 75
    leaves: int = 24
    learning_rate: float = 0.1
    dimensions: int = 64
    without: tuple[str, ...] = ()
    sequence: SequenceSettings | None = None  # None: with its defaults where people don't choose the same again

    def sequence_for(self, pack: DomainPack) -> SequenceSettings | None:
        """Return how the transformer over the latest choices is trained in a domain; None: it is left out."""
        return SequenceSettings() if self.sequence is None and not pack.repeats else self.sequence


class TrainingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a settings file may say; the seed is that of everything."""

    base: str = PACKAGED  # a Hugging Face name, a folder, or a model that was fine-tuned by this
    seed: int = 0
    fine_tuning: Settings = msgspec.field(default_factory=Settings)
    ranker: RankerSettings = msgspec.field(default_factory=RankerSettings)


@dataclass(frozen=True, slots=True)
class Trained:
    """What came out, in the folder and in words."""

    manifest: ModelManifest
    fine_tuned: FineTuned | None
    left_out: Mapping[Part, str]  # why


def read_settings(path: Path) -> TrainingSettings:
    """Return what a TOML file says; what it does not say has its default.

    Raises:
        BadInputError: it can't be read, or says something that can't be.

    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=TrainingSettings)
    except OSError as error:
        raise BadInputError(f"{path} can't be read: {error.strerror or error}") from error
    except (ValueError, msgspec.DecodeError) as error:
        raise BadInputError(f"{path}: {error}") from error


def train_model(
    data: Dataset,
    pack: DomainPack,
    folder: Path,
    settings: TrainingSettings,
    *,
    name: str,
    command: str,
    parts: tuple[Part, ...] = ("encoder", "ranker"),
    wandb_project: str | None = None,
    tell: Tell = lambda _what, _done, _of: None,
) -> Trained:
    """Learn from split=train alone and write a model into ``folder``, which is new. Same arguments, same model.

    Args:
        data: a whole dataset; labels of other splits are not looked at.
        pack: its domain.
        folder: of the model to be.
        settings: of both parts.
        name: of the model.
        command: how this was asked for, kept in the manifest.
        parts: what to train.
        wandb_project: of Weights & Biases, where the curves go besides.
        tell: is told what is going on, how much of it is done, and how much there is.

    Raises:
        BadInputError: there is nothing to learn from, or a part says why it can't.

    """
    check_new(folder)
    started = time.monotonic()
    seed = settings.seed
    digest = _digest(data)
    work = folder.absolute().with_name(f".{folder.absolute().name}.{_identity(digest, settings, parts)}")
    left_out: dict[Part, str] = {}

    learnt = training_data(data, pack, seed) if "encoder" in parts else None
    if "encoder" not in parts:
        left_out["encoder"] = "not asked for"
    elif learnt is None:
        left_out["encoder"] = "there are no texts to learn from"
    if "ranker" not in parts:
        left_out["ranker"] = "not asked for"
    elif not any(event.split == "train" for event in data.interactions):
        left_out["ranker"] = "there are no interactions of split=train"
    if len(left_out) == 2:
        raise BadInputError("nothing to train: " + "; ".join(f"{part}: {why}" for part, why in left_out.items()))

    fine_tuned = curve = None
    work.mkdir(parents=True, exist_ok=True)
    base, parent = _base_folder(settings.base, work)
    if learnt is not None:
        fine_tuned = _fine_tuned(work, base, learnt, pack, settings, wandb_project, tell)
        curve = _curve(work / "fine_tuning" / tracking.METRICS)
    if not (work / artefact.ENCODER).is_dir():
        tell("exporting the language model", 0, 1)
        _export(load_fine_tuned(work / "fine_tuning") if fine_tuned else load_base(base), work / artefact.ENCODER)
        tell("exporting the language model", 1, 1)
    if "ranker" not in left_out and not (work / artefact.RANKER).is_dir():

        def advance(progress: Progress) -> None:
            tell("the ranker's training requests", progress.done, progress.of)

        encoder = Encoder.load(work / artefact.ENCODER)
        catalogue = Catalogue(encoder.dim)
        fill_catalogue(catalogue, data, pack, encoder, EmbeddingCache(cache_folder() / "embeddings.sqlite"))
        encoder.close()
        options = msgspec.structs.asdict(settings.ranker) | {"sequence": settings.ranker.sequence_for(pack)}
        ranker = train_ranker(data, pack, seed=seed, catalogue=catalogue, progress=advance, **options)
        with written_at_once(work / artefact.RANKER) as draft:
            ranker.save(draft)
    if fine_tuned and not (work / artefact.WEIGHTS).is_dir():
        _keep_weights(work / "fine_tuning", work / artefact.WEIGHTS, fine_tuned)
    manifest = write_model(
        folder,
        name=name,
        base=settings.base if parent is None else parent.base,
        encoder=work / artefact.ENCODER,
        ranker=None if "ranker" in left_out else work / artefact.RANKER,
        weights=work / artefact.WEIGHTS if fine_tuned else None,
        parent=parent.version if parent else None,
        metrics=_metrics(fine_tuned),
        training={
            "command": command,
            "data": msgspec.to_builtins(data.meta) | {"sha256": digest},
            "settings": msgspec.to_builtins(settings),
            "left_out": left_out,
            "fine_tuning": msgspec.to_builtins(fine_tuned),
            "curve": curve,
            "seconds": round(time.monotonic() - started, 1),
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),  # KiB on Linux
        },
    )
    shutil.rmtree(work)
    return Trained(manifest, fine_tuned, left_out)


def _fine_tuned(
    work: Path,
    base: str,
    learnt: TrainingData,
    pack: DomainPack,
    settings: TrainingSettings,
    wandb_project: str | None,
    tell: Tell,
) -> FineTuned:
    """Return the manifest of the fine-tuning, which goes on or is finished already if this has been called before."""
    folder = work / "fine_tuning"
    if (folder / MANIFEST).exists():
        return read_manifest(folder)
    return fine_tune(
        base,
        learnt,
        folder,
        msgspec.structs.replace(settings.fine_tuning, seed=settings.seed),
        paraphrases=paraphrases_of(pack),
        wandb_project=wandb_project,
        progress=lambda done, of: tell("fine-tuning the language model", done, of),
    )


def _export(model: BaseModel, folder: Path) -> None:
    """Export the encoder as int8, or, where that would not be the same model any more, as it is."""
    try:
        export_encoder(model, folder, "int8")
    except ExportError as error:
        _log.warning("exporting as fp32, which is slower to serve", reason=str(error))
        export_encoder(model, folder, "fp32")


def _base_folder(base: str, work: Path) -> tuple[str, ModelManifest | None]:
    """Return what ``load_base`` loads for a base, and the model's manifest if the base is a model of ours.

    A model keeps what was trained, so the language model that it became is put together again first.
    """
    if not (Path(base) / artefact.MANIFEST).is_file():
        return base, None
    parent = read_model(Path(base))
    weights = Path(base) / artefact.WEIGHTS
    if not weights.is_dir():
        return parent.base, parent
    if not (work / "base").is_dir():
        with written_at_once(work / "base") as draft:
            save_base(load_fine_tuned(weights), draft)
    return str(work / "base"), parent


def _keep_weights(fine_tuned: Path, weights: Path, manifest: FineTuned) -> None:
    """Keep what the next fine-tuning needs: what was trained, or, where that is everything, the whole model."""
    with written_at_once(weights) as draft:
        # How long it took is in the model's manifest; here it would make the files of equal runs differ.
        (draft / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, seconds=0.0)))
        if TRAINED in manifest.sha256 and not manifest.base.startswith(str(fine_tuned.parent)):
            shutil.copy2(fine_tuned / TRAINED, draft)
        else:
            shutil.copytree(fine_tuned / MODEL, draft / MODEL)


def _metrics(fine_tuned: FineTuned | None) -> dict[str, float]:
    if fine_tuned is None or fine_tuned.mrr_before is None or fine_tuned.mrr_after is None:
        return {}
    return {"held_back_mrr_before": fine_tuned.mrr_before, "held_back_mrr_after": fine_tuned.mrr_after}


def _curve(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the course of loss and validation, the loss averaged to at most so many points."""
    lines = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    loss = [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]
    return {
        "loss": [
            (int(block[-1][0]), round(float(block[:, 1].mean()), 5))
            for block in np.array_split(np.array(loss), min(len(loss), _CURVE_POINTS))
            if len(block)
        ],
        "mrr": [(line["step"], line["validation/mrr"]) for line in lines if "validation/mrr" in line],
    }


def _digest(data: Dataset) -> str:
    """Return a sha256 over all records."""
    encoder = msgspec.json.Encoder(order="deterministic")
    digest = hashlib.sha256(encoder.encode(data.meta))
    records: Iterator[Any] = chain(data.items, data.interactions, data.requests)
    for record in records:
        digest.update(encoder.encode(record))
    return digest.hexdigest()


def _identity(digest: str, settings: TrainingSettings, parts: tuple[Part, ...]) -> str:
    """Return a name for the run that only the same one has."""
    base = Path(settings.base) / artefact.MANIFEST
    version = read_model(base.parent).version if base.is_file() else ""
    return hashlib.sha256(msgspec.json.encode([digest, settings, sorted(parts), version])).hexdigest()[:12]
