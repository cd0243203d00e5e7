"""How people put a wish into words, in English or Chinese: part of what they want, said in one of many ways."""

import random

from ops.simulator.vocabulary import ATTRIBUTES, CUISINES, Company, Daypart, Weather
from ops.simulator.world import Moment

SILENT = 0.15  # share of requests without text

_HEADS_EN = {  # (is there a cuisine, is there an adjective)
    (True, True): (
        "{front} {wanted}", "{front} place for {wanted}", "somewhere {front} for {wanted}", "{wanted}, {front}",
        "looking for {wanted}, {front} if possible", "is there anywhere {front} that does {wanted}",
    ),
    (True, False): (
        "{wanted}", "craving {wanted}", "looking for {wanted}", "where can I get {wanted}", "{wanted} please",
        "in the mood for {wanted}", "fancy some {dish}", "good {dish}",
    ),
    (False, True): (
        "somewhere {front}", "{front} restaurant", "{front} place to eat", "anything {front}",
        "find me something {front}",
    ),
    (False, False): ("something to eat", "hungry", "any ideas", "a good restaurant", "what do you recommend"),
}  # fmt: skip
_HEADS_ZH = {
    (True, True): (
        "{front}{wanted}", "想找家{front}{wanted}", "有没有{front}{wanted}", "推荐一家{front}{wanted}",
        "{wanted}，要{front}",
    ),
    (True, False): (
        "{wanted}", "想吃{wanted}", "哪里有{wanted}", "推荐个{wanted}", "好吃的{wanted}", "想来点{dish}",
        "{dish}哪家好",
    ),
    (False, True): ("{front}餐厅", "找个{front}地方吃饭", "想去{front}店", "推荐一家{front}馆子"),
    (False, False): ("吃什么好", "随便吃点", "推荐一下", "有什么好吃的", "饿了"),
}  # fmt: skip

_PRICE_EN = ("around {budget} yuan a head", "under {ceiling} per person", "{budget} rmb each", "budget {budget}")
_PRICE_ZH = ("人均{budget}", "人均{budget}左右", "{ceiling}块以内", "预算{budget}一个人")
_CHEAP_EN, _CHEAP_ZH = ("cheap", "not too expensive", "good value"), ("便宜点", "实惠的", "别太贵")
_DEAR_EN = ("something special", "price is no issue", "a bit upscale")
_DEAR_ZH = ("高档一点", "有档次的", "贵点没关系")
_NEAR_EN = ("close by", "walking distance", "not far", "near me")
_NEAR_ZH = ("离我近点", "走路能到", "别太远", "就在附近")
_WEATHER_EN: dict[Weather, tuple[str, ...]] = {
    "rain": ("it's raining", "it's pouring outside", "don't want to get wet"),
    "snow": ("it's snowing", "freezing out there"),
    "cold": ("it's freezing", "something to warm up"),
    "hot": ("it's so hot today", "too hot to cook"),
    "sunny": ("lovely weather today", "it's sunny"),
}
_WEATHER_ZH: dict[Weather, tuple[str, ...]] = {
    "rain": ("外面下雨了", "下雨天", "不想淋雨"),
    "snow": ("下雪了", "好冷"),
    "cold": ("天太冷了", "想暖和一下"),
    "hot": ("今天太热了", "天热没胃口"),
    "sunny": ("今天天气真好", "出太阳了"),
}
_COMPANY_EN: dict[Company, tuple[str, ...]] = {
    "alone": ("just me", "table for one"),
    "couple": ("for a date", "just the two of us", "anniversary"),
    "friends": ("with friends", "group of six", "catching up with old friends"),
    "family": ("with my parents", "with two kids", "family meal"),
    "business": ("with a client", "business meal", "with colleagues"),
}
_COMPANY_ZH: dict[Company, tuple[str, ...]] = {
    "alone": ("一个人吃", "就我自己"),
    "couple": ("约会", "两个人", "纪念日"),
    "friends": ("和朋友", "六个人聚餐", "老同学聚会"),
    "family": ("带爸妈", "带孩子", "一家人"),
    "business": ("请客户吃饭", "商务宴请", "和同事"),
}
_DAYPART_EN: dict[Daypart, str] = {
    "morning": "for breakfast", "noon": "for lunch", "afternoon": "this afternoon", "evening": "for dinner",
    "night": "still open this late",
}  # fmt: skip
_DAYPART_ZH: dict[Daypart, str] = {
    "morning": "早上吃", "noon": "中午", "afternoon": "下午", "evening": "晚饭", "night": "夜宵，还开着的",
}  # fmt: skip


def request_text(rng: random.Random, moment: Moment) -> str:
    """Return what the user types; empty for a share of ``SILENT``. What is said is true, but not all of it is said."""
    if rng.random() < SILENT:
        return ""
    chinese = moment.language == "zh"
    said = [ATTRIBUTES[row] for row in moment.attributes if rng.random() < 0.75]
    fronts, tails = [], []
    for attribute in said:
        front = attribute.front_zh if chinese else attribute.front_en
        if front and (not attribute.tail_en or chinese or rng.random() < 0.6):
            fronts.append(rng.choice(front))
        else:
            tails.append(rng.choice(attribute.tail_en))
    cuisine = CUISINES[moment.cuisine] if moment.cuisine is not None and rng.random() < 0.85 else None
    tails += _remarks(rng, moment, chinese=chinese)
    heads = (_HEADS_ZH if chinese else _HEADS_EN)[cuisine is not None, bool(fronts)]
    wanted = dish = ""
    if cuisine is not None:
        wanted = cuisine.wanted_zh if chinese else cuisine.wanted_en
        dish = rng.choice(cuisine.dishes_zh if chinese else cuisine.dishes_en)
    head = rng.choice(heads).format(front=("" if chinese else " and ").join(fronts), wanted=wanted, dish=dish)
    rng.shuffle(tails)
    tails = tails[:3]
    if tails and rng.random() < 0.2:  # some start with the circumstances
        head, tails[0] = tails[0], head
    if chinese:
        return "，".join([head, *tails]) + rng.choice(("", "", "", "。", "？", "～"))
    text = ", ".join([head, *tails])
    return (text[0].upper() + text[1:] if rng.random() < 0.4 else text) + rng.choice(("", "", "", ".", "?", "!"))


def _remarks(rng: random.Random, moment: Moment, *, chinese: bool) -> list[str]:
    """Return what is said about price, distance, weather, company and time of day."""
    remarks = []
    if rng.random() < 0.35:
        step = 5 if moment.budget < 60 else 10 if moment.budget < 200 else 50
        budget = round(moment.budget / step) * step
        if rng.random() < 0.7:
            phrase = rng.choice(_PRICE_ZH if chinese else _PRICE_EN)
            remarks.append(phrase.format(budget=budget, ceiling=budget + 2 * step))
        elif moment.budget < 50:
            remarks.append(rng.choice(_CHEAP_ZH if chinese else _CHEAP_EN))
        elif moment.budget > 220:
            remarks.append(rng.choice(_DEAR_ZH if chinese else _DEAR_EN))
    if moment.near and rng.random() < 0.7:
        remarks.append(rng.choice(_NEAR_ZH if chinese else _NEAR_EN))
    weather = (_WEATHER_ZH if chinese else _WEATHER_EN).get(moment.weather)
    if weather and rng.random() < 0.2:
        remarks.append(rng.choice(weather))
    if rng.random() < 0.3:
        remarks.append(rng.choice((_COMPANY_ZH if chinese else _COMPANY_EN)[moment.company]))
    if rng.random() < 0.2:
        remarks.append((_DAYPART_ZH if chinese else _DAYPART_EN)[moment.daypart])
    return remarks
