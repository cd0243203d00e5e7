"""Which list an action belongs to, and what is learnt from it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.user_state import Slate
from schemas.codec import decode, encode
from schemas.domains import pack_for
from schemas.records import Context, Feedback, JoinedRequest, Request, Source, TrainingExample
from streams.attribution import action_example, attribute, no_action_example

WINDOW = 1000
PACK = pack_for("restaurant")
JOINED = JoinedRequest(
    request=Request(request_id="r", domain="restaurant"), event_time=5, source=Source(partition=0, offset=0),
    context=Context(),
)  # fmt: skip
RAW = encode(JOINED)


def slate(time: int, items: str = "abc", request_id: str = "r", **fields: object) -> Slate:
    source = Source(partition=0, offset=time)
    propensities = [0.5 / (place + 1) for place in range(len(items))]
    return Slate(source, request_id, time, "m@1", list(items), propensities, **fields)  # type: ignore[arg-type]


def act(item: str = "a", **fields: object) -> Feedback:
    return Feedback(**{"item_id": item, "domain": "restaurant", "kind": "visit", **fields})  # type: ignore[arg-type]


def test_a_request_id_names_the_list_even_if_a_newer_one_has_the_item():
    older, newer = slate(10, request_id="r1"), slate(20, request_id="r2")
    assert attribute([older, newer], act(request_id="r1"), 30, WINDOW) == (older, "request_id")


def test_without_a_request_id_the_newest_list_with_the_item_on_it_counts():
    older, newer = slate(10, "ab"), slate(20, "bc")
    assert attribute([older, newer], act("b"), 30, WINDOW) == (newer, "last_touch")
    assert attribute([older, newer], act("a"), 30, WINDOW) == (older, "last_touch")
    assert attribute([older, newer], act("z"), 30, WINDOW) is None


def test_a_request_id_that_is_not_among_the_lists_is_not_replaced_by_a_guess():
    assert attribute([slate(10)], act(request_id="another"), 30, WINDOW) is None
    assert attribute([slate(10)], act("z", request_id="r"), 30, WINDOW) is None


@pytest.mark.parametrize(("time", "belongs"), [(9, False), (10, True), (1010, True), (1011, False)])
@pytest.mark.parametrize("request_id", [None, "r"])
def test_the_window_is_in_event_time_and_includes_both_edges(time, belongs, request_id):
    assert (attribute([slate(10)], act(request_id=request_id), time, WINDOW) is not None) is belongs


def test_of_two_lists_with_one_request_id_the_newer_counts():
    older, newer = slate(10), slate(20)
    assert attribute([older, newer], act(request_id="r"), 30, WINDOW) == (newer, "request_id")


def shown(example: TrainingExample) -> list[tuple[str, int, float]]:
    return [(entry.item_id, entry.position, entry.label) for entry in example.shown]


def test_the_whole_list_counts_as_shown_unless_the_app_reported_what_was():
    assert shown(no_action_example(slate(10), RAW)) == [("a", 0, 0.0), ("b", 1, 0.0), ("c", 2, 0.0)]
    assert shown(no_action_example(slate(10, impressions=["b"]), RAW)) == [("b", 1, 0.0)]


def test_what_was_acted_on_was_shown_whatever_the_app_reported():
    example = action_example(slate(10, impressions=["b"]), "last_touch", act("c"), 30, RAW, PACK)
    assert shown(example) == [("b", 1, 0.0), ("c", 2, 1.0)]


def test_propensities_are_carried_along():
    example = action_example(slate(10), "last_touch", act("b"), 30, RAW, PACK)
    assert [entry.propensity for entry in example.shown] == [0.5, 0.25, 0.5 / 3]


@pytest.mark.parametrize(
    ("kind", "rating", "worth"),
    [
        ("click", None, 0.2),
        ("visit", None, 1.0),
        ("dismissal", None, 0.0),
        ("rating", 0.25, 0.25),
        ("rating", 0.0, 0.0),
    ],
)
def test_an_action_is_worth_what_the_domain_says_and_a_rating_its_own_share_of_that(kind, rating, worth):
    example = action_example(slate(10), "last_touch", act("b", kind=kind, rating=rating), 30, RAW, PACK)
    assert [entry.label for entry in example.shown] == [0.0, worth, 0.0]


def test_the_joined_request_is_carried_byte_for_byte_and_the_example_can_be_read():
    example = action_example(slate(10), "request_id", act("b"), 30, RAW, PACK)
    again = decode(TrainingExample, encode(example))
    assert bytes(again.joined) == RAW
    assert decode(JoinedRequest, bytes(again.joined)) == JOINED
    assert msgspec.structs.replace(again, joined=example.joined) == example


long_ids = st.text(min_size=1, max_size=200)


@given(long_ids, long_ids, long_ids, st.integers(0, 2**62), st.integers(0, 2**62))
def test_example_ids_are_a_function_of_the_list_and_the_action_and_tell_them_apart(request_id, one, other, time, later):
    def example_id(at: int, item: str, kind: str = "visit") -> str:
        feedback = act(item, kind=kind)
        example = action_example(slate(at, items="ab", request_id=request_id), "last_touch", feedback, 30, RAW, PACK)
        return decode(TrainingExample, encode(example)).example_id

    assert example_id(time, one) == example_id(time, one)
    assert example_id(time, one) != example_id(time, one, "click")
    assert (example_id(time, one) == example_id(time, other)) is (one == other)
    assert (example_id(time, one) == example_id(later, one)) is (time == later)
    assert no_action_example(slate(time), RAW).example_id != example_id(time, one)
