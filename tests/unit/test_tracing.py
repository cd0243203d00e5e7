"""Traces go on from hop to hop by the headers of records, name nobody, and are left alone where they are off."""

import json
import time
from dataclasses import replace

import pytest
from memory_stage import MINUTE, NOON, Log, MemoryStage, answer
from typer.testing import CliRunner

from ops.cli import app
from ops.trace_command import Span, drawn, sections, spans_of
from schemas.errors import BadInputError
from schemas.records import Feedback, Request, Source
from schemas.topics import RECOMMENDATIONS, USERS_FEEDBACK, USERS_REQUESTS
from streams.settings import Settings, SettingsError, TracingSettings
from streams.state.traced import StateTraces
from streams.tracing import tracer

PATIENCE_SECONDS = 60


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    return tmp_path / "traces" / "spans.jsonl"


def spans_when(file, count):
    """Return what has been written, once there are so many spans."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not file.exists() or len(file.read_text().splitlines()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return [json.loads(line) for line in file.read_text().splitlines()]


def traced(file, stage="state", share=1.0):
    return tracer(Settings(tracing=TracingSettings(export=str(file), share=share)), stage)


def take(spans, headers, topic=USERS_REQUESTS, *, begins=False):
    return spans.take(topic, 0, 7, headers, begins=begins)


def test_without_a_place_for_spans_nothing_is_traced():
    assert tracer(Settings(), "state") is None


def test_a_file_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"tracing\.export"):
        traced(tmp_path / "file" / "spans.jsonl")


def test_a_hop_goes_on_with_the_trace_of_the_record_before_it(file):
    app, state = traced(file, "app"), traced(file)
    asked = app.begin("ask")
    hop = take(state, asked.headers)
    hop.named("r-1")
    hop.reached("join")
    hop.end()
    asked.end()
    found = {span["name"]: span for span in spans_when(file, 3)}
    assert len({span["context"]["trace_id"] for span in found.values()}) == 1
    assert found["process users.requests"]["parent_id"] == found["ask"]["context"]["span_id"]
    assert found["join"]["parent_id"] == found["process users.requests"]["context"]["span_id"]
    assert found["process users.requests"]["attributes"]["messaging.kafka.offset"] == 7
    assert [span.name for span in spans_of("r-1", file)] == ["ask", "process users.requests", "join"]


def test_traces_begin_for_a_share_and_only_where_they_may(file):
    assert take(traced(file), []) is None
    assert take(traced(file), [], begins=True) is not None
    assert take(traced(file, share=0), [], begins=True) is None


def test_what_an_app_left_out_is_left_out_everywhere(file):
    left_out = traced(file, "app", share=0).begin("ask")
    assert not int(left_out.headers[0][1].split(b"-")[3], 16) & 1  # the flag "sampled"
    assert take(traced(file), left_out.headers, begins=True) is None


@pytest.mark.parametrize("value", [b"", b"\xff\xfe", b"00-0-0-01", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01"])
def test_headers_that_are_none_are_taken_for_none(file, value):
    assert take(traced(file), [("traceparent", value), ("tracestate", b"\xff" * 100_000)]) is None


def test_an_action_goes_on_with_the_trace_of_its_list_and_so_does_its_example(file):
    stage, log, spans = MemoryStage(), Log(), traced(file)
    traces = StateTraces(spans, stage.stage)
    asked = spans.begin("ask")
    joined = stage.apply(
        log.record(USERS_REQUESTS, NOON, Request(request_id="list of user", domain="restaurant"), "user")
    )
    recommended = replace(log.record(RECOMMENDATIONS, NOON, answer(joined, "ab")), headers=asked.headers)
    traces.handling(stage.stage.on_recommendation)(recommended)
    act = traces.handling(stage.stage.on_feedback)
    act(log.record(USERS_FEEDBACK, NOON + MINUTE, Feedback(item_id="a", domain="restaurant", kind="click")))
    (example,) = stage.stage.outbox
    asked.end()
    assert example.source == Source(partition=0, offset=0)
    trace = asked.headers[0][1].split(b"-")[1]
    assert example.headers[0][1].split(b"-")[1] == trace
    found = {span["name"]: span for span in spans_when(file, 3)}
    assert f"0x{trace.decode()}" == found["process users.feedback"]["context"]["trace_id"]
    request_id = found["process recommendations"]["attributes"]["tablecast.request_id"]
    assert request_id.startswith("list of ")
    assert "user" not in request_id


def test_an_action_without_a_traced_list_is_not_traced(file):
    stage, log, spans = MemoryStage(), Log(), traced(file)
    act = StateTraces(spans, stage.stage).handling(stage.stage.on_feedback)
    joined = stage.apply(log.record(USERS_REQUESTS, NOON, Request(request_id="r", domain="restaurant")))
    stage.apply(log.record(RECOMMENDATIONS, NOON, answer(joined, "ab")))
    act(log.record(USERS_FEEDBACK, NOON + MINUTE, Feedback(item_id="a", domain="restaurant", kind="click")))
    assert [list(example.headers) for example in stage.stage.outbox] == [[]]


def test_a_training_run_is_found_by_the_requests_it_learned_from(file):
    state, trainer = traced(file), traced(file, "trainer", share=0)
    hop = take(state, [], begins=True)
    hop.named("r-1")
    hop.end()
    run = trainer.begin("train retraining[0:0-9]")
    trainer.link(run, [hop.headers, [("traceparent", b"nonsense")]])
    run.end()
    spans_when(file, 2)
    assert [span.name for span in spans_of("r-1", file)] == ["process users.requests", "train retraining[0:0-9]"]


def test_the_command_prints_the_hops_and_writes_their_picture(file, tmp_path):
    hop = take(traced(file), [], begins=True)
    hop.named("r-1")
    hop.reached("join")
    hop.end()
    spans_when(file, 2)
    picture = tmp_path / "trace.svg"
    done = CliRunner().invoke(app, ["trace", "r-1", "--spans", str(file), "--svg", str(picture)])
    assert done.exit_code == 0, done.output
    for shown in (done.output, picture.read_text("utf-8").replace("&#160;", " ")):
        assert "process users.requests" in shown
        assert "join" in shown


def test_a_request_that_was_not_traced_is_a_sentence(file):
    take(traced(file), [], begins=True).end()
    spans_when(file, 1)
    with pytest.raises(BadInputError, match="no trace of elsewhere"):
        spans_of("elsewhere", file)


def test_what_comes_later_is_drawn_on_a_scale_of_its_own():
    spans = [
        Span("a", None, "ask", "app", 100.0, 100.05, failed=False),
        Span("b", "a", "process users.requests", "state", 100.01, 100.02, failed=False),
        Span("c", "b", "process users.feedback", "state", 160.0, 160.001, failed=True),
    ]
    assert [[span.id for span in section] for section in sections(spans)] == [["a", "b"], ["c"]]
    table = drawn("r", spans)
    assert list(table.columns[2].cells) == ["0", "10.0 ms", "60.0 s"]
    bars = [str(cell) for cell in table.columns[4].cells]
    assert [bar.count("━") for bar in bars] == [50, 10, 50]
    assert bars[1].startswith(" " * 10)


@pytest.mark.parametrize("line", [b"[]\n", b'{"context": {}}\n', b"hello\n", b"\xff\xfe\n"])
def test_a_file_of_something_else_is_refused_by_name(tmp_path, line):
    file = tmp_path / "spans.jsonl"
    file.write_bytes(line)
    with pytest.raises(BadInputError, match=r"spans\.jsonl"):
        spans_of("r-1", file)
