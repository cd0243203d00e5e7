"""What a user may choose next, from the choices before: a small transformer, served as ONNX.

    score(i) = sharpness * <h, e(i)>        e(i) = unit(P t(i) + r(i))

t(i) is the language model's vector of the item's text, P a learned projection and r(i) what is learned about the item
beyond its text, zero for a new item: it can be recommended the moment it is there. h is a unit vector made of the
latest choices: their e(i), how long after each the user asked again, at which hour of the week, and how far it was from
the choice before (after Kang and McAuley, "Self-attentive sequential recommendation", ICDM 2018).

``steps`` and ``SequenceModel.scores`` are the one way from choices to scores; training goes through the same
``steps``. Vectors of items are rounded to whole numbers as the catalogue's are, so that no score depends on the order
of rows: see ``models.catalogue``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from models.catalogue import SCALE, Catalogue, whole_numbers
from models.item_tables import HOUR_MS, hour_in_week
from models.places import EARTH_RADIUS_METRES
from models.user_state import DISMISSAL
from schemas.errors import BadInputError
from schemas.records import JoinedRequest

Rows = NDArray[np.int64]
Array = NDArray[np.float64]

GRAPH, TABLES, NAMES = "sequence.onnx", "sequence.safetensors", "sequence.json"
GAPS = 24  # half-octaves of hours between a choice and the next asking; 0 is less than a quarter of an hour
DISTANCES = 24  # octaves of metres from the choice before; 0: nobody knows
_FINE = 2**20  # what entries of P are rounded to a fraction of, so that sums of products are exact in float64
_BLOCK = 4096  # rows whose vectors are made at a time, so that a large catalogue needs little memory


class SequenceError(BadInputError):
    """A folder does not hold a sequence model that this version can use; the message says why."""


class Steps(NamedTuple):
    """What is known beside the items about each choice of a sequence, [n] each."""

    gap: Rows  # below GAPS: from the choice to the next asking
    hour: Rows  # below HOURS: of that asking, where the item is
    distance: Rows  # below DISTANCES: from the choice before


def steps(times: Rows, asked: Rows, points: Array, zones: Sequence[Any]) -> Steps:
    """Describe choices in order of time.

    Args:
        times: of the choices [n], milliseconds.
        asked: when the user asked next after each of them [n].
        points: where the items are, as unit vectors [n, 3]; NaN if nobody knows.
        zones: time zones of the items [n]; None is UTC.

    """
    hours = np.maximum(asked - times, 0) / HOUR_MS
    gap = np.clip(np.rint(2 * np.log2(hours + 1e-9) + 4), 0, GAPS - 1).astype(np.int64)
    hour = np.array([hour_in_week(at, zone) for at, zone in zip(asked.tolist(), zones, strict=True)], np.int64)
    before = np.vstack([np.full((1, 3), np.nan), points[:-1]])[: len(points)]
    metres = np.sqrt(((points - before) ** 2).sum(axis=1)) * EARTH_RADIUS_METRES
    octave = np.clip(np.rint(np.log2(np.nan_to_num(metres) + 1.0)), 0, DISTANCES - 2).astype(np.int64) + 1
    return Steps(gap, hour, np.where(np.isfinite(metres), octave, 0))


@dataclass(slots=True)
class _Vectors:
    """Vectors of a catalogue's rows [rows, dim], whole numbers, and the catalogue's changes that are in them."""

    rows: NDArray[np.float32]
    seen: int = -1


@dataclass(frozen=True)
class SequenceModel:
    """The transformer and what it knows about items."""

    session: Any  # of ONNX Runtime: vectors [n, dim], gap, hour and distance [n] -> h [dim]
    graph: bytes
    item_row: Mapping[str, int]  # from 1
    projection: NDArray[np.float32]  # [text dim, dim]
    offset: NDArray[np.float32]  # [dim]
    residual: NDArray[np.float16]  # [items + 1, dim]; row 0, of new items, is zero
    sharpness: float
    length: int  # latest choices that are looked at
    parameters: int  # how many numbers were learned
    _vectors: WeakKeyDictionary[Catalogue, _Vectors] = field(default_factory=WeakKeyDictionary, repr=False)

    def vectors(self, catalogue: Catalogue) -> NDArray[np.float32]:
        """Return e(i) of every row [size, dim], times ``SCALE`` and rounded; rows put since the last call are made."""
        known = self._vectors.get(catalogue)
        if known is None or len(known.rows) != len(catalogue.changed):
            shape = len(catalogue.changed), len(self.offset)
            known = self._vectors[catalogue] = _Vectors(np.zeros(shape, np.float32))
        if known.seen != catalogue.changes:
            changed = np.flatnonzero(catalogue.changed[: catalogue.size] > known.seen)
            for start in range(0, len(changed), _BLOCK):
                rows = changed[start : start + _BLOCK]
                numbers = np.array([self.item_row.get(catalogue.item_ids[row], 0) for row in rows], np.int64)
                known.rows[rows] = whole_numbers(self.item_vectors(catalogue.embedding[rows], numbers))
            known.seen = catalogue.changes
        return known.rows[: catalogue.size]

    def item_vectors(self, texts: NDArray[np.float32], numbers: Rows) -> Array:
        """Return e(i) [n, dim] of texts' whole-number vectors [n, text dim] and rows of ``residual`` [n]."""
        projection = np.rint(self.projection.astype(np.float64) * _FINE)
        said = texts.astype(np.float64) @ projection / (_FINE * SCALE)  # whole numbers up to here: no order matters
        summed = said + self.offset.astype(np.float64) + self.residual[numbers].astype(np.float64)
        unit: Array = summed / np.maximum(np.sqrt((summed**2).sum(axis=1, keepdims=True)), 1e-9)
        return unit

    def scores(self, catalogue: Catalogue, joined: JoinedRequest, mentioned: Rows) -> Array | None:
        """Return the score of every row [catalogue.size], None for a user without a choice that is still there.

        ``mentioned`` are the catalogue rows of the joined request's id table, -1 for items that are gone.
        """
        history = joined.history
        chosen = mentioned[np.array(history.item, np.int64)]
        kept = np.flatnonzero((np.array(history.kind) != DISMISSAL) & (chosen >= 0))[-self.length :]
        if not len(kept):
            return None
        rows, times = chosen[kept], np.array(history.time, np.int64)[kept]
        zones = [catalogue.time_zones[zone] for zone in catalogue.time_zone[rows].tolist()]
        described = steps(times, np.append(times[1:], joined.event_time), catalogue.point[rows], zones)
        every = self.vectors(catalogue)
        user = self.user_vector(every[rows] / np.float32(SCALE), described)
        scores: Array = (every @ whole_numbers(user)).astype(np.float64) * (self.sharpness / SCALE**2)
        return scores

    def user_vector(self, items: NDArray[np.float32], described: Steps) -> NDArray[np.float32]:
        """Return h [dim] of a sequence of at least one choice, whose e(i) are [n, dim]."""
        (user,) = self.session.run(None, {"items": items, **described._asdict()})
        length = np.sqrt(np.sum(user * user))
        return np.asarray(user / max(length, np.float32(1e-9)), np.float32)

    def save(self, folder: Path) -> None:
        """Write the model into a folder."""
        (folder / GRAPH).write_bytes(self.graph)
        save_file({name: getattr(self, name) for name in ("projection", "offset", "residual")}, folder / TABLES)
        written = _Written(list(self.item_row), self.sharpness, self.length, self.parameters)
        (folder / NAMES).write_bytes(msgspec.json.encode(written))

    @classmethod
    def load(cls, folder: Path) -> "SequenceModel":
        """Read what ``save`` wrote.

        Raises:
            SequenceError: a file is missing or damaged.

        """
        try:
            written = msgspec.json.decode((folder / NAMES).read_bytes(), type=_Written)
            tables = load_file(folder / TABLES)
            graph = (folder / GRAPH).read_bytes()
            model = cls(
                open_graph(graph),
                graph,
                {name: row for row, name in enumerate(written.items, 1)},
                tables["projection"],
                tables["offset"],
                tables["residual"],
                written.sharpness,
                written.length,
                written.parameters,
            )
        except SequenceError:
            raise
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise SequenceError(f"{folder} holds no sequence model that can be read: {error}") from error
        if len(model.residual) != len(written.items) + 1 or model.residual.shape[1] != len(model.offset):
            raise SequenceError(f"{folder}: {NAMES} and {TABLES} do not belong together")
        return model


class _Written(msgspec.Struct, frozen=True):
    items: list[str]
    sharpness: float
    length: int
    parameters: int


def open_graph(graph: bytes) -> Any:
    """Return a session of ONNX Runtime, on one core.

    Raises:
        SequenceError: the bytes are no graph.

    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no class of their own
        raise SequenceError(f"{GRAPH} is damaged: {error}") from error
