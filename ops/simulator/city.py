"""The city: invented restaurants, as they are posted, and the columns that the choice model computes with."""

import math
import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ops.simulator.chance import chance
from ops.simulator.vocabulary import (
    ATTRIBUTES,
    CUISINES,
    DISTRICTS,
    NAME_FIRST,
    NAME_SECOND,
    NEW_DISTRICT,
    Attribute,
    Cuisine,
    District,
    Opening,
)
from schemas.records import Item, Location

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

DOMAIN = "restaurant"
TIME_ZONE = "Asia/Shanghai"
UTC_OFFSET_MS = 8 * 3600 * 1000  # China has one time zone and no summer time
CENTRE = Location(lat=31.23, lon=121.47)
SLOT_MINUTES = 30
SLOTS_PER_WEEK = 7 * 24 * 60 // SLOT_MINUTES

_METRES_PER_DEGREE = 111_195.0
_ATTRIBUTE_ROWS = {attribute.name: row for row, attribute in enumerate(ATTRIBUTES)}
# What a kind of place changes about the odds of an attribute: cuisine family -> attribute -> factor.
_LEANING = {
    "spicy": {"lively": 2.0, "quiet": 0.4},
    "refined": {"quiet": 1.8, "private rooms": 2.5, "lively": 0.4},
    "homely": {"private rooms": 1.5, "kid friendly": 1.6},
    "street": {"private rooms": 0.05, "good for work": 0.2, "air conditioned": 0.7, "river view": 0.3, "quiet": 0.5},
    "asian": {"cosy": 1.5},
    "western": {"outdoor seats": 1.8, "live music": 2.5, "cosy": 1.4},
    "sweet": {"good for work": 3.5, "pet friendly": 2.5, "cosy": 1.6, "quiet": 1.5, "private rooms": 0.1},
}


@dataclass(frozen=True)
class City:
    """All restaurants; every array has one row per restaurant, in the order of ``items``."""

    items: dict[str, Item]  # by id
    rows: dict[str, int]  # id -> row
    ids: list[str]
    cuisine: Rows  # index into CUISINES
    log_price: Floats
    place: Floats  # [n, 2] metres east and north of the centre
    has: Floats  # [n, attributes] 1 or 0
    quality: Floats  # hidden: what everybody likes about it
    warming: Floats  # of its cuisine
    is_open: npt.NDArray[np.bool_]  # [n, SLOTS_PER_WEEK], Monday first


def location_at(x: float, y: float) -> Location:
    """Return the coordinates of a point given in metres east and north of the centre."""
    return Location(
        lat=round(CENTRE.lat + y / _METRES_PER_DEGREE, 6),
        lon=round(CENTRE.lon + x / (_METRES_PER_DEGREE * math.cos(math.radians(CENTRE.lat))), 6),
    )


def slot_of(time_ms: int) -> int:
    """Return the half hour of the local week that a moment lies in; 0 is Monday at midnight."""
    minutes = (time_ms + UTC_OFFSET_MS) // 60_000 + 3 * 24 * 60  # 1970-01-01 was a Thursday
    return int(minutes // SLOT_MINUTES % SLOTS_PER_WEEK)


def build_city(seed: int, restaurants: int, opened: int = 0) -> City:
    """Return the city of a seed, with so many more restaurants in the new district.

    The first n restaurants are the same whatever their number.
    """
    items: dict[str, Item] = {}
    cuisines, prices, places, has, qualities, is_open = [], [], [], [], [], []
    for number in range(restaurants + opened):
        rng = chance(seed, "restaurant", number)
        district = rng.choices(DISTRICTS, [each.restaurants for each in DISTRICTS])[0]
        if number >= restaurants:
            district = NEW_DISTRICT
        weights = [each.share * (2.5 if each.family in district.families else 1.0) for each in CUISINES]
        index = rng.choices(range(len(CUISINES)), weights)[0]
        cuisine = CUISINES[index]
        x, y = rng.gauss(district.x, district.spread), rng.gauss(district.y, district.spread)
        price = max(6.0, cuisine.price * district.price * rng.lognormvariate(0, 0.32))
        price = float(round(price) if price < 100 else round(price / 5) * 5)
        present = _attributes(rng, cuisine, district)
        week = _hours(rng, rng.choice(cuisine.openings))
        item_id = f"r{number:05d}"
        items[item_id] = Item(
            domain=DOMAIN,
            name=_name(rng, cuisine, district),
            categories=list(cuisine.tags),
            text=_description(rng, cuisine, district, present),
            location=location_at(x, y),
            price=price,
            hours=week,
            time_zone=TIME_ZONE,
            attributes={"district": f"{district.zh} {district.en}", **{each.name: True for each in present}},
        )
        cuisines.append(index)
        prices.append(price)
        places.append((x, y))
        has.append([float(each in present) for each in ATTRIBUTES])
        qualities.append(rng.gauss(0, 0.5))
        is_open.append(_open_slots(week))
    return City(
        items=items,
        rows={item_id: row for row, item_id in enumerate(items)},
        ids=list(items),
        cuisine=np.array(cuisines),
        log_price=np.log(prices),
        place=np.array(places),
        has=np.array(has),
        quality=np.array(qualities),
        warming=np.array([CUISINES[index].warming for index in cuisines]),
        is_open=np.array(is_open),
    )


def attribute_row(name: str) -> int:
    """Return the column of ``City.has`` that an attribute has."""
    return _ATTRIBUTE_ROWS[name]


def _attributes(rng: random.Random, cuisine: Cuisine, district: District) -> list[Attribute]:
    leaning = _LEANING[cuisine.family]
    present = []
    for attribute in ATTRIBUTES:
        odds = attribute.likelihood * leaning.get(attribute.name, 1.0)
        odds *= 2.5 if attribute.name in district.attributes else 1.0
        if cuisine.tags[0] == "vegetarian" and attribute.name == "vegetarian options":
            odds = 1.0
        if rng.random() < min(odds, 1.0):
            present.append(attribute)
    names = {attribute.name for attribute in present}
    # Nothing is both quiet and lively, and rivers are where they are.
    return [
        attribute
        for attribute in present
        if not (attribute.name == "quiet" and "lively" in names)
        and not (attribute.name == "river view" and "river view" not in district.attributes)
    ]


def _hours(rng: random.Random, opening: Opening) -> list[list[tuple[int, int]]]:
    shift = SLOT_MINUTES * rng.choice((-1, 0, 0, 0, 1))
    day: list[tuple[int, int]]
    match opening:
        case "breakfast":
            day = [(330 + shift, 630 + shift)]
        case "all day":
            day = [(630 + shift, 1290 + shift)]
        case "lunch and dinner":
            day = [(660 + shift, 840), (1020, 1290 + shift)]
        case "dinner":
            day = [(1020 + shift, 1350 + shift)]
        case "late":
            day = [(1020 + shift, 1440 + rng.choice((60, 120, 180, 240)))]
        case "cafe":
            day = [(480 + shift, rng.choice((1080, 1200, 1290)))]
        case "always":
            day = [(0, 1440)]
    closed = rng.choice((0, 1)) if opening in ("dinner", "lunch and dinner") and rng.random() < 0.2 else None
    return [[] if weekday == closed else list(day) for weekday in range(7)]


def _open_slots(week: list[list[tuple[int, int]]]) -> npt.NDArray[np.bool_]:
    slots = np.zeros(SLOTS_PER_WEEK, dtype=np.bool_)
    per_day = SLOTS_PER_WEEK // 7
    for weekday, intervals in enumerate(week):
        for start, end in intervals:
            span = np.arange(start // SLOT_MINUTES, end // SLOT_MINUTES)
            slots[(weekday * per_day + span) % SLOTS_PER_WEEK] = True
    return slots


def _name(rng: random.Random, cuisine: Cuisine, district: District) -> str:
    first, second = rng.choice(NAME_FIRST), rng.choice(NAME_SECOND)
    zh = first[0] + second[0] + rng.choice(cuisine.house_zh)
    en = f"{first[1]} {second[1]} {rng.choice(cuisine.house_en)}"
    if rng.random() < 0.25:  # one of a chain
        zh += f"（{district.zh}店）"
    chinese_only, english_only = (0.1, 0.4) if cuisine.family == "western" else (0.35, 0.08)
    draw = rng.random()
    if draw < chinese_only:
        return zh
    return en if draw < chinese_only + english_only else f"{zh} {en}"


_OPENERS_EN = (
    "{dish} and {other} are what people come for.",
    "Known for {dish}.",
    "The kitchen in {place} does {dish} the old way.",
    "Order the {dish}; the regulars do.",
    "{place}'s place for {wanted}: {dish}, {other}.",
    "Third generation, same {dish}.",
    "Opened last spring; the {dish} already has a queue.",
)
_OPENERS_ZH = (
    "招牌是{dish}和{other}。",
    "{place}老字号，{dish}做了几十年。",
    "{dish}必点。",
    "开在{place}的{wanted}小店，{dish}口碑好。",
    "主厨推荐{dish}，{other}也不错。",
    "食材当天采购，{dish}每天限量。",
    "街坊都来吃{dish}。",
)
_CLOSERS_EN = (
    "Cards and phones both work.",
    "Come early.",
    "Booking helps at weekends.",
    "Ask for today's special.",
    "",
)
_CLOSERS_ZH = ("周末建议提前订位。", "早点来不用排队。", "支持外带。", "每天有特价菜。", "")


def _description(rng: random.Random, cuisine: Cuisine, district: District, present: list[Attribute]) -> str:
    """Return a few sentences in Chinese, English or both; some attributes are left for the reader to find out."""
    told = [attribute for attribute in present if rng.random() < 0.7]
    rng.shuffle(told)
    texts = []
    languages = rng.choices((("zh",), ("en",), ("zh", "en")), (45, 25, 30))[0]
    for language in languages:
        chinese = language == "zh"
        dish, other = rng.sample(cuisine.dishes_zh if chinese else cuisine.dishes_en, 2)
        opener = rng.choice(_OPENERS_ZH if chinese else _OPENERS_EN).format(
            dish=dish,
            other=other,
            place=district.zh if chinese else district.en,
            wanted=cuisine.wanted_zh if chinese else cuisine.wanted_en,
        )
        sentences = [opener[0].upper() + opener[1:]]
        sentences += [rng.choice(each.described_zh if chinese else each.described_en) for each in told[:3]]
        sentences.append(rng.choice(_CLOSERS_ZH if chinese else _CLOSERS_EN))
        if rng.random() < 0.3:
            sentences.insert(0, sentences.pop(1))
        texts.append("".join(sentences) if chinese else " ".join(filter(None, sentences)))
    return " ".join(texts)
