"""What is counted of a batch."""

import pytest
from prometheus_client import REGISTRY

from models.pseudonyms import Pseudonyms
from schemas.codec import DecodeError
from schemas.records import Recommendation, Source, Timings
from schemas.topics import USERS_REQUESTS
from streams import metrics
from streams.deadletters import dead_letter

SOURCE = Source(partition=0, offset=0)


@pytest.fixture
def change():
    """Return a function that tells by how much a sample has grown since the first question."""
    before = {}

    def grown(name, **labels):
        value = REGISTRY.get_sample_value(name, labels) or 0
        return value - before.setdefault((name, *labels.values()), value)

    return grown


def answer(model="m@1", degraded=None):
    timings = Timings(received=1_010, joined=1_020, consumed=1_040, encoded=1_080, ranked=1_100)
    return Recommendation(
        request_id="r", domain="shop", model=model, items=[], source=SOURCE, degraded=degraded, timings=timings
    )


def test_the_phases_of_an_answer_add_up_to_its_whole_time_and_that_before_it(change):
    phases = ("arrive", "join", "hand over", "encode", "rank", "publish")
    for phase in phases:
        change("tablecast_phase_seconds_sum", phase=phase)
    change("tablecast_answer_seconds_sum")
    metrics.answered([(1_000, answer())], durable_at=1_107)
    spent = [change("tablecast_phase_seconds_sum", phase=phase) for phase in phases]
    assert spent == pytest.approx([0.010, 0.010, 0.020, 0.040, 0.020, 0.007], abs=1e-5)
    assert change("tablecast_answer_seconds_sum") == pytest.approx(sum(spent[1:]), abs=1e-5)


def test_clocks_that_disagree_make_no_negative_times(change):
    change("tablecast_phase_seconds_sum", phase="arrive")
    metrics.answered([(9_000, answer())], durable_at=1_107)
    assert change("tablecast_phase_seconds_sum", phase="arrive") == 0


def test_answers_are_counted_by_model_and_degraded_ones_apart(change):
    names = [("tablecast_answers_total", {"model": "a@1"}), ("tablecast_answers_total", {"model": "b@2"})]
    names.append(("tablecast_answers_degraded_total", {}))
    for name, labels in names:
        change(name, **labels)
    metrics.answered([(0, answer("a@1")), (0, answer("b@2", "overloaded")), (0, answer("a@1"))], durable_at=2_000)
    assert [change(name, **labels) for name, labels in names] == [2, 1, 1]


def test_a_batch_is_noted_once_with_its_share_of_the_token_limit(change):
    for name in ("tablecast_batch_requests_count", "tablecast_batch_requests_sum", "tablecast_batch_token_fill_sum"):
        change(name)
    metrics.batch_taken(12, 512, 2048)
    assert change("tablecast_batch_requests_count") == 1
    assert change("tablecast_batch_requests_sum") == 12
    assert change("tablecast_batch_token_fill_sum") == 0.25


def test_a_dead_letter_is_counted_by_topic_and_class_of_error_and_names_nobody(change):
    labels = {"topic": "users.requests", "error": "DecodeError"}
    change("tablecast_dead_letters_total", **labels)
    dead_letter(
        "state", DecodeError("no map"), Pseudonyms((b"a key of tests only",)),
        topic=USERS_REQUESTS, name="users.requests", partition=0, offset=0, timestamp=0, key=b"somebody", value=b"",
    )  # fmt: skip
    assert change("tablecast_dead_letters_total", **labels) == 1


def test_topics_that_nothing_was_read_from_yet_are_there_with_zero():
    assert REGISTRY.get_sample_value("tablecast_records_read_total", {"topic": "users.feedback"}) is not None


def test_the_first_model_that_is_refused_is_an_increase(change):
    labels = {"role": "canary", "outcome": "refused"}
    assert REGISTRY.get_sample_value("tablecast_model_changes_total", labels) is not None
    change("tablecast_model_changes_total", **labels)
    metrics.model_changed("canary", "refused")
    assert change("tablecast_model_changes_total", **labels) == 1
