"""What a stage measures of itself, for Prometheus; ``health`` serves it.

Labels are bound once, and what concerns a batch is counted once for the batch: measuring must cost nothing that a
request would notice. Which stage a series is of, Prometheus knows by its job.
"""

import ctypes
from collections.abc import Iterable
from functools import partial
from typing import Literal, get_args

from prometheus_client import Counter, Gauge, Histogram

from schemas.records import Recommendation, Timings
from schemas.topics import TOPICS

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 10)
_REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_SHARE = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1)
_NVML = "libnvidia-ml.so.1"

_read = Counter("tablecast_records_read", "Records read, by topic.", ["topic"])
_published = Counter("tablecast_records_published", "Records published, by topic.", ["topic"])
_dead_letters = Counter("tablecast_dead_letters", "Dead letters, by topic and class of error.", ["topic", "error"])

LAG_RECORDS = Gauge("tablecast_lag_records", "Records of a topic that are not processed yet.", ["topic"])
LAG_SECONDS = Gauge(
    "tablecast_lag_seconds", "Age, by event time, of the newest record processed; 0 without lag.", ["topic"]
)
CAUGHT_UP_SECONDS = Gauge(
    "tablecast_recovery_seconds", "From the start, or the last rebalance, until what was there had been processed."
)
READY = Gauge("tablecast_ready", "1 when caught up, with tables, catalogue and model in memory.")
QUEUE_LENGTH = Gauge("tablecast_queue_length", "Entries that wait in memory, by queue.", ["queue"])
TABLE_ROWS = Gauge("tablecast_table_rows", "Rows of a table in this process.", ["table"])

_answers = Counter("tablecast_answers", "Recommendations published, by model version.", ["model"])
_degraded = Counter("tablecast_answers_degraded", "Recommendations that are cheaper or poorer than they could be.")
_models = Counter("tablecast_model_changes", "Models that took a role over, or could not.", ["role", "outcome"])
_answer_seconds = Histogram(
    "tablecast_answer_seconds", "From the request's arrival until its recommendation is durable.", buckets=_SECONDS
)
_phase_seconds = Histogram("tablecast_phase_seconds", "The phases of an answer.", ["phase"], buckets=_SECONDS)
_batch_requests = Histogram("tablecast_batch_requests", "Requests in a batch.", buckets=_REQUESTS)
_batch_fill = Histogram("tablecast_batch_token_fill", "Tokens in a batch, as a share of the limit.", buckets=_SHARE)
_gpu_memory = Gauge("tablecast_gpu_memory_used_bytes", "Memory in use on a GPU, by all its processes.", ["gpu"])

RunOutcome = Literal["passed", "not passed", "nothing to learn", "given up"]
TRAINING_WAITING = Gauge("tablecast_training_examples_waiting", "Examples since the last training, where it is led.")
_runs = Counter("tablecast_training_runs", "Trainings, by what came of them.", ["outcome"])
_run_phase_seconds = Gauge("tablecast_training_phase_seconds", "How long a phase of training took last.", ["phase"])
_run_ended = Gauge("tablecast_training_ended_timestamp_seconds", "When the last training ended, since 1970.")

for _came in get_args(RunOutcome):
    _runs.labels(_came)
for _role in ("champion", "canary", "shadow"):
    for _outcome in ("swapped", "refused"):
        _models.labels(_role, _outcome)  # there from the start, so that the first one is an increase
_read_of = {topic.name: _read.labels(topic.name) for topic in TOPICS}
_published_of = {topic.name: _published.labels(topic.name) for topic in TOPICS}
# posted -> received -> joined -> consumed -> encoded -> ranked -> durable
_phases = [_phase_seconds.labels(phase) for phase in ("arrive", "join", "hand over", "encode", "rank", "publish")]


def records_read(topic: str, count: int) -> None:
    """Count records of a topic, named as in the contract."""
    _read_of[topic].inc(count)


def records_published(topic: str, count: int = 1) -> None:
    """Count records that the broker was given, by topic as in the contract."""
    _published_of[topic].inc(count)


def dead_letter_written(topic: str, error: str) -> None:
    """Count a dead letter; ``error`` is the name of an exception's class."""
    _dead_letters.labels(topic, error).inc()


def batch_taken(requests: int, tokens: int, most_tokens: int) -> None:
    """Note the size of a batch that goes to the encoder."""
    _batch_requests.observe(requests)
    _batch_fill.observe(tokens / most_tokens)


def answered(answers: Iterable[tuple[int, Recommendation]], durable_at: int) -> None:
    """Note recommendations, each with its event time, that are durable since ``durable_at``; milliseconds since 1970.

    The phase "arrive" is from the event time on: it holds the app's clock, and means nothing for recorded history.
    """
    degraded, models = 0, dict[str, int]()
    for event_time, answer in answers:
        moments = _moments(event_time, answer.timings or Timings(), durable_at)
        for phase, start, end in zip(_phases, moments, moments[1:], strict=False):
            phase.observe(max(0, end - start) / 1000)
        _answer_seconds.observe(max(0, durable_at - moments[1]) / 1000)
        degraded += answer.degraded is not None
        models[answer.model] = models.get(answer.model, 0) + 1
    _degraded.inc(degraded)
    for model, count in models.items():
        _answers.labels(model).inc(count)


def model_changed(role: str, outcome: Literal["swapped", "refused"]) -> None:
    """Count a model that took a role over, or could not."""
    _models.labels(role, outcome).inc()


def phase_ended(phase: str, seconds: float) -> None:
    """Note how long a phase of training took."""
    _run_phase_seconds.labels(phase).set(seconds)


def run_ended(outcome: RunOutcome) -> None:
    """Count a training."""
    _runs.labels(outcome).inc()
    _run_ended.set_to_current_time()


def _moments(event_time: int, timings: Timings, durable_at: int) -> tuple[int, ...]:
    return (
        event_time, timings.received, timings.joined, timings.consumed, timings.encoded, timings.ranked, durable_at,
    )  # fmt: skip


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


def watch_gpus() -> None:
    """Have the memory of each NVIDIA GPU measured at every scrape, by the driver's library; without one, nothing."""
    try:
        driver = ctypes.CDLL(_NVML)
    except OSError:
        return
    count = ctypes.c_uint()
    if driver.nvmlInit_v2() or driver.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return

    def used(number: int) -> float:
        device, memory = ctypes.c_void_p(), _Memory()
        driver.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(device))
        driver.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory))
        return float(memory.used)

    for number in range(count.value):
        _gpu_memory.labels(str(number)).set_function(partial(used, number))
