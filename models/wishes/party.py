"""A price for everybody at a table, as what each pays: how catalogues of such domains put it."""

import re
from collections.abc import Sequence
from dataclasses import replace

from models.wishes.amounts import MAX_NUMBERS, Amount
from models.wishes.numerals import find_numbers

BEFORE, AFTER = 16, 24  # characters that are looked at
MOST_PEOPLE = 500
_FOR_ALL_BEFORE = re.compile(
    r"(?:一共|总共|总计|合计|总价|总预算|加起来|全部|一桌"
    r"|(?<![a-z])(?:total|altogether|in all|overall)(?![a-z]))[^\d,.;!?，。；！？]*$",
    re.ASCII,
)
_FOR_ALL_AFTER = re.compile(
    r"\s{0,2}(?:一共|总共|总计|合计|加起来|[/每]?一?桌"
    r"|(?:in )?(?:total|all)\b|altogether\b|overall\b|between us\b"
    r"|for (?:everyone|everybody|all of us|(?:the|our) (?:whole )?(?:table|group|party|lot))\b)",
    re.ASCII,
)
_PEOPLE_AFTER = re.compile(
    r"\s{0,2}(?:个?人(?![均民])|位(?!置)|口人|个?大人|(?:people|persons?|ppl|pax|guests?|adults?|diners)\b|of us\b)",
    re.ASCII,
)
_PEOPLE_BEFORE = re.compile(r"\b(?:party|group) of\s$", re.ASCII)
_FOR = re.compile(r"\bfor\s$", re.ASCII)
_NO_UNIT = re.compile(r"\s{0,2}(?:$|[,.;!?，。；！？]|(?:at|on|in|with|and|tonight|tomorrow)\b)", re.ASCII)


def per_head(text: str, amounts: Sequence[Amount]) -> list[Amount]:
    """Return the amounts of a ``normal`` text; prices that are said to be for all are divided by how many they are.

    If that is not said, one is still the most that a person can pay; what is only the least that all pay is left out.
    """
    shared = [amount.kind == "price" and _is_for_all(text, amount) for amount in amounts]
    if not any(shared):
        return list(amounts)
    people = _people(text)
    told = (_divided(amount, people) if for_all else amount for amount, for_all in zip(amounts, shared, strict=True))
    return [amount for amount in told if amount is not None]


def _is_for_all(text: str, amount: Amount) -> bool:
    before, after = text[max(0, amount.start - BEFORE) : amount.start], text[amount.end : amount.end + AFTER]
    return bool(_FOR_ALL_BEFORE.search(before) or _FOR_ALL_AFTER.match(after))


def _divided(amount: Amount, people: int | None) -> Amount | None:
    if people is None:
        return None if amount.high is None else replace(amount, low=None)
    low, high = (None if bound is None else bound / people for bound in (amount.low, amount.high))
    return replace(amount, low=low, high=high)


def _people(text: str) -> int | None:
    """Return the number of people a text speaks of first, None if of none."""
    for number in find_numbers(text)[:MAX_NUMBERS]:
        before = text[max(0, number.start - BEFORE) : number.start]
        said = _PEOPLE_AFTER.match(text, number.end) or _PEOPLE_BEFORE.search(before)
        said = said or (_NO_UNIT.match(text, number.end) and _FOR.search(before))
        if said and 1 <= number.value == number.most <= MOST_PEOPLE and number.value.is_integer():
            return int(number.value)
    return None
