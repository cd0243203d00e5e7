"""What was understood, told in the language of the request with the domain pack's phrases."""

from collections.abc import Iterable
from datetime import datetime, tzinfo

from schemas.domains import DomainPack, Language
from schemas.records import Wish


def understood_phrase(
    wishes: Iterable[Wish], pack: DomainPack, language: Language, zone: tzinfo, *, relaxed: bool
) -> str:
    """Return the wishes as one phrase, times of day in ``zone``."""
    phrases = pack.phrases[language]
    told = []
    for wish in wishes:
        low, high = _amount(wish.low), _amount(wish.high)
        if wish.kind == "distance" and wish.high is not None:
            high = f"{wish.high / 1000:g} km" if wish.high >= 1000 else f"{wish.high:.0f} m"
        if wish.kind == "open" and wish.low is not None:
            low = datetime.fromtimestamp(wish.low / 1000, zone).strftime("%H:%M")
        told.append(phrases.wishes[_phrase(wish)].format(low=low, high=high, words=wish.words))
    if relaxed:
        told.append(phrases.wishes["relaxed"])
    return phrases.wishes["lead"] + phrases.separator.join(dict.fromkeys(told))


def _phrase(wish: Wish) -> str:
    """Return the name of the phrase that tells a wish."""
    match wish.kind:
        case "price" if wish.low is None:
            return "price_max"
        case "price" if wish.high is None:
            return "price_min"
        case "price":
            return "price_about" if wish.low == wish.high else "price_range"
        case "open":
            return "open_now" if wish.low is None else "open"
        case "category" | "attribute" | "item":
            return "avoid" if wish.avoid else "has"
    return wish.kind


def _amount(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"
