"""Drift: says which input moved, and keeps quiet where nothing has."""

import re

import msgspec
import numpy as np
import pytest

from models.drift import LEAST_EXAMPLES, Observation, Reference, drift, observation, reference_of, windows
from schemas.codec import encode
from schemas.records import (
    Context,
    Item,
    JoinedRequest,
    Location,
    Request,
    Shown,
    Source,
    TrainingExample,
)

DAY = 86_400_000


def observations(seed, count=2_000, *, chinese=0.5, price=100.0, clicks=0.3, promised=0.3):
    rng = np.random.default_rng(seed)
    return [
        Observation(
            time=int(rng.integers(DAY)),
            inputs={
                "language": ["zh" if rng.random() < chinese else "en"],
                "hour": [str(rng.integers(24))],
                "price": (price * rng.lognormal(size=3)).tolist(),
            },
            clicked=(rng.random(5) < clicks).tolist(),
            predicted=np.clip(rng.normal(promised, promised / 15, 5), 0, 1).tolist(),
        )
        for _ in range(count)
    ]


REFERENCE = reference_of(observations(0))


def moved(report):
    return {check.name for check in report.checks if check.moved}


@pytest.mark.parametrize("count", [LEAST_EXAMPLES, 500, 2_000])
def test_nothing_moves_by_chance(count):
    found = [moved(drift(REFERENCE, observations(seed, count))) for seed in range(1, 13)]
    assert sum(map(bool, found)) <= 1  # by chance one window in 200


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"chinese": 0.9}, {"language"}),
        ({"price": 250.0}, {"price"}),
        ({"clicks": 0.2}, {"click rate", "calibration"}),
        ({"promised": 0.4}, {"calibration"}),
    ],
)
def test_the_report_names_what_moved_first(change, names):
    report = drift(REFERENCE, observations(1, 1_000, **change))
    assert moved(report) == names
    assert report.moved
    assert {check.name for check in report.checks[: len(names)]} == names


def test_a_promise_of_few_clicks_is_held_against_few_clicks():
    """What is off by a third is found where one item in thirty is clicked, too; chance is not."""
    reference = reference_of(observations(0, 8_000, clicks=0.03, promised=0.03))
    same = drift(reference, observations(1, 8_000, clicks=0.03, promised=0.03))
    fewer = drift(reference, observations(1, 8_000, clicks=0.03, promised=0.045))
    assert moved(same) == set()
    assert moved(fewer) == {"calibration"}
    (told,) = [check.sentence for check in fewer.checks if check.moved]
    assert re.match(r"4\.[45]\d% of what is shown was expected to be clicked, (2\.9|3\.0)\d% was; ", told), told


def test_equal_promises_are_not_told_apart_by_what_came_of_them():
    equal = [msgspec.structs.replace(one, predicted=[0.3] * len(one.clicked)) for one in observations(1)]
    assert reference_of(equal).calibration_error == pytest.approx(0, abs=0.03)


def test_without_promises_nothing_is_said_of_them():
    unpromised = [msgspec.structs.replace(one, predicted=[]) for one in observations(1)]
    assert "calibration" not in {check.name for check in drift(REFERENCE, unpromised).checks}
    assert "calibration" not in {check.name for check in drift(reference_of(unpromised), observations(1)).checks}


def test_a_word_that_training_never_saw_counts_as_other():
    strange = [msgspec.structs.replace(o, inputs={"language": ["ja"]}) for o in observations(1, 500)]
    checks = {check.name: check for check in drift(REFERENCE, strange).checks}
    assert checks["language"].moved
    assert "other went from 0.0% to" in checks["language"].sentence


def test_too_few_examples_say_nothing():
    report = drift(REFERENCE, observations(1, LEAST_EXAMPLES - 1, chinese=1.0))
    assert (report.checks, report.moved, report.examples) == ([], False, LEAST_EXAMPLES - 1)


def test_the_hour_says_nothing_where_less_than_a_day_was_seen():
    morning = [
        msgspec.structs.replace(o, time=o.time // 4, inputs=o.inputs | {"hour": [str(o.time // 4 // 3_600_000)]})
        for o in observations(1, 500)
    ]
    assert "hour" in {check.name for check in drift(REFERENCE, observations(1, 500)).checks}
    assert "hour" not in {check.name for check in drift(REFERENCE, morning).checks}
    assert "hour" not in {check.name for check in drift(reference_of(morning), observations(1, 500)).checks}


def test_a_reference_survives_a_manifest():
    assert msgspec.json.decode(msgspec.json.encode(REFERENCE), type=Reference) == REFERENCE


def test_windows_are_of_event_time():
    seen = [Observation(time, {}, []) for time in (DAY * 2 + 5, 3, DAY - 1, DAY)]
    assert {start: [one.time for one in part] for start, part in windows(seen, DAY).items()} == {
        0: [3, DAY - 1],
        DAY: [DAY],
        2 * DAY: [DAY * 2 + 5],
    }
    report = drift(REFERENCE, [msgspec.structs.replace(o, time=o.time + DAY) for o in observations(1, 300)])
    assert DAY <= report.start < report.end <= 2 * DAY


def test_inputs_are_read_from_the_joined_request_and_what_was_shown():
    here = Location(lat=31.2, lon=121.5)
    joined = JoinedRequest(
        request=Request(request_id="r", domain="restaurant", text="安静的川菜"),
        event_time=20 * 3_600_000,  # Thursday, 20:00 in UTC, Friday 04:00 in Shanghai
        source=Source(partition=0, offset=0),
        context=Context(location=here, time_zone="Asia/Shanghai", weather="rain"),
    )
    raw = TrainingExample(
        example_id="e", request_id="r", model="m@1", joined=msgspec.Raw(encode(joined)), action="click",
        shown=[
            Shown(item_id="a", position=0, propensity=1, label=0.2),
            Shown(item_id="gone", position=1, propensity=1, label=0),
        ],
    )  # fmt: skip
    items = {"a": Item(domain="restaurant", name="A", categories=["x", "y"], price=80, location=here)}
    seen = observation(raw, items, scores=[2.0, 1.0])
    assert seen.clicked == [True, False]
    expected = {"hour": ["4"], "weekend": ["False"], "language": ["zh"], "weather": ["rain"], "shown price": [80.0],
                "shown category": ["x"], "shown distance": [0.0], "score": [2.0, 1.0],
                "device": ["unknown"]}  # fmt: skip
    assert {name: seen.inputs[name] for name in expected} == expected
