"""What everybody does, per item: popularity by window and what follows what.

Kept as partial rows, one per (input partition, item), each with a single writer; the totals that a request sees are
sums over the partitions. Totals of the windows move with the watermark (the newest event time applied): an event is
added to its pane, and a pane that leaves a window is subtracted once, so that reading costs nothing per event.
"""

from collections import Counter
from collections.abc import Iterator

import msgspec
import numpy as np

from models.panes import LONGEST_WINDOW_PANES, Panes, pane_of
from schemas.records import POPULARITY_WINDOWS_HOURS

MAX_FOLLOWERS = 64
WINDOWS = len(POPULARITY_WINDOWS_HOURS)
COLUMNS = WINDOWS + 1  # the last one is for all time


class ItemRow(msgspec.Struct, array_like=True):
    """What one partition's users did with one item."""

    domain: str
    offset: int = -1  # last applied offset of the feedback partition
    panes: Panes = msgspec.field(default_factory=Panes)
    followers: dict[str, int] = {}  # item chosen right after this one -> times


RowKey = tuple[int, str]


def _count_follower(row: ItemRow, item_id: str) -> None:
    row.followers[item_id] = row.followers.get(item_id, 0) + 1
    if len(row.followers) > MAX_FOLLOWERS:
        del row.followers[min(row.followers, key=lambda name: (row.followers[name], name))]


class ItemSignals:
    """The rows this process knows and their totals."""

    def __init__(self) -> None:
        self.rows: dict[RowKey, ItemRow] = {}
        self.index: dict[str, int] = {}
        self.ids: list[str] = []
        self.updates = 0  # how many events have been applied; lets readers cache
        self._partitions: dict[str, set[int]] = {}
        self._counts = np.zeros((1024, COLUMNS), np.int64)
        self._domain_totals: dict[str, np.ndarray] = {}
        self._domain_of: list[str] = []
        self._panes: dict[int, Counter[int]] = {}  # pane -> item number -> count, for the panes in any window
        self._watermark_pane = -1

    def apply(
        self, partition: int, offset: int, time: int, domain: str, item_id: str, previous: str | None
    ) -> Iterator[RowKey]:
        """Count one choice; yield the keys of the rows that changed.

        A row that has already seen ``offset`` stays as it is.
        """
        row = self._row(partition, item_id, domain)
        if row.offset < offset:
            row.offset = offset
            row.panes.add(time)
            self._advance(pane_of(time))
            self._count(self.index[item_id], domain, pane_of(time), 1)
            if previous == item_id:
                _count_follower(row, item_id)
            yield partition, item_id
        if previous is not None and previous != item_id:
            followed = self._row(partition, previous, domain)
            if followed.offset < offset:
                followed.offset = offset
                _count_follower(followed, item_id)
                yield partition, previous
        self.updates += 1

    def load(self, partition: int, item_id: str, row: ItemRow) -> None:
        """Take over a row from a changelog, in place of what was known of it."""
        self.unload(partition, item_id)
        self._row(partition, item_id, row.domain)
        self.rows[partition, item_id] = row
        number = self.index[item_id]
        self._advance(max(row.panes.counts, default=-1))
        for pane, count in row.panes.counts.items():
            self._count(number, row.domain, pane, count, total=False)
        self._count_total(number, row.domain, row.panes.total)
        self.updates += 1

    def unload(self, partition: int, item_id: str) -> None:
        """Forget a row, for instance one of a partition that another worker has taken over."""
        row = self.rows.pop((partition, item_id), None)
        if row is None:
            return
        number = self.index[item_id]
        for pane, count in row.panes.counts.items():
            self._count(number, row.domain, pane, -count, total=False)
        self._count_total(number, row.domain, -row.panes.total)
        self._partitions[item_id].discard(partition)
        self.updates += 1

    def popularity(self, numbers: np.ndarray) -> np.ndarray:
        """Return the counts [len(numbers), COLUMNS] of items by number; -1 stands for an unknown item."""
        counts: np.ndarray = self._counts[numbers]
        counts[numbers < 0] = 0
        return counts

    def total(self, domain: str) -> np.ndarray:
        """Return the domain's sums [COLUMNS]."""
        totals = self._domain_totals.get(domain)
        return totals if totals is not None else np.zeros(COLUMNS, np.int64)

    def followers(self, item_id: str) -> Counter[str]:
        """Return what was chosen right after an item, over all partitions."""
        merged: Counter[str] = Counter()
        for partition in sorted(self._partitions.get(item_id, ())):
            merged.update(self.rows[partition, item_id].followers)
        return merged

    def most_popular(self, domain: str, column: int, limit: int) -> list[str]:
        """Return the ids with the highest counts of one column, best first; ties in order of id."""
        counts = self._counts[: len(self.ids), column]
        place = max(len(counts) - 4 * limit, 0)  # other domains' items are among the best, too
        least = max(int(np.partition(counts, place)[place]), 1) if len(counts) else 1
        # All that are as good as the last one compete: which were seen first must not matter.
        chosen = [
            (-int(counts[k]), self.ids[k]) for k in np.flatnonzero(counts >= least) if self._domain_of[k] == domain
        ]
        return [item_id for _, item_id in sorted(chosen)[:limit]]

    def _row(self, partition: int, item_id: str, domain: str) -> ItemRow:
        row = self.rows.get((partition, item_id))
        if row is not None:
            return row
        if item_id not in self.index:
            self.index[item_id] = len(self.ids)
            self.ids.append(item_id)
            self._domain_of.append(domain)
            if len(self.ids) > len(self._counts):
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._partitions.setdefault(item_id, set()).add(partition)
        return self.rows.setdefault((partition, item_id), ItemRow(domain=domain))

    def _advance(self, pane: int) -> None:
        """Move the watermark; subtract the panes that have left each window."""
        if pane <= self._watermark_pane:
            return
        old, self._watermark_pane = self._watermark_pane, pane
        for number in sorted(self._panes):
            for window, hours in enumerate(POPULARITY_WINDOWS_HOURS):
                if old - hours < number <= pane - hours:
                    for item, count in self._panes[number].items():
                        self._counts[item, window] -= count
                        self._domain_totals[self._domain_of[item]][window] -= count
            if number <= pane - LONGEST_WINDOW_PANES:
                del self._panes[number]

    def _count(self, number: int, domain: str, pane: int, count: int, *, total: bool = True) -> None:
        totals = self._domain_totals.setdefault(domain, np.zeros(COLUMNS, np.int64))
        for window, hours in enumerate(POPULARITY_WINDOWS_HOURS):
            if self._watermark_pane - hours < pane:
                self._counts[number, window] += count
                totals[window] += count
        if self._watermark_pane - LONGEST_WINDOW_PANES < pane:
            self._panes.setdefault(pane, Counter())[number] += count
        if total:
            self._count_total(number, domain, count)

    def _count_total(self, number: int, domain: str, count: int) -> None:
        self._counts[number, WINDOWS] += count
        self._domain_totals.setdefault(domain, np.zeros(COLUMNS, np.int64))[WINDOWS] += count
