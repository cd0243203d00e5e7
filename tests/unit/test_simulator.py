"""The simulated city: the same for the same seed, within the contract, and true to its choice model."""

import hashlib
import itertools
import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from models.dataset import read_dataset
from ops.simulate_command import simulate
from ops.simulator.choice import (
    CLICK_OFFSET,
    SCROLLING,
    click_probabilities,
    click_probability,
    examination,
    react,
    utility,
)
from ops.simulator.city import SLOT_MINUTES, slot_of
from ops.simulator.dataset import write_city
from ops.simulator.events import catalogue, events, history
from ops.simulator.poison import FAR_FUTURE_MS, POISONS, poison, posting
from ops.simulator.vocabulary import CUISINES
from ops.simulator.world import build_world, moment_of, weather_at
from schemas.codec import DecodeError, decode, decode_key, encode
from schemas.domains import UnknownDomainError, pack_for
from schemas.errors import BadInputError
from schemas.records import Context, Request
from schemas.topics import USERS_CONTEXT, USERS_FEEDBACK, USERS_REQUESTS

START_MS = 1_788_220_800_000  # Tuesday 2026-09-01, 08:00 in Shanghai
DAY_MS = 86_400_000
USERS, RESTAURANTS = 300, 400


@pytest.fixture(scope="module")
def world():
    return build_world(7, users=USERS, restaurants=RESTAURANTS)


@pytest.fixture(scope="module")
def week(world):
    """A week of events, about 3,000 requests."""
    return list(events(world, START_MS, 3_000 / 7 / 86_400, until_ms=START_MS + 7 * DAY_MS))


@pytest.fixture(scope="module")
def requests(week):
    return [event.record for event in week if isinstance(event.record, Request)]


def digest(stream) -> str:
    total = hashlib.sha256()
    for event in stream:
        total.update(f"{event.time_ms} {event.topic.name} {event.key} ".encode() + encode(event.record))
    return total.hexdigest()


def first_events_digest(seed: int) -> str:
    world = build_world(seed, users=USERS, restaurants=RESTAURANTS)
    return digest(itertools.chain(catalogue(world, START_MS), itertools.islice(events(world, START_MS, 20), 5_000)))


class TestSameSeedSameEvents:
    def test_in_another_process_with_another_hash_seed(self):
        code = "from test_simulator import first_events_digest; print(first_events_digest(7))"
        environment = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": str(Path(__file__).parent)}
        other = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
        ).stdout.strip()
        assert other == first_events_digest(7)

    def test_another_seed_differs(self):
        assert first_events_digest(7) != first_events_digest(8)

    def test_history_repeats(self, world):
        first, second = (digest(history(world, START_MS, days=3)) for _ in range(2))
        assert first == second

    def test_reactions_are_a_function_of_request_and_list(self, world, requests):
        again = build_world(7, users=USERS, restaurants=RESTAURANTS)
        for request in requests[:50]:
            shown = random.Random(request.request_id).sample(world.city.ids, 10)
            assert react(world, request.request_id, shown) == react(again, request.request_id, shown)


class TestContract:
    def test_every_record_decodes_to_what_was_posted(self, world, week):
        for event in [*catalogue(world, START_MS), *week, *history(world, START_MS, days=1)]:
            assert decode(event.topic.record, encode(event.record)) == event.record
            assert decode_key(event.key.encode()) == event.key

    def test_event_times_never_go_back_and_each_request_follows_its_context(self, week):
        for before, event in itertools.pairwise(week):
            assert before.time_ms <= event.time_ms
            if event.topic is USERS_REQUESTS:
                assert (before.topic, before.key, before.time_ms) == (USERS_CONTEXT, event.key, event.time_ms)

    def test_request_ids_are_unique(self, requests):
        assert len({request.request_id for request in requests}) == len(requests)

    def test_the_domain_pack_has_words_for_what_contexts_say(self, week):
        pack = pack_for("restaurant")
        contexts = [event.record for event in week if event.topic is USERS_CONTEXT]
        words = pack.phrases["en"].context
        assert {context.company for context in contexts} == set(words["company"])
        assert {context.fields["daypart"] for context in contexts} == set(words["daypart"])
        assert {context.weather for context in contexts} <= {*words["weather"], "cloudy"}


class TestRequests:
    def test_the_rate_is_what_was_asked_for(self, requests):
        assert len(requests) == pytest.approx(3_000, abs=4 * math.sqrt(3_000))

    def test_a_day_has_its_rhythm(self, requests):
        hours = Counter(slot_of(int(request.request_id.split("-")[2])) // 2 % 24 for request in requests)
        assert hours[12] + hours[18] > 5 * (hours[3] + hours[4])

    def test_texts_come_in_both_languages_in_many_forms_and_some_are_empty(self, requests):
        texts = [request.text for request in requests]
        spoken = [text for text in texts if text]
        chinese = sum(any("\u4e00" <= letter <= "\u9fff" for letter in text) for text in spoken)
        assert 0.4 < chinese / len(spoken) < 0.8
        assert 0.12 < texts.count("") / len(texts) < 0.18
        assert len(set(spoken)) > 0.7 * len(spoken)
        assert not any("{" in text for text in spoken)

    def test_what_is_said_about_the_cuisine_is_what_is_wanted(self, world, requests):
        named = {cuisine.wanted_zh: cuisine for cuisine in CUISINES if len(cuisine.wanted_zh) > 1}
        seen = 0
        for request in requests:
            for words, cuisine in named.items():
                if request.text in (words, f"想吃{words}", f"推荐个{words}"):
                    assert CUISINES[moment_of(world, request.request_id).cuisine] == cuisine
                    seen += 1
        assert seen > 20

    def test_some_have_hard_constraints(self, requests):
        assert 0.15 < sum(request.constraints is not None for request in requests) / len(requests) < 0.25

    def test_weather_changes_by_the_hour_and_not_within_it(self, world):
        hours = [weather_at(world, START_MS + hour * 3_600_000) for hour in range(24 * 30)]
        assert len({weather for weather, _ in hours}) >= 3
        assert weather_at(world, START_MS) == weather_at(world, START_MS + 3_599_999)


class TestCity:
    def test_has_many_kinds_of_places_named_and_described_in_both_languages(self, world):
        items = list(world.city.items.values())
        assert len(items) == RESTAURANTS
        assert len({item.categories[0] for item in items}) > 25
        assert len({item.text for item in items}) > 0.95 * len(items)
        for texts in ([item.name for item in items], [item.text for item in items]):
            has_chinese = [any("\u4e00" <= letter <= "\u9fff" for letter in text) for text in texts]
            has_english = [any("a" <= letter <= "z" for letter in text) for text in texts]
            kinds = Counter(zip(has_chinese, has_english, strict=True))
            assert min(kinds[True, False], kinds[False, True], kinds[True, True]) > 0.05 * len(items)

    def test_prices_spread_from_a_breakfast_to_a_feast(self, world):
        prices = sorted(item.price for item in world.city.items.values())
        assert prices[len(prices) // 20] < 25
        assert 60 < prices[len(prices) // 2] < 140
        assert prices[-len(prices) // 20] > 250

    def test_the_model_sees_the_hours_that_are_posted(self, world):
        past_midnight = 0
        for row, item in enumerate(world.city.items.values()):
            week_minutes = 7 * 24 * 60
            posted = {
                (weekday * 1440 + minute) % week_minutes // SLOT_MINUTES
                for weekday, day in enumerate(item.hours)
                for start, end in day
                for minute in range(start, end, SLOT_MINUTES)
            }
            assert set(np.flatnonzero(world.city.is_open[row])) == posted
            past_midnight += any(end > 1440 for day in item.hours for _, end in day)
        assert past_midnight > 10

    def test_the_half_hour_is_the_local_one(self):
        assert slot_of(START_MS) == 48 + 16  # Tuesday, 08:00


class TestChoice:
    def test_click_probability_is_examination_times_attraction(self, world, requests):
        request_id = requests[0].request_id
        value = utility(world, moment_of(world, request_id))[world.city.rows["r00003"]]
        attraction = 1 / (1 + math.exp(CLICK_OFFSET - value))
        for position in (0, 1, 7):
            expected = SCROLLING**position * attraction
            assert click_probability(world, request_id, "r00003", position) == pytest.approx(expected)
        in_a_list = click_probabilities(world, moment_of(world, request_id), ["r00001", "r00003"])
        assert in_a_list[1] == click_probability(world, request_id, "r00003", 1)

    def test_clicks_come_as_often_as_the_probability_says(self, world, requests):
        """Overall, by position, and among the likely and the unlikely items: within four standard errors."""
        surplus: dict[str, list[float]] = {}  # group -> per request, clicks less their probabilities
        for request in requests:
            moment = moment_of(world, request.request_id)
            best = np.argsort(-utility(world, moment))
            shown = [world.city.ids[row] for row in random.Random(request.request_id).sample(best[:40].tolist(), 10)]
            actions = react(world, request.request_id, shown)
            clicked = {action.feedback.item_id for action in actions if action.feedback.kind == "click"}
            of_request: dict[str, float] = {}
            for position, probability in enumerate(click_probabilities(world, moment, shown)):
                for group in ("all", f"position {position}", "likely" if probability > 0.1 else "unlikely"):
                    difference = (shown[position] in clicked) - probability
                    of_request[group] = of_request.get(group, 0.0) + difference
            for group, difference in of_request.items():
                surplus.setdefault(group, []).append(difference)
        assert len(surplus) == 13
        for group, differences in surplus.items():
            assert abs(sum(differences)) < 4 * np.std(differences) * math.sqrt(len(differences)), group

    def test_examined_positions_get_impressions_as_often_as_the_model_says(self, world, requests):
        shown = world.city.ids[:10]
        counts = Counter(
            shown.index(action.feedback.item_id)
            for request in requests
            for action in react(world, request.request_id, shown)
            if action.feedback.kind == "impression"
        )
        for position in range(10):
            expected = examination(position)
            error = math.sqrt(expected * (1 - expected) / len(requests))
            assert counts[position] / len(requests) == pytest.approx(expected, abs=4 * error + 1e-9)

    def test_preferences_matter(self, world, requests):
        """The same users, the same wishes: who knows the truth gets far more true clicks than who guesses."""
        guesser = random.Random(1)
        truth, guess = 0.0, 0.0
        for request in requests[:300]:
            moment = moment_of(world, request.request_id)
            best = np.argsort(-utility(world, moment))[:10]
            truth += sum(click_probabilities(world, moment, [world.city.ids[row] for row in best]))
            guess += sum(click_probabilities(world, moment, guesser.sample(world.city.ids, 10)))
        assert truth > 10 * guess
        assert truth / 300 > 0.3

    def test_knowing_the_wish_without_the_user_is_worth_less_than_knowing_both(self, world, requests):
        lists = {"own": 0.0, "somebody else's": 0.0}
        for request, other in itertools.pairwise(requests[:300]):
            moment, stranger = (moment_of(world, each.request_id) for each in (request, other))
            for whose, known in (("own", moment), ("somebody else's", stranger)):
                best = np.argsort(-utility(world, known))[:10]
                lists[whose] += sum(click_probabilities(world, moment, [world.city.ids[row] for row in best]))
        assert lists["own"] > 3 * lists["somebody else's"]

    def test_actions_follow_one_another_in_a_sensible_order(self, world, requests):
        kinds = Counter()
        for request in requests[:1000]:
            best = np.argsort(-utility(world, moment_of(world, request.request_id)))[:10]
            actions = react(world, request.request_id, [world.city.ids[row] for row in best])
            assert [a.delay_ms for a in actions] == sorted(a.delay_ms for a in actions)
            seen, clicked, chosen = set(), set(), set()
            for feedback in (action.feedback for action in actions):
                kinds[feedback.kind] += 1
                match feedback.kind:
                    case "impression":
                        seen.add(feedback.item_id)
                    case "click" | "dismissal":
                        assert feedback.item_id in seen
                        clicked.add(feedback.item_id)
                    case "visit" | "booking":
                        assert feedback.item_id in clicked
                        chosen.add(feedback.item_id)
                    case "rating":
                        assert feedback.item_id in chosen
            assert len(chosen) <= 1
        assert set(kinds) == {"impression", "click", "booking", "visit", "rating", "dismissal"}

    def test_an_item_from_elsewhere_is_looked_at_and_never_clicked(self, world, requests):
        request_id = requests[0].request_id
        assert click_probability(world, request_id, "somebody-else", 0) == 0
        assert {action.feedback.kind for action in react(world, request_id, ["somebody-else"])} <= {
            "impression",
            "dismissal",
        }

    @pytest.mark.parametrize("request_id", ["q-1", "sim-8-1788220800000-0", "sim-7-x-0", "sim-7-1"])
    def test_a_request_from_elsewhere_is_refused(self, world, request_id):
        with pytest.raises(ValueError, match="was not made by the simulator with seed 7"):
            click_probability(world, request_id, "r00003", 0)


class TestHistory:
    def test_lies_before_the_start_in_order_and_shows_habits(self, world):
        past = list(history(world, START_MS, days=20))
        times = [event.time_ms for event in past]
        assert times == sorted(times)
        assert START_MS - 20 * DAY_MS <= times[0] < times[-1] < START_MS
        assert {event.topic for event in past} == {USERS_FEEDBACK}
        assert {event.record.kind for event in past} == {"visit"}
        assert len(past) == pytest.approx(0.3 * USERS * 20, rel=0.15)
        again = Counter((event.key, event.record.item_id) for event in past)
        assert 0.25 < sum(count for count in again.values() if count > 1) / len(past) < 0.85


class TestPoison:
    def test_replaces_the_fraction_of_requests_by_every_kind_and_leaves_the_rest_alone(self, week):
        stream = list(poison(week, 0.1, seed=3))
        assert len(stream) == len(week)
        bad = [each for each in stream if each.poison]
        total = sum(event.topic is USERS_REQUESTS for event in week)
        assert len(bad) == pytest.approx(0.1 * total, rel=0.25)
        counts = Counter(each.poison for each in bad)
        assert set(counts) == set(POISONS)
        assert max(counts.values()) - min(counts.values()) <= 1
        for event, each in zip(week, stream, strict=True):
            if each.poison is None:
                assert each == posting(event)
            else:
                assert each.request_id == event.record.request_id

    def test_none_of_it_passes_for_a_valid_request(self, week):
        for each in poison(week, 0.1, seed=3):
            match each.poison:
                case "random bytes" | "missing field" | "wrong type" | "huge text":
                    with pytest.raises(DecodeError):
                        decode(Request, each.value)
                    assert (len(each.value) > 1024 * 1024) == (each.poison == "huge text")
                case "no key":
                    with pytest.raises(DecodeError):
                        decode_key(each.key)
                case "unknown domain":
                    with pytest.raises(UnknownDomainError):
                        pack_for(decode(Request, each.value).domain)
                case "far future":
                    assert each.time_ms == FAR_FUTURE_MS

    def test_repeats(self, week):
        assert list(poison(week, 0.1, seed=3)) == list(poison(week, 0.1, seed=3))
        assert list(poison(week, 0.1, seed=3)) != list(poison(week, 0.1, seed=4))

    @pytest.mark.parametrize("fraction", [-0.1, 1.1])
    def test_refuses_an_impossible_fraction(self, fraction):
        with pytest.raises(ValueError, match="between 0 and 1"):
            next(poison([], fraction, seed=1))


class TestCommand:
    @pytest.fixture
    def run(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("TABLECAST_KAFKA__BOOTSTRAP", raising=False)
        monkeypatch.setenv("TABLECAST_DATA_DIR", str(tmp_path))
        app = typer.Typer()
        app.command()(simulate)
        small = ("--users", "20", "--restaurants", "30")
        return lambda *arguments: CliRunner().invoke(app, [*small, *arguments])

    def test_prints_the_catalogue_and_then_what_happens_as_json_lines(self, run):
        result = run("--print", "--duration", "20", "--seed", "3")
        rows = [json.loads(line) for line in result.stdout.splitlines()]
        assert result.exit_code == 0
        assert [row["topic"] for row in rows[:30]] == ["catalog.items"] * 30
        assert {row["topic"] for row in rows[30:]} >= {"users.context", "users.requests"}
        assert all(row.keys() == {"event_time", "topic", "key", "value"} for row in rows)
        assert run("--print", "--duration", "20", "--seed", "3").stdout == result.stdout

    def test_without_a_cluster_says_what_to_do(self, run):
        result = run("--duration", "1")
        assert result.exit_code == 2
        assert "TABLECAST_KAFKA__BOOTSTRAP" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1

    @pytest.mark.parametrize("arguments", [("--rate", "0"), ("--users", "0"), ("--restaurants", "-1"), ("--seed", "x")])
    def test_refuses_nonsense_with_exit_code_2(self, run, arguments):
        assert run("--print", *arguments).exit_code == 2

    def test_writes_a_dataset_of_the_days_it_was_asked_for(self, run, tmp_path):
        result = run("--dataset", "city", "--days", "6", "--json")
        assert result.exit_code == 0
        assert json.loads(result.stdout)["items"] == 30
        assert "nothing in it is real" in read_dataset(tmp_path / "city").meta.source
        assert run("--dataset", "city").exit_code == 2  # not over what is there


class TestDataset:
    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, world, tmp_path_factory):
        folder = tmp_path_factory.mktemp("dataset") / "city"
        write_city(folder, world, START_MS, 12)
        return read_dataset(folder)

    def test_has_the_same_bytes_for_the_same_seed(self, world, tmp_path):
        for name in ("one", "two"):
            write_city(tmp_path / name, world, START_MS, 3)
        for path in (tmp_path / "one").iterdir():
            assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()

    def test_is_split_by_time(self, data):
        ends = {"train": 8, "valid": 10, "test": 12}
        for records in (data.requests, data.interactions):
            times = {split: [each.event_time for each in records if each.split == split] for split in ends}
            assert max(times["train"]) <= min(times["valid"]) <= max(times["valid"]) <= min(times["test"])
            assert all(max(times[split]) <= START_MS + days * DAY_MS + 1_000 for split, days in ends.items())

    def test_its_requests_are_those_of_the_living_city(self, data, world):
        rate = 0.1 * USERS / 86_400
        posted = [event.record for event in events(world, START_MS, rate, until_ms=START_MS + 12 * DAY_MS)]
        posted = [record for record in posted if isinstance(record, Request)]
        assert [(each.request_id, each.text or "") for each in data.requests] == [
            (each.request_id, each.text) for each in posted
        ]
        context = msgspec.convert(data.requests[0].context, Context)
        assert context.location is not None
        assert context.fields["daypart"] == moment_of(world, data.requests[0].request_id).daypart

    def test_an_answer_is_where_the_user_goes_right_after(self, data):
        events = {event.event_id: event for event in data.interactions}
        for request in data.requests:
            answer = events[request.label_event_id]
            assert (answer.item_id,) == request.relevant
            assert (answer.user_id, answer.session_id) == (request.user_id, request.session_id)
            assert 0 < answer.event_time - request.event_time <= 1_000

    def test_people_choose_by_utility(self, data, world):
        ranks = []
        for request in data.requests[:300]:
            value = utility(world, moment_of(world, request.request_id))
            ranks.append((value > value[world.city.rows[request.relevant[0]]]).sum())
        assert np.mean(np.array(ranks) < 10) > 0.4  # of 400; by chance it would be 0.025

    def test_two_days_cannot_be_split(self, world, tmp_path):
        with pytest.raises(BadInputError, match="take 3 or more"):
            write_city(tmp_path / "city", world, START_MS, 2)
