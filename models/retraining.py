"""From a champion and lists that were shown to a candidate, in two steps that each leave a folder behind.

``train`` writes the ranker and a report, ``export`` makes a model of them. Both write their folder at once, so one that
is there is whole, and a run that was cut off goes on with what is there.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from models.artefact import (
    BASE,
    ENCODER,
    SHIPPED,
    SHIPPED_RANKER,
    WEIGHTS,
    ModelManifest,
    load_recommender,
    read_model,
    write_model,
)
from models.base_model import PACKAGED, cache_folder, written_at_once
from models.calibration import Calibration, calibrate, promised
from models.chunks import item_chunks
from models.drift import Reference, observation, reference_of
from models.embedding_cache import EmbeddingCache
from models.encoder import Encoder
from models.export import default_encoder_folder, load_default_encoder, load_shipped_encoder, shipped_encoder_folder
from models.feedback_training import Correction, learn_correction
from models.gate import ALL, Verdict
from models.judging import judge, shown_scores, vectors
from models.ranker import Ranker
from models.recommender import Recommender, Vectors
from models.shown_lists import ShownList
from schemas.domains import pack_for
from schemas.records import Item

REPORT, RANKER = "report.json", "ranker"
CALIBRATED = 2_000  # lists held back, the newest, that scores are calibrated on
HELD_BACK = 0.2  # of the new lists, the newest: nothing is learned from them, the gate looks at them


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a training was made of, and what came of it."""

    champion: str  # version
    base_trees: int  # the first trees, which corrections begin at
    trees: int
    new: int  # lists learned from
    held_back: int
    replayed: int
    erased: int  # examples left out, whose users are to be forgotten
    items: int
    catalogue_sha256: str
    seconds: float
    gate: Verdict
    reference: Reference | None = None  # what the new lists look like, for drift to be told by
    calibration: Calibration | None = None  # of the candidate's scores; None: too few actions were held back to tell

    @property
    def metrics(self) -> dict[str, float]:
        """What the candidate and its champion reached on all lists held back, for the announcement."""
        return next((check.figures for check in self.gate.checks if check.name == ALL), {})


@dataclass(frozen=True)
class Champion:
    """A model loaded with a catalogue."""

    folder: Path
    manifest: ModelManifest
    encoder: Encoder
    recommender: Recommender

    @property
    def base_trees(self) -> int:
        """How many of its trees are the base that it was corrected from."""
        trees = 0 if self.recommender.ranker is None else self.recommender.ranker.trees.num_trees()
        return int(self.manifest.training.get("base_trees", trees))


def starting_model(folder: Path, model: str, name: str) -> Path:
    """Return a model that was never announced as a folder: that of ``inference.model``, else one made in ``folder``.

    Raises:
        ArtefactError: ``folder`` exists.

    """
    if model not in {SHIPPED, BASE}:
        return Path(model)
    load = load_shipped_encoder if model == SHIPPED else load_default_encoder
    load().close()  # exports it if that has never been done
    encoder = shipped_encoder_folder() if model == SHIPPED else default_encoder_folder()
    write_model(folder, name=name, base=PACKAGED, encoder=encoder, ranker=SHIPPED_RANKER if model == SHIPPED else None)
    return folder


def load_champion(folder: Path, items: Mapping[str, Item]) -> Champion:
    """Load a model and its catalogue's embeddings, which are cached on this machine.

    Raises:
        ArtefactError: the folder is not a model.

    """
    encoder, recommender = load_recommender(folder, threads=1)
    cache = EmbeddingCache(cache_folder() / "embeddings.sqlite")
    try:
        for item_id, item in sorted(items.items()):
            recommender.put([item_id], [item], [cache.encode(encoder, item_chunks(pack_for(item.domain), item))])
    finally:
        cache.close()
    return Champion(folder, read_model(folder), encoder, recommender)


def train(
    folder: Path,
    champion: Champion,
    new: Sequence[ShownList],
    replayed: Sequence[ShownList],
    correction: Correction,
    *,
    erased: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Report:
    """Write a candidate's ranker and the report into ``folder``, which must not exist.

    Args:
        folder: a new one.
        champion: what is learned on top of.
        new: lists by event time; the newest ``HELD_BACK`` are not learned from.
        replayed: older lists.
        correction: how the trees on top are fitted.
        erased: how many examples were left out because their users are to be forgotten; for the report.
        progress: is told how many lists are done, and of how many.

    Raises:
        NothingToLearnError: no list has anything to choose between.

    """
    started = time.monotonic()
    learned, held_back = hold_back(new)
    keys = {each.key for each in new}
    older = [each for each in replayed if each.key not in keys]
    ranker = learn_correction(
        champion.recommender,
        [*older, *learned],
        lambda texts: encode_queries(champion.encoder, texts),
        correction,
        base_trees=champion.base_trees,
        progress=progress,
    )
    with written_at_once(folder) as draft:
        (draft / RANKER).mkdir()
        ranker.save(draft / RANKER)
        candidate, vector = _with_ranker(champion, Ranker.load(draft / RANKER)), vectors(champion.encoder)
        verdict = judge(
            champion.recommender,
            candidate,
            _with_ranker(champion, ranker),
            vector,
            [*older, *learned],
            held_back,
            first=champion.recommender.ranker is None or not champion.manifest.training,
        )
        told = held_back[-CALIBRATED:]
        scores = dict(zip((each.key for each in told), shown_scores(candidate, vector, told), strict=True))
        calibration = calibrate(list(scores.values()), [each.shown for each in told])
        catalogue = champion.recommender.catalogue
        items = {name: item for name, row in catalogue.row_of.items() if (item := catalogue.items[row]) is not None}
        report = Report(
            champion=champion.manifest.version,
            base_trees=champion.base_trees,
            trees=ranker.trees.num_trees(),
            new=len(learned),
            held_back=len(held_back),
            replayed=len(older),
            erased=erased,
            items=len(catalogue),
            catalogue_sha256=catalogue_sha256(items),
            seconds=round(time.monotonic() - started, 1),
            gate=verdict,
            reference=reference_of(
                observation(each, items, promised(calibration, scores.get(each.key, ()), each.shown)) for each in new
            ),
            calibration=calibration,
        )
        (draft / REPORT).write_bytes(msgspec.json.encode(report))
    return report


def _with_ranker(champion: Champion, ranker: Ranker) -> Recommender:
    """Return the champion with another ranker; they share the catalogue."""
    candidate = Recommender(champion.encoder.dim, "candidate", ranker=ranker)
    candidate.catalogue = champion.recommender.catalogue
    return candidate


def hold_back(new: Sequence[ShownList]) -> tuple[Sequence[ShownList], Sequence[ShownList]]:
    """Split lists by time into those to learn from and the newest, which the gate looks at."""
    cut = len(new) - int(len(new) * HELD_BACK)
    return new[:cut], new[cut:]


def read_report(folder: Path) -> Report | None:
    """Return the report that ``train`` left in a folder, None if it was not finished."""
    try:
        return msgspec.json.decode((folder / REPORT).read_bytes(), type=Report)
    except FileNotFoundError:
        return None


def export(
    folder: Path,
    trained: Path,
    champion: Path,
    *,
    name: str,
    training: Mapping[str, object],
    metrics: Mapping[str, float],
) -> ModelManifest:
    """Make a model in ``folder`` of the champion's language model and the ranker that ``train`` wrote.

    One that lies there already is returned as it is. The same ranker and champion make the same version.

    Raises:
        ArtefactError: the champion or what lies in ``folder`` is not a model.

    """
    if folder.exists():
        return read_model(folder)
    parent = read_model(champion)
    weights = champion / WEIGHTS
    return write_model(
        folder,
        name=name,
        base=parent.base,
        encoder=champion / ENCODER,
        ranker=trained / RANKER,
        weights=weights if weights.is_dir() else None,
        parent=parent.version,
        metrics=metrics,
        training=training,
    )


def encode_queries(encoder: Encoder, texts: list[str]) -> Vectors:
    """Return unit vectors of texts of requests [n, dim]."""
    return encoder.encode(encoder.tokenize(texts, "query"))


def catalogue_sha256(items: Mapping[str, Item | None]) -> str:
    """Return a hash over all items, whatever their order."""
    digest = hashlib.sha256()
    for item_id, item in sorted(items.items()):
        digest.update(msgspec.msgpack.encode((item_id, item), order="deterministic"))
    return digest.hexdigest()
