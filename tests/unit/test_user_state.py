"""One row per user: bounded, and read as of an event time."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.user_state import (
    CONTEXT_TTL_MS,
    MAX_CONTEXT_FIELDS,
    MAX_CONTEXTS,
    MAX_INTERACTIONS,
    MAX_OLDER_ITEMS,
    MAX_SLATES,
    UserState,
    already_applied,
    apply_context,
    apply_feedback,
    apply_recommendation,
    context_as_of,
    history_as_of,
    merge_contexts,
)
from schemas.codec import decode, encode
from schemas.records import (
    INTERACTION_KINDS,
    Context,
    Feedback,
    FeedbackKind,
    History,
    Location,
    Recommendation,
    RecommendedItem,
    Source,
)

HOUR = 3_600_000


def feedback(item: str, kind: FeedbackKind = "visit", session: str | None = None) -> Feedback:
    return Feedback(item_id=item, domain="any", kind=kind, session_id=session, rating=0.5 if kind == "rating" else None)


actions = st.builds(
    feedback,
    st.sampled_from(["a", "b", "c", "🍜"]),
    st.sampled_from([*INTERACTION_KINDS, "impression"]),
    st.sampled_from([None, "s1", "s2"]),
)
# Distinct times: at equal times the order of arrival decides, as it must.
timed_actions = st.lists(st.tuples(st.integers(0, 10_000), actions), unique_by=lambda event: event[0], max_size=40)
contexts = st.builds(
    Context,
    location=st.none() | st.builds(Location, lat=st.just(1.0), lon=st.floats(0, 9)),
    weather=st.none() | st.sampled_from(["rain", "sunny"]),
    temperature=st.none() | st.floats(0, 30),
    fields=st.dictionaries(st.sampled_from(["x", "y"]), st.integers(0, 9).map(float), max_size=2),
)
timed_contexts = st.lists(
    st.tuples(st.integers(0, 40).map(lambda hour: hour * HOUR), contexts), unique_by=lambda event: event[0], max_size=25
)


def state_after(events: list[tuple[int, Feedback]]) -> UserState:
    state = UserState()
    for time, event in events:
        apply_feedback(state, time, event)
    return state


def seen_at(state: UserState, time: int, session: str | None = None) -> tuple[History, str | None, list[str]]:
    table: dict[str, int] = {}
    history, last = history_as_of(state, time, session, table)
    return history, last, list(table)


@given(timed_actions, st.integers(0, 10_000), st.randoms(), st.sampled_from([None, "s1"]))
def test_a_history_as_of_t_is_that_of_a_state_that_only_ever_saw_events_up_to_t_in_any_order(
    events, time, random, session
):
    shuffled = random.sample(events, len(events))
    earlier = sorted((event for event in events if event[0] <= time), key=lambda event: event[0])
    assert seen_at(state_after(shuffled), time, session) == seen_at(state_after(earlier), time, session)


def test_a_long_history_is_exact_as_of_any_time_that_the_exact_list_reaches_back_to():
    times = [HOUR * number for number in range(MAX_INTERACTIONS + 50)]
    events = [(time, feedback(f"item-{time}")) for time in times]
    state = state_after(events)
    history, last, table = seen_at(state, times[-10])
    assert len(history.item) == MAX_INTERACTIONS - 9
    assert last == table[history.item[-1]] == f"item-{times[-10]}"
    assert sorted(table[item] for item in history.older_item) == sorted(f"item-{time}" for time in times[:50])


@given(timed_actions)
def test_the_id_table_lists_every_item_once_and_the_columns_have_one_length(events):
    history, _, table = seen_at(state_after(events), 10_000)
    assert len(set(table)) == len(table)
    assert len(history.item) == len(history.kind) == len(history.time) == len(history.session)
    assert history.time == sorted(history.time)
    assert {*history.item, *history.older_item} == set(range(len(table)))


@given(timed_actions)
def test_the_item_before_a_choice_is_the_last_choice_in_its_session(events):
    state = UserState()
    chosen: list[Feedback] = []
    for time, event in sorted(events, key=lambda event: event[0]):
        previous = apply_feedback(state, time, event)
        before = [e for e in chosen if event.session_id in (None, e.session_id)]
        if event.kind in {"impression", "dismissal"}:
            assert previous is None
        else:
            assert previous == (before[-1].item_id if before else None)
            chosen.append(event)


def test_dismissals_are_remembered_but_are_no_choice():
    state = state_after([(1, feedback("a")), (2, feedback("b", "dismissal"))])
    history, last, table = seen_at(state, 2)
    assert (last, table) == ("a", ["a", "b"])
    assert [INTERACTION_KINDS[kind] for kind in history.kind] == ["visit", "dismissal"]


def test_the_open_session_is_named_only_if_it_is_in_the_list():
    state = state_after([(1, feedback("a", session="s1")), (2, feedback("b", session="s2")), (3, feedback("c"))])
    assert seen_at(state, 3, "s2")[0].open_session == seen_at(state, 3)[0].session[1]
    assert seen_at(state, 3, "s2")[1] == "b"
    assert seen_at(state, 3, "another")[0].open_session is None
    assert seen_at(state, 3, "another")[1] is None
    assert seen_at(state, 3, None)[1] == "c"


@given(st.lists(st.integers(0, 30)))
def test_an_offset_counts_once(offsets):
    state = UserState()
    applied = [offset for offset in offsets if not already_applied(state, "topic", offset)]
    assert applied == sorted(set(applied))
    assert not already_applied(state, "another topic", 0)


def test_ten_thousand_events_leave_a_small_row():
    state = UserState()
    for number in range(10_000):
        apply_feedback(state, number * 60_000, feedback(f"item-{number % 1500}", session=f"s{number // 5}"))
        apply_context(state, number * 60_000, Context(location=Location(lat=1.0, lon=1.0), weather="rain"))
        apply_recommendation(state, number * 60_000, recommendation(number, [f"item-{k}" for k in range(10)]))
    assert (len(state.item), len(state.older)) == (MAX_INTERACTIONS, MAX_OLDER_ITEMS)
    assert len(state.contexts) <= 2 * MAX_CONTEXTS
    assert len(state.slates) == MAX_SLATES
    assert len(msgspec.msgpack.encode(state)) < 32 * 1024


def test_a_row_survives_its_bytes():
    state = state_after([(1, feedback("a")), (2, feedback("🍜", "click", "s"))])
    apply_context(state, 1, Context(weather="rain", fields={"x": ["y", "z"]}))
    apply_recommendation(state, 3, recommendation(0, ["a"]))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=UserState) == state


# -- context -----------------------------------------------------------------------------------------------------------


def newest_by_field(events: list[tuple[int, Context]], time: int) -> Context:
    known = [context for at, context in sorted(events, key=lambda e: e[0]) if time - CONTEXT_TTL_MS <= at <= time]
    return merge_contexts(known)


@given(timed_contexts, st.randoms())
def test_the_context_now_is_the_newest_value_of_each_field_of_the_last_day_in_any_order_of_arrival(events, random):
    state = UserState()
    for time, context in random.sample(events, len(events)):
        apply_context(state, time, context)
    now = max((time for time, _ in events), default=0)
    assert context_as_of(state, now, None) == newest_by_field(events, now)
    assert len(state.contexts) <= 2 * MAX_CONTEXTS


@given(timed_contexts, st.randoms(), st.integers(0, 40))
def test_a_context_as_of_t_sees_nothing_later_as_far_back_as_the_newest_updates_reach(events, random, hour):
    state = UserState()
    for time, context in random.sample(events, len(events)):
        apply_context(state, time, context)
    times = sorted(time for time, _ in events)
    if len(times) <= MAX_CONTEXTS or hour * HOUR >= times[-MAX_CONTEXTS]:
        assert context_as_of(state, hour * HOUR, None) == newest_by_field(events, hour * HOUR)


def test_a_hundred_locations_do_not_push_out_the_weather_of_an_hour_ago():
    state = UserState()
    apply_context(state, 0, Context(weather="rain", fields={"occasion": "party"}))
    for minute in range(1, 61):
        apply_context(state, minute * 60_000, Context(location=Location(lat=1.0, lon=minute / 10)))
    now = context_as_of(state, HOUR, None)
    assert now == Context(weather="rain", location=Location(lat=1.0, lon=6.0), fields={"occasion": "party"})


def test_a_context_is_forgotten_after_a_day():
    state = UserState()
    apply_context(state, 0, Context(weather="rain"))
    assert context_as_of(state, CONTEXT_TTL_MS, None).weather == "rain"
    assert context_as_of(state, CONTEXT_TTL_MS + 1, None).weather is None


def test_what_the_request_says_wins_field_by_field():
    state = UserState()
    apply_context(state, 0, Context(weather="rain", company="alone", fields={"x": 1.0, "y": 2.0}))
    merged = context_as_of(state, 1, Context(weather="sunny", fields={"y": 3.0}))
    assert merged == Context(weather="sunny", company="alone", fields={"x": 1.0, "y": 3.0})


def test_a_merged_context_can_always_be_read_again_and_keeps_the_newest_fields():
    older = Context(fields={f"old-{number}": 1.0 for number in range(MAX_CONTEXT_FIELDS)})
    newer = Context(fields={f"new-{number}": 1.0 for number in range(60)})
    merged = merge_contexts([older, newer])
    assert decode(Context, encode(merged)) == merged
    assert set(newer.fields) <= set(merged.fields)


# -- lists waiting for feedback ----------------------------------------------------------------------------------------


def recommendation(offset: int, items: list[str], request_id: str = "r") -> Recommendation:
    return Recommendation(
        request_id=request_id,
        domain="any",
        model="m@1",
        items=[RecommendedItem(item_id=item, score=1.0, propensity=0.5) for item in items],
        source=Source(partition=0, offset=offset),
    )


def test_a_request_id_used_again_is_another_list():
    state = UserState()
    apply_recommendation(state, 1, recommendation(0, ["a"]))
    apply_recommendation(state, 2, recommendation(1, ["b"]))
    assert [slate.items for slate in state.slates] == [["a"], ["b"]]


@pytest.mark.parametrize("order", [range(10), range(9, -1, -1)])
def test_the_newest_lists_stay_and_the_others_are_handed_back_once(order):
    state, closed = UserState(), []
    for time in order:
        closed += apply_recommendation(state, time, recommendation(time, ["a"]))
    assert [slate.time for slate in state.slates] == [6, 7, 8, 9]
    assert sorted(slate.time for slate in closed) == [0, 1, 2, 3, 4, 5]
