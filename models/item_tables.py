"""What the model has learned about items from everybody's interactions, beyond what a joined request can carry.

Row 0 of every table stands for what is new: its profile is the average one, its factors are zero and it is nobody's
neighbour, so that an item added a second ago is treated as what its category, place and text say.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from models.catalogue import Catalogue, normal_categories
from models.history import MOMENT_NUMBERS

if TYPE_CHECKING:
    from scipy import sparse

    from models.returning import ReturnModel
    from models.sequence import SequenceModel

HOURS = 48  # of a working day, then of a day of the weekend
HOUR_MS = 3_600_000
SMOOTHING_HOURS = ((-2, 0.15), (-1, 0.5), (0, 1.0), (1, 0.5), (2, 0.15))
MAX_PROFILE = 60  # of a user's items, by count, that a profile is made of
PRIOR_CHOICES = 5.0  # how many choices the profile of an item's category is worth
NEIGHBOURS = 48  # of an item that are kept, by each relation
SPAN = 5  # how many choices apart two items still count as following each other
FADE, BACKWARDS = 0.7, 0.3  # what each step further counts, and what coming before counts
PRIOR_PAIRS = 3.0  # choices of an item that say nothing yet about what goes with it
LATELY_MS = 45 * 24 * HOUR_MS  # after which somebody's first choice of an item counts a third as a recent one
# What speaks for an item to be chosen for the first time, and what each is worth before that has been learned.
TERMS = {
    "users": 0.6, "lately": 0.2, "per_user": -0.4, "hour": 0.3, "category_hour": 0.5, "near": 0.7, "around": 0.2,
    "beside": 0.3, "after": 0.2, "alike": 0.3, "meaning": 3.0, "kind": 0.3, "kind_after": 0.2, "popular": 0.1,
    "next": 0.3, "kind_hour": 0.1, "around_hour": 0.1, "after_last": 0.1, "popular_day": 0.1,
}  # fmt: skip
TABLES = (
    "category_hours", "category_count", "item_hours", "item_count", "item_users", "item_lately", "follows", "factors",
    "beside", "beside_weight", "after", "after_weight", "first",
)  # fmt: skip

Rows = NDArray[np.int64]


def starting_weights() -> NDArray[np.float64]:
    """Return what the terms are worth [1 + MOMENT_NUMBERS, len(TERMS)] before anything has been learned."""
    return np.vstack([list(TERMS.values()), np.zeros((MOMENT_NUMBERS, len(TERMS)))])


@dataclass(slots=True)
class Placement:
    """Where a catalogue's rows stand in the tables, by catalogue row, and its rows in the order of their hashes."""

    item: Rows
    category: Rows
    order: Rows
    seen: int = 0  # the catalogue's changes that are in here
    known: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # terms that only change with the catalogue
    hour: bytes = b""  # of every time zone, that ``at_hour`` is of
    at_hour: dict[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True)
class ItemTables:
    """Tables by item row [items + 1, ...] and category row [categories + 1, ...]."""

    item_row: Mapping[str, int] = field(default_factory=dict)
    category_row: Mapping[str, int] = field(default_factory=dict)
    category_hours: NDArray[np.float32] = field(default_factory=lambda: np.full((1, HOURS), 1 / HOURS, np.float32))
    category_count: NDArray[np.float32] = field(default_factory=lambda: np.zeros(1, np.float32))
    item_hours: NDArray[np.float32] = field(default_factory=lambda: np.zeros((1, HOURS), np.float32))  # counts
    item_count: NDArray[np.float32] = field(default_factory=lambda: np.zeros(1, np.float32))
    item_users: NDArray[np.float32] = field(default_factory=lambda: np.zeros(1, np.float32))
    item_lately: NDArray[np.float32] = field(default_factory=lambda: np.zeros(1, np.float32))  # first choices, fading
    follows: NDArray[np.float32] = field(default_factory=lambda: np.zeros((1, 1), np.float32))  # shares [from, to]
    factors: NDArray[np.float32] = field(default_factory=lambda: np.zeros((1, 0), np.float32))
    # Item rows that the same people choose, 0 for none, and the cosine of who chooses them; then those that are chosen
    # soon after, and how often per choice.
    beside: NDArray[np.int32] = field(default_factory=lambda: np.zeros((1, 0), np.int32))
    beside_weight: NDArray[np.float16] = field(default_factory=lambda: np.zeros((1, 0), np.float16))
    after: NDArray[np.int32] = field(default_factory=lambda: np.zeros((1, 0), np.int32))
    after_weight: NDArray[np.float16] = field(default_factory=lambda: np.zeros((1, 0), np.float16))
    # What each term is worth at any moment, and how that changes with the moment [1 + MOMENT_NUMBERS, len(TERMS)].
    first: NDArray[np.float32] = field(default_factory=lambda: starting_weights().astype(np.float32))
    sequence: "SequenceModel | None" = None  # what comes next, by a transformer
    returning: "ReturnModel | None" = None  # what users return to
    _placements: WeakKeyDictionary[Catalogue, Placement] = field(default_factory=WeakKeyDictionary, repr=False)

    def placed(self, catalogue: Catalogue) -> Placement:
        """Return where the catalogue's rows stand; only rows that were put since the last call are looked up."""
        known = self._placements.get(catalogue)
        if known is None or len(known.item) != len(catalogue.changed):
            zeros = np.zeros(len(catalogue.changed), np.int64)
            known = self._placements[catalogue] = Placement(zeros, zeros.copy(), zeros[:0], -1)
        if known.seen != catalogue.changes:
            for row in np.flatnonzero(catalogue.changed[: catalogue.size] > known.seen).tolist():
                item = catalogue.items[row]
                known.item[row] = self.item_row.get(catalogue.item_ids[row], 0) if item else 0
                first = normal_categories(item)[:1] if item else []
                known.category[row] = self.category_row.get(first[0], 0) if first else 0
            known.order = np.argsort(catalogue.tie_break[: catalogue.size], kind="stable")
            known.seen = catalogue.changes
            known.known, known.hour = {}, b""
        return known

    def known(self, catalogue: Catalogue) -> dict[str, NDArray[np.float64]]:
        """Return the terms [catalogue.size] of first choices that say how well known every row is."""
        placed = self.placed(catalogue)
        if not placed.known:
            users = self.item_users.astype(np.float64)
            by_item = {
                "users": np.log(users + 0.1),
                "lately": np.log(self.item_lately + 0.1),
                "per_user": np.log((self.item_count + 0.5) / (users + 0.5)),
            }
            placed.known = {name: values[placed.item[: catalogue.size]] for name, values in by_item.items()}
        return placed.known

    def at_hour(self, catalogue: Catalogue, time: int) -> dict[str, NDArray[np.float64]]:
        """Return the terms [catalogue.size] of first choices that say how usual every row is at this hour."""
        placed = self.placed(catalogue)
        of_zone = hours_of_zones(catalogue, time)
        if placed.hour != of_zone.tobytes():
            rows = slice(0, catalogue.size)
            item, category, hour = placed.item[rows], placed.category[rows], of_zone[catalogue.time_zone[rows]]
            placed.at_hour = {
                "hour": np.log(self.item_hour(item, category, hour) + 1e-3),
                "category_hour": np.log(self.category_hours[category, hour].astype(np.float64) + 1e-3),
            }
            placed.hour = of_zone.tobytes()
        return placed.at_hour

    @cached_property
    def item_mass(self) -> NDArray[np.float32]:
        """The sum of an item's hours, and what its category's profile is worth."""
        mass: NDArray[np.float32] = self.item_hours.sum(axis=1) + np.float32(PRIOR_CHOICES)
        return mass

    def item_hour(
        self, item: NDArray[np.int64], category: NDArray[np.int64], hour: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the share of an item's choices in its hour of the week; with few choices the category's counts."""
        mass = self.item_hours[item, hour] + PRIOR_CHOICES * self.category_hours[category, hour]
        total: NDArray[np.float64] = mass / self.item_mass[item]
        return total

    def profile(self, items: Rows) -> NDArray[np.float64] | None:
        """Return what kind of items these choices (item rows) are, as factors."""
        distinct, counts = np.unique(items[items > 0], return_counts=True)
        if not len(distinct) or not self.factors.shape[1]:
            return None
        kept = np.argsort(-counts, kind="stable")[:MAX_PROFILE]
        summed: NDArray[np.float64] = np.log1p(counts[kept]) @ self.factors[distinct[kept]].astype(np.float64)
        return summed

    def besides(self, items: Rows, worth: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how much each item [items + 1] is chosen by those who choose these, which are worth so much [n]."""
        return _spread(self.beside, self.beside_weight, items, worth)

    def afters(self, items: Rows, worth: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how much each item [items + 1] is chosen soon after these, which are worth so much [n]."""
        return _spread(self.after, self.after_weight, items, worth)

    def with_first(self, first: NDArray[np.float32]) -> "ItemTables":
        """Return the same tables with other weights of the terms; both know where catalogues' rows stand."""
        return replace(self, first=first)

    def save(self, folder: Path) -> None:
        """Write the tables into a folder."""
        save_file({name: getattr(self, name) for name in TABLES}, folder / "item_tables.safetensors")
        names = {"items": list(self.item_row), "categories": list(self.category_row)}
        (folder / "item_tables.json").write_bytes(msgspec.json.encode(names))
        if self.sequence is not None:
            self.sequence.save(folder)
        if self.returning is not None:
            self.returning.save(folder)

    @classmethod
    def load(cls, folder: Path) -> "ItemTables":
        """Read what ``save`` wrote.

        Raises:
            OSError, ValueError: a file is missing or is not what it should be.

        """
        from models.returning import FILE, ReturnModel
        from models.sequence import NAMES, SequenceModel

        names = msgspec.json.decode((folder / "item_tables.json").read_bytes(), type=dict[str, list[str]])
        tables = load_file(folder / "item_tables.safetensors")
        rows = {kind: {name: row for row, name in enumerate(names[kind], 1)} for kind in ("items", "categories")}
        loaded = cls(rows["items"], rows["categories"], **{name: tables[name] for name in TABLES})
        if (folder / NAMES).exists():
            loaded = replace(loaded, sequence=SequenceModel.load(folder))
        if (folder / FILE).exists():
            loaded = replace(loaded, returning=ReturnModel.load(folder))
        if (
            len(loaded.item_count) != len(names["items"]) + 1
            or len(loaded.category_count) != len(names["categories"]) + 1
            or loaded.first.shape != starting_weights().shape
        ):
            raise ValueError(f"{folder}: item_tables.json and item_tables.safetensors do not belong together")
        return loaded


def _spread(
    neighbours: NDArray[np.int32], weights: NDArray[np.float16], items: Rows, worth: NDArray[np.float64]
) -> NDArray[np.float64]:
    values = weights[items].astype(np.float64) * worth[:, None]
    return np.bincount(neighbours[items].ravel(), values.ravel(), len(neighbours)).astype(np.float64)


def hour_of_week(catalogue: Catalogue, rows: Rows, time: int) -> Rows:
    """Return the hour in ``HOURS`` [n] that a moment (milliseconds) has where each item is, in UTC if unknown."""
    hours: Rows = hours_of_zones(catalogue, time)[catalogue.time_zone[rows]]
    return hours


def hours_of_zones(catalogue: Catalogue, time: int) -> Rows:
    """Return the hour in ``HOURS`` of a moment (milliseconds) by number of the time zone."""
    return np.array([hour_in_week(time, zone) for zone in catalogue.time_zones], np.int64)


def hour_in_week(time: int, zone: object) -> int:
    local = datetime.fromtimestamp(time / 1000, zone or UTC)  # type: ignore[arg-type]
    return local.hour + 24 * (local.weekday() >= 5)


@dataclass(frozen=True, slots=True)
class Choice:
    """One interaction that tables are built from; those of one user and session are a sequence."""

    user: str
    item: str
    time: int
    session: str | None = None


def build_tables(catalogue: Catalogue, choices: Iterable[Choice], *, dimensions: int, seed: int) -> ItemTables:
    """Count and factorise; choices come in order of time.

    Neighbours are by item-to-item cosine similarity (Sarwar et al., "Item-based collaborative filtering recommendation
    algorithms", WWW 2001), in which users who choose everything count less, and by how often one item comes soon after
    another. The factors are those of users times items, log counts scaled down for items that everybody chooses, by
    truncated singular values: they also know of items that nobody has chosen together.
    """
    choices = [choice for choice in choices if choice.item in catalogue.row_of]
    chosen = sorted({choice.item for choice in choices})
    item_row = {item: row for row, item in enumerate(chosen, 1)}
    category_row = {name: row for row, name in enumerate(sorted(catalogue.category_code), 1)}
    rows = catalogue.rows(chosen)
    category_of = np.append(0, ItemTables(item_row, category_row).placed(catalogue).category[rows]).astype(np.int64)
    items, categories = len(chosen) + 1, len(category_row) + 1
    item = np.array([item_row[choice.item] for choice in choices], np.int64)
    users: dict[str, int] = {}
    user = np.array([users.setdefault(choice.user, len(users)) for choice in choices], np.int64)
    sequences: dict[tuple[str, str | None], int] = {}
    sequence = np.array([sequences.setdefault((each.user, each.session), len(sequences)) for each in choices], np.int64)

    item_hours = np.zeros((items, HOURS))
    hour = _hours_of(catalogue, choices)
    for shift, weight in SMOOTHING_HOURS:
        np.add.at(item_hours, (item, hour // 24 * 24 + (hour + shift) % 24), weight)
    item_hours /= sum(weight for _, weight in SMOOTHING_HOURS)
    item_count = np.bincount(item, minlength=items).astype(np.float32)
    category_hours = np.zeros((categories, HOURS))
    np.add.at(category_hours, category_of, item_hours)
    category_count = np.bincount(category_of, item_count, categories).astype(np.float32)
    average = (item_hours.sum(axis=0) + 1) / (item_count.sum() + HOURS)
    category_hours = (category_hours + PRIOR_CHOICES * average) / (category_count[:, None] + PRIOR_CHOICES)
    category_hours[0] = average

    firsts = np.unique(np.stack([user, item]), axis=1, return_index=True)[1]
    time = np.array([choice.time for choice in choices], np.float64)
    fading = np.exp((time[firsts] - time.max(initial=0.0)) / LATELY_MS)
    item_lately = np.bincount(item[firsts], fading, items).astype(np.float32)

    grouped = np.argsort(sequence, kind="stable")
    item, user, sequence = item[grouped], user[grouped], sequence[grouped]
    together = sequence[1:] == sequence[:-1]
    follows = np.zeros((categories, categories), np.float32)
    np.add.at(follows, (category_of[item[:-1][together]], category_of[item[1:][together]]), 1)
    pairs, counts = np.unique(np.stack([user, item]), axis=1, return_counts=True)
    beside, beside_weight = _beside(pairs, items)
    after, after_weight = _after(item, sequence, item_count)
    return ItemTables(
        item_row,
        category_row,
        category_hours.astype(np.float32),
        category_count,
        item_hours.astype(np.float32),
        item_count,
        np.bincount(pairs[1], minlength=items).astype(np.float32),
        item_lately,
        follows / (follows.sum(axis=1, keepdims=True) + 5),
        _factors(pairs, counts, items, dimensions, seed),
        beside,
        beside_weight,
        after,
        after_weight,
    )


def _hours_of(catalogue: Catalogue, choices: list[Choice]) -> Rows:
    """Return the hours in ``HOURS`` [n] of choices, each where its item is."""
    hours = np.zeros(len(choices), np.int64)
    for number, choice in enumerate(choices):
        zone = catalogue.time_zones[catalogue.time_zone[catalogue.row_of[choice.item]]]
        if zone is None:
            days, rest = divmod(choice.time, 24 * HOUR_MS)
            hours[number] = rest // HOUR_MS + 24 * ((days + 3) % 7 >= 5)  # 1970 began on a Thursday
        else:
            hours[number] = hour_in_week(choice.time, zone)
    return hours


def _factors(pairs: Rows, counts: Rows, items: int, dimensions: int, seed: int) -> NDArray[np.float32]:
    """Return factors [items, at most dimensions] of distinct pairs [2, n] of users and items, chosen so often [n]."""
    import torch

    if not len(counts) or not dimensions:
        return np.zeros((items, 0), np.float32)
    users = int(pairs[0].max()) + 1
    values = np.log1p(counts)
    per_item = np.sqrt(np.bincount(pairs[1], values**2, items)) + 2.0
    per_user = np.sqrt(np.log1p(np.bincount(pairs[0], minlength=users)) + 1.0)
    values = (values / per_item[pairs[1]] / per_user[pairs[0]]).astype(np.float32)
    matrix = torch.sparse_coo_tensor(
        torch.from_numpy(pairs), torch.from_numpy(values), (users, items), check_invariants=False
    )
    torch.manual_seed(seed)
    width = min(dimensions, users, items)
    _, sizes, directions = torch.svd_lowrank(matrix.coalesce(), q=width, niter=4)
    factors: NDArray[np.float32] = (directions * sizes).numpy().astype(np.float32)
    factors[0] = 0.0
    return factors


def _beside(pairs: Rows, items: int) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
    """Return the nearest items by who chooses them, of distinct pairs [2, n] of users and items."""
    from scipy import sparse

    per_user = np.bincount(pairs[0]) if pairs.size else np.zeros(0)
    per_item = np.bincount(pairs[1], minlength=items) + PRIOR_PAIRS
    once = (np.ones(pairs.shape[1]), (pairs[0], pairs[1]))
    chosen = sparse.csr_matrix(once, (len(per_user), items))
    scaled = sparse.diags(1 / np.log1p(per_user + 1)) @ chosen @ sparse.diags(1 / np.sqrt(per_item))
    return _nearest((sparse.diags(1 / np.sqrt(per_item)) @ chosen.T @ scaled).tocsr())


def _after(
    item: Rows, sequence: Rows, item_count: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
    """Return what comes soon after each item, of choices grouped by sequence [n]."""
    from scipy import sparse

    first, second, weight = [], [], []
    for step in range(1, SPAN + 1):
        same = (sequence[step:] == sequence[:-step]) & (item[step:] != item[:-step])
        earlier, later = item[:-step][same], item[step:][same]
        first += [earlier, later]
        second += [later, earlier]
        weight += [np.full(len(later), FADE ** (step - 1)), np.full(len(later), BACKWARDS * FADE ** (step - 1))]
    total = len(item_count)
    entries = np.concatenate(weight), (np.concatenate(first), np.concatenate(second))
    counts = sparse.csr_matrix(entries, (total, total))
    return _nearest((sparse.diags(1 / (item_count + PRIOR_PAIRS)) @ counts).tocsr())


def _nearest(matrix: "sparse.csr_matrix") -> tuple[NDArray[np.int32], NDArray[np.float16]]:
    """Return the columns of each row's greatest values, without the diagonal, and those values [rows, NEIGHBOURS]."""
    columns = np.zeros((matrix.shape[0], NEIGHBOURS), np.int32)
    values = np.zeros((matrix.shape[0], NEIGHBOURS), np.float16)
    for row in range(matrix.shape[0]):
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        beside, weight = matrix.indices[part], matrix.data[part]
        kept = np.lexsort((beside, -weight))
        kept = kept[beside[kept] != row][:NEIGHBOURS]
        columns[row, : len(kept)], values[row, : len(kept)] = beside[kept], weight[kept]
    return columns, values
