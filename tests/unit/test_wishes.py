"""Wishes said in words: what is read from a text, what is not, and what it changes about the list."""

import string
import time
from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest

from models.catalogue import Catalogue
from models.constraints import allowed_rows, both
from models.recommender import Recommender
from models.wishes.asked import KIND_OF, LANDMARK, asked_part
from models.wishes.heed import heed
from models.wishes.numerals import find_numbers
from models.wishes.reader import limits, read_wishes
from models.wishes.tokens import normal
from models.wishes.vocabulary import Vocabulary
from schemas.codec import decode, encode
from schemas.domains import load_packs, pack_for
from schemas.records import (
    Constraints,
    Context,
    Item,
    JoinedRequest,
    Location,
    Recommendation,
    Request,
    Source,
    Understood,
    Wish,
)

PACK = pack_for("restaurant")
PACKS = sorted({pack.name: pack for pack in load_packs().values()}.values(), key=lambda pack: pack.name)
ZONE = ZoneInfo("Asia/Shanghai")
HERE = Location(lat=31.23, lon=121.47)
FRIDAY_EVENING = int(datetime(2026, 1, 2, 18, 0, tzinfo=ZONE).timestamp() * 1000)
EVENINGS, LUNCHES = [[(1080, 1500)]] * 7, [[(660, 840)]] * 7

ITEMS = {
    "sichuan": {
        "name": "巷子里(外滩店)",
        "categories": ["Sichuan", "川菜", "spicy", "辣"],
        "attributes": {"quiet": True, "rating": 4.6, "district": "外滩 the Bund"},
        "price": 80.0,
        "hours": EVENINGS,
        "location": Location(lat=31.231, lon=121.471),
    },
    "duck": {
        "name": "老城烤鸭店",
        "categories": ["北京烤鸭", "葱花饼"],
        "attributes": {"lively": True, "rating": 4.0, "nearby": ["鼓楼", "后海"], "GoodForKids": True},
        "price": 140.0,
        "hours": LUNCHES,
    },
    "plain duck": {"name": "第二家", "categories": ["烤鸭"], "attributes": {"rating": 4.4}, "price": 260.0},
    "sushi": {
        "name": "Blue Wave",
        "categories": ["Sushi Bars", "sushi"],
        "attributes": {"NoiseLevel": "loud", "outdoor seats": True, "rating": 3.5},
        "price": 30.0,
    },
    "pot": {"name": "Copper Pot", "categories": ["Hot Pot", "火锅", "peanuts"], "attributes": {"rating": 4.5}},
    "bare": {"name": "Nothing Known"},
}


def catalogue_of(items: dict[str, dict]) -> Catalogue:
    catalogue = Catalogue(2)
    for item_id, fields in items.items():
        catalogue.put(item_id, Item(**{"domain": "restaurant", **fields}), np.array([[1.0, 0.0]]))
    return catalogue


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return catalogue_of(ITEMS)


def read(catalogue: Catalogue, text: str, *, located: bool = True, domain: str = "restaurant") -> list[Wish]:
    pack = pack_for(domain)
    vocabulary = catalogue.vocabularies.get(pack.name) or Vocabulary(pack.wishes)
    return read_wishes(text, pack, vocabulary, FRIDAY_EVENING, ZONE, located=located)


def told(wishes: list[Wish]) -> set[str]:
    """Return wishes as short strings: what it is, ``no`` if it is to be avoided, ``!`` if it filters."""
    strings = set()
    for wish in wishes:
        low, high = wish.low, wish.high
        if wish.kind == "open":
            when = "now" if low is None else datetime.fromtimestamp(low / 1000, ZONE).strftime("%a %H:%M")
            text = f"open {when}"
        elif wish.values:
            text = f"{wish.values[0]}"
        elif low is None and high is None:
            text = wish.kind
        else:
            bounds = f"{low:g}" if low == high else f"{low:g}-" if high is None else f"-{high:g}" if low is None else ""
            text = f"{wish.kind} {bounds or f'{low:g}-{high:g}'}"
        strings.add(("no " if wish.avoid else "") + text + ("!" if wish.filters else ""))
    return strings


UNDERSTOOD = {
    # prices
    "人均80": {"price 80"},
    "人均80左右": {"price 80"},
    "100-150元": {"price 100-150!"},
    "人均消费在100到150元之间": {"price 100-150!"},
    "五十块以内": {"price -50!"},
    "５０元以下": {"price -50!"},
    "人均一百五以下": {"price -150!"},
    "不超过100元": {"price -100!"},
    "最多两百块": {"price -200!"},
    "人均消费200元以上": {"price 200-!"},
    "预算200": {"price -200!"},
    "my budget is about 40": {"price 40"},
    "最好人均100-150元": {"price 100-150"},
    "under $30": {"price -30!"},
    "1,000 yuan or less": {"price -1000!"},
    "between $20 and $40 per person": {"price 20-40!"},
    "between 20 and 40": {"price 20-40"},
    "under 30 please": {"price -30"},
    "around 80 yuan a head": {"price 80"},
    "fifty dollars max": {"price -50!"},
    "ideally under $30": {"price -30"},
    "人均100，4.5分以上": {"price 100", "rating 4.5-!"},
    "火锅，100块以内": {"火锅", "price -100!"},
    "人均两三百": {"price 200-300"},
    "五六十块钱": {"price 50-60"},
    "两三百以内": {"price -300"},
    "两百一个人": {"price 200"},
    "2-3百块": {"price 200-300!"},
    "two to three hundred per person": {"price 200-300!"},
    "人均1.5k": {"price 1500"},
    "two hundred or so per person": {"price 200"},
    "$20 pp max": {"price -20!"},
    "no cheaper than 50 dollars": {"price 50-!"},
    "1万円以内": {"price -10000!"},
    "good sushi for less than ten bucks": {"sushi", "price -10!"},
    "不超过100，有烤鸭": {"price -100", "烤鸭"},
    # a refusal turns a bound around, and what is only tolerated is none
    "don't want to spend more than 60 per head": {"price -60!"},
    "shouldn't cost over 50 dollars": {"price -50!"},
    "nothing above $40": {"price -40!"},
    "not less than 50 per head": {"price 50-!"},
    "over 50 dollars is too much": {"price -50!"},
    "不想花超过100块": {"price -100!"},
    "人均不能高于120元": {"price -120!"},
    "人均不要低于80": {"price 80-!"},
    "别给我推荐人均200以上的": {"price -200!"},
    "人均200以上的不考虑": {"price -200!"},
    "能不能100块以内": {"price -100!"},
    "没有100块以内的吗": {"price -100!"},
    "不要人均100-200的": set(),
    "I don't mind paying more than 100 per head": set(),
    "200块以上也行": set(),
    "nothing under 4 stars": {"rating 4-!"},
    "评分不能低于4.5": {"rating 4.5-!"},
    "评分最好高一点": set(),
    "不想超过三公里": {"distance -3000!"},
    "at least 3 km away": set(),
    # a price for all is divided by how many they are
    "四个人总共花300块": {"price 75"},
    "dinner for 10 people, budget 3000 total": {"price -300!"},
    "一共不超过1000块": {"price -1000!"},
    "一共花1000块": {"price -1000"},
    "我们一共5个人，100块以内": {"price -100!"},
    "四个人，人均100": {"price 100"},
    "a private room for 10 ppl": set(),
    "not too expensive": {"cheap"},
    "别太贵": {"cheap"},
    "something cheap": {"cheap"},
    # ratings
    "4.5分以上": {"rating 4.5-!"},
    "评分4.5以上": {"rating 4.5-!"},
    "评分不低于四分": {"rating 4-!"},
    "at least 4 stars": {"rating 4-!"},
    "rated 4.5 or higher": {"rating 4.5-!"},
    "four stars or better": {"rating 4-!"},
    "评分是4.5分": {"rating 4.5-"},
    "highly rated": {"well_rated"},
    # the catalogue's own words
    "烤鸭": {"烤鸭"},
    "I'd love SUSHI tonight": {"sushi"},
    "a hot pot": {"hot pot"},
    "hot pots": {"hot pot"},
    "川菜": {"川菜"},
    "good for kids": {"good for kid"},
    "kid friendly": {"good for kid"},
    "有露天座位的": {"outdoor seat"},
    "安静一点的川菜，人均80": {"quiet", "川菜", "price 80"},
    "必须有烤鸭": {"烤鸭!"},
    "must have outdoor seats": {"outdoor seat!"},
    "有没有烤鸭": {"烤鸭"},
    "没有烤鸭吗": {"烤鸭"},
    "能不能吃到烤鸭": {"烤鸭"},
    # what is refused
    "不要太吵": {"no loud", "quiet"},
    "not sushi again": {"no sushi!"},
    "no peanuts": {"no peanut!"},
    "no peanuts or sushi": {"no peanut!", "no sushi!"},
    "no peanuts, spicy food or sushi please": {"no peanut!", "no spicy!", "no sushi!"},
    "no sushi, hot pot please": {"no sushi!", "hot pot"},
    "I only eat sushi": {"sushi!"},
    "花生过敏": {"no peanut!"},
    "peanut-free": {"no peanut!"},
    "不吃辣": {"no 辣!"},
    "spicy but not too noisy": {"spicy", "no loud", "quiet"},
    "anything but sushi": {"no sushi!"},
    "除了火锅都行": {"no 火锅!"},
    "除了火锅还想吃烤鸭": {"火锅", "烤鸭"},
    "hot pot, but no sushi": {"hot pot", "no sushi!"},
    "I'm not a big fan of sushi": {"no sushi!"},
    "can't stand sushi": {"no sushi!"},
    "i dont like sushi": {"no sushi!"},
    "川菜不要太辣": {"川菜", "no 辣"},
    "川菜 不要太spicy": {"川菜", "no spicy"},
    "火锅不要": {"no 火锅!"},
    "辣的都不能吃": {"no 辣!"},
    "no hot pot unless it's cheap": {"no hot pot", "cheap"},
    "no need for outdoor seats": set(),
    "we don't need sushi": set(),
    "不一定要便宜": set(),
    "没有烤鸭也行": set(),
    "不要在外滩附近": set(),
    "not near the Bund": set(),
    "怕辣": {"no 辣"},
    "not Copper Pot again": {"no copper pot"},
    # where
    "within 500 m": {"distance -500!"},
    "2公里以内": {"distance -2000!"},
    "两公里以内的火锅": {"distance -2000!", "火锅"},
    "within 2 miles": {"distance -3218.69!"},
    "walking distance": {"near"},
    "离我近点": {"near"},
    "附近的火锅": {"near", "火锅"},
    "走路十分钟": {"distance -800"},
    "鼓楼附近": {"鼓楼"},
    "near the Bund": {"the bund"},
    "离鼓楼500米以内": {"鼓楼"},
    "within 500 m of the Bund": {"the bund"},
    # when
    "open now": {"open now!"},
    "现在营业": {"open now!"},
    "still open this late": {"open now!"},
    "晚上十点还开着": {"open Fri 22:00!"},
    "open at 9pm": {"open Fri 21:00!"},
    "at 9pm": {"open Fri 21:00"},
    "a table at 19:30 for 4": {"open Fri 19:30"},
    "8点半还营业吗": {"open Fri 20:30!"},
    "open until midnight": {"open Fri 23:59!"},
    "a table for 4 at 7:30": {"open Fri 19:30"},
    "a table for 4 at 07:30": {"open Sat 07:30"},
    "open tomorrow evening at 7:30": {"open Sat 19:30!"},
    "open tomorrow at 8:30": {"open Sat 08:30"},
    "open tomorrow evening": {"open Sat 20:00"},
    "后天晚上8点开门": {"open Sun 20:00!"},
    "1月5号晚上8点开门": {"open Fri 20:00"},
    "半夜还开着的": {"open Sat 00:00"},
    "今晚还营业的": {"open Fri 20:00"},
    "周日还营业吗": set(),
    "9点以前关门": set(),
    "凌晨两点还营业": {"open Sat 02:00!"},
    "周日晚上八点营业的": {"open Sun 20:00!"},
    # both languages in one
    "想吃sushi，人均under $30": {"sushi", "price -30!"},
}


@pytest.mark.parametrize("text", UNDERSTOOD)
def test_a_text_is_understood(catalogue, text):
    assert told(read(catalogue, text)) == UNDERSTOOD[text]


@pytest.mark.parametrize(
    "text",
    [
        "four of us", "2人", "我们四个人", "a table for 12", "3个朋友一起", "电话 010-12345678", "call 555-1234",
        "138 1234 5678",
        "since 2010", "2019年开的店", "under 30 minutes", "20% off", "room 101", "3号线",
        "12月31日",
        "几十块钱", "一块去",
        "一点", "十分好吃", "between 7 and 9 people", "b12", "1.2.3", "$0", "over 18",
        "within an hour", "过了三分钟", "五分之一", "why not", "no idea", "I'm not sure", "特别好",
        "hello", "", "  ", "？！", "🍜🍣",
    ],
)  # fmt: skip
def test_nothing_is_read_where_nothing_is_said(catalogue, text):
    assert told(read(catalogue, text)) == set()


@pytest.mark.parametrize(
    "text",
    [
        "I don't know where to go for sushi", "not only sushi", "why not sushi", "sushi, no idea where",
        "有没有什么好吃的sushi", "特别想吃sushi",
    ],
)  # fmt: skip
def test_a_refusal_reaches_only_the_words_it_belongs_to(catalogue, text):
    assert told(read(catalogue, text)) == {"sushi"}


def test_what_somebody_had_already_is_no_wish(catalogue):
    assert told(read(catalogue, "昨天吃了火锅，今天想吃烤鸭")) == {"烤鸭"}


def test_single_characters_count_only_as_words_of_their_own(catalogue):
    assert told(read(catalogue, "想吃点辣的")) == {"辣"}
    assert told(read(catalogue, "泼辣的老板娘")) == set()


def test_the_longest_term_wins(catalogue):
    assert told(read(catalogue, "北京烤鸭")) == {"北京烤鸭"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("找个酒店400-500元，再找个人均100-150元的餐馆", {"price 100-150!"}),
        ("酒店订好了，我想找个评分4.5分以上，人均100-150元的餐馆", {"price 100-150!", "rating 4.5-!"}),
        ("在酒店附近找一家评分4分以上的餐馆", {"rating 4-!"}),
        ("a hotel for $200 a night and a restaurant under $30", {"price -30!"}),
        ("book a hotel for at most $200, then find a restaurant under $30", {"price -30!"}),
        ("推荐人均100-150元的餐馆。还要一家人均50元以下的餐馆。", {"price 100-150", "price -50"}),
        ("餐馆要有烤鸭的。另外再推荐一家人均100-150元的餐馆。", {"烤鸭", "price 100-150"}),
    ],
)
def test_an_amount_is_a_limit_only_if_it_is_clear_what_it_belongs_to(catalogue, text, expected):
    assert told(read(catalogue, text)) == expected


def test_other_prices_begin_another_goal(catalogue):
    wishes = read(catalogue, "推荐有火锅的餐馆，人均100-150元。还要一家人均50元以下的餐馆，要有烤鸭。")
    assert {wish.words: wish.goal for wish in wishes} == {"火锅": 0, "100-150元": 0, "50元以下": 1, "烤鸭": 1}


@pytest.mark.parametrize("domain", ["travel", "shop"])
def test_a_place_is_not_only_one_to_eat_at(domain):
    assert told(read(Catalogue(2), "a good place under $30", domain=domain)) == {"price -30!"}


def test_a_name_with_an_apostrophe_is_a_word():
    catalogue = catalogue_of({"a": {"name": "A", "attributes": {"district": "静安 Jing'an"}}})
    assert told(read(catalogue, "somewhere in Jing'an")) == {"jing'an"}


def test_a_hotel_is_read_in_its_own_domain():
    wishes = read(Catalogue(2), "找个酒店400-500元，再找个人均100-150元的餐馆", domain="travel")
    assert "price 400-500!" in told(wishes)


def test_a_shop_knows_no_distances_and_opening_hours():
    assert told(read(Catalogue(2), "within 500 m, open now, under $30", domain="shop")) == {"price -30!"}


def test_a_distance_does_not_filter_while_nobody_knows_where_the_user_is(catalogue):
    assert told(read(catalogue, "within 500 m", located=False)) == {"distance -500"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("一百五", 150), ("一百五十", 150), ("一百零五", 105), ("两千", 2000), ("十二", 12), ("三万五", 35_000),
        ("1千", 1000), ("四点五分", 4.5), ("two hundred and fifty", 250), ("forty-five", 45), ("1,250.5", 1250.5),
        ("2k", 2000), ("3 hundred", 300),
    ],
)  # fmt: skip
def test_numbers_are_read_as_people_write_them(text, value):
    assert [number.value for number in find_numbers(normal(text))] == [value]


@pytest.mark.parametrize(
    ("text", "bounds"), [("两三百", (200, 300)), ("五六十", (50, 60)), ("三五", (3, 5)), ("一两千", (1000, 2000))]
)
def test_what_is_roughly_said_is_from_one_number_to_another(text, bounds):
    assert [(number.value, number.most) for number in find_numbers(text)] == [bounds]


def test_a_part_of_the_day_that_has_come_is_now(catalogue):
    late = FRIDAY_EVENING + 3 * 3_600_000
    wishes = read_wishes("今晚还营业的", PACK, catalogue.vocabularies["restaurant"], late, ZONE, located=True)
    assert told(wishes) == {"open now"}


def test_a_price_for_all_is_one_where_prices_are_not_a_persons():
    assert told(read(Catalogue(2), "总共不超过500元，我们5个人", domain="shop")) == {"price -500!"}


def test_vocabulary_follows_the_catalogue():
    catalogue = catalogue_of(
        {"a": {"name": "A", "categories": ["ramen"]}, "b": {"name": "B", "categories": ["Miso Ramen"]}}
    )
    assert told(read(catalogue, "ramen")) == {"ramen"}
    catalogue.put("a", Item(domain="restaurant", name="A", categories=["udon"]), np.array([[1.0, 0.0]]))
    assert told(read(catalogue, "udon")) == {"udon"}
    catalogue.remove("b")
    assert told(read(catalogue, "ramen")) == set()
    catalogue.remove("a")
    assert told(read(catalogue, "udon or ramen")) == set()
    vocabulary = catalogue.vocabularies["restaurant"]
    assert (vocabulary.uses, vocabulary._trie, vocabulary._kinds) == ({}, {}, {})


def test_words_of_another_domain_are_not_read():
    catalogue = catalogue_of(ITEMS)
    catalogue.put("museum", Item(domain="travel", name="Museum", categories=["pottery"]), np.array([[1.0, 0.0]]))
    assert told(read(catalogue, "pottery")) == set()
    assert told(read(catalogue, "pottery", domain="travel")) == {"pottery"}


# -- the part of the score -------------------------------------------------------------------------------------------


def asked(catalogue: Catalogue, text: str, context: Context | None = None) -> dict[str, float]:
    wishes = read(catalogue, text)
    part = asked_part(
        catalogue,
        catalogue.vocabularies["restaurant"],
        PACK,
        wishes,
        context or Context(time_zone="Asia/Shanghai"),
        FRIDAY_EVENING,
    )
    assert part.shape == (catalogue.size,)
    assert np.isfinite(part).all()
    return {item_id: float(part[row]) for item_id, row in catalogue.row_of.items()}


def test_each_wish_that_is_met_adds_one(catalogue):
    part = asked(catalogue, "安静的川菜，人均50-100元，评分4.5分以上")
    assert part["sichuan"] == pytest.approx(4)
    assert part["bare"] == 0
    assert 0 < part["sushi"] < 1


def test_a_kind_of_what_was_asked_for_counts_less_than_the_thing_itself(catalogue):
    part = asked(catalogue, "烤鸭")
    assert (part["plain duck"], part["duck"], part["sushi"]) == (1, KIND_OF, 0)


def test_what_is_to_be_avoided_costs(catalogue):
    part = asked(catalogue, "不要太吵")
    assert part["sichuan"] == 1
    assert part["sushi"] == part["duck"] == -1
    assert part["bare"] == 0


def test_a_landmark_counts_a_little(catalogue):
    part = asked(catalogue, "外滩附近的烤鸭")
    assert part["sichuan"] == LANDMARK
    assert part["plain duck"] == 1


def test_tendencies_go_by_what_others_cost(catalogue):
    part = asked(catalogue, "cheap")
    assert part["sushi"] > part["sichuan"] > part["duck"] > part["plain duck"] >= 0
    assert part["bare"] == 0


def test_meeting_one_of_two_goals_beats_half_of_each(catalogue):
    part = asked(catalogue, "推荐有川菜的餐馆，人均70-90元。还要一家人均200元以上的餐馆，要有烤鸭。")
    assert part["sichuan"] == pytest.approx(2, abs=0.2)
    assert part["plain duck"] == pytest.approx(2, abs=0.2)
    assert part["duck"] < 1.5


def test_nearness_and_hours_count(catalogue):
    assert asked(catalogue, "open at 9pm")["sichuan"] == 1
    assert asked(catalogue, "open at 9pm")["duck"] == 0
    near = asked(catalogue, "附近", Context(location=HERE))
    assert near["sichuan"] > 0.4
    assert near["duck"] == 0
    assert set(asked(catalogue, "附近").values()) == {0.0}


# -- constraints -----------------------------------------------------------------------------------------------------


def joined(text: str, constraints: Constraints | None = None, **context) -> JoinedRequest:
    return JoinedRequest(
        request=Request(request_id="r", domain="restaurant", text=text, constraints=constraints),
        event_time=FRIDAY_EVENING,
        source=Source(partition=0, offset=0),
        context=Context(time_zone="Asia/Shanghai", **context),
    )


def allowed(catalogue: Catalogue, request: JoinedRequest) -> set[str]:
    mask = allowed_rows(catalogue, PACK, request.request.constraints, request.context, request.event_time)
    return {catalogue.item_ids[row] for row in np.flatnonzero(mask)}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("人均50-150元", {"sichuan", "duck"}),
        ("at least 4.5 stars", {"sichuan", "pot"}),
        ("人均100元以下，评分4.5分以上", {"sichuan"}),
        ("no sushi", set(ITEMS) - {"sushi"}),
        ("晚上九点还营业的", {"sichuan"}),
        ("必须有烤鸭", {"duck", "plain duck"}),
        ("must have outdoor seats", {"sushi"}),
        ("within 500 m", {"sichuan"}),
        ("川菜", set(ITEMS)),
    ],
)
def test_what_is_certain_filters(catalogue, text, left):
    assert allowed(catalogue, heed(catalogue, PACK, joined(text, location=HERE)).joined) == left


def test_what_the_app_posted_wins(catalogue):
    posted = Constraints(price_max=50.0, at_least={"rating": 3.0}, exclude_categories=["Hot Pot"])
    heeded = heed(catalogue, PACK, joined("人均100-150元，评分4.5分以上，no sushi again", posted))
    merged = heeded.joined.request.constraints
    assert (merged.price_min, merged.price_max, merged.at_least) == (None, 50.0, {"rating": 3.0})
    assert not any(wish.filters for wish in heeded.understood.wishes)  # nothing else is left at that price


def test_limits_from_words_are_added_to_those_posted(catalogue):
    posted = Constraints(categories=["川菜", "sushi"], exclude_categories=["Hot Pot"])
    heeded = heed(catalogue, PACK, joined("人均50元以下，不要花生", posted))
    assert heeded.joined.request.constraints == Constraints(
        categories=["川菜", "sushi"], exclude_categories=["Hot Pot", "peanuts"], price_max=50.0
    )
    assert allowed(catalogue, heeded.joined) == {"sushi"}


def test_limits_from_words_are_relaxed_and_told_where_nothing_meets_them(catalogue):
    heeded = heed(catalogue, PACK, joined("烤鸭，人均5元以下"))
    assert heeded.joined.request.constraints is None
    assert heeded.understood.relaxed
    assert not any(wish.filters for wish in heeded.understood.wishes)
    assert "最接近" in heeded.understood.phrase
    assert heeded.asked.max() == pytest.approx(1, abs=0.01)


def test_what_was_posted_is_never_relaxed(catalogue):
    posted = Constraints(price_max=1.0)
    heeded = heed(catalogue, PACK, joined("at least 4 stars", posted))
    assert allowed(catalogue, heeded.joined) == set()
    assert not heeded.understood.relaxed


def test_merging_keeps_every_field():
    said = Constraints(price_max=9.0, categories=["a"], attributes={"x": True, "y": 1.0}, exclude_categories=["c"])
    assert both(None, said) == said
    assert both(said, Constraints()) == said
    assert both(Constraints(attributes={"x": False}), said).attributes == {"x": False, "y": 1.0}
    everything = {name: getattr(said, name) for name in Constraints.__struct_fields__}
    assert both(Constraints(), said) == Constraints(**everything)


def test_at_least_needs_a_number_that_is_known(catalogue):
    request = joined("", Constraints(at_least={"rating": 4.5}))
    assert allowed(catalogue, request) == {"sichuan", "pot"}
    assert allowed(catalogue, joined("", Constraints(at_least={"quiet": 1.0}))) == set()


# -- what is told ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("安静的川菜，人均50-100元", "已理解：安静、川菜、人均50到100"),
        ("quiet, under $80, within 1.5 km, open at 9pm, no sushi",
         "Understood: quiet, at most 80 per head, within 1.5 km, open at 21:00, no sushi"),
    ],
)  # fmt: skip
def test_it_is_told_in_the_language_of_the_request(catalogue, text, phrase):
    assert heed(catalogue, PACK, joined(text, location=HERE)).understood.phrase == phrase


@pytest.mark.parametrize("text", ["", "hello", "🍜"])
def test_a_request_without_wishes_is_left_as_it_is(catalogue, text):
    request = joined(text)
    heeded = heed(catalogue, PACK, request)
    assert heeded.joined is request
    assert heeded.asked is None
    assert heeded.understood is None


def test_an_answer_carries_what_was_understood_and_survives_the_wire(catalogue):
    recommender = Recommender(2, "m@1")
    for item_id, fields in ITEMS.items():
        recommender.put([item_id], [Item(**{"domain": "restaurant", **fields})], [np.array([[1.0, 0.0]])])
    (answer,) = recommender.answer([joined("川菜，人均50-150元")], [None])
    assert {item.item_id for item in answer.items} == {"sichuan", "duck"}
    record = Recommendation(
        request_id="r",
        domain="restaurant",
        model="m@1",
        items=answer.items,
        source=Source(partition=0, offset=0),
        understood=answer.understood,
    )
    assert decode(Recommendation, encode(record)).understood == answer.understood


KINDS = set(msgspec.inspect.type_info(Wish).fields[0].type.values)
PHRASES = (KINDS - {"price", "category", "attribute", "item"}) | {
    "price_range", "price_max", "price_min", "price_about", "open_now", "has", "avoid", "relaxed", "lead",
}  # fmt: skip


@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.name)
def test_a_pack_can_tell_every_wish_in_both_languages(pack):
    for phrases in pack.phrases.values():
        assert set(phrases.wishes) == PHRASES
        fields = {name for phrase in phrases.wishes.values() for _, name, _, _ in string.Formatter().parse(phrase)}
        assert fields - {None} == {"low", "high", "words"}
        assert "asked" in phrases.why


# -- whatever is typed -----------------------------------------------------------------------------------------------

HOSTILE = {
    "digits": "1" * 4_000,
    "number": "$" + str(10**400),
    "numbers": "1-" * 2_000,
    "prices": "人均100-150元" * 400,
    "numerals": "一" * 4_000,
    "scales": "千万百十" * 1_000,
    "refusals": "不要" * 2_000,
    "too": "太" * 4_000,
    "no": "no " * 1_333,
    "fillers": "not " + "too so very a an the " * 180,
    "words": "hundred " * 500,
    "links": "under" + " is of a the" * 330,
    "clauses": "，。" * 2_000,
    "goals": "酒店餐馆" * 1_000,
    "terms": "烤鸭" * 2_000,
    "spaces": " " * 4_000,
    "emoji": "🍜👩‍👩‍👧" * 600,
    "ligature": "ﷺ" * 4_000,
    "scripts": "sushi寿司すし초밥суши" * 200,
    "times": "晚上十点12:30 " * 300,
    "day": "9999年 open at 25:99 99点",
    "decimals": "1.5 " * 1_000,
    "shared prices": "10块一共 " * 600,
    "hours": "9点" * 2_000,
    "nights": "open night " * 360,
    "surrogate": "\udc80 sushi",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_any_text_is_read_in_time_and_what_is_read_is_within_the_contract(catalogue, text):
    started = time.process_time()
    heeded = heed(catalogue, PACK, joined(text[:4_000], location=HERE))
    assert time.process_time() - started < 1.0
    if heeded.joined.request.constraints is not None:
        msgspec.convert(msgspec.to_builtins(heeded.joined.request.constraints), Constraints)


@pytest.mark.parametrize(
    ("items", "text", "found"),
    [
        ({"long": {"name": "N", "categories": ["ﬃ" * 200]}}, "ﬃ" * 200, False),
        ({"long": {"name": "N", "attributes": {"dish": "x" * 3_000}}}, "x" * 3_000, False),
        ({"pot": {"name": "N", "categories": ["hot pot"]}}, f"hot{'…' * 2_000}pot", True),
    ],
    ids=["compatibility forms", "a long value", "far apart"],
)
def test_what_is_understood_fits_into_an_answer(items, text, found):
    understood = heed(catalogue_of(items), PACK, joined(text)).understood
    assert (understood is not None) == found
    if understood is not None:
        assert msgspec.convert(msgspec.to_builtins(understood), Understood) == understood


def test_time_zones_and_moments_at_the_end_of_time_do_no_harm(catalogue):
    late = msgspec.structs.replace(joined("open at 9pm"), event_time=253_402_300_799_999)
    assert heed(catalogue, PACK, late).joined.request.text == "open at 9pm"


def test_an_empty_catalogue_has_no_words():
    assert heed(Catalogue(2), PACK, joined("川菜，人均80，4.5分以上")).understood is None


def test_limits_are_only_what_filters(catalogue):
    vocabulary = catalogue.vocabularies["restaurant"]
    assert limits(read(catalogue, "人均80左右的川菜"), PACK, vocabulary) is None
    assert limits(read(catalogue, "人均80以下的川菜"), PACK, vocabulary) == Constraints(price_max=80.0)
