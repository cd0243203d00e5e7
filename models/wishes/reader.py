"""From a text to wishes: what is certain is a limit, what is not only counts in the score."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any, Literal

import msgspec

from models.wishes.amounts import cues, find_amounts, find_nearness
from models.wishes.goals import Goals
from models.wishes.mentions import Mention, find_mentions
from models.wishes.moments import find_moments
from models.wishes.party import per_head
from models.wishes.phrasebook import Meaning, phrasebook
from models.wishes.tokens import normal, tokens_of
from models.wishes.vocabulary import Use, Vocabulary
from schemas.domains import DomainPack
from schemas.records import Constraints, Wish

MAX_WISHES, MAX_VALUES = 50, 100
MAX_WORDS = 4_000  # characters, as a wish carries them; between two words there may be more
_TENDENCIES = {"cheap", "dear", "well_rated"}


@dataclass(frozen=True)
class Found:
    """A wish and where it starts in the text."""

    start: int
    wish: Wish


def read_wishes(
    text: str, pack: DomainPack, vocabulary: Vocabulary, event_time: int, zone: tzinfo, *, located: bool
) -> list[Wish]:
    """Return what a text asks for, in English, Chinese or both, in the order of the text.

    Args:
        text: as the user typed it.
        pack: of the request's domain.
        vocabulary: of that domain's items.
        event_time: of the request, milliseconds.
        zone: in which times of day are meant.
        located: whether it is known where the user is; without that, no distance can be a limit.

    """
    text = normal(text)
    if not text or text.isspace():
        return []
    book, kinds = phrasebook(pack.name), set(pack.constraints)
    amounts = find_amounts(text, cues(book.price, book.price_elsewhere, book.rating), pack.wishes.rating_scale)
    if pack.wishes.per_head:
        amounts = per_head(text, amounts)
    moments = find_moments(text, event_time, zone) if "open_at" in kinds else []
    near = find_nearness(text) if "max_distance" in kinds else []
    taken = [*((each.start, each.end) for each in amounts), *((each.start, each.end) for each in moments), *near]
    mentions = find_mentions(text, tokens_of(text), vocabulary, book, taken)
    goals = Goals(text, mentions)

    found: list[Found] = []
    possible = {"price": "price" in kinds, "rating": "attributes" in kinds, "distance": "max_distance" in kinds}
    for amount in amounts:
        if amount.elsewhere or not possible[amount.kind] or goals.elsewhere(amount.start, amount.end):
            continue
        sure = amount.sure and (located or amount.kind != "distance") and not goals.hedged(amount.start, amount.end)
        words = text[amount.start : amount.end]
        wish = Wish(kind=amount.kind, words=words, low=amount.low, high=amount.high, filters=sure)
        found.append(Found(amount.start, wish))
    for moment in moments:
        low = None if moment.time is None else float(moment.time)
        wish = Wish(kind="open", words=text[moment.start : moment.end], low=low, filters=moment.sure)
        found.append(Found(moment.start, wish))
    found += [Found(start, Wish(kind="near", words=text[start:end])) for start, end in near[:1]]
    for mention in mentions:
        if mention.tag in _TENDENCIES and goals.elsewhere(mention.start, mention.end):
            continue
        words = text[mention.start : mention.end][:MAX_WORDS]
        found += [Found(mention.start, wish) for wish in _meant(mention, words, vocabulary, book.meanings, kinds)]
    return _settled(found, goals)


def limits(wishes: Iterable[Wish], pack: DomainPack, vocabulary: Vocabulary) -> Constraints | None:
    """Return the wishes that filter as a request would carry them, None if none does."""
    found = Constraints()
    for wish in wishes:
        if wish.filters:
            found = msgspec.structs.replace(found, **_limit(wish, found, pack, vocabulary))
    return None if found == Constraints() else found


def _settled(found: list[Found], goals: Goals) -> list[Wish]:
    """Return the distinct wishes in order, each with its goal; one that may belong to another goal does not filter."""
    distinct = {
        (each.wish.kind, *each.wish.values, each.wish.low, each.wish.high, each.wish.avoid): each
        for each in found[::-1]
    }
    found = sorted(distinct.values(), key=lambda each: each.start)[:MAX_WISHES]
    starts, wishes = [each.start for each in found], [each.wish for each in found]
    several = goals.several(starts)
    kinds = [wish.kind for wish in wishes]
    return [
        msgspec.structs.replace(
            wish,
            goal=goal,
            filters=wish.filters
            and (
                wish.avoid
                or bool(wish.values)
                or (kinds.count(wish.kind) == 1 and (wish.kind == "open" or not several))
            ),
        )
        for wish, goal in zip(wishes, goals.numbers(starts, wishes), strict=True)
    ]


def _meant(
    mention: Mention, words: str, vocabulary: Vocabulary, meanings: Mapping[str, Meaning], kinds: Collection[str]
) -> list[Wish]:
    """Return the wishes that a word of the catalogue or of the pack stands for."""
    wanted = mention.stance in {"wanted", "required"}
    if mention.stance in {"past", "indifferent"} or mention.tag in {"goal", "elsewhere"}:
        return []
    if mention.tag in _TENDENCIES:
        if mention.tag == "dear" and not wanted:
            return [Wish(kind="cheap", words=words)]
        return [Wish(kind=mention.tag, words=words)] if wanted else []  # type: ignore[arg-type]
    meaning = meanings.get(mention.key) or Meaning((mention.key,), ())
    values = _known(vocabulary, dict.fromkeys((mention.key, *meaning.same)))
    opposite = _known(vocabulary, meaning.opposite)
    uses = _uses(vocabulary, values)
    kind: Literal["category", "attribute"] = "category" if _one_kind(uses) == "category" else "attribute"
    named = {use.kind for use in vocabulary.uses.get(mention.key, ())}
    if wanted and values:
        return [Wish(kind=kind, words=words, values=values, filters=mention.stance == "required" and _can(uses, kinds))]
    if wanted and opposite:
        return [Wish(kind="attribute", words=words, values=opposite, avoid=True)]
    if wanted:
        return [Wish(kind="landmark", words=words, values=[mention.key])] if "landmark" in named else []
    found = [Wish(kind="attribute", words=words, values=opposite)] if opposite else []
    if values:
        sure = mention.stance == "excluded" and kind == "category" and "exclude_categories" in kinds
        found.append(Wish(kind=kind, words=words, values=values, avoid=True, filters=sure))
    elif "name" in named:
        found.append(Wish(kind="item", words=words, values=[mention.key], avoid=True))
    return found


def _limit(wish: Wish, known: Constraints, pack: DomainPack, vocabulary: Vocabulary) -> dict[str, Any]:
    """Return what a wish changes about the constraints known so far."""
    match wish.kind:
        case "price":
            return {"price_min": wish.low, "price_max": wish.high}
        case "rating":
            return {"at_least": {pack.wishes.rating: wish.low}}
        case "distance":
            return {"max_distance": wish.high}
        case "open":
            return {"open_at": "now" if wish.low is None else int(wish.low)}
    uses = _uses(vocabulary, wish.values)
    names = sorted({use.value for use in uses})
    if wish.avoid:
        return {"exclude_categories": [*known.exclude_categories, *names][:MAX_VALUES]}
    if _one_kind(uses) == "category":
        return {"categories": [*known.categories, *names][:MAX_VALUES]}
    (attribute,) = {use.attribute for use in uses}
    return {"attributes": {**known.attributes, attribute: True if _one_kind(uses) == "flag" else names[:MAX_VALUES]}}


def _known(vocabulary: Vocabulary, keys: Iterable[str]) -> list[str]:
    """Return those keys that are, or end, a category, an attribute or a value of the catalogue."""
    return [key for key in keys if _uses(vocabulary, [key])][:MAX_VALUES]


def _uses(vocabulary: Vocabulary, values: Iterable[str]) -> set[Use]:
    """Return what words, and longer ones that end in them, are to items."""
    return {
        use
        for value in values
        for key in (value, *vocabulary.kinds(value))
        for use in vocabulary.uses.get(key, ())
        if use.kind not in {"landmark", "name"}
    }


def _one_kind(uses: set[Use]) -> str | None:
    kinds = {use.kind for use in uses}
    return kinds.pop() if len(kinds) == 1 else None


def _can(uses: set[Use], kinds: Collection[str]) -> bool:
    """Return whether one constraint can ask for all of these uses."""
    if _one_kind(uses) == "category":
        return "categories" in kinds
    return "attributes" in kinds and _one_kind(uses) is not None and len({use.attribute for use in uses}) == 1
