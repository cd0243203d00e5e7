"""Numbers in a text: Arabic digits, Chinese numerals, English number words."""

import re
from typing import NamedTuple

MAX_VALUE = 1e9
_TEENS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
)
_UNITS = {word: value for value, word in enumerate(re.findall("[a-z]+", f"{_TEENS} eighteen nineteen"))}
_TENS = {
    f"{stem}ty": 10 * value
    for value, stem in enumerate(("twen", "thir", "for", "fif", "six", "seven", "eigh", "nine"), 2)
}
_WORD = "|".join(sorted([*_UNITS, *_TENS, "hundred", "thousand"], key=len, reverse=True))
_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_SCALES = {
    "十": 10,
    "百": 100,
    "千": 1_000,
    "万": 10_000,
    "k": 1_000,
    "hundred": 100,
    "thousand": 1_000,
    "grand": 1_000,
}
_DIGIT, _NUMERAL = "零〇一二两三四五六七八九", "零〇一二两三四五六七八九十百千万"
_NUMBER = re.compile(
    # A digit run of eight or more is nobody's limit; 0 in front is a telephone number.
    r"(?<![\d.])(?<!\d,)(?P<digits>(?:\d{1,3}(?:,\d{3}){1,2}|\d{1,7})(?:\.\d{1,3})?)(?!\d|[.,]\d)"
    r"(?P<scale>[百千万]|k\b|\s(?:hundred|thousand|grand)\b)?"
    rf"|(?<![几第数周初{_NUMERAL}])(?P<numeral>[{_NUMERAL}]{{1,8}}[十百千万](?=一个?[人位])"
    rf"|[{_NUMERAL}]{{1,9}}(?:点[{_DIGIT}](?=[分星]))?(?![{_NUMERAL}])(?<!一(?=[些点下般起直定样])))"
    rf"|\b(?P<words>(?:{_WORD})(?:(?:[ -]| and )(?:{_WORD})){{0,4}})\b",
    re.ASCII,
)
_HUNDREDS_AND_A_DIGIT = re.compile(rf"[{_DIGIT}][百千万][一二两三四五六七八九]", re.ASCII)
_ROUGHLY = re.compile(r"(?P<from>[一二两三四五六七八])(?P<to>[二两三四五六七八九])(?P<scale>[十百千万])?")


class Number(NamedTuple):
    """A number and where it stands in the text. 两三百 is from ``value`` to ``most``; else the two are equal."""

    value: float
    most: float
    start: int
    end: int


def find_numbers(text: str) -> list[Number]:
    """Return the numbers of a text that is ``normal``, from left to right; what is too large is left out."""
    found = []
    for match in _NUMBER.finditer(text):
        bounds = _roughly(match["numeral"] or "") or _value(match)
        low, most = bounds if isinstance(bounds, tuple) else (bounds, bounds)
        if low is not None and most is not None and most <= MAX_VALUE:
            found.append(Number(low, most, match.start(), match.end()))
    return found


def _roughly(numeral: str) -> tuple[float, float] | None:
    """Return from where to where 两三百, 五六十 or 三五 is, None for what is exact."""
    match = _ROUGHLY.fullmatch(numeral)
    if match is None or not 0 < _DIGITS[match["to"]] - _DIGITS[match["from"]] <= 2:
        return None
    scale = _SCALES[match["scale"]] if match["scale"] else 1
    return float(_DIGITS[match["from"]] * scale), float(_DIGITS[match["to"]] * scale)


def _value(match: re.Match[str]) -> float | None:
    if digits := match["digits"]:
        if digits[0] == "0" and len(digits) > 1 and digits[1] != ".":
            return None
        return float(digits.replace(",", "")) * (_SCALES[match["scale"].strip()] if match["scale"] else 1)
    if numeral := match["numeral"]:
        return _chinese(numeral)
    return _english(re.split("[ -]", match["words"]))


def _chinese(numeral: str) -> float | None:
    """Return the value of 一百五十, 一百零五, 一百五 (150), 四点五; None for what is not a number, such as 三二一."""
    whole, _, fraction = numeral.partition("点")
    if fraction:
        value = _chinese(whole)
        return None if value is None else value + _DIGITS[fraction] / 10
    if _HUNDREDS_AND_A_DIGIT.fullmatch(numeral):
        return _DIGITS[numeral[0]] * _SCALES[numeral[1]] + _DIGITS[numeral[2]] * _SCALES[numeral[1]] / 10
    total, digit, smallest = 0.0, None, 1_000_000.0
    for sign in numeral:
        if sign in _SCALES:
            scale = _SCALES[sign]
            if sign == "万":
                total, digit = (total + (digit or 0) or 1) * scale, None
            elif scale >= smallest:
                return None
            else:
                total, digit = total + (1 if digit is None else digit) * scale, None
            smallest = scale
        elif digit:
            return None
        else:
            digit = _DIGITS[sign]
    return total + (digit or 0)


def _english(words: list[str]) -> float:
    total = part = 0
    for word in words:
        if word == "hundred":
            part = (part or 1) * 100
        elif word == "thousand":
            total, part = total + (part or 1) * 1_000, 0
        else:
            part += _UNITS.get(word) or _TENS.get(word, 0)
    return float(total + part)
