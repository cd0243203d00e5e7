"""A request sees exactly what it may: its user up to its event time, everybody so far, and what is around."""

from hypothesis import given
from hypothesis import strategies as st

from models.join import MAX_FOLLOWED, MAX_NEAR, MAX_POPULAR, GlobalState, join
from models.user_state import MAX_INTERACTIONS, MAX_OLDER_ITEMS, UserState, apply_context, apply_feedback
from schemas.codec import decode, encode
from schemas.domains import pack_for
from schemas.records import Context, Feedback, JoinedRequest, Location, Request, Source
from schemas.topics import REQUESTS_JOINED

PACK = pack_for("travel")
HERE = Location(lat=31.23, lon=121.47)
SOURCE = Source(partition=3, offset=9)


def visit(user: UserState, everybody: GlobalState, time: int, item: str, *, offset: int | None = None) -> None:
    feedback = Feedback(item_id=item, domain=PACK.name, kind="visit")
    previous = apply_feedback(user, time, feedback)
    list(everybody.signals.apply(0, time if offset is None else offset, time, PACK.name, item, previous))


def ask(user: UserState, everybody: GlobalState, time: int, **fields: object) -> JoinedRequest:
    request = Request(request_id="r", domain=PACK.name, **fields)  # type: ignore[arg-type]
    return join(user, everybody, PACK, request, event_time=time, source=SOURCE, received_at=1, joined_at=2)


def test_a_new_user_in_an_empty_world_is_joined_with_nothing():
    joined = ask(UserState(), GlobalState(), 5)
    assert (joined.items, joined.history.item, joined.signals.popularity) == ([], [], [])
    assert (joined.event_time, joined.source, joined.received_at, joined.joined_at) == (5, SOURCE, 1, 2)


def test_the_user_is_seen_up_to_the_event_time_and_no_further():
    user, everybody = UserState(), GlobalState()
    for time, item in ((1, "a"), (2, "b"), (3, "c")):
        visit(user, everybody, time, item)
        apply_context(user, time, Context(weather=item))
    joined = ask(user, everybody, 2)
    assert [joined.items[number] for number in joined.history.item] == ["a", "b"]
    assert joined.context.weather == "b"


def test_the_table_lists_the_users_items_then_what_follows_then_what_is_near_then_what_is_popular():
    user, somebody, everybody = UserState(), UserState(), GlobalState()
    for number, item in enumerate(["mine", "next", "popular", "popular"]):
        visit(somebody, everybody, number, item)
    visit(user, everybody, 10, "mine")
    everybody.places.put("near", PACK.name, HERE)
    everybody.places.put("other domain", "shop", HERE)
    everybody.places.put("far", PACK.name, Location(lat=35.0, lon=121.0))
    joined = ask(user, everybody, 11, context=Context(location=HERE))
    assert joined.items == ["mine", "next", "near", "popular"]
    assert joined.signals.followed == [0, 1, 0, 0]
    assert [counts[-1] for counts in joined.signals.popularity] == [2, 1, 0, 2]
    assert joined.signals.popularity_total[-1] == 5


def test_without_a_location_the_last_choice_is_where_the_user_is():
    user, everybody = UserState(), GlobalState()
    for name in ("there", "beside it"):
        everybody.places.put(name, PACK.name, HERE)
    visit(user, everybody, 1, "there")
    assert ask(user, everybody, 2).items == ["there", "beside it"]


def test_what_is_near_is_weighed_by_popularity_and_closeness():
    user, everybody = UserState(), GlobalState()
    for number in range(3):
        everybody.places.put(f"{number} km", PACK.name, Location(lat=31.23 + number * 0.009, lon=121.47))
    assert everybody.near(PACK.name, HERE, 1500.0) == ["0 km", "1 km", "2 km"]
    for time in range(9):
        visit(user, everybody, time, "2 km")
    assert everybody.near(PACK.name, HERE, 1500.0)[0] == "2 km"
    everybody.places.remove("2 km")
    assert everybody.near(PACK.name, HERE, 1500.0) == ["0 km", "1 km"]
    assert everybody.near(PACK.name, Location(lat=0.0, lon=0.0), 1500.0) == []


@given(st.lists(st.tuples(st.integers(0, 100), st.sampled_from(["a", "b", "🍜", "z" * 200])), max_size=30))
def test_a_joined_request_survives_its_bytes_and_its_columns_have_one_length(events):
    user, everybody = UserState(), GlobalState()
    everybody.places.put("near", PACK.name, HERE)
    for offset, (time, item) in enumerate(events):
        visit(user, everybody, time, item, offset=offset)
    joined = ask(user, everybody, 50, text="安静", context=Context(location=HERE, fields={"x": ["y"]}))
    assert decode(JoinedRequest, encode(joined)) == joined
    signals, history = joined.signals, joined.history
    assert len(joined.items) == len(set(joined.items)) == len(signals.popularity) == len(signals.followed)
    assert all(number < len(joined.items) for number in (*history.item, *history.older_item))
    assert sum(signals.followed) <= signals.followed_total


def test_the_largest_joined_request_fits_into_its_topic():
    user, everybody = UserState(), GlobalState()
    for number in range(3000):
        item = f"{number % 1500:04}" + "店" * 196
        visit(user, everybody, number, item)
        everybody.places.put(item, PACK.name, HERE)
    fields = {f"field {number}": "很" * 50 for number in range(100)}
    apply_context(user, 3000, Context(fields=fields))
    joined = ask(user, everybody, 3000, text="面" * 4000, context=Context(location=HERE))
    assert len(joined.items) <= MAX_INTERACTIONS + MAX_OLDER_ITEMS + MAX_FOLLOWED + MAX_NEAR + MAX_POPULAR
    assert len(encode(joined)) < REQUESTS_JOINED.max_bytes / 2
