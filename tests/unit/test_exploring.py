"""Exploration in serving: off means as ranked, and what is shown can be computed from the answer and the settings."""

import pytest
from msgspec import structs
from shown_examples import joined_request

from models.exploration import Exploration, draw
from models.recommender import Answer
from schemas.records import RecommendedItem, Understood
from streams.inference.exploring import Exploring
from streams.settings import ExplorationSettings, InferenceSettings, SettingsError, load_settings

MODEL = "tablecast@0123456789abcdef"
RANKED = Answer(
    [RecommendedItem(item_id=f"i{rank}", score=5.0 - rank / 2) for rank in range(6)],
    Understood(wishes=[], phrase="said"),
)


def asked(number=1, k=3):
    joined = joined_request(number)
    return structs.replace(joined, request=structs.replace(joined.request, k=k))


def exploring(**policies):
    return Exploring(InferenceSettings(exploration=policies))


@pytest.mark.parametrize("settings", [{}, {"shop": ExplorationSettings(method="epsilon", epsilon=1.0)}])
def test_a_domain_that_does_not_explore_shows_what_is_ranked(settings):
    made = exploring(**settings)
    for number in range(20):
        joined = asked(number)
        assert made.to_rank(joined) is joined
        assert made.shown(MODEL, joined, RANKED) == Answer(RANKED.items[:3], RANKED.understood)


@pytest.mark.parametrize("method", ["epsilon", "softmax"])
def test_a_list_and_its_propensities_follow_from_settings_model_and_request(method):
    made = exploring(restaurant=ExplorationSettings(method=method, top=5, epsilon=0.4))
    lists = set()
    for number in range(50):
        joined = asked(number)
        assert made.to_rank(joined).request.k == 5
        shown = made.shown(MODEL, joined, RANKED)
        key = f"{MODEL}/{joined.request.request_id}"
        scores = [item.score for item in RANKED.items]
        order, propensities = draw(scores, Exploration(method, top=5, epsilon=0.4), key, 3)
        assert [item.item_id for item in shown.items] == [f"i{rank}" for rank in order]
        assert [item.propensity for item in shown.items] == propensities
        assert all(0 < item.propensity < 1 for item in shown.items)
        assert shown.understood == RANKED.understood
        lists.add(tuple(order))
    assert len(lists) > 10
    assert all(rank < 5 for order in lists for rank in order)


def test_another_version_of_the_model_draws_anew():
    made = exploring(restaurant=ExplorationSettings(method="epsilon", epsilon=0.9))
    differ = [made.shown(MODEL, asked(n), RANKED) != made.shown("tablecast@other", asked(n), RANKED) for n in range(20)]
    assert any(differ)


def test_a_longer_list_than_takes_part_is_ranked_as_long_as_asked_for():
    made = exploring(restaurant=ExplorationSettings(method="epsilon", top=4))
    assert made.to_rank(asked(k=6)).request.k == 6
    shown = made.shown(MODEL, asked(k=6), RANKED).items
    assert [item.item_id for item in shown[4:]] == ["i4", "i5"]
    assert [item.propensity for item in shown[4:]] == [1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[inference.exploration.restaurant]\nmethod = 'thompson'\n", r"'inference.exploration.restaurant.method': "),
        ("[inference.exploration.restaurant]\nmethod = 'epsilon'\nepsilon = 2\n", r"restaurant.epsilon': .*equal to 1"),
        (
            "[inference.exploration.restaurant]\nmethod = 'epsilon'\nepsilom = 0.1\n",
            r"epsilom': there is no such setting",
        ),
        ("[inference.exploration.bakery]\nmethod = 'epsilon'\n", r"'inference.exploration': .*bakery"),
    ],
)
def test_wrong_settings_are_refused_in_one_sentence(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tablecast.toml").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        load_settings()
