"""What the state stage does with one record after another, through crashes at any moment."""

import time as clock

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_stage import DAY, HOUR, MINUTE, NOON, Log, MemoryStage, answer

from models.user_state import MAX_SLATES
from schemas.codec import DecodeError, decode, encode
from schemas.domains import UnknownDomainError
from schemas.records import (
    Context,
    Erasure,
    Feedback,
    Item,
    JoinedRequest,
    Location,
    Recommendation,
    Request,
    Source,
    TrainingExample,
)
from schemas.topics import RECOMMENDATIONS, USERS_CONTEXT, USERS_ERASURE, USERS_FEEDBACK, USERS_REQUESTS
from streams.settings import StateSettings
from streams.state.stage import MAX_CONTEXT_BYTES, EventTimeError, Inbound

DOMAIN = "restaurant"
WINDOW = StateSettings().attribution_minutes * MINUTE


def request(request_id: str = "r", **fields: object) -> Request:
    return Request(request_id=request_id, domain=DOMAIN, **fields)  # type: ignore[arg-type]


def visit(item: str, **fields: object) -> Feedback:
    return Feedback(item_id=item, **{"domain": DOMAIN, "kind": "visit", **fields})  # type: ignore[arg-type]


class Conversation:
    """A stage and the topics in front of it."""

    def __init__(self, stage: MemoryStage | None = None) -> None:
        self.stage, self.log = stage or MemoryStage(), Log()

    def ask(self, time: int, user: str = "user", request_id: str = "r", **fields: object) -> JoinedRequest:
        joined = self.stage.apply(self.log.record(USERS_REQUESTS, time, request(request_id, **fields), user))
        assert joined is not None
        return joined

    def answer(self, joined: JoinedRequest, items: str, user: str = "user") -> Inbound:
        record = self.log.record(RECOMMENDATIONS, joined.event_time, answer(joined, items, 0.5), user)
        self.stage.apply(record)
        return record

    def act(self, time: int, feedback: Feedback, user: str = "user") -> Inbound:
        record = self.log.record(USERS_FEEDBACK, time, feedback, user)
        self.stage.apply(record)
        return record

    def post(self, time: int, context: Context, user: str = "user") -> None:
        self.stage.apply(self.log.record(USERS_CONTEXT, time, context, user))

    def forget(self, time: int, user: str = "user") -> None:
        self.stage.apply(self.log.record(USERS_ERASURE, time, Erasure(request_id="e"), user))

    def examples(self) -> list[TrainingExample]:
        self.stage.flush()
        return list(self.stage.examples().values())


def test_a_list_that_is_acted_on_becomes_an_example_with_the_features_as_served():
    talk = Conversation()
    talk.post(NOON, Context(weather="rain"))
    talk.act(NOON, visit("z"))
    joined = talk.ask(NOON + MINUTE)
    assert (joined.context.weather, joined.items) == ("rain", ["z"])
    talk.answer(joined, "abc")
    talk.act(NOON + 2 * MINUTE, visit("b"))
    [example] = talk.examples()
    assert decode(JoinedRequest, bytes(example.joined)) == joined
    assert [(shown.item_id, shown.label, shown.propensity) for shown in example.shown] == [
        ("a", 0.0, 0.5), ("b", 1.0, 0.5), ("c", 0.0, 0.5),
    ]  # fmt: skip
    assert (example.action, example.item_id, example.attribution) == ("visit", "b", "last_touch")


def test_a_list_whose_window_closes_without_an_action_becomes_an_example_of_that_and_is_let_go():
    talk = Conversation()
    talk.answer(talk.ask(NOON), "ab")
    talk.act(NOON + MINUTE, visit("a", kind="impression"))
    talk.act(NOON + WINDOW, visit("z"), user="another")
    assert talk.examples() == []
    talk.act(NOON + WINDOW + 1, visit("z"), user="another")
    [example] = talk.examples()
    assert (example.action, [shown.item_id for shown in example.shown]) == ("none", ["a"])
    assert talk.stage.user().slates == []
    assert talk.stage.durable[2] == {}


def test_a_list_that_was_acted_on_closes_without_a_second_example():
    talk = Conversation()
    talk.answer(talk.ask(NOON), "ab")
    talk.act(NOON + MINUTE, visit("a"))
    talk.act(NOON + 2 * WINDOW, visit("z"))
    assert [example.action for example in talk.examples()] == ["visit"]
    assert talk.stage.durable[2] == {}


def test_windows_close_after_a_recovery_too():
    talk = Conversation()
    talk.answer(talk.ask(NOON), "ab")
    unanswered = talk.ask(NOON, request_id="never answered")
    talk.stage.reload()
    assert len(talk.stage.durable[2]) == 2
    talk.act(NOON + WINDOW + 1, visit("z"), user="another")
    assert [example.action for example in talk.examples()] == ["none"]
    assert talk.stage.durable[2] == {}
    assert unanswered.request.request_id == "never answered"


def test_a_list_that_makes_room_for_newer_ones_is_closed_too():
    talk = Conversation()
    for number in range(MAX_SLATES + 1):
        talk.answer(talk.ask(NOON + number, request_id=f"r{number}"), "ab")
    assert [example.request_id for example in talk.examples()] == ["r0"]
    assert len(talk.stage.durable[2]) == MAX_SLATES


def test_joined_requests_whose_list_never_comes_are_let_go():
    talk = Conversation()
    for number in range(100):
        talk.ask(NOON + number * WINDOW, request_id=f"r{number}")
    talk.stage.flush()
    assert len(talk.stage.durable[2]) <= 2
    assert talk.examples() == []


def test_a_list_that_comes_after_its_window_leaves_nothing_behind():
    talk = Conversation()
    joined = talk.ask(NOON)
    talk.post(NOON + 2 * WINDOW, Context(), user="another")
    talk.answer(joined, "ab")
    assert talk.examples() == []
    assert talk.stage.user() is None
    assert talk.stage.durable[2] == {}


def test_two_requests_with_one_request_id_are_two_lists_and_their_examples_have_their_own_features():
    talk = Conversation()
    first, second = talk.ask(NOON, text="noodles"), talk.ask(NOON + 1, text="rice")
    talk.answer(first, "ab")
    talk.answer(second, "bc")
    talk.act(NOON + 2, visit("b", request_id="r"))
    talk.act(NOON + 3, visit("a", request_id="r"))
    by_item = {example.item_id: decode(JoinedRequest, bytes(example.joined)).request for example in talk.examples()}
    assert {item: asked.text for item, asked in by_item.items()} == {"b": "rice", "a": "noodles"}


def test_users_who_use_the_same_request_id_do_not_share_examples():
    talk = Conversation()
    for user in ("one", "two"):
        talk.answer(talk.ask(NOON, user=user), "ab", user)
        talk.act(NOON + 1, visit("a"), user)
    assert len(talk.examples()) == 2


def test_an_erased_user_is_gone_from_every_table_and_a_list_on_its_way_does_not_bring_them_back():
    talk = Conversation()
    talk.post(NOON, Context(weather="rain"))
    talk.act(NOON, visit("a"))
    talk.answer(talk.ask(NOON), "ab")
    late = talk.ask(NOON, request_id="on its way")
    talk.stage.flush()
    talk.forget(NOON + 1)
    talk.answer(late, "ab")
    talk.stage.flush()
    users, items, served = talk.stage.durable
    assert (users, served) == ({}, {})
    assert all(b"user" not in raw for raw in items.values())
    talk.act(NOON + 2 * DAY, visit("z"), user="another")
    assert talk.examples() == []


def test_an_erasure_leaves_other_users_alone():
    talk = Conversation()
    for user in ("user", "user2"):
        talk.answer(talk.ask(NOON, user=user), "ab", user)
    talk.forget(NOON + 1)
    talk.act(NOON + 2, visit("a"), user="user2")
    assert [example.item_id for example in talk.examples()] == ["a"]


def test_users_who_are_idle_by_event_time_are_dropped_and_others_are_not():
    settings = StateSettings(idle_days=10)
    talk = Conversation(MemoryStage(settings))
    talk.act(NOON, visit("a"), "idle")
    talk.act(NOON, visit("a"), "busy")
    talk.act(NOON + 9 * DAY, visit("b"), "busy")
    talk.act(NOON + 10 * DAY, visit("b"), "another")
    assert talk.stage.user("idle") is not None
    talk.stage.reload()  # timers come back
    talk.act(NOON + 10 * DAY + 1, visit("b"), "another")
    assert talk.stage.user("idle") is None
    assert talk.stage.user("busy") is not None
    talk.stage.flush()
    assert set(talk.stage.durable[0]) == {b"busy", b"another"}


def test_time_stands_still_for_a_partition_whose_records_do():
    talk = Conversation()
    talk.answer(talk.ask(NOON), "ab")
    other = talk.log.record(USERS_FEEDBACK, NOON + DAY, visit("z"), "another", partition=1)
    talk.stage.apply(other)
    assert talk.examples() == []


@pytest.mark.parametrize("time", [-1, int(clock.time() * 1000) + DAY])
@pytest.mark.parametrize(
    ("topic", "value"),
    [
        (USERS_CONTEXT, Context()),
        (USERS_FEEDBACK, visit("a")),
        (USERS_REQUESTS, request()),
        (USERS_ERASURE, Erasure(request_id="e")),
        (RECOMMENDATIONS, Recommendation(
            request_id="r", domain=DOMAIN, model="m", items=[], source=Source(partition=0, offset=0)
        )),
    ],
)  # fmt: skip
def test_a_record_without_a_time_or_from_the_future_is_refused_and_moves_nothing(topic, value, time):
    stage = MemoryStage()
    with pytest.raises(EventTimeError, match="between 1970 and now"):
        stage.apply(Inbound(topic, 0, 0, time, b"user", encode(value)))
    assert stage.stage._due[0].watermark == 0
    assert stage.user() is None


@pytest.mark.parametrize(
    ("record", "error"),
    [
        (Inbound(USERS_CONTEXT, 0, 0, NOON, None, encode(Context())), DecodeError),
        (Inbound(USERS_FEEDBACK, 0, 0, NOON, b"user", b"\xff\x00"), DecodeError),
        (Inbound(USERS_FEEDBACK, 0, 0, NOON, b"user", encode(visit("a", domain="bakeries"))), UnknownDomainError),
        (Inbound(USERS_REQUESTS, 0, 0, NOON, b"user", encode(Request(request_id="r", domain="x"))), UnknownDomainError),
    ],
)
def test_a_poisonous_record_leaves_no_trace(record, error):
    stage = MemoryStage()
    with pytest.raises(error):
        stage.apply(record)
    stage.flush()
    assert stage.durable == [{}, {}, {}]


def test_a_context_too_large_to_keep_several_of_is_refused():
    stage = MemoryStage()
    huge = Context(fields={f"f{number}": "x" * 2000 for number in range(10)})
    assert len(encode(huge)) > MAX_CONTEXT_BYTES
    with pytest.raises(DecodeError, match="at most 16384"):
        stage.apply(Log().record(USERS_CONTEXT, NOON, huge))


def test_a_users_memory_is_bounded():
    talk = Conversation()
    rows = []
    for number in range(1500):
        time = NOON - 200 * DAY + number * HOUR
        talk.post(time, Context(location=Location(lat=1.0, lon=1.0), fields={f"f{number % 50}": 1.0}))
        talk.answer(talk.ask(time, request_id=f"r{number}"), [f"i{(number * k) % 900}" for k in range(20)])
        talk.act(time + MINUTE, visit(f"i{number % 900}"))
        if number % 500 == 499:
            talk.stage.flush()
            rows.append([sum(map(len, table.values())) for table in (talk.stage.durable[0], talk.stage.durable[2])])
    due = talk.stage.stage._due[0]
    assert rows[-1][0] < 64 * 1024
    assert rows[-1][1] < 512 * 1024
    assert (len(due.windows) < 20, len(due.idle)) == (True, 1)


# -- crashes -----------------------------------------------------------------------------------------------------------

people = ["u1", "u2"]
stories = st.lists(
    st.tuples(
        st.sampled_from(["context", "request", "feedback", "feedback", "impression", "erasure"]),
        st.sampled_from(people),
        st.sampled_from("abcd"),
        st.integers(0, 50),  # minutes until then
    ),
    min_size=1,
    max_size=25,
)


def told(story: list[tuple[str, str, str, int]]) -> list[Inbound]:
    """Return the story as records in the order in which the stage reads them; every request is answered at once."""
    talk, records, time = Conversation(), [], NOON
    for number, (what, user, item, minutes) in enumerate(story):
        time += minutes * MINUTE
        if what == "context":
            records.append(talk.log.record(USERS_CONTEXT, time, Context(weather=item), user))
        elif what == "erasure":
            records.append(talk.log.record(USERS_ERASURE, time, Erasure(request_id="e"), user))
        elif what == "request":
            asked = talk.log.record(USERS_REQUESTS, time, request(f"r{number % 3}"), user)
            joined = talk.stage.apply(asked)
            assert joined is not None
            records += [asked, talk.log.record(RECOMMENDATIONS, time, answer(joined, "abcd"), user)]
        else:
            kind = "impression" if what == "impression" else "visit"
            records.append(talk.log.record(USERS_FEEDBACK, time, visit(item, kind=kind), user))
    return records


def outcome(stage: MemoryStage) -> tuple[object, ...]:
    """Return all that is left: rows, examples, and joined requests apart from the clock's readings."""
    stage.flush()
    served = {key: strip(raw) for key, raw in stage.durable[2].items()}
    examples = {
        name: (example.action, example.item_id, example.shown, strip(bytes(example.joined)))
        for name, example in stage.examples().items()
    }
    # Of a request joined twice the inference stage answers the first one.
    joined = {joined.source.offset: msgspec.structs.replace(joined, joined_at=0) for joined in reversed(stage.joined())}
    return stage.durable[0], stage.durable[1], served, examples, joined


def strip(raw: bytes) -> object:
    """Return decoded bytes without the wall clock and without what only counts within one life."""
    value = msgspec.msgpack.decode(raw)
    kept = value[:3] if isinstance(value, list) else [value]
    kept[-1].pop("joined_at", None)
    return kept


def uninterrupted(records: list[Inbound]) -> MemoryStage:
    stage = MemoryStage()
    for record in records:
        stage.apply(record)
    return stage


def test_an_erasure_that_is_read_again_leaves_the_requests_that_came_after_it():
    story = [("erasure", "u2", "a", 0), ("request", "u2", "a", 0), ("feedback", "u1", "a", 0)]
    records, stage = told(story), MemoryStage()
    for record in records:
        stage.apply(record)
    stage.reload()  # a crash after the rows were written and before the offsets were committed
    for record in records:
        stage.apply(record)
    assert outcome(stage) == outcome(uninterrupted(records))


@settings(max_examples=60)
@given(stories, st.data())
def test_crashes_between_and_within_flushes_lose_nothing_and_double_nothing(story, data):
    records = told(story)
    stage, position, released = MemoryStage(), 0, 0
    for _ in range(data.draw(st.integers(1, 6))):  # lives that end in a crash
        end = data.draw(st.sampled_from([len(records), *range(position, len(records))]))
        for record in records[position:end]:
            stage.apply(record)
            if data.draw(st.integers(0, 5)) == 5:
                stage.flush()
                released = records.index(record) + 1
        dying = data.draw(st.sampled_from(["before the flush", "within the flush", "before the commit"]))
        if dying == "within the flush":
            stage.flush(writes=data.draw(st.integers(0, 6)))
        elif dying == "before the commit":
            stage.flush()
        stage.start()
        position = released
    for record in records[position:]:
        stage.apply(record)
    assert outcome(stage) == outcome(uninterrupted(records))


@given(stories)
def test_reading_everything_again_changes_nothing(story):
    records = [record for record in told(story) if record.topic != USERS_ERASURE]
    stage = uninterrupted(records)
    before = outcome(stage)
    stage.start()
    for record in records:
        stage.apply(record)
    assert outcome(stage) == before


@given(stories)
def test_a_recovered_stage_joins_the_next_request_exactly_as_one_that_never_stopped(story):
    records = told(story)
    stage = uninterrupted(records)
    time = records[-1].time if records else NOON
    recovered = uninterrupted(records)
    recovered.reload()
    for user in [*people, "new"]:
        asked = Inbound(USERS_REQUESTS, 0, 10_000, time, user.encode(), encode(request()))
        one, other = (msgspec.structs.replace(life.apply(asked), joined_at=0) for life in (stage, recovered))
        assert one == other


def test_a_request_joined_again_after_a_flush_is_the_same_to_the_byte():
    talk = Conversation()
    talk.act(NOON, visit("a"))
    record = talk.log.record(USERS_REQUESTS, NOON, request())
    talk.stage.apply(record)
    talk.stage.reload()
    talk.act(NOON, visit("b"))
    talk.stage.apply(record)
    first, second = talk.stage.published
    assert first == second


def test_a_list_that_comes_back_before_its_request_is_joined_once_more_still_gets_its_feedback():
    talk = Conversation()
    asked = talk.log.record(USERS_REQUESTS, NOON, request())
    joined = talk.stage.apply(asked)
    talk.stage.start()  # nothing was flushed, but the joined request is out
    talk.answer(joined, "ab")
    talk.stage.apply(asked)
    talk.act(NOON + 1, visit("a"))
    assert [example.item_id for example in talk.examples()] == ["a"]


def test_the_catalogue_survives_a_recovery():
    here = Location(lat=31.2, lon=121.4)
    stage = MemoryStage(items=[("near", Item(domain=DOMAIN, name="n", location=here))])
    talk = Conversation(stage)
    stage.stage.recovered(range(64))
    assert talk.ask(NOON, context=Context(location=here)).items == ["near"]
    stage.stage.put_item("near", None)
    assert talk.ask(NOON + 1, context=Context(location=here)).items == []


def test_processes_that_follow_each_others_item_rows_know_what_one_process_would_know():
    log, together, apart = Log(), MemoryStage(), (MemoryStage(), MemoryStage())
    for number in range(40):
        partition, item = number % 2, "abc"[number % 3]
        record = log.record(USERS_FEEDBACK, NOON + number * HOUR, visit(item), f"user{partition}", partition)
        together.apply(record)
        apart[partition].apply(record)
    for life in (together, *apart):
        life.flush()
    for mine, others in (apart, apart[::-1]):
        for key, value in others.durable[1].items():
            mine.stage.put_item_row(key, value)
        seen, expected = mine.stage.everybody.signals, together.stage.everybody.signals
        assert seen.most_popular(DOMAIN, 4, 3) == expected.most_popular(DOMAIN, 4, 3)
        assert (seen.total(DOMAIN) == expected.total(DOMAIN)).all()
        assert seen.followers(DOMAIN, "a") == expected.followers(DOMAIN, "a")
        for key in others.durable[1]:
            mine.stage.put_item_row(key, None)
        assert seen.total(DOMAIN)[-1] == 20
