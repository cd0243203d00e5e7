"""What the model has learned about items from everybody's interactions, beyond what a joined request can carry.

Row 0 of every table stands for what is new: its profile is the average one, its factors are zero, so that an item added
a second ago is treated as what its category, place and text say.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from models.catalogue import Catalogue

HOURS = 48  # of a working day, then of a day of the weekend
SMOOTHING_HOURS = ((-2, 0.15), (-1, 0.5), (0, 1.0), (1, 0.5), (2, 0.15))
MAX_PROFILE = 60  # of a user's items, by count, that a profile is made of
PRIOR_CHOICES = 5.0  # how many choices the profile of an item's category is worth
TABLES = ("category_hours", "category_count", "item_hours", "item_count", "item_users", "follows", "factors")


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
    follows: NDArray[np.float32] = field(default_factory=lambda: np.zeros((1, 1), np.float32))  # shares [from, to]
    factors: NDArray[np.float32] = field(default_factory=lambda: np.zeros((1, 0), np.float32))

    def items_of(self, catalogue: Catalogue, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the item rows [n] of catalogue rows."""
        ids, row_of = catalogue.item_ids, self.item_row
        return np.array([row_of.get(ids[row], 0) for row in rows.tolist()], np.int64)

    def categories_of(self, catalogue: Catalogue, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the category rows [n] of the first categories of catalogue rows."""
        codes = np.zeros(len(catalogue.category_code) + 1, np.int64)
        for name, code in catalogue.category_code.items():
            codes[code] = self.category_row.get(name, 0)
        return np.asarray(codes[catalogue.category[rows, 0]], np.int64)

    def item_hour(
        self, item: NDArray[np.int64], category: NDArray[np.int64], hour: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the share of an item's choices in its hour of the week; with few choices the category's counts."""
        mass = self.item_hours[item, hour] + PRIOR_CHOICES * self.category_hours[category, hour]
        total: NDArray[np.float64] = mass / (self.item_hours[item].sum(axis=1) + PRIOR_CHOICES)
        return total

    def profile(self, catalogue: Catalogue, rows: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Return what kind of items these choices (catalogue rows, -1 for items that are gone) are, as factors."""
        items, counts = np.unique(self.items_of(catalogue, rows[rows >= 0]), return_counts=True)
        if not len(items) or not self.factors.shape[1]:
            return None
        kept = np.argsort(-counts, kind="stable")[:MAX_PROFILE]
        summed: NDArray[np.float64] = np.log1p(counts[kept]) @ self.factors[items[kept]].astype(np.float64)
        return summed

    def save(self, folder: Path) -> None:
        """Write the tables into a folder."""
        save_file({name: getattr(self, name) for name in TABLES}, folder / "item_tables.safetensors")
        names = {"items": list(self.item_row), "categories": list(self.category_row)}
        (folder / "item_tables.json").write_bytes(msgspec.json.encode(names))

    @classmethod
    def load(cls, folder: Path) -> "ItemTables":
        """Read what ``save`` wrote.

        Raises:
            OSError, ValueError: a file is missing or is not what it should be.

        """
        names = msgspec.json.decode((folder / "item_tables.json").read_bytes(), type=dict[str, list[str]])
        tables = load_file(folder / "item_tables.safetensors")
        rows = {kind: {name: row for row, name in enumerate(names[kind], 1)} for kind in ("items", "categories")}
        loaded = cls(rows["items"], rows["categories"], **{name: tables[name] for name in TABLES})
        if (
            len(loaded.item_count) != len(names["items"]) + 1
            or len(loaded.category_count) != len(names["categories"]) + 1
        ):
            raise ValueError(f"{folder}: item_tables.json and item_tables.safetensors do not belong together")
        return loaded


def hour_of_week(catalogue: Catalogue, rows: NDArray[np.int64], time: int) -> NDArray[np.int64]:
    """Return the hour in ``HOURS`` [n] that a moment (milliseconds) has where each item is, in UTC if unknown."""
    of_zone = np.array([_hour(time, zone) for zone in catalogue.time_zones], np.int64)
    hours: NDArray[np.int64] = of_zone[catalogue.time_zone[rows]]
    return hours


def _hour(time: int, zone: object) -> int:
    local = datetime.fromtimestamp(time / 1000, zone or UTC)  # type: ignore[arg-type]
    return local.hour + 24 * (local.weekday() >= 5)


@dataclass(frozen=True, slots=True)
class Choice:
    """One interaction that tables are built from."""

    user: str
    item: str
    time: int
    previous: str | None  # the item chosen before it in the session


def build_tables(catalogue: Catalogue, choices: Iterable[Choice], *, dimensions: int, seed: int) -> ItemTables:
    """Count and factorise.

    The factors are those of users times items, log counts scaled down for items that everybody chooses and users who
    choose everything: an approximation of item-to-item cosine similarity (Sarwar et al., "Item-based collaborative
    filtering recommendation algorithms", WWW 2001), by truncated singular values.
    """
    import torch

    choices = list(choices)
    chosen = sorted({choice.item for choice in choices} & set(catalogue.row_of))
    item_row = {item: row for row, item in enumerate(chosen, 1)}
    rows = catalogue.rows(chosen)
    category_row = {name: row for row, name in enumerate(sorted(catalogue.category_code), 1)}
    empty = ItemTables(item_row, category_row)
    category_of = np.append(0, empty.categories_of(catalogue, rows)) if chosen else np.zeros(1, np.int64)
    items, categories = len(chosen) + 1, len(category_row) + 1
    item_hours = np.zeros((items, HOURS), np.float32)
    item_count = np.zeros(items, np.float32)
    transitions = np.zeros((categories, categories), np.float32)
    counts: Counter[tuple[int, int]] = Counter()
    user_row: dict[str, int] = {}
    for choice in choices:
        item = item_row.get(choice.item, 0)
        if not item:
            continue
        zone = catalogue.time_zones[catalogue.time_zone[catalogue.row_of[choice.item]]]
        hour = _hour(choice.time, zone)
        for shift, weight in SMOOTHING_HOURS:
            item_hours[item, hour // 24 * 24 + (hour + shift) % 24] += weight
        item_count[item] += 1
        counts[user_row.setdefault(choice.user, len(user_row)), item] += 1
        if choice.previous in item_row:
            transitions[category_of[item_row[choice.previous]], category_of[item]] += 1
    item_hours /= sum(weight for _, weight in SMOOTHING_HOURS)
    category_hours = np.zeros((categories, HOURS), np.float32)
    np.add.at(category_hours, category_of, item_hours)
    category_count = np.bincount(category_of, item_count, categories).astype(np.float32)
    average = (item_hours.sum(axis=0) + 1) / (item_count.sum() + HOURS)
    category_hours = (category_hours + PRIOR_CHOICES * average) / (category_count[:, None] + PRIOR_CHOICES)
    category_hours[0] = average
    factors = np.zeros((items, 0), np.float32)
    if counts and dimensions:
        index = np.array(list(counts), np.int64).T
        values = np.log1p(np.array(list(counts.values()), np.float32))
        per_item = np.sqrt(np.bincount(index[1], values**2, items)) + 2.0
        per_user = np.sqrt(np.log1p(np.bincount(index[0], minlength=len(user_row))) + 1.0)
        values = (values / per_item[index[1]] / per_user[index[0]]).astype(np.float32)
        matrix = torch.sparse_coo_tensor(
            torch.from_numpy(index), torch.from_numpy(values), (len(user_row), items), check_invariants=False
        )
        torch.manual_seed(seed)
        width = min(dimensions, len(user_row), items)
        _, sizes, directions = torch.svd_lowrank(matrix.coalesce(), q=width, niter=4)
        factors = (directions * sizes).numpy().astype(np.float32)
        factors[0] = 0.0
    item_users = np.bincount([item for _, item in counts], minlength=items).astype(np.float32)
    return ItemTables(
        item_row,
        category_row,
        category_hours,
        category_count,
        item_hours,
        item_count,
        item_users,
        transitions / (transitions.sum(axis=1, keepdims=True) + 5),
        factors,
    )
