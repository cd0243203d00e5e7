"""Windows of any length are sums of panes, whatever the order of the events."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from models.panes import LONGEST_WINDOW_PANES, PANE_MS, Panes, pane_of

hours_apart = st.integers(0, 3 * LONGEST_WINDOW_PANES)
event_times = st.lists(st.builds(lambda hour, ms: hour * PANE_MS + ms, hours_apart, st.integers(0, PANE_MS - 1)))
windows = st.sampled_from([1, 24, 24 * 7, 24 * 28])


def counted(times: list[int]) -> Panes:
    panes = Panes()
    for time in times:
        panes.add(time)
    return panes


def brute_force(times: list[int], time: int, hours: int) -> int:
    return sum(pane_of(time) - hours < pane_of(at) <= pane_of(time) for at in times)


@given(event_times, windows)
def test_windows_that_end_at_the_newest_event_are_exact_for_any_order_of_events(times, hours):
    newest = max(times, default=0)
    assert counted(times).window(newest, hours) == brute_force(times, newest, hours)


@given(event_times, windows, hours_apart)
def test_a_window_that_ends_earlier_is_exact_while_it_lies_within_28_days_of_the_newest_event(times, hours, hour):
    newest, end = max(times, default=0), hour * PANE_MS
    if pane_of(end) - hours >= pane_of(newest) - LONGEST_WINDOW_PANES:
        assert counted(times).window(end, hours) == brute_force(times, end, hours)


@given(event_times)
def test_the_total_counts_everything_and_the_panes_stay_bounded(times):
    panes = counted(times)
    assert panes.total == len(times)
    assert len(panes.counts) <= LONGEST_WINDOW_PANES


@given(st.randoms(), event_times)
def test_the_order_of_events_does_not_matter(random, times):
    shuffled = random.sample(times, len(times))
    assert counted(shuffled) == counted(times)


@given(event_times)
def test_panes_survive_their_bytes(times):
    panes = counted(times)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(panes), type=Panes) == panes


def test_fourteen_years_leave_one_pane():
    year = 365 * 24 * PANE_MS
    panes = counted([42 * year, 42 * year, 56 * year])
    assert (panes.total, len(panes.counts)) == (3, 1)
    assert panes.window(56 * year, 24 * 28) == 1
