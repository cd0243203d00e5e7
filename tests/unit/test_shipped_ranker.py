"""What is shipped is small, knows no item, explains itself, and ranks better than the starting weights it corrects."""

from itertools import chain

import msgspec
import numpy as np
import pytest
import typer

from models.artefact import SHIPPED_RANKER
from models.features import NAMES
from models.ranker import Ranker
from models.ranking import PARTS
from models.recommender import Recommender
from ops.shipped_ranker import SEEN, make
from ops.shipped_student import CITIES
from ops.simulator.choice import click_probabilities
from ops.simulator.events import events, history
from ops.simulator.in_process import lived
from ops.simulator.world import DAY_MS, build_world
from schemas.records import Context, JoinedRequest, Location, Request, Source

MOST_BYTES = 8_000_000
START_MS = 1_788_220_800_000
SEED = 4


@pytest.fixture(scope="module")
def ranker():
    return Ranker.load(SHIPPED_RANKER)


@pytest.fixture(scope="module")
def world():
    assert SEED not in {city.seed for city in CITIES}
    return build_world(SEED, users=200, restaurants=150)


def without_texts(world, ranker):
    """A city's catalogue that no language model has read."""
    made = Recommender(1, "shipped", ranker=ranker)
    made.put(
        list(world.city.items), list(world.city.items.values()), np.zeros((len(world.city.items), 1, 1), np.float32)
    )
    return made


def test_all_that_is_shipped_is_small():
    assert sum(file.stat().st_size for file in SHIPPED_RANKER.parent.rglob("*")) < MOST_BYTES


def test_it_knows_no_item_and_looks_at_what_means_the_same_everywhere(ranker):
    assert ranker.corrects_weights
    assert not ranker.tables.item_row
    assert not ranker.tables.category_row
    used = np.flatnonzero(ranker.trees.feature_importance())
    assert {NAMES[column] for column in used} == set(SEEN)


def test_it_brings_more_clicks_than_the_starting_weights_in_a_city_it_has_not_seen(world, ranker):
    starting, shipped = without_texts(world, None), without_texts(world, ranker)
    life = chain(history(world, START_MS, days=3), events(world, START_MS, 150 / 86_400, until_ms=START_MS + DAY_MS))
    gains, before = [], []

    def lister(joined):
        return [item.item_id for item in starting.recommend([joined], [None])[0]]

    for asked in lived(world, lister, life):
        corrected = [item.item_id for item in shipped.recommend([asked.joined], [None])[0]]
        before.append(sum(click_probabilities(world, asked.moment, asked.items)))
        gains.append(sum(click_probabilities(world, asked.moment, corrected)) - before[-1])
    half = 1.96 * np.std(gains) / len(gains) ** 0.5
    assert np.mean(gains) - half > 0.1 * np.mean(before)


def joined_request(location=None):
    return JoinedRequest(
        request=Request(request_id="r", domain="restaurant", k=10),
        event_time=START_MS,
        source=Source(partition=0, offset=0),
        context=Context(location=location, time_zone="Asia/Shanghai"),
    )


def test_its_reasons_sum_to_the_score(world, ranker):
    (shown,) = without_texts(world, ranker).recommend([joined_request(Location(lat=31.23, lon=121.47))], [None])
    assert len(shown) == 10
    for item in shown:
        assert sum(item.reasons.values()) == pytest.approx(item.score, abs=1e-6)
        assert set(item.reasons) <= set(PARTS)
        assert item.why


def test_where_places_and_hours_are_not_known_the_starting_weights_alone_decide(world, ranker):
    """As on check-ins without the user's whereabouts: what it learned of made-up people can do no harm there."""
    lists = []
    for each in (None, ranker):
        made = without_texts(world, each)
        for item_id, item in world.city.items.items():
            made.put([item_id], [msgspec.structs.replace(item, hours=None)], [np.zeros((1, 1), np.float32)])
        lists.append([item.item_id for item in made.recommend([joined_request()], [None])[0]])
    assert lists[0] == lists[1]


def test_making_it_again_replaces_no_folder_that_holds_something_else(tmp_path, capsys):
    (tmp_path / "precious").touch()
    with pytest.raises(typer.Exit) as refused:
        make(out=tmp_path)
    assert refused.value.exit_code == 2
    assert "holds no ranker" in capsys.readouterr().err
    assert (tmp_path / "precious").exists()
