"""Popularity and what follows what, against a recount of all events from scratch."""

from collections import Counter
from typing import NamedTuple

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.item_signals import MAX_FOLLOWERS, MAX_LEADERS, WINDOWS, ItemRow, ItemSignals
from models.panes import PANE_MS, pane_of
from schemas.records import POPULARITY_WINDOWS_HOURS

ITEMS = ["a", "b", "c", "面馆"]
DOMAINS = ["one", "two"]
WEEK = POPULARITY_WINDOWS_HOURS.index(24 * 7)


class Choice(NamedTuple):
    partition: int
    time: int
    domain: str
    item: str
    previous: str | None


# Mostly hours and days apart, now and then years; late ones, too.
steps = st.one_of(st.integers(-800, 800), st.integers(-50, 50), st.just(14 * 365 * 24))


@st.composite
def histories(draw: st.DrawFn) -> list[Choice]:
    hour, choices = 400_000, []
    for step in draw(st.lists(steps, max_size=40)):
        hour = max(0, hour + step)
        choices.append(
            Choice(
                draw(st.integers(0, 2)),
                hour * PANE_MS + draw(st.integers(0, PANE_MS - 1)),
                draw(st.sampled_from(DOMAINS)),
                draw(st.sampled_from(ITEMS)),
                draw(st.sampled_from([None, *ITEMS])),
            )
        )
    return choices


def applied(choices: list[Choice], signals: ItemSignals | None = None) -> ItemSignals:
    signals = signals or ItemSignals()
    for offset, choice in enumerate(choices):
        list(signals.apply(choice.partition, offset, *choice[1:]))
    return signals


def recovered(signals: ItemSignals, order: list[int] | None = None) -> ItemSignals:
    """Return what the rows give when they come back as bytes, in some order."""
    rows = [(key, msgspec.msgpack.encode(row)) for key, row in signals.rows.items()]
    anew = ItemSignals()
    for place in order or range(len(rows)):
        key, raw = rows[place]
        anew.load(key, msgspec.msgpack.decode(raw, type=ItemRow))
    return anew


def recount(choices: list[Choice], domain: str, item: str | None) -> list[int]:
    newest = max((pane_of(choice.time) for choice in choices), default=0)
    chosen = [pane_of(c.time) for c in choices if c.domain == domain and item in (None, c.item)]
    return [sum(newest - hours < pane for pane in chosen) for hours in POPULARITY_WINDOWS_HOURS] + [len(chosen)]


def readings(signals: ItemSignals) -> dict[str, object]:
    """Return everything that a request can see."""
    seen: dict[str, object] = {}
    for domain in DOMAINS:
        counts = signals.popularity(signals.numbers(domain, ITEMS)).tolist()
        seen[domain] = (
            counts,
            signals.total(domain).tolist(),
            [signals.followers(domain, item) for item in ITEMS],
            [signals.most_popular(domain, column, 3) for column in (WEEK, WINDOWS)],
        )
    return seen


@given(histories())
def test_counts_and_totals_equal_a_recount_as_the_watermark_moves_in_any_split_over_partitions(choices):
    signals = ItemSignals()
    for offset, choice in enumerate(choices):
        list(signals.apply(choice.partition, offset, *choice[1:]))
        for domain in DOMAINS:
            counts = signals.popularity(signals.numbers(domain, ITEMS))
            assert counts.tolist() == [recount(choices[: offset + 1], domain, item) for item in ITEMS]
            assert signals.total(domain).tolist() == recount(choices[: offset + 1], domain, None)


@given(histories())
def test_what_follows_what_equals_a_recount(choices):
    signals = applied(choices)
    for domain in DOMAINS:
        for item in ITEMS:
            expected = Counter(c.item for c in choices if c.previous == item and c.domain == domain)
            assert signals.followers(domain, item) == expected


@given(histories(), st.randoms())
def test_rows_from_a_changelog_in_any_order_give_the_state_that_the_events_gave(choices, random):
    signals = applied(choices)
    order = random.sample(range(len(signals.rows)), len(signals.rows))
    assert readings(recovered(signals, order)) == readings(signals)


@given(histories(), histories())
def test_a_recovered_state_goes_on_like_one_that_never_stopped(before, after):
    signals = applied(before)
    anew = recovered(signals)
    later = [Choice(*choice) for choice in after]
    for offset, choice in enumerate(later, len(before)):
        for state in (signals, anew):
            list(state.apply(choice.partition, offset, *choice[1:]))
        assert readings(anew) == readings(signals)


@given(histories(), st.integers(0, 40))
def test_applying_records_again_changes_nothing(choices, start):
    signals = applied(choices)
    seen = readings(signals)
    for offset, choice in enumerate(choices[start:], start):
        assert list(signals.apply(choice.partition, offset, *choice[1:])) == []
    assert readings(signals) == seen


@given(histories())
def test_taking_a_partition_away_leaves_what_the_others_counted(choices):
    signals = applied(choices)
    for key in [key for key in signals.rows if key[0] == 0]:
        signals.unload(key)
    rest = [choice for choice in choices if choice.partition != 0]
    for domain in DOMAINS:
        counts = signals.popularity(signals.numbers(domain, ITEMS))
        assert counts[:, WINDOWS].tolist() == [recount(rest, domain, item)[WINDOWS] for item in ITEMS]
        assert (counts >= 0).all()
        assert (signals.total(domain) == counts.sum(axis=0)).all()


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 30)), max_size=300), st.integers(1, 50))
def test_the_most_popular_are_exact_at_every_moment_however_often_one_looks(events, every):
    signals, hour = ItemSignals(), 0
    for offset, (item, step) in enumerate(events):
        hour += step
        list(signals.apply(0, offset, hour * PANE_MS, "one", f"item-{item}", None))
        if offset % every == 0:
            fresh = recovered(signals)
            for column in (WEEK, WINDOWS):
                assert signals.most_popular("one", column, 32) == fresh.most_popular("one", column, 32)
                chosen = signals.popularity(signals.numbers("one", signals.most_popular("one", column, 32)))[:, column]
                everything = signals._counts[: len(signals), column]
                assert chosen.tolist() == sorted(everything[everything > 0].tolist(), reverse=True)[:32]


def test_equally_popular_items_are_listed_in_an_order_that_does_not_depend_on_who_came_first():
    names = [f"item-{number}" for number in range(3 * MAX_LEADERS)]
    forwards, backwards = ItemSignals(), ItemSignals()
    for offset, name in enumerate(names):
        list(forwards.apply(0, offset, 0, "one", name, None))
    for offset, name in enumerate(reversed(names)):
        list(backwards.apply(0, offset, 0, "one", name, None))
    assert forwards.most_popular("one", WINDOWS, 10) == backwards.most_popular("one", WINDOWS, 10)


def test_a_small_domain_is_not_crowded_out_of_its_own_list_by_a_large_one():
    signals, offset = ItemSignals(), 0
    for number in range(1000):
        for _ in range(3):
            list(signals.apply(0, offset := offset + 1, 0, "large", f"l{number}", None))
    list(signals.apply(0, offset + 1, 0, "small", "s", None))
    assert signals.most_popular("small", WINDOWS, 10) == ["s"]


def test_an_item_that_somebody_names_under_a_wrong_domain_leaves_that_items_domain_alone():
    signals = ItemSignals()
    list(signals.apply(0, 0, 0, "one", "a", None))
    list(signals.apply(0, 1, 1, "two", "a", None))
    list(signals.apply(0, 2, 60 * 24 * PANE_MS, "two", "b", None))
    assert signals.total("one").tolist() == [0, 0, 0, 0, 1]
    assert signals.total("two").tolist() == [1, 1, 1, 1, 2]


def test_a_choice_and_its_predecessor_are_one_event_even_if_they_are_the_same_item():
    signals = ItemSignals()
    assert list(signals.apply(0, 0, 0, "one", "a", "a")) == [(0, "one", "a")]
    assert signals.followers("one", "a") == {"a": 1}


def test_followers_and_rows_are_bounded():
    signals = ItemSignals()
    for offset in range(5000):
        list(signals.apply(0, offset, offset * PANE_MS, "one", f"item-{offset % 500}", "hub"))
    assert len(signals.rows[0, "one", "hub"].followers) == MAX_FOLLOWERS
    assert len(signals._panes) <= 24 * 28
    assert max(len(msgspec.msgpack.encode(row)) for row in signals.rows.values()) < 16 * 1024


def test_items_beyond_the_first_thousand_and_unknown_ones_have_their_counts():
    signals = ItemSignals()
    for offset in range(3000):
        list(signals.apply(0, offset, 0, "one", f"item-{offset}", None))
    counts = signals.popularity(signals.numbers("one", ["item-2999", "unheard of", "item-0"]))
    assert np.array_equal(counts, [[1] * 5, [0] * 5, [1] * 5])
    assert signals.popularity(signals.numbers("one", [])).shape == (0, 5)
