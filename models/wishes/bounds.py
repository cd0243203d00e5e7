"""Which side of a number is meant: at most, at least, about; and what is refused instead of wished for.

Both the words before a number and those after it are looked at. A refusal turns the side around: "不想花超过100" is at
most 100, "nothing under 4 stars" at least 4. All patterns are ASCII patterns that look at a window of bounded length.
"""

import re
from typing import Literal, NamedTuple

SIGN = r"(?:us\$|[$€£¥]|(?<![a-z])(?:rmb|cny|usd|eur|gbp|hkd))"
ABOUT = r"大概|大约|约|差不多|接近|\b(?:around|about|roughly|approximately|circa|close to)|~"
Side = Literal["at most", "at least"]
_OPPOSITE: dict[Side, Side] = {"at most": "at least", "at least": "at most"}
_AT_MOST = (
    r"不要?超过?|别超过?|不高于|低于|少于|小于|不到|不多于|不大于|最多|至多|顶多|最高|控制在|上限|封顶|≤|<=?"
    r"|\b(?:under|below|less than|up to|at (?:the )?most|(?:no|not) more than|not over|cheaper than|less expensive than"
    r"|max(?:imum)?(?: of)?"
    r"|(?:no|not) (?:higher|further|farther) than|within|inside)"
)
_AT_LEAST = (
    r"不低于|不少于|不小于|至少|最少|最低|起码|高于|超过|大于|多于|≥|>=?"
    r"|\b(?:over|above|more than|at least|higher than|better than|more expensive than"
    r"|min(?:imum)?(?: of)?|(?:no|not) less than"
    r"|start(?:ing|s) (?:at|from))"
)
_LINK = r"(?:\s|[:：]|在|是|为|有|要|得|就|我们?|(?<![a-z])(?:is|of|a|the|my|our))*"
_LINK += rf"(?:{ABOUT})?\s{{0,2}}{SIGN}?\s{{0,2}}$"
_LEAD: dict[Side, re.Pattern[str]] = {
    "at most": re.compile(rf"(?:{_AT_MOST}){_LINK}", re.ASCII),
    "at least": re.compile(rf"(?:{_AT_LEAST}){_LINK}", re.ASCII),
}
_LEAD_ABOUT = re.compile(rf"(?:{ABOUT})\s{{0,2}}{SIGN}?\s{{0,2}}$", re.ASCII)
_PER = r"(?:\s{0,2}(?:/|每|一个?)\s{0,2}(?:人|位))?"
_TRAIL: dict[Side, re.Pattern[str]] = {
    "at most": re.compile(
        rf"{_PER}\s{{0,2}}(?:以内|以下|之内|之下|以里|内|封顶|顶多"
        r"|(?:or|and) (?:less|under|below|fewer|cheaper)\b|max\b|maximum\b|tops\b|at (?:the )?most\b)",
        re.ASCII,
    ),
    "at least": re.compile(
        rf"{_PER}\s{{0,2}}(?:(?:及|或者?)?(?:以上|更高)|之上|往上|起(?!来)|\+|plus\b"
        r"|(?:or|and) (?:more|up|above|over|higher|better)\b"
        r"|minimum\b|at least\b)",
        re.ASCII,
    ),
}
_TRAIL_ABOUT = re.compile(rf"{_PER}\s{{0,2}}(?:左右|上下|出头|or so\b|-?ish\b)", re.ASCII)
# A refusal counts only with nothing but these words between it and what it refuses; possessive, for linear time.
_BETWEEN = (
    r"(?:\s|[想要能可会该应得让花付出给用吃去选找有是在离的再太我你您]|可以|希望|愿意|打算|准备|考虑|接受|推荐|介绍|消费|花费|价格|价位|人均|每人"
    r"|评分|评价|打分|分数|距|任何"
    r"|(?<![a-z])(?:want|wanna|wish|like|care|plan|prefer|need|going|able|willing|looking|to|for|spend|spending|pay"
    r"|paying|go|cost|costs|costing|be|is|are|it|that|which|with|a|an|any|of|have|having|find|me|us|show|recommend"
    r"|anything|something|anywhere|somewhere|places?|priced|prices?|rated|ratings?|score[sd]?|per|head|person"
    r"|too|much|really)(?![a-z]))*+"
)
_REFUSED = re.compile(
    r"(?:(?<![是能会要好可想吃去有])不|(?<![特区分级个性类差])别|(?<!有)没|勿|拒绝|讨厌"
    r"|(?<![a-z])(?:no|not|never|nothing|none|nowhere|without|avoid|cannot"
    r"|(?:do|does|did|is|are|was|wo|would|should|could|ca|must|need|ai)n'?t)(?![a-z]))"
    rf"{_BETWEEN}(?:{SIGN}\s{{0,2}})?$",
    re.ASCII,
)
_REFUSED_AFTER = re.compile(
    rf"{_PER}\s{{0,2}}(?:[的就都也那]|is |are |would be |that's )*"
    r"(?:(?:不要|不行|不考虑|不能接受|不接受|不可以|不去)(?=$|[\s,.;!?，。；！？的了啊吧呢])|免谈|除外|算了|太贵|太高|太远"
    r"|(?:way |far |just )?too (?:much|expensive|pricey|dear|far|high)\b|out of (?:the )?(?:question|budget))",
    re.ASCII,
)
_QUESTION = re.compile(r"[^,.;!，。；！\n]{0,12}[吗么?？]")
_TOLERATED = re.compile(
    r"(?:不介意|不在乎|无所谓|(?:能|可以)接受"
    r"|(?<![a-z])(?:mind|fine with|okay with|ok with|happy with|happy to|willing to)(?![a-z]))"
    rf"{_BETWEEN}$",
    re.ASCII,
)
_TOLERATED_AFTER = re.compile(
    rf"{_PER}\s{{0,2}}的?(?:也(?:行|可以|能接受|没关系|无所谓|没问题|ok)"
    r"|(?:is|are|would be) (?:also )?(?:ok|okay|fine)\b)",
    re.ASCII,
)


class Bound(NamedTuple):
    """What stands around a number says: which ``side`` of it is meant, None for neither.

    ``refused``: the number itself, or a side that is only tolerated, is no wish. ``lead``: the side is said before the
    number. ``length``: of the words right after it that say the side, or that it is roughly meant (``about``).
    """

    side: Side | None
    about: bool
    refused: bool
    lead: bool
    length: int


def find_bound(before: str, after: str) -> Bound:
    """Return the bound said by the text before a number and the text after it and its unit."""
    trails = {side: match.end() for side, pattern in _TRAIL.items() if (match := pattern.match(after))}
    rough = _TRAIL_ABOUT.match(after)
    length = max([*trails.values(), rough.end() if rough else 0])
    # Of "not less than" and "less than", the longer is what was said.
    led = min(
        ((match.start(), side) for side, pattern in _LEAD.items() if (match := pattern.search(before))), default=None
    )
    start, lead = led or (len(before), None)
    side = next(iter(trails), lead)
    refused = _is_refused(before[:start], after, length)
    tolerated = side == "at least" and (
        _TOLERATED.search(before[:start]) is not None or _TOLERATED_AFTER.match(after, length) is not None
    )
    if side and refused and not tolerated:
        side, refused = _OPPOSITE[side], False
    return Bound(side, bool(rough or _LEAD_ABOUT.search(before)), refused or tolerated, lead is not None, length)


def _is_refused(before: str, after: str, length: int) -> bool:
    """Return whether what stands between two texts, and the first characters of the second, is refused."""
    if _REFUSED_AFTER.match(after, length):
        return True
    refusal = _REFUSED.search(before)
    return refusal is not None and not (refusal[0][0] == "没" and _QUESTION.match(after))  # 没有100以内的吗 only asks
