"""Counts in event-time panes: windows of any length are sums of panes, read at any moment.

The stream-slicing idea of Li et al., "No pane, no gain" (SIGMOD Record 2005): an event is added to one pane only,
and every window is put together from panes when it is read.
"""

import msgspec

PANE_MS = 3600 * 1000
LONGEST_WINDOW_PANES = 28 * 24


def pane_of(time: int) -> int:
    """Return the number of the hour an event time (milliseconds) falls into."""
    return time // PANE_MS


class Panes(msgspec.Struct, array_like=True):
    """Hourly counts of the last 28 days and a total for all time."""

    total: int = 0
    counts: dict[int, int] = {}

    def add(self, time: int) -> None:
        """Count one event; panes that have left the longest window as of the newest one are dropped."""
        self.total += 1
        pane = pane_of(time)
        newest = max(self.counts, default=pane)
        if pane <= newest - LONGEST_WINDOW_PANES:
            return
        self.counts[pane] = self.counts.get(pane, 0) + 1
        if pane > newest:
            horizon = pane - LONGEST_WINDOW_PANES
            for old in [number for number in self.counts if number <= horizon]:
                del self.counts[old]

    def window(self, time: int, hours: int) -> int:
        """Return the count of the ``hours`` panes that end with the one ``time`` falls into."""
        last = pane_of(time)
        return sum(count for pane, count in self.counts.items() if last - hours < pane <= last)
