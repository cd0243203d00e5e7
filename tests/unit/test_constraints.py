"""Hard filters: what is unknown about an item counts against it."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest

from models.catalogue import Catalogue
from models.constraints import MOST_MASKS, allowed_rows, open_rows
from schemas.domains import pack_for
from schemas.records import Constraints, Context, Item, Location

PACK = pack_for("restaurant")
HERE = Location(lat=31.23, lon=121.47)
WEEK_DAYS = [[(540, 1320)]] * 5 + [[], []]  # 9 to 22, Monday to Friday
NIGHTS = [[(1200, 1560)]] * 7  # 20 to 2 in the night


def at(text: str, zone: str = "Asia/Shanghai") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


ITEMS = {
    "cheap": {"price": 20.0},
    "dear": {"price": 500.0},
    "near": {"location": Location(lat=31.231, lon=121.471)},
    "far": {"location": Location(lat=31.9, lon=121.47)},
    "days": {"hours": WEEK_DAYS, "time_zone": "Asia/Shanghai"},
    "nights": {"hours": NIGHTS},
    "hot": {"categories": ["Hot Pot", "川菜"]},
    "quiet": {"attributes": {"quiet": True, "music": "none", "parking": ["street", "mall"]}},
    "loud": {"attributes": {"quiet": False}},
    "closed": {"available": False, "price": 20.0},
    "elsewhere": {"domain": "travel", "price": 20.0},
    "bare": {},
}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    catalogue = Catalogue(2)
    for name, fields in ITEMS.items():
        catalogue.put(name, Item(**{"domain": "restaurant", "name": name, **fields}), np.array([1.0, 0.0]))
    catalogue.put("gone", Item(domain="restaurant", name="gone", price=20.0), np.array([1.0, 0.0]))
    catalogue.remove("gone")
    return catalogue


ALL = set(ITEMS) - {"closed", "elsewhere"}
FRIDAY_EVENING = at("2026-01-02T21:00")


def allowed(catalogue, constraints, *, pack=PACK, context=None, time=FRIDAY_EVENING) -> set[str]:
    context = context or Context(location=HERE, time_zone="Asia/Shanghai")
    mask = allowed_rows(catalogue, pack, constraints, context, time)
    return {catalogue.item_ids[row] for row in np.flatnonzero(mask)}


@pytest.mark.parametrize(
    ("constraints", "expected"),
    [
        (None, ALL),
        (Constraints(), ALL),
        (Constraints(price_max=20.0), {"cheap"}),
        (Constraints(price_min=20.5), {"dear"}),
        (Constraints(price_min=21.0, price_max=499.0), set()),
        (Constraints(max_distance=1000.0), {"near"}),
        (Constraints(max_distance=100_000.0), {"near", "far"}),
        (Constraints(open_at="now"), {"days", "nights"}),
        (Constraints(open_at=at("2026-01-03T01:59")), {"nights"}),
        (Constraints(open_at=at("2026-01-05T01:59")), {"nights"}),  # Monday, from Sunday's evening
        (Constraints(open_at=at("2026-01-05T02:00")), set()),
        (Constraints(open_at=at("2026-01-02T09:00")), {"days"}),
        (Constraints(open_at=at("2026-01-02T22:00")), {"nights"}),
        (Constraints(categories=["hot pot", "sushi"]), {"hot"}),
        (Constraints(categories=["sushi"]), set()),
        (Constraints(exclude_categories=["川菜"]), ALL - {"hot"}),
        (Constraints(exclude_items=["bare", "unheard of"]), ALL - {"bare"}),
        (Constraints(attributes={"quiet": True}), {"quiet"}),
        (Constraints(attributes={"quiet": True, "music": "jazz"}), set()),
        (Constraints(attributes={"parking": "mall"}), {"quiet"}),
        (Constraints(attributes={"music": ["jazz", "none"]}), {"quiet"}),
    ],
)
def test_each_kind_keeps_what_is_known_to_satisfy_it(catalogue, constraints, expected):
    assert allowed(catalogue, constraints) == expected


def test_a_distance_is_ignored_where_nobody_knows_where_the_user_is(catalogue):
    assert allowed(catalogue, Constraints(max_distance=1.0), context=Context()) == ALL


def test_a_kind_that_the_domain_does_not_list_is_ignored(catalogue):
    pack = msgspec.structs.replace(PACK, constraints=[])
    everything = Constraints(
        price_min=1e6, price_max=0.0, max_distance=1.0, open_at=0, categories=["x"], attributes={"x": True},
        exclude_items=["bare"], exclude_categories=["川菜"],
    )  # fmt: skip
    assert allowed(catalogue, everything, pack=pack) == ALL
    assert allowed(catalogue, everything) == set()


def test_hours_are_in_the_items_own_time_zone_else_in_the_requests_else_in_utc(catalogue):
    moment = at("2026-01-02T21:00", "Asia/Shanghai")  # 13:00 in London
    assert allowed(catalogue, Constraints(open_at=moment), context=Context(time_zone="Europe/London")) == {"days"}
    evening = at("2026-01-02T21:00", "UTC")
    assert "nights" in allowed(catalogue, Constraints(open_at=evening), context=Context())
    assert "nights" in allowed(catalogue, Constraints(open_at=evening), context=Context(time_zone="no/such zone"))


def test_hours_follow_the_local_clock_through_summer_time(catalogue):
    london = Context(time_zone="Europe/London")
    for day in ("2026-01-15", "2026-07-15"):
        assert "nights" in allowed(catalogue, Constraints(open_at=at(f"{day}T20:00", "Europe/London")), context=london)
        assert allowed(catalogue, Constraints(open_at=at(f"{day}T19:59", "Europe/London")), context=london) == set()


@pytest.mark.parametrize("moment", [0, 253_402_300_799_999])
@pytest.mark.parametrize("zone", [None, "Asia/Shanghai", "Pacific/Kiritimati", "Etc/GMT+12", "America/New_York"])
def test_the_first_and_the_last_moment_of_the_calendar_are_moments_like_any_other(catalogue, moment, zone):
    assert open_rows(catalogue, moment, zone).shape == (catalogue.size,)


def test_an_empty_catalogue_allows_nothing():
    everything = Constraints(open_at="now", categories=["x"], exclude_items=["a"], attributes={"a": True})
    mask = allowed_rows(Catalogue(2), PACK, everything, Context(), int(datetime.now(UTC).timestamp()))
    assert mask.shape == (0,)


def test_what_is_open_and_what_is_near_is_found_anew_when_an_item_changes(catalogue):
    moment = at("2026-01-02T21:00", "UTC")
    wanted = Constraints(open_at=moment, max_distance=1000)
    context = Context(location=HERE)
    assert allowed(catalogue, wanted, context=context) == set()
    item = Item(domain="restaurant", name="new", hours=NIGHTS, location=HERE)
    catalogue.put("new", item, np.array([1.0, 0.0]))
    assert allowed(catalogue, wanted, context=context) == {"new"}
    catalogue.put("new", msgspec.structs.replace(item, location=Location(lat=31.9, lon=121.47)), np.array([1.0, 0.0]))
    assert allowed(catalogue, wanted, context=context) == set()
    catalogue.remove("new")
    catalogue.put("other", msgspec.structs.replace(item, hours=[[(540, 600)]] * 7), np.array([1.0, 0.0]))
    assert allowed(catalogue, wanted, context=context) == set()
    catalogue.remove("other")


def test_masks_are_kept_for_a_bounded_number_of_minutes(catalogue):
    for minute in range(200):
        open_rows(catalogue, minute * 60_000, None)
    assert len(catalogue.open_masks) <= MOST_MASKS
