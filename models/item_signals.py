"""What everybody does, per item: popularity by window and what follows what.

Kept as partial rows, one per (input partition, domain, item), each with a single writer; the totals that a request sees
are sums over the partitions. What is read depends on the rows alone, not on the order in which they came to be. Totals
of the windows move with the watermark (the newest event time applied): an event is
added to its pane, and a pane that leaves a window is subtracted once, so that reading costs nothing per event.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import repeat

import msgspec
import numpy as np

from models.panes import LONGEST_WINDOW_PANES, Panes, pane_of
from schemas.records import POPULARITY_WINDOWS_HOURS

MAX_FOLLOWERS = 64
MAX_LEADERS = 64
WINDOWS = len(POPULARITY_WINDOWS_HOURS)
COLUMNS = WINDOWS + 1  # the last one is for all time


class ItemRow(msgspec.Struct, array_like=True):
    """What one partition's users did with one item."""

    offset: int = -1  # last applied offset of the feedback partition
    panes: Panes = msgspec.field(default_factory=Panes)
    followers: dict[str, int] = {}  # item chosen right after this one -> times


Name = tuple[str, str]  # domain, item id: a wrong domain in somebody's feedback must not spoil another domain's counts
RowKey = tuple[int, str, str]  # partition, domain, item id


def _count_follower(row: ItemRow, item_id: str) -> None:
    """Count a follower in bounded space: a newcomer takes over the count of the rarest one.

    Space-Saving (Metwally et al., "Efficient computation of frequent and top-k elements in data streams", ICDT 2005):
    whoever follows often is surely among those kept, and a count is too high by at most the rarest one's.
    """
    followers = row.followers
    inherited = 0
    if item_id not in followers and len(followers) >= MAX_FOLLOWERS:
        inherited = followers.pop(min(followers, key=lambda name: (followers[name], name)))
    followers[item_id] = followers.get(item_id, inherited) + 1


class ItemSignals:
    """The rows this process knows and their totals."""

    def __init__(self) -> None:
        self.rows: dict[RowKey, ItemRow] = {}
        self._numbers: dict[Name, int] = {}
        self._names: list[Name] = []
        self._partitions: dict[Name, set[int]] = {}
        self._counts = np.zeros((1024, COLUMNS), np.int64)
        self._tie_break = np.zeros(1024, np.uint64)
        self._of_domain: dict[str, list[int]] = defaultdict(list)
        self._domain_totals: dict[str, np.ndarray] = {}
        self._panes: dict[int, Counter[int]] = {}  # pane -> item number -> count, for the panes in any window
        self._watermark_pane = -1
        # Numbers that surely include the most popular ones: those of the last look, and what has been counted since.
        self._leaders: dict[tuple[str, int], set[int]] = {}

    def __len__(self) -> int:
        """Return how many items have a number; numbers stay."""
        return len(self._names)

    def apply(
        self, partition: int, offset: int, time: int, domain: str, item_id: str, previous: str | None
    ) -> Iterator[RowKey]:
        """Count one choice; yield the keys of the rows that changed.

        A row that has already seen ``offset`` stays as it is.
        """
        row = self._row(partition, domain, item_id)
        if row.offset < offset:
            row.offset = offset
            row.panes.add(time)
            self._advance(pane_of(time))
            self._count(domain, item_id, pane_of(time), 1)
            self._count_total(domain, item_id, 1)
            if previous == item_id:
                _count_follower(row, item_id)
            yield partition, domain, item_id
        if previous is not None and previous != item_id:
            followed = self._row(partition, domain, previous)
            if followed.offset < offset:
                followed.offset = offset
                _count_follower(followed, item_id)
                yield partition, domain, previous

    def load(self, key: RowKey, row: ItemRow) -> None:
        """Take over a row from a changelog, in place of what was known of it."""
        self.unload(key)
        partition, domain, item_id = key
        self._row(partition, domain, item_id)
        self.rows[key] = row
        self._advance(max(row.panes.counts, default=-1))
        for pane, count in row.panes.counts.items():
            self._count(domain, item_id, pane, count)
        self._count_total(domain, item_id, row.panes.total)

    def unload(self, key: RowKey) -> None:
        """Forget a row, for instance one of a partition that another worker has taken over."""
        row = self.rows.pop(key, None)
        if row is None:
            return
        partition, domain, item_id = key
        for pane, count in row.panes.counts.items():
            self._count(domain, item_id, pane, -count)
        self._count_total(domain, item_id, -row.panes.total)
        self._partitions[domain, item_id].discard(partition)
        self._leaders.clear()

    def numbers(self, domain: str, item_ids: Sequence[str]) -> np.ndarray:
        """Return the numbers [n] of items; -1 for one that nobody has chosen."""
        names = zip(repeat(domain), item_ids, strict=False)
        return np.fromiter(map(self._numbers.get, names, repeat(-1)), np.int64, len(item_ids))

    def popularity(self, numbers: np.ndarray, column: int | slice = slice(None)) -> np.ndarray:
        """Return the counts [len(numbers), COLUMNS] of items by number, or one column; -1 is an unknown item."""
        counts: np.ndarray = self._counts[:, column][numbers]
        counts[numbers < 0] = 0
        return counts

    def total(self, domain: str) -> np.ndarray:
        """Return the domain's sums [COLUMNS]."""
        totals = self._domain_totals.get(domain)
        return totals if totals is not None else np.zeros(COLUMNS, np.int64)

    def followers(self, domain: str, item_id: str) -> Counter[str]:
        """Return what was chosen in a domain right after an item, over all partitions."""
        merged: Counter[str] = Counter()
        for partition in sorted(self._partitions.get((domain, item_id), ())):
            merged.update(self.rows[partition, domain, item_id].followers)
        return merged

    def most_popular(self, domain: str, column: int, limit: int) -> list[str]:
        """Return the ids, at most MAX_LEADERS, with the highest counts of one column, best first.

        Which of equal ones come first depends on their ids alone.
        """
        leaders = self._leaders.get((domain, column))
        numbers = np.array(self._of_domain[domain] if leaders is None else list(leaders), np.int64)
        counts = self._counts[numbers, column]
        if len(counts) > MAX_LEADERS:  # what is worse than enough others need not be sorted
            place = len(counts) - MAX_LEADERS
            good = counts >= np.partition(counts, place)[place]
            numbers, counts = numbers[good], counts[good]
        best = np.lexsort((self._tie_break[numbers], -counts))[:MAX_LEADERS]
        self._leaders[domain, column] = set(numbers[best].tolist())
        return [self._names[number][1] for number in numbers[best[:limit]].tolist() if self._counts[number, column] > 0]

    def _row(self, partition: int, domain: str, item_id: str) -> ItemRow:
        row = self.rows.get((partition, domain, item_id))
        if row is not None:
            return row
        name = domain, item_id
        if name not in self._numbers:
            number = self._numbers[name] = len(self._names)
            self._names.append(name)
            self._of_domain[domain].append(number)
            if number == len(self._counts):
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
                self._tie_break = np.concatenate([self._tie_break, np.zeros_like(self._tie_break)])
            self._tie_break[number] = int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=8).digest())
        self._partitions.setdefault(name, set()).add(partition)
        return self.rows.setdefault((partition, domain, item_id), ItemRow())

    def _advance(self, pane: int) -> None:
        """Move the watermark; subtract the panes that have left each window."""
        if pane <= self._watermark_pane:
            return
        old, self._watermark_pane = self._watermark_pane, pane
        self._leaders = {key: leaders for key, leaders in self._leaders.items() if key[1] == WINDOWS}
        for window, hours in enumerate(POPULARITY_WINDOWS_HOURS):
            for number in self._panes_between(old - hours, pane - hours):
                for item, count in self._panes[number].items():
                    self._counts[item, window] -= count
                    self._domain_totals[self._names[item][0]][window] -= count
        for number in self._panes_between(old - LONGEST_WINDOW_PANES, pane - LONGEST_WINDOW_PANES):
            del self._panes[number]

    def _panes_between(self, after: int, last: int) -> list[int]:
        """Return the panes above ``after`` up to ``last`` that hold anything: few after an hour, many after years."""
        if last - after > len(self._panes):
            return [number for number in self._panes if after < number <= last]
        return [number for number in range(after + 1, last + 1) if number in self._panes]

    def _count(self, domain: str, item_id: str, pane: int, count: int) -> None:
        number, totals = self._numbers[domain, item_id], self._totals(domain)
        for window, hours in enumerate(POPULARITY_WINDOWS_HOURS):
            if self._watermark_pane - hours < pane:
                self._counts[number, window] += count
                totals[window] += count
                if (leaders := self._leaders.get((domain, window))) is not None:
                    leaders.add(number)
        if self._watermark_pane - LONGEST_WINDOW_PANES < pane:
            self._panes.setdefault(pane, Counter())[number] += count

    def _count_total(self, domain: str, item_id: str, count: int) -> None:
        number = self._numbers[domain, item_id]
        self._counts[number, WINDOWS] += count
        self._totals(domain)[WINDOWS] += count
        if (leaders := self._leaders.get((domain, WINDOWS))) is not None:
            leaders.add(number)

    def _totals(self, domain: str) -> np.ndarray:
        return self._domain_totals.setdefault(domain, np.zeros(COLUMNS, np.int64))
