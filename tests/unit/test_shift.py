"""A world that shifts: the same until then, afterwards with other tastes, places and people elsewhere."""

import numpy as np
import pytest

from ops.simulator.choice import click_probability, react, utility
from ops.simulator.events import catalogue, events
from ops.simulator.shift import LOST, OUT_OF_FASHION, openings, shifted
from ops.simulator.vocabulary import CUISINES
from ops.simulator.world import build_world, moment_at, moment_of
from schemas.records import Request

START = 1_788_220_800_000
HOUR = 3_600_000
SHIFT = START + 12 * HOUR


@pytest.fixture(scope="module")
def before():
    return build_world(5, users=80, restaurants=60)


@pytest.fixture(scope="module")
def world(before):
    return shifted(before, SHIFT)


def test_until_then_everything_happens_as_it_would_have(before, world):
    same = [list(events(each, START, 0.01, until_ms=SHIFT)) for each in (before, world)]
    assert same[0] == same[1]
    assert len(same[0]) > 100
    asked = next(event.record.request_id for event in same[0] if isinstance(event.record, Request))
    shown = list(before.city.ids[:10])
    assert react(before, asked, shown) == react(world, asked, shown)
    assert [event.key for event in catalogue(world, START)] == list(before.city.ids)


def test_afterwards_life_goes_on_and_is_another(before, world):
    after = [list(events(each, SHIFT, 0.01, until_ms=SHIFT + 6 * HOUR)) for each in (before, world)]
    assert len(after[0]) == len(after[1]), "people come as often as before"
    assert after[0] != after[1]


def test_a_cuisine_falls_out_of_fashion(before, world):
    out = np.array([CUISINES[index].family == OUT_OF_FASHION for index in before.city.cuisine])
    assert out.any()
    moment = moment_at(world, 7, SHIFT)
    now, otherwise = (utility(each, moment)[: len(out)] for each in (world, before))
    assert now[out] == pytest.approx(otherwise[out] - LOST)
    assert now[~out] == pytest.approx(otherwise[~out])


def test_a_new_district_opens_when_its_time_has_come(before, world):
    opened = list(openings(world))
    assert {event.time_ms for event in opened} == {SHIFT}
    assert {event.key for event in opened}.isdisjoint(before.city.ids)
    assert len(opened) == 20
    assert list(openings(before)) == []
    new, asked = opened[0].key, f"sim-5-{SHIFT}-3"
    assert click_probability(world, asked, new, 0) > 0
    assert click_probability(world, f"sim-5-{SHIFT - 1}-3", new, 0) == 0
    places = world.at(SHIFT).city.place[-20:]
    assert np.ptp(places, axis=0).max() < np.ptp(before.city.place, axis=0).min(), "they lie together"


def test_people_are_where_the_new_district_is(before, world):
    centre = world.at(SHIFT).city.place[-20:].mean(axis=0)
    moments = [moment_at(each, number, SHIFT) for each in (before, world) for number in range(300)]
    close = [np.hypot(moment.x - centre[0], moment.y - centre[1]) < 3_000 for moment in moments]
    assert sum(close[300:]) > sum(close[:300]) + 30
    assert moment_of(world, f"sim-5-{SHIFT}-3") == moments[303]
