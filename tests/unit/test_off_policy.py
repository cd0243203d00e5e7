"""Off-policy estimates: their intervals hold the truth of the simulated city, and what can't be known is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from models.exploration import Exploration
from models.off_policy import LoggedLists, NoSupportError, estimate, logged_lists
from ops.bench.off_policy import CANDIDATES, log_lists, measure_coverage, population
from ops.cli import app
from ops.simulator.world import build_world
from schemas.codec import encode
from schemas.errors import BadInputError
from schemas.records import Context, JoinedRequest, Request, Shown, Source, TrainingExample

POLICY = Exploration("epsilon", top=12, epsilon=0.8)


@pytest.fixture(scope="module")
def world():
    return build_world(3, users=300, restaurants=200)


@pytest.fixture(scope="module")
def people(world):
    return population(world, 300, POLICY.top, CANDIDATES["better"])


def test_intervals_hold_the_true_click_rate(people):
    for coverage in measure_coverage(people, POLICY, lists=600, repetitions=30):
        made = coverage.estimates
        assert len(made) == 30
        # 95% intervals; fewer than 25 of 30 happens by chance less than once in 250 such tests.
        assert coverage.figures()["covered"] >= 25
        assert np.mean([e.candidate.value for e in made]) == pytest.approx(coverage.truth, rel=0.1)


def test_a_candidate_that_shows_what_could_not_have_been_shown_is_refused(people):
    beyond = np.where(np.arange(10) % 3 == 0, -1, people.candidate)  # four of ten places show items below the top
    with pytest.raises(NoSupportError, match="could have been shown"):
        estimate(log_lists(replace(people, candidate=beyond), POLICY, 2_000, "x"))


def test_without_exploration_another_list_can_not_be_estimated(people):
    with pytest.raises(NoSupportError, match="canary"):
        estimate(log_lists(people, Exploration(), 500, "x"))


def test_the_logging_policy_itself_gets_its_own_click_rate(people):
    logs = log_lists(people, POLICY, 500, "x")
    same = estimate(LoggedLists(logs.propensity, logs.propensity, logs.clicks, logs.users))
    assert same.candidate.value == pytest.approx(logs.clicks.sum(axis=1).mean())
    assert same.difference.value == pytest.approx(0)
    assert same.difference.high == pytest.approx(0)
    assert same.effective == pytest.approx(500)
    assert (same.support, same.clipped) == (1, 0)


def test_hardly_any_lists_or_hardly_any_weight_is_refused(people):
    with pytest.raises(NoSupportError, match="at least"):
        estimate(log_lists(people, POLICY, 50, "x"))
    with pytest.raises(NoSupportError, match="explore more"):
        estimate(log_lists(people, Exploration("epsilon", top=12, epsilon=0.05), 300, "x"))


def test_lists_of_many_requests_of_one_user_are_worth_less_than_those_of_many_users(people):
    logs = log_lists(people, POLICY, 600, "x")
    clicks = np.zeros_like(logs.clicks)
    clicks[np.repeat(np.arange(60) % 2 == 0, 10), 0] = 1  # whole users click or do not
    alone = estimate(LoggedLists(logs.propensity, logs.propensity, clicks, np.arange(600)))
    together = estimate(LoggedLists(logs.propensity, logs.propensity, clicks, np.repeat(np.arange(60), 10)))
    width = [one.candidate.high - one.candidate.low for one in (alone, together)]
    assert width[1] == pytest.approx(width[0] * np.sqrt(10), rel=0.05)


def example(number: int, shown: dict[int, float], action: str = "none") -> tuple[str, TrainingExample]:
    joined = JoinedRequest(
        request=Request(request_id=f"r{number}", domain="restaurant", k=3),
        event_time=number,
        source=Source(partition=0, offset=number),
        context=Context(),
    )
    entries = [Shown(item_id="abc"[p], position=p, propensity=0.5, label=label) for p, label in shown.items()]
    raw = TrainingExample(
        example_id=f"{number}{action}", request_id=f"r{number}", model="m@1", joined=encode(joined), shown=entries,
        action=action,
    )  # fmt: skip
    return f"user{number % 2}", raw


def test_examples_of_one_list_are_put_together():
    logs = logged_lists(
        [
            example(1, {0: 0.2, 1: 0.0, 2: 0.0}, "click"),
            example(1, {0: 0.0, 1: 0.0, 2: 1.0}, "visit"),
            example(2, {0: 0.0, 1: 0.0, 2: 0.0}),
        ],
        lambda joined: ["a", "c", "b"] if joined.request.request_id == "r1" else ["a", "b", "c"],
    )
    assert logs.clicks.tolist() == [[1, 0, 1], [0, 0, 0]]
    assert logs.target.tolist() == [[1, 0, 0], [1, 1, 1]]
    assert logs.users.tolist() == [0, 1]
    assert logs.whole


def test_lists_that_stop_where_the_user_stopped_looking_have_only_the_plain_estimate():
    examples = [example(number, {0: float(number % 2)} if number % 3 else {0: 0.0, 1: 0.0}) for number in range(300)]
    logs = logged_lists(examples, lambda _: ["a", "b", "c"])
    assert not logs.whole
    assert estimate(logs, "ips").lists == 300
    with pytest.raises(BadInputError, match="ips alone"):
        estimate(logs, "snips")


def test_arrays_that_do_not_fit_and_impossible_propensities_are_refused():
    ones = np.ones((200, 3))
    with pytest.raises(BadInputError, match="shape"):
        LoggedLists(ones, ones[:, :2], ones, np.arange(200))
    with pytest.raises(BadInputError, match="probability"):
        LoggedLists(ones * 0, ones, ones, np.arange(200))
    with pytest.raises(BadInputError, match="click model"):
        estimate(LoggedLists(ones, ones, ones, np.arange(200)), "dr")


def test_the_command_prints_its_figures():
    arguments = ["bench", "off-policy", "--repetitions", "2", "--lists", "200", "--method", "epsilon", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert {row["estimator"] for row in json.loads(result.stdout)} == {"ips", "snips", "dr"}
