"""One request's trace, from the app that begins it to the training example, across all stages."""

import asyncio
import json
import time
import uuid

import pytest

from ops.bench.deployment import end_offsets, next_record, reading
from ops.trace_command import spans_of
from schemas.codec import decode, encode
from schemas.records import Feedback, Recommendation, Request, TrainingExample
from schemas.topics import RECOMMENDATIONS, RETRAINING, USERS_FEEDBACK, USERS_REQUESTS
from streams.kafka import full_name
from streams.tracing import span_file, tracer

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="session")]

PATIENCE_SECONDS = 60
USER = "traced-user"


async def matching(deployment, topic, kind, start, wanted):
    """Return the record after ``start`` that is the one wanted, and what it says."""
    async with asyncio.timeout(PATIENCE_SECONDS), reading(deployment, topic, start) as consumer:
        while True:
            record = await next_record(deployment, consumer, topic.name)
            value = decode(kind, record.value)
            if value.request_id == wanted:
                return record, value


async def post(deployment, topic, value, headers=None):
    name = full_name(deployment.settings.kafka, topic)
    now = time.time_ns() // 1_000_000
    await deployment.producer.send_and_wait(name, encode(value), USER.encode(), timestamp_ms=now, headers=headers)


async def test_a_request_is_one_trace_from_the_app_to_the_training_example(deployment):
    answers, examples = await end_offsets(deployment, RECOMMENDATIONS), await end_offsets(deployment, RETRAINING)
    asked = tracer(deployment.settings, "trainer").begin("ask")  # which is always sampled, as an app's may be
    request_id = uuid.uuid4().hex
    request = Request(request_id=request_id, domain="restaurant", text="安静一点的川菜")
    await post(deployment, USERS_REQUESTS, request, asked.headers)
    answered, answer = await matching(deployment, RECOMMENDATIONS, Recommendation, answers, request_id)
    asked.end()
    # An app that knows nothing of traces: its click goes on with the trace of the list.
    chosen = answer.items[0].item_id
    click = Feedback(item_id=chosen, domain="restaurant", kind="click", request_id=request_id)
    await post(deployment, USERS_FEEDBACK, click)
    learned, _ = await matching(deployment, RETRAINING, TrainingExample, examples, request_id)

    trace = asked.headers[0][1].split(b"-")[1]
    for record in (answered, learned):
        assert dict(record.headers)["traceparent"].split(b"-")[1] == trace

    file = span_file(deployment.settings)
    hops = {"ask", *(f"process {name}" for name in ("users.requests", "requests.joined", "recommendations"))}
    hops |= {"process users.feedback"}
    phases = {"grace", "join", "tokenize", "queue", "encode", "rank", "publish"}
    async with asyncio.timeout(PATIENCE_SECONDS):  # spans are sent every few seconds
        while {span["name"] for span in written(file, trace)} < hops | phases:
            await asyncio.sleep(0.2)
    spans = spans_of(request_id, file)
    assert {span.name for span in spans} == hops | phases
    assert not any(span.failed for span in spans)
    assert USER not in file.read_text("utf-8")


def written(file, trace):
    lines = [line for line in file.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return [span for span in map(json.loads, lines) if span["context"]["trace_id"] == f"0x{trace.decode()}"]
