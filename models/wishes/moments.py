"""When something should be open: now, or at a time of day."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice
from typing import NamedTuple

from models.wishes.numerals import find_numbers

MAX_MOMENTS = 50  # of a text
_DAYPART = r"早上|早晨|上午|中午|下午|傍晚|晚上|今晚|明晚|夜里|半夜|深夜|凌晨|明早"
_LATE = re.compile(r"下午|傍晚|晚上|今晚|明晚|夜里|半夜|深夜", re.ASCII)
_CLOCK = re.compile(
    rf"(?P<part>{_DAYPART})?\s?(?P<hour>(?<![\d.:])\d{{1,2}}|[一二两三四五六七八九十]{{1,3}})点"
    r"(?P<tail>钟|半|一刻|三刻|(?P<past>\d{2}|[一二三四五]?十[一二三四五六七八九]?)分?)?"
    r"|(?<![\d:.])(?P<hh>\d{1,2}):(?P<mm>\d{2})(?![\d:])\s?(?P<half>[ap]\.?m\b)?"
    r"|(?<![\d:.$])(?P<h>\d{1,2})\s?(?P<ampm>[ap]\.?m\b|o'clock)"
    r"|\b(?P<named>midnight|noon)\b",
    re.ASCII,
)
_PARTS = (  # of a day, and the minute that stands for each
    (r"早上|早晨|上午|明早|\bmorning\b", 9 * 60),
    (r"中午|\bnoon\b", 12 * 60),
    (r"下午|\bafternoon\b", 15 * 60),
    (r"傍晚|晚上|今晚|明晚|\b(?:evening|tonight|night)\b", 20 * 60),
    (r"夜里|半夜|深夜|\bmidnight\b|\blate at night\b", 24 * 60),
    (r"凌晨", 2 * 60),
)
_PART = re.compile("|".join(f"(?P<minute_{minute}>{words})" for words, minute in _PARTS), re.ASCII)
_PART_LASTS = 4 * 60  # minutes
_OPEN = re.compile(r"\bopen(?:s|ed)?\b|\bclos(?:es?|ing)\b|营业|开着|开门|开放|关门|打烊", re.ASCII)
_NOW = re.compile(
    r"(?:现在|此刻|目前|这会儿?|这个点|这么晚)[^,.;!?，。；！？]{0,6}(?:营业|开着|开门|开放)"
    r"|还开着|还在?营业|正在?营业|营业中|还没(?:关门|打烊)|没关门"
    r"|\b(?:currently|still) open\b|\bopen (?:right now|now|at the moment|currently|this late)\b",
    re.ASCII,
)
_CLOSES_BEFORE = re.compile(
    r"(?:以前|之前|前)[^,.;!?，。；！？]{0,4}(?:关门|打烊)|\bclos(?:es?|ing) (?:before|by)\b", re.ASCII
)
_UNTIL = re.compile(r"(?:\buntil|\btill|\bto|到)\s?$", re.ASCII)
_DAYS_AHEAD = re.compile(r"(?P<two>后天|后晚|\bday after tomorrow\b)|明天|明日|明早|明晚|\btomorrow\b", re.ASCII)
_DATE = re.compile(
    r"\d{1,2}\s?月\s?\d{1,2}|\d{1,2}[号日](?![线楼])|\b(?:\d{1,2}(?:st|nd|rd|th)|(?:jan|feb|mar|apr|jun|jul|aug|sep|oct|nov|dec)"
    r"[a-z]{0,6} \d{1,2})\b",
    re.ASCII,
)
_DAY = re.compile(
    r"(?:周|星期|礼拜)(?P<zh>[一二三四五六日天])"
    r"|\b(?P<en>monday|tuesday|wednesday|thursday|friday|saturday|sunday)s?\b",
    re.ASCII,
)
_DAYS_ZH = {day: number for number, day in enumerate("一二三四五六日")} | {"天": 6}
_DAYS_EN = {"monday": 0, "tuesday": 1, "wednesday": 2, "thursday": 3, "friday": 4, "saturday": 5, "sunday": 6}
_CLAUSE = re.compile(r"[,.;!?，。；！？\n]", re.ASCII)


@dataclass(frozen=True)
class Moment:
    """When it should be open: milliseconds, or None for now. ``sure``: opening was spoken of."""

    time: int | None
    start: int
    end: int
    sure: bool


def find_moments(text: str, event_time: int, zone: tzinfo) -> list[Moment]:
    """Return the times of a text that is ``normal``, from left to right.

    Times of day are in ``zone`` and in the future.
    """
    said = _day_said(text, event_time, zone)
    found = []
    for match in islice(_CLOCK.finditer(text), MAX_MOMENTS):
        start, end = _clause(text, match.start(), match.end())
        if _CLOSES_BEFORE.search(text, start, end):
            continue
        sure = _OPEN.search(text, start, end) is not None
        minute = _minute_of_day(match, sure=sure)
        if minute is None:
            continue
        exact, hour_minute = minute
        if not exact and (part := _PART.search(text, start, end)):
            exact, hour_minute = True, hour_minute + (720 if _middle(part) > 720 and hour_minute < 720 else 0)
        before_closing = 1 if _UNTIL.search(text[max(0, match.start() - 8) : match.start()]) else 0
        time = _next(hour_minute - before_closing, exact, said)
        if time is not None:
            # Of another day, which half is meant is a guess, and which weekday a date is, too.
            sure = sure and (exact or not said.named) and not said.dated
            found.append(Moment(time, match.start(), match.end(), sure))
    for match in islice(_PART.finditer(text), MAX_MOMENTS):
        start, end = _clause(text, match.start(), match.end())
        if _OPEN.search(text, start, end) and not any(start <= moment.start < end for moment in found):
            found += _some_time(match, said)
    for match in islice(_NOW.finditer(text), MAX_MOMENTS):
        start, end = _clause(text, match.start(), match.end())
        another_day = said.named and _day_of(text[start:end]) is not None
        if not another_day and not any(start <= moment.start < end for moment in found):
            found.append(Moment(None, match.start(), match.end(), sure=True))
    return sorted(found, key=lambda moment: moment.start)


class _Day(NamedTuple):
    """The day that a text speaks of: whether it names one, by a date if ``dated``, seen from ``now``."""

    now: datetime | None  # None: beyond the calendar
    days_ahead: int
    named: bool
    dated: bool


def _day_said(text: str, event_time: int, zone: tzinfo) -> _Day:
    try:
        now = datetime.fromtimestamp(event_time / 1000, UTC).astimezone(zone)
    except (OverflowError, ValueError, OSError):
        return _Day(None, 0, False, False)
    day = _day_of(text)
    weekday = day is not None and day < 7
    ahead = 0 if day is None else (day - now.weekday()) % 7 if weekday else day - 7
    return _Day(now, ahead, day is not None, _DATE.search(text) is not None)


def _day_of(text: str) -> int | None:
    """Return the weekday that a text names, 0 for Monday, or 7 and the number of days ahead; None for neither."""
    if named := _DAY.search(text):
        return _DAYS_ZH[named["zh"]] if named["zh"] else _DAYS_EN[named["en"]]
    ahead = _DAYS_AHEAD.search(text)
    return None if ahead is None else 9 if ahead["two"] else 8


def _some_time(part: re.Match[str], said: _Day) -> list[Moment]:
    """Return the moment that stands for a part of a day, now if that has come: it only ranks."""
    time = _next(_middle(part), True, said)
    over = _next((_middle(part) + _PART_LASTS) % 1440, True, said)
    if time is None or over is None:
        return []
    present = over < time and not said.named
    return [Moment(None if present else time, part.start(), part.end(), sure=False)]


def _middle(part: re.Match[str]) -> int:
    """Return the minute of the day that stands for a part of it."""
    return int(str(part.lastgroup).removeprefix("minute_"))


def _clause(text: str, start: int, end: int) -> tuple[int, int]:
    """Return where the clause around a match begins and ends, looking at most 40 characters either way."""
    first = max(0, start - 40)
    for stop in _CLAUSE.finditer(text, first, start):
        first = stop.end()
    following = _CLAUSE.search(text, end, end + 40)
    return first, following.start() if following else min(len(text), end + 40)


def _minute_of_day(match: re.Match[str], *, sure: bool) -> tuple[bool, int] | None:
    """Return (is the half of the day known, minutes since midnight)."""
    if named := match["named"]:
        return (True, 720 if named == "noon" else 1440) if sure else None
    if hour := match["h"]:
        half = match["ampm"]
        return _clock(int(hour), 0, half) if half != "o'clock" or sure else None
    if match["hh"]:
        exact_clock = _clock(int(match["hh"]), int(match["mm"]), match["half"])
        written_out = bool(match["half"]) or match["hh"][0] == "0" or int(match["hh"]) >= 12
        return exact_clock and (written_out, exact_clock[1])
    # "一点" is also "a little", "两点" two points: something must say that it is a time.
    if not (match["part"] or match["tail"] or sure) or (match["hour"] == "一" and not (match["part"] or match["tail"])):
        return None
    hour_value, tail = _integer(match["hour"]), match["tail"]
    past = {"半": 30, "一刻": 15, "三刻": 45, "钟": 0, None: 0}.get(tail)
    minutes = _integer(match["past"]) if past is None else past
    if hour_value > 24 or minutes > 59:
        return None
    part = match["part"]
    if part and _LATE.match(part) and hour_value <= 12:
        hour_value = (12 if hour_value == 12 and part == "下午" else hour_value + 12) if hour_value > 4 else hour_value
        if hour_value <= 4 and part in {"下午", "傍晚"}:
            hour_value += 12
    elif part == "中午" and hour_value <= 2:
        hour_value += 12
    return bool(part) or hour_value > 12, hour_value * 60 + minutes


def _clock(hour: int, minute: int, half: str | None) -> tuple[bool, int] | None:
    if hour > 24 or minute > 59:
        return None
    if half and half[0] in "ap":
        if not 1 <= hour <= 12:
            return None
        return True, (hour % 12 + (12 if half[0] == "p" else 0)) * 60 + minute
    return hour > 12 or hour == 0, hour * 60 + minute


def _next(minute: int, exact: bool, said: _Day) -> int | None:
    """Return the next moment of that minute of the day, on the day that was said, in milliseconds."""
    if said.now is None:
        return None
    now = said.now
    try:
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        if said.named:
            return _milliseconds(midnight + timedelta(days=said.days_ahead, minutes=minute))
        options = [midnight + timedelta(minutes=minute + shift) for shift in ((0,) if exact else (0, 720))]
        return _milliseconds(min(option if option >= now else option + timedelta(days=1) for option in options))
    except (OverflowError, ValueError, OSError):
        return None


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _integer(numeral: str) -> int:
    numbers = find_numbers(numeral)
    return int(numbers[0].value) if numbers else 99
