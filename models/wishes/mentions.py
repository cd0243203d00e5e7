"""Words of the catalogue and of the domain pack in a text, and whether they are wanted, insisted on or refused."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from models.wishes.phrasebook import Phrasebook
from models.wishes.tokens import Token, is_chinese
from models.wishes.vocabulary import Vocabulary, longest

Stance = Literal["wanted", "required", "unwanted", "excluded", "past", "indifferent"]

BEFORE, AFTER = 48, 16  # characters that are looked at
_TOO = r"(?<![a-z])(?:too|so|very|overly|that)(?![a-z])|太|那么|这么|过于|特别|非常"
_FILLERS = (  # possessive: what has been taken is not tried in another way
    rf"(?:\s|{_TOO}|(?<![a-z])(?:really|any|a|an|the|another|more|some|much|many|of|to|be|have|in the mood for"
    r"|looking for|eat|eating|drink|drinking|with|feel like|feeling like|anything|something|keen on|into|it"
    r"|contain(?:s|ing)?|in|at|near)(?![a-z])"
    r"|[想要吃喝点去在再又有是带含放加选很的]|那种|什么|任何|怎么)*+"
)
_REFUSED = re.compile(
    r"(?:(?<![a-z])(?:no|(?<!why )(?<!if )not|without|nothing|avoid(?:ing)?|except(?: for)?|excluding|anything but"
    r"|other than|instead of|rather than|hate|dislike|allergic to|intolerant (?:to|of)|less|isn'?t|aren'?t|ain'?t|never"
    r"|fed up with|(?:sick|tired|bored|enough) of|(?:stay|keep|steer) (?:away from|clear of)|(?:hold|skip) the"
    r"|not (?:really |exactly |much of )?(?:a |an |the )?(?:big |huge |great )?fans? of"
    r"|(?:can'?t|cannot|couldn'?t) (?:really )?(?:stand|bear)"
    r"|(?:don'?t|do not|doesn'?t|does not|didn'?t|can'?t|cannot|won'?t|wouldn'?t)(?: (?:really|even))?"
    r" (?:want|like|eat|drink|have|do|feel like|fancy|care for|serve|be))(?![a-z])"
    r"|(?<!要)不要|(?<!想)不想|(?<!能)不能|(?<!爱)不爱|(?<!喜欢)不喜欢|(?<!是)不是|(?<!用)不用|(?<!吃)不吃|(?<!喝)不喝"
    r"|(?<!去)不去|(?<!带)不带|(?<!含)不含|(?<!放)不放|(?<!会)不会|(?<!够)不够|不(?=[太那怎很])"
    r"|(?<![好还要是能会])不|(?<!有)没有?"
    rf"|(?<![特区分级个])别|忌|(?<!不)怕|讨厌|拒绝|避开|除了|除去|排除)(?P<fillers>{_FILLERS})$"
)
_REFUSED_AFTER = re.compile(
    r"\s{0,2}(?:的|类|味|都|也|就|一律){0,3}(?:过敏|除外|算了|吃?腻了"
    # Before something else it refuses that: 包间不要太吵.
    r"|(?:不要|别|不能)[放加有吃]?(?=$|[\s,.;!，。；！]|[的了啊吧哈呢])"
    r"|不(?:行|吃|喝|考虑|想吃|想要)(?=$|[\s,.;!，。；！]|[的了啊吧哈呢]))"
    r"|\s{0,2}(?:[- ]free\b|allergy\b|allergies\b|intolerance\b)"
)
_INDIFFERENT = re.compile(
    r"(?:(?<![a-z])(?:not necessarily|no need|(?:don'?t|do not|doesn'?t|does not|needn'?t|need not)"
    r"(?: really)? (?:need|have|care)(?: to| about| if)?|needn'?t)(?: for| to)?(?![a-z])"
    rf"|不一定|不需要|没必要|不必|不强求|无所谓)(?:非|得)?{_FILLERS}$"
)
_EITHER_WAY = re.compile(
    r"\s{0,2}(?:的?也(?:行|可以|没关系|无所谓|没问题|ok)|(?:is|are|would be) (?:also )?(?:ok|okay|fine|no problem)\b)"
)
_UNLESS = re.compile(r"\s{0,2}(?:unless|除非)")
_QUESTION = re.compile(r"[^,.;!，。；！\n]{0,12}[吗么?？]")
_BESIDES = re.compile(r"[^.;!?。；！？\n]{0,16}(?:还|也)")
_REQUIRED = re.compile(
    r"(?:(?<![a-z])(?:must (?:have|be|serve)|has to (?:have|be)|have to have|need to have|(?<!not )only"
    r"|strictly)(?![a-z])"
    rf"|必须|一定要|一定得|务必|非得|(?<!不)只)(?P<fillers>{_FILLERS})$"
)
_PAST = re.compile(rf"(?:(?<![a-z])(?:had|ate|tried)(?![a-z])|吃了|吃过|喝过|去过|点了|刚吃|尝过){_FILLERS}$")
_ALSO = re.compile(r"\s{0,2}(?:or|nor|and|and\/or|\/|&|、|和|或|或者|跟|以及|还有)\s{0,2}(?:any |the |a )?")
# Characters beside which a single one is a word of its own; all others may make a compound of it.
_BEFORE_A_WORD = frozenset("吃喝要太不想有点爱能很更最别忌怕喜欢的和或也都就再又较够")
_AFTER_A_WORD = frozenset("的吗呢了啊吧哦呀嘛和或也都就一")


_COMMA = re.compile(r",\s{0,2}")
_LAST = re.compile(r",?\s(?:or|nor)\s(?:any |the |a )?")


@dataclass(frozen=True)
class Mention:
    """A term of the catalogue or a word of the pack (``tag``) in the text."""

    key: str
    tag: str
    start: int
    end: int
    stance: Stance


def find_mentions(
    text: str, tokens: Sequence[Token], vocabulary: Vocabulary, book: Phrasebook, taken: Sequence[tuple[int, int]]
) -> list[Mention]:
    """Return the mentions in a ``normal`` text, from left to right: the longest at each place, none in ``taken``."""
    found: list[Mention] = []
    spans = iter([*sorted(taken), (len(text) + 1, len(text) + 1)])
    span = next(spans)
    position = 0
    while position < len(tokens):
        token = tokens[position]
        while token.start >= span[1]:
            span = next(spans)
        if token.end > span[0]:
            position += 1
            continue
        length, key = vocabulary.longest(tokens, position)
        told, word = longest(book.trie, tokens, position)
        tag = ""
        if told >= length:
            length, key, tag = told, word, book.tags.get(word, "")
        if not length or not _stands_alone(text, tokens[position : position + length]):
            position += 1
            continue
        end = tokens[position + length - 1].end
        stance = _stance(text, token.start, end)
        if stance == "wanted" and found and _ALSO.fullmatch(text, found[-1].end, token.start):
            stance = found[-1].stance if found[-1].stance != "past" and not found[-1].tag else stance
        found.append(Mention(key, tag, token.start, end, stance))
        position += length
    return _with_lists(text, found)


def _with_lists(text: str, found: list[Mention]) -> list[Mention]:
    """Return mentions of which a list after a refusal is refused as a whole: no peanuts, shellfish or dairy."""
    for first, mention in enumerate(found):
        if mention.stance not in {"excluded", "unwanted"}:
            continue
        last = first + 1
        while last < len(found) and _COMMA.fullmatch(text, found[last - 1].end, found[last].start):
            last += 1
        if last > first + 1 and last < len(found) and _LAST.fullmatch(text, found[last - 1].end, found[last].start):
            found[first + 1 : last + 1] = [replace(each, stance=mention.stance) for each in found[first + 1 : last + 1]]
    return found


def _stands_alone(text: str, tokens: Sequence[Token]) -> bool:
    if len(tokens) > 1 or not is_chinese(tokens[0].text):
        return True
    before, after = text[max(0, tokens[0].start - 1) : tokens[0].start], text[tokens[0].end : tokens[0].end + 1]
    return (not is_chinese(before) or before in _BEFORE_A_WORD) and (not is_chinese(after) or after in _AFTER_A_WORD)


def _stance(text: str, start: int, end: int) -> Stance:
    before = text[max(0, start - BEFORE) : start]
    if _INDIFFERENT.search(before):
        return "indifferent"
    if _REFUSED_AFTER.match(text, end, end + AFTER):
        return "excluded"
    if (refused := _REFUSED.search(before)) and not _only_asks(text, refused, end):
        if _EITHER_WAY.match(text, end, end + AFTER) and not refused[0].startswith("除"):
            return "indifferent"
        mildly = (
            re.search(_TOO, refused["fillers"]) or refused[0].startswith(("less", "怕")) or _UNLESS.match(text, end)
        )
        return "unwanted" if mildly else "excluded"
    if _REQUIRED.search(before):
        return "required"
    return "past" if _PAST.search(before) else "wanted"


def _only_asks(text: str, refused: re.Match[str], end: int) -> bool:
    """Return whether a refusal is none: 没有火锅吗, 除了火锅还想要."""
    if refused[0].startswith("没"):
        return _QUESTION.match(text, end) is not None
    return refused[0].startswith("除") and _BESIDES.match(text, end) is not None
