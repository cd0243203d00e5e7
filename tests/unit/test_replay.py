"""A replay's pure parts: what is selected, in which order it comes, how answers compare; and where it may write."""

import socket
from types import SimpleNamespace

import msgspec
import pytest
from aiokafka import TopicPartition

from ops.recorded import Range, by_event_time
from ops.replay.comparing import Comparison, catalogue_difference, state_difference, verdict_of
from ops.replay.run import ForeignTopicError, IsolatedProducer, Plan, own_settings
from ops.replay.selection import Selection
from schemas.codec import encode
from schemas.records import Context, History, JoinedRequest, Recommendation, RecommendedItem, Request, Source, Timings
from streams.settings import KafkaSettings, MetricsSettings, Settings

REQUEST = Request(request_id="r1", domain="restaurant")
JOINED = JoinedRequest(request=REQUEST, event_time=5, source=Source(partition=0, offset=3), context=Context())


def answer(*items, model="m@1", offset=3, ranked=0, degraded=None):
    return Recommendation(
        request_id="r1", domain="restaurant", model=model, source=Source(partition=0, offset=offset), degraded=degraded,
        items=[RecommendedItem(item_id=item, score=score) for item, score in items], timings=Timings(ranked=ranked),
    )  # fmt: skip


A, B, C = ("a", 2.0), ("b", 1.0), ("c", 0.5)


class Reader:
    """A consumer of records in memory, which gives away at most two at a time."""

    def __init__(self, logs):
        self.logs, self.positions = logs, {}

    def assign(self, partitions):
        self.positions = dict.fromkeys(partitions, 0)

    def assignment(self):
        return self.positions.keys()

    def seek(self, partition, offset):
        self.positions[partition] = offset

    async def position(self, partition):
        return self.positions[partition]

    async def getmany(self, partition, timeout_ms, max_records):
        found = [record for record in self.logs[partition] if record.offset >= self.positions[partition]][:2]
        if found:
            self.positions[partition] = found[-1].offset + 1
        return {partition: found} if found else {}


def log(topic, *times):
    partition = TopicPartition(topic, 0)
    return partition, [
        SimpleNamespace(topic=topic, partition=0, offset=offset, timestamp=time) for offset, time in enumerate(times)
    ]


async def order(ranges, *logs):
    return [(record.topic, record.timestamp) async for record in by_event_time(Reader(dict(logs)), ranges)]


async def test_topics_come_merged_by_event_time_and_at_one_time_in_the_order_they_are_named():
    context, requests = log("context", 1, 3, 3, 7), log("requests", 2, 3, 6)
    found = await order({context[0]: Range(0, 4), requests[0]: Range(0, 3)}, context, requests)
    assert found == [
        ("context", 1), ("requests", 2), ("context", 3), ("context", 3), ("requests", 3), ("requests", 6),
        ("context", 7),
    ]  # fmt: skip


async def test_a_late_record_stays_behind_the_newer_one_in_its_partition():
    late, other = log("late", 5, 1, 6), log("other", 2, 4)
    found = await order({late[0]: Range(0, 3), other[0]: Range(0, 2)}, late, other)
    assert found == [("other", 2), ("other", 4), ("late", 5), ("late", 1), ("late", 6)]


async def test_only_the_range_is_read():
    one = log("one", 1, 2, 3, 4)
    assert await order({one[0]: Range(1, 3)}, one) == [("one", 2), ("one", 3)]
    assert await order({one[0]: Range(2, 2)}, one) == []


@pytest.mark.parametrize(
    ("selection", "taken"),
    [
        (Selection(), True),
        (Selection(since=5, until=6), True),
        (Selection(since=6), False),
        (Selection(until=5), False),
        (Selection(offsets=(7, 8)), True),
        (Selection(offsets=(8, 9)), False),
        (Selection(users={"u"}), True),
        (Selection(users={"v"}), False),
        (Selection(request_ids={"r1"}), True),
        (Selection(request_ids={"r2"}), False),
    ],
)
@pytest.mark.parametrize(("source", "value"), [("raw", encode(REQUEST)), ("joined", encode(JOINED))])
def test_requests_are_selected_by_time_offset_user_and_id(selection, taken, source, value):
    assert selection.takes(source, 7, 5, b"u", value) is taken


@pytest.mark.parametrize("value", [None, b"", b"\xc1", b"\x93\x01", b"\x81" * 5000])
def test_hostile_bytes_have_no_request_id(value):
    assert not Selection(request_ids={"r1"}).takes("raw", 7, 5, b"\xff", value)
    assert Selection().takes("raw", 7, 5, None, value)


@pytest.mark.parametrize(
    ("then", "now", "verdict"),
    [
        (answer(A, B, ranked=1), answer(A, B, ranked=9), "identical"),
        (answer(A, B, offset=3), answer(A, B, offset=90), "identical"),
        (answer(A, B), answer(("a", 2.0000001), B), "rescored"),
        (answer(A, B), answer(B, A), "reordered"),
        (answer(A, B), answer(A, C), "different"),
        (answer(A), None, "not answered now"),
        (None, answer(A), "not answered then"),
    ],
)
def test_only_timings_may_differ_between_identical_answers(then, now, verdict):
    assert verdict_of(then, now) == verdict


def test_a_comparison_counts_explains_and_keeps_few_examples():
    comparison = Comparison()
    for _ in range(20):
        comparison.add(answer(A, B), answer(A, C, model="m@2"), request_id="r1")
    comparison.add(answer(A), answer(A, degraded="overloaded"), request_id="r2")
    comparison.add(
        answer(A), answer(("a", 3.0), degraded="no location"), request_id="r3", state="its state: another context"
    )
    comparison.add(answer(A), answer(A), request_id="r4")
    assert comparison.verdicts == {"different": 20, "rescored": 2, "identical": 1}
    assert comparison.reasons["another model"] == 20
    assert comparison.reasons["its state: another context"] == 1
    assert comparison.reasons["then a full answer, now overloaded"] == 1
    assert comparison.kept == 20 * 0.5 + 3
    assert len([example for example in comparison.examples if example.verdict == "different"]) == 5
    assert next(example for example in comparison.examples if example.request_id == "r3").largest_score_change == 1.0


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"received_at": 9, "joined_at": 9, "source": Source(partition=1, offset=1)}, None),
        ({"context": Context(weather="rain")}, "context"),
        ({"history": History(item=[0], kind=[0], time=[1], session=[0]), "items": ["x"]}, "history"),
        ({"items": ["x"]}, "counts"),
    ],
)
def test_what_a_request_saw_is_compared_apart_from_where_and_when_it_lay(change, word):
    found = state_difference(JOINED, msgspec.structs.replace(JOINED, **change))
    assert found is None if word is None else word in found


def test_a_change_of_the_catalogue_explains_only_what_came_before_it():
    assert "listed" in catalogue_difference({"a": 10}, 5, answer(A), None)
    assert "an item" in catalogue_difference({"z": 10}, 5, answer(A))
    assert catalogue_difference({"a": 4}, 5, answer(A)) is None


@pytest.mark.parametrize("topic", ["recommendations", "users.requests", "live.replay-x.recommendations"])
async def test_a_replay_writes_to_no_topic_but_its_own(topic):
    producer = IsolatedProducer("replay-x.", bootstrap_servers="127.0.0.1:1")
    with pytest.raises(ForeignTopicError, match=r"replay-x\."):
        await producer.send(topic, b"value")
    with pytest.raises(ForeignTopicError, match=r"replay-x\."):
        await producer.send_and_wait(topic, b"value")


async def test_a_replay_without_a_prefix_is_refused():
    with pytest.raises(ForeignTopicError):
        IsolatedProducer("", bootstrap_servers="127.0.0.1:1")


def test_the_stages_of_a_replay_share_no_topic_group_or_file_with_the_system(tmp_path):
    live = Settings(kafka=KafkaSettings(prefix="live."))
    own = own_settings(live, Plan("x", "raw", Selection(), model="base"), tmp_path)
    assert own.kafka.prefix == "live.replay-x."
    assert own.kafka.keep_history
    assert own.data_dir == tmp_path
    assert own.inference.model == "base"
    assert own.model_store == live.model_store


def test_a_replay_beside_a_running_system_serves_its_metrics_elsewhere(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        live = Settings(metrics=MetricsSettings(port=port))
        own = own_settings(live, Plan("x", "joined", Selection()), tmp_path)
    assert own.metrics.port > port
    assert own_settings(Settings(), Plan("x", "joined", Selection()), tmp_path).metrics.port is None
