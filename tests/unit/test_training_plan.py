"""A training run is its range; what Kafka remembers of it is enough to do it again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.settings import TrainerSettings
from streams.trainer import plan as planning
from streams.trainer.plan import (
    MOST_EXAMPLES,
    Arrivals,
    RangeError,
    Run,
    Span,
    check_kept,
    day_to_check,
    due,
    marks,
    plan,
    recorded,
)

HOUR = 3_600_000
offsets = st.integers(0, 10**9)


def run(*spans, **fields):
    given = {"items_end": 7, "parent": "0123456789abcdef", "replay": 100}
    return Run(topic="retraining", spans=dict(enumerate(spans)), **(given | fields))


def next_run(ends, beginnings=None, trained=None, replay=100):
    beginnings = beginnings or dict.fromkeys(ends, 0)
    return plan("retraining", ends, beginnings, trained or {}, items_end=7, parent="p", replay=replay)


def test_the_name_says_the_range():
    assert run(Span(120, 450, 0), Span(80, 300, 0)).name == "retraining[0:120-450,1:80-300]"


def test_the_id_changes_with_all_that_decides_the_weights():
    ids = {
        run(Span(0, 5, 0)).id,
        run(Span(0, 6, 0)).id,
        run(Span(0, 5, 0), Span(0, 1, 0)).id,
        run(Span(0, 5, 0), items_end=8).id,
        run(Span(0, 5, 0), parent="another").id,
        run(Span(0, 5, 0), replay=99).id,
    }
    assert len(ids) == 6
    assert run(Span(0, 5, 0)).id == run(Span(0, 5, 0)).id


def test_a_run_begins_where_the_last_ended_and_ends_where_the_topic_does():
    found = next_run({0: 500, 1: 90}, trained={0: 120})
    assert found.name == "retraining[0:120-500,1:0-90]"
    assert found.examples == 470


def test_what_retention_has_deleted_is_passed_over():
    assert next_run({0: 500}, beginnings={0: 200}, trained={0: 120}).name == "retraining[0:200-500]"


def test_a_run_is_bounded_and_takes_the_same_share_of_every_partition():
    found = next_run({0: 3 * MOST_EXAMPLES, 1: MOST_EXAMPLES})
    assert found.examples == pytest.approx(MOST_EXAMPLES, abs=2)
    assert found.spans[0].end == pytest.approx(3 * found.spans[1].end, abs=3)


def test_older_examples_are_replayed_as_far_as_they_are_kept_and_reached():
    found = next_run({0: 10_000, 1: 40}, beginnings={0: 0, 1: 10}, trained={0: 9_000, 1: 30}, replay=100)
    assert found.spans[0].replay_from == 9_000 - planning.REPLAY_REACH * 100 // 2
    assert found.spans[1].replay_from == 10


@given(
    st.lists(st.tuples(offsets, offsets, offsets).map(sorted), min_size=1, max_size=64),
    st.sampled_from(planning.PHASES),
)
def test_what_is_recorded_is_the_whole_run_and_fits_into_kafkas_metadata(spans, phase):
    whole = run(*(Span(start, end, replay_from) for replay_from, start, end in spans))
    committed = marks(whole, phase)
    assert recorded("retraining", committed) == (whole, phase)
    assert all(len(metadata.encode()) < 4096 for _, metadata in committed.values())


def test_after_the_end_of_a_run_nothing_is_recorded():
    assert recorded("retraining", {0: (450, ""), 1: (300, "")}) is None


def test_somebody_elses_metadata_is_refused_and_named():
    with pytest.raises(RangeError, match="retraining/3 does not carry a training run"):
        recorded("retraining", {3: (1, "17")})


def test_a_range_that_has_lost_its_beginning_is_refused_and_one_that_has_not_is_not():
    whole = run(Span(100, 200, 50), Span(5, 5, 5))
    check_kept(whole, {0: 50, 1: 1_000})
    with pytest.raises(RangeError, match=r"retraining/0 it needs offsets from 50 on.* before 51"):
        check_kept(whole, {0: 51, 1: 0})


@pytest.mark.parametrize(
    ("examples", "hours", "is_due"), [(10, 0, True), (9, 0, False), (2, 5, True), (2, 4.9, False), (0, 0, False)]
)
def test_it_is_time_when_enough_has_come_or_enough_time_has_passed(examples, hours, is_due):
    arrivals = Arrivals()
    for number in range(examples):
        arrivals.add(int(hours * HOUR * number / max(examples - 1, 1)))
    assert bool(due(TrainerSettings(examples=10, hours=5), arrivals)) == is_due


def test_time_is_event_time_in_whatever_order_it_comes():
    arrivals = Arrivals()
    for hour in (7, 1, 4):
        arrivals.add(hour * HOUR)
    assert "6.0 hours" in (due(TrainerSettings(examples=10, hours=6), arrivals) or "")


@pytest.mark.parametrize(
    ("oldest", "newest", "day"),
    [
        (1, 24, None),  # feedback on the day's last list may still come
        (1, 25, 0),
        (1, 48, 0),
        (1, 50, 1),  # the day before, of those that are over, is the one that is looked at
        (24, 25, None),  # all of the day has been trained on
        (23, 25, 0),
    ],
)
def test_a_day_is_looked_at_when_all_its_examples_have_come_and_some_are_new(oldest, newest, day):
    arrivals = Arrivals()
    for hour in (oldest, newest):
        arrivals.add(hour * HOUR)
    assert day_to_check(arrivals, HOUR) == (None if day is None else day * 24 * HOUR)
