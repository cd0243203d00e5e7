"""Prices, ratings and distances in a text: which numbers they are, and whether people mean them as a limit.

A number is a wish only by what stands around it: a unit, a word such as "per head", a bound. All patterns look at a
window of bounded length before or after the number, so that reading takes linear time. They are ASCII patterns: an
English word may well end where Chinese begins.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from models.wishes.bounds import SIGN, Bound, find_bound
from models.wishes.numerals import Number, find_numbers

MILE, WALKED_PER_MINUTE = 1609.344, 80.0  # metres
BEFORE, AFTER = 40, 24  # characters that are looked at
MAX_NUMBERS = 200  # of a text; those of a longer list are no wishes

_JOINED = re.compile(
    r"\s{0,2}(?P<unit>元|块钱?|分|星|stars?|米|m|公里|km|dollars|yuan|rmb)?\s{0,2}(?:-|–|—|~|～|至|到|to|and|和|与)"
    r"\s{0,2}[$€£¥]?\s{0,2}",
    re.ASCII,
)
_BUDGET = r"预算|\bbudget|\bspend(?:ing)?|\bcheaper than|\bpay(?:ing)?|\bafford"
_LEAD_BUDGET = re.compile(rf"(?:{_BUDGET})[^\d,.;:!?，。；：！？、]{{0,14}}{SIGN}?\s{{0,2}}$", re.ASCII)
_LEAD_SIGN = re.compile(rf"{SIGN}\s{{0,2}}$", re.ASCII)
_MONEY = re.compile(
    r"\s{0,2}(?:(?:[多来几])?(?:元(?![旦宵素代])|块钱|块(?=$|[^\u3400-\u9fff]|[以之左上内的一每到封起吧就可能行])|人民币|美元|美金|欧元|英镑|日元|円|港币)"
    r"|(?:rmb|cny|yuan|kuai|dollars?|bucks?|usd|euros?|eur|pounds?|gbp|quid|yen|hkd)\b|[$€£¥](?!\d))",
    re.ASCII,
)
_STARS = re.compile(
    r"\+?\s{0,2}(?:(?:颗)?星(?![期级座球空巴])级?|-?\s?stars?\b|\s?/\s?5\b|out of (?:5|five)\b)", re.ASCII
)
_POINTS = re.compile(r"\s{0,2}(?:分(?![钟之店别享为量米公给手布开钱子类])|points?\b)", re.ASCII)
_LENGTHS = {
    "kilometre": (re.compile(r"\s{0,2}(?:公里|千米|(?:km|kms|kilomet(?:er|re)s?)\b)", re.ASCII), 1_000.0),
    "metre": (
        re.compile(r"\s{0,2}(?:米(?=$|[^\u3400-\u9fff]|[以之内左上外范远近的])|(?:m|met(?:er|re)s?)\b)", re.ASCII),
        1.0,
    ),
    "li": (re.compile(r"\s{0,2}里(?:地|路|以内|之内)", re.ASCII), 500.0),
    "mile": (re.compile(r"\s{0,2}(?:英里|(?:miles?|mi)\b)", re.ASCII), MILE),
    "block": (re.compile(r"\s{0,2}blocks?\b", re.ASCII), 150.0),
}
_ON_FOOT = re.compile(
    r"\s{0,2}(?:分钟|minutes?|mins?\b)[^,.;!?，。；！？]{0,8}?(?:步行|走路|路程|走|walk|on foot)", re.ASCII
)
_WALKING = re.compile(r"(?:步行|走路|走|walk(?:ing)?(?: for)?)[^,.;!?，。；！？\d]{0,5}$", re.ASCII)
_MINUTES = re.compile(r"\s{0,2}(?:分钟|minutes?|mins?\b)", re.ASCII)
_FROM_ELSEWHERE = re.compile(r"(?:离|距离?)(?!我|这|那?里|此|当前|现在)[^,.;!?，。；！？\d]{1,20}$", re.ASCII)
_OF_ELSEWHERE = re.compile(
    r"[^,.;!?，。；！？]{0,6}?\b(?:of|from|to)\s(?!me\b|here\b|us\b|my\b|our\b|where i\b)", re.ASCII
)
_NEAR = re.compile(
    r"\b(?:nearby|near (?:me|here|us|my place)|close by|close to (?:me|here|us)|walking distance"
    r"|not (?:too |so |very )?far(?! from (?!me|here|us))|around here|in the (?:area|neighbou?rhood))\b"
    r"|离(?:我|这里?|这儿)[^,.;!?，。；！？]{0,4}近|[别不](?:要|用)?太?远|走路(?:能|可以?)?到|步行(?:能|可以?)?到|就近"
    r"|(?:(?<![\u3400-\u9fff])|(?<=[我这里的找在要想去有就是看家]))(?:附近|周边|周围)(?!的?(?:景|地标))"
    r"|近一?点|近些",
    re.ASCII,
)
_BARE_LIMIT = re.compile(r"\s{0,2}以[内下](?:$|[^\u3400-\u9fff]|[的吧就可吗])", re.ASCII)
_PLAIN_END = re.compile(
    r"\s{0,2}(?:$|[,.;!?，。；！？()]|(?:please|and|or|but|with|for|in|near|if|each|total)\b)", re.ASCII
)


_SCALE = re.compile(r"(?:[百千万]|k|hundred|thousand|grand)$")


@dataclass(frozen=True)
class Amount:
    """A number that is a wish, from ``low`` to ``high`` in the unit of its kind (metres for a distance).

    ``sure``: it was said as a limit, not as an example or a guess. ``elsewhere``: it is about another domain.
    """

    kind: Literal["price", "rating", "distance"]
    low: float | None
    high: float | None
    start: int
    end: int
    sure: bool
    elsewhere: bool = False


@dataclass(frozen=True)
class Cues:
    """The pack's patterns for words that say what a number is, each to be found before or after it."""

    price_before: re.Pattern[str]
    price_after: re.Pattern[str]
    elsewhere_before: re.Pattern[str]
    elsewhere_after: re.Pattern[str]
    rating_before: re.Pattern[str]
    rating_after: re.Pattern[str]


@cache
def cues(price: str, price_elsewhere: str, rating: str) -> Cues:
    """Return the cues for a phrasebook's patterns."""
    before, after = r"[^\d,.;!?，。；！？]{0,12}$", r"\s{0,2}(?:/|元|块钱?|yuan|rmb|dollars?|bucks?)?\s{0,2}"
    return Cues(
        re.compile(price + before, re.ASCII),
        re.compile(after + price, re.ASCII),
        re.compile(price_elsewhere + before, re.ASCII),
        re.compile(after + price_elsewhere, re.ASCII),
        re.compile(rf"{rating}[^\d,;!?，。；！？]{{0,12}}$", re.ASCII),
        re.compile(rf"的?\s{{0,2}}{rating}", re.ASCII),
    )


def find_amounts(text: str, said: Cues, rating_scale: float) -> list[Amount]:
    """Return the amounts of a text that is ``normal``, from left to right."""
    numbers = find_numbers(text)[:MAX_NUMBERS]
    amounts = []
    position = 0
    while position < len(numbers):
        first = numbers[position]
        last = numbers[position + 1] if position + 1 < len(numbers) and _range(text, numbers, position) else None
        amount = _amount(text, _scaled(text, first, last), last, said, rating_scale)
        if amount is None and last is not None:
            last = None  # "for 2 and 30 dollars each" is no range
            amount = _amount(text, first, None, said, rating_scale)
        if amount is not None:
            amounts.append(amount)
        position += 1 if last is None else 2
    return amounts


def find_nearness(text: str) -> list[tuple[int, int]]:
    """Return where a ``normal`` text says that it should be near to the user."""
    return [match.span() for match in _NEAR.finditer(text)]


def _range(text: str, numbers: list[Number], position: int) -> bool:
    first, second = numbers[position], numbers[position + 1]
    between = text[first.end : second.start]
    if len(between) > 12 or first.value > second.value or not (joint := _JOINED.fullmatch(between)):
        return False
    if "and" in between or "和" in between or "与" in between:
        before = text[max(0, first.start - 10) : first.start]
        return "between" in before or text.startswith("之间", second.end) or "之间" in text[second.end : second.end + 4]
    return joint is not None


def _scaled(text: str, first: Number, last: Number | None) -> Number:
    """Return the first number of a range times what only the last one says: two to three hundred, 2-3百."""
    scale = _SCALE.search(text, last.start, last.end) if last else None
    if last is None or scale is None or first.value >= 10:
        return first
    worth = 1_000 if scale[0] in {"千", "k", "thousand", "grand"} else 10_000 if scale[0] == "万" else 100
    return (
        first._replace(value=first.value * worth, most=first.most * worth)
        if first.value < last.value / worth
        else first
    )


def _amount(text: str, first: Number, last: Number | None, said: Cues, rating_scale: float) -> Amount | None:
    start, end = first.start, (last or first).end
    before, after = text[max(0, start - BEFORE) : start], text[end : end + AFTER]
    return (
        _rating(first, last, before, after, said, rating_scale)
        or _distance(first, last, before, after)
        or _price(first, last, before, after, said)
    )


def _rating(
    first: Number, last: Number | None, before: str, after: str, said: Cues, rating_scale: float
) -> Amount | None:
    if not 0 < first.value <= rating_scale:
        return None
    unit = _STARS.match(after) or _POINTS.match(after)
    rest = after[unit.end() :] if unit else after
    cue = said.rating_before.search(before)
    if named := said.rating_after.match(rest):
        cue, rest = cue or named, rest[named.end() :]
    if not (unit or cue):
        return None
    bound = find_bound(before, rest)
    at_least = bound.side == "at least" or (bound.side is None and after.startswith("+"))
    points_alone = unit is not None and not _STARS.match(after) and not at_least and last is None
    if (points_alone and not cue) or _MONEY.match(after) or _is_price(before, after, said, cue):
        return None
    if bound.side == "at most" or bound.refused:
        return None  # nobody asks for what is bad
    end = (last or first).end + (unit.end() if unit else 0) + (bound.length if at_least else 0)
    return Amount("rating", first.value, None, first.start, end, sure=bool(at_least or last))


def _is_price(before: str, after: str, said: Cues, rating: re.Match[str] | None) -> bool:
    price = said.price_before.search(before)
    later = price is not None and (rating is None or (rating.string is before and price.start() > rating.start()))
    return later or said.price_after.match(after) is not None


def _distance(first: Number, last: Number | None, before: str, after: str) -> Amount | None:
    end = (last or first).end
    value = (last or first).most
    if not value:
        return None
    if (on_foot := _ON_FOOT.match(after)) or (_MINUTES.match(after) and _WALKING.search(before)):
        length = on_foot.end() if on_foot else _length(_MINUTES, after)
        return Amount("distance", None, value * WALKED_PER_MINUTE, first.start, end + length, sure=False)
    for unit, metres in _LENGTHS.values():
        match = unit.match(after)
        if match is None:
            continue
        rest = after[match.end() :]
        bound = find_bound(before, rest)
        if bound.refused or bound.side == "at least":
            return None
        limit = bound.side == "at most" or "以内" in match[0] or "之内" in match[0]
        end += match.end() + (bound.length if bound.side else 0)
        elsewhere = bool(_FROM_ELSEWHERE.search(before) or _OF_ELSEWHERE.match(rest))
        high = min(value * metres, 2e7)
        return Amount("distance", None, high, first.start, end, sure=limit, elsewhere=elsewhere)
    return None


def _price(first: Number, last: Number | None, before: str, after: str, said: Cues) -> Amount | None:
    money, named = _MONEY.match(after), said.price_after.match(after)
    priced = named or money
    unit = priced.end() if priced else 0
    rest = after[unit:]
    bound = find_bound(before, rest)
    sign, budget = _LEAD_SIGN.search(before), _LEAD_BUDGET.search(before)
    elsewhere = said.elsewhere_before.search(before) or said.elsewhere_after.match(after)
    ours = said.price_before.search(before) or named or said.price_after.match(rest[bound.length :])
    if before[-1:].isascii() and before[-1:].isalpha() and not sign:
        return None
    told = bool(money or sign or budget or ours or elsewhere)
    if not told and not _is_bare_price(first, last, before, after, bound):
        return None
    if not ours and not money and not sign and _counts_other_things(rest):
        return None
    if bound.refused:
        return None
    low, high, sure = _bounds(first, last, bound, budget=budget is not None)
    if high == 0 or (last is None and first.value <= 1 and not sign):
        return None  # 一块 is also "together"
    end = (last or first).end + unit + bound.length
    return Amount(
        "price", low, high, first.start, end, sure=told and sure, elsewhere=elsewhere is not None and ours is None
    )


def _is_bare_price(first: Number, last: Number | None, before: str, after: str, bound: Bound) -> bool:
    """Return whether a number may well be money though nothing says so: "under 30" may, "under 30 minutes" is not."""
    between = last is not None and last.value >= 10 and "between" in before[-10:]
    led = bound.side == "at most" and bound.lead and (before.isascii() or first.value >= 10)
    return bool((_PLAIN_END.match(after) and (between or led)) or _BARE_LIMIT.match(after))


def _bounds(
    first: Number, last: Number | None, bound: Bound, *, budget: bool
) -> tuple[float | None, float | None, bool]:
    """Return from where to where a price may be, and whether that is a limit."""
    if last is not None:
        return first.value, last.most, not bound.about
    if not bound.about and (bound.side == "at most" or (budget and bound.side is None)):
        return None, first.most, True
    if not bound.about and bound.side == "at least":
        return first.value, None, True
    return first.value, first.most, False


_OTHER_COUNT = re.compile(
    r"\s{0,2}(?:[个名位口]?人(?![均民])|[个家位名口间份种样次年月日号点岁楼层天周折%路站路]|分钟?|小时|people\b|persons?\b|ppl\b|pax\b|guests?\b|adults?\b"
    r"|kids?\b|children\b|minutes?\b|mins?\b|hours?\b|days?\b|years?\b|pm\b|am\b|o'clock|:\d|%|percent\b|of us\b)",
    re.ASCII,
)


def _counts_other_things(rest: str) -> bool:
    return _OTHER_COUNT.match(rest) is not None


def _length(pattern: re.Pattern[str], text: str) -> int:
    match = pattern.match(text)
    return match.end() if match else 0
