"""Where items are, and how far from somewhere."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.places import EARTH_RADIUS_METRES, Places, distances, unit_vector
from schemas.records import Location

locations = st.builds(Location, lat=st.floats(-90, 90), lon=st.floats(-180, 180))


def metres(one: Location, other: Location) -> float:
    return float(distances(unit_vector(one)[None], unit_vector(other))[0])


def haversine(one: Location, other: Location) -> float:
    lat1, lon1, lat2, lon2 = map(math.radians, (one.lat, one.lon, other.lat, other.lon))
    half = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * EARTH_RADIUS_METRES * math.asin(math.sqrt(min(half, 1.0)))


@given(locations, locations)
def test_distances_are_those_of_the_haversine_formula(one, other):
    assert metres(one, other) == pytest.approx(haversine(one, other), abs=0.5)
    assert metres(one, other) == metres(other, one)


def test_known_distances():
    shanghai, beijing = Location(lat=31.23, lon=121.47), Location(lat=39.90, lon=116.41)
    assert metres(shanghai, beijing) == pytest.approx(1_068_000, rel=0.01)
    assert metres(shanghai, shanghai) == 0
    east, west = Location(lat=0.0, lon=179.999), Location(lat=0.0, lon=-179.999)
    assert metres(east, west) == pytest.approx(222.4, abs=0.1)  # across the date line


def test_an_unknown_point_is_at_no_distance():
    assert np.isnan(distances(np.full((1, 3), np.nan), unit_vector(Location(lat=1, lon=1)))).all()


def test_items_are_listed_by_domain_in_order_of_id_and_follow_changes():
    places, here, there = Places(), Location(lat=1.0, lon=1.0), Location(lat=2.0, lon=2.0)
    places.put("b", "one", here)
    places.put("a", "one", there)
    places.put("c", "two", here)
    assert places.of("one")[0] == ["a", "b"]
    places.put("a", "one", here)
    assert places.of("one")[1].tolist() == [unit_vector(here).tolist()] * 2
    places.put("a", "one", None)
    places.put("b", "two", here)
    assert (places.of("one")[0], places.of("two")[0], places.location("a")) == ([], ["b", "c"], None)
    assert places.of("one")[1].shape == (0, 3)
