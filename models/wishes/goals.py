"""Several things in one text: what a wish is about, and which wishes belong together."""

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from models.wishes.mentions import Mention
from models.wishes.tokens import is_chinese
from schemas.records import Wish

_CLAUSE = re.compile(r"[,;!?，；。！？\n]|\.(?!\d)", re.ASCII)
_OPENER = re.compile(  # what comes after it is of a goal that is yet to be named
    r"找|推荐|安排|有没有|[来去订选换]一?[家个间]"
    r"|\b(?:find|book|looking for|suggest|recommend|want|need|a|an|any|some)\b",
    re.ASCII,
)
_BESIDE_BEFORE = re.compile(
    r"\b(?:near|next to|close to|around|by|from|at|of)(?: the| my| our)?\s$|[离距在]$", re.ASCII
)
_BESIDE_AFTER = re.compile(r"的?(?:附近|周边|周围|旁边|边上|对面|门口|出发)", re.ASCII)
_HEDGE = re.compile(r"最好|尽量|优先|如果可以|可以的话|\b(?:ideally|preferably|hopefully|if possible)\b", re.ASCII)
_SENTENCE = re.compile(r"[;!?；。！？\n]|\.(?!\d)", re.ASCII)


class Goals:
    """Where a text says what sort of thing it is about: something of this domain, or of another."""

    def __init__(self, text: str, mentions: Sequence[Mention]) -> None:
        named = [
            mention
            for mention in mentions
            if mention.tag in {"goal", "elsewhere"}
            and not _BESIDE_AFTER.match(text, mention.end)
            and not _BESIDE_BEFORE.search(text[max(0, mention.start - 16) : mention.start])
        ]
        self._text = text
        self._start = [mention.start for mention in named]
        self._end = [mention.end for mention in named]
        self._other = [mention.tag == "elsewhere" for mention in named]
        self._clauses = [match.start() for match in _CLAUSE.finditer(text)]
        self._sentences = [match.start() for match in _SENTENCE.finditer(text)]

    def elsewhere(self, start: int, end: int) -> bool:
        """Return whether what stands from start to end is about another domain.

        Chinese names the goal last, so the next one in the clause comes first. Else it is the goal before, unless a new
        one has been opened since: "book a flight, then find a 4 star, cheap cafe".
        """
        if not any(self._other):
            return False
        following = bisect_left(self._start, end)
        previous = following - 1
        opened = previous >= 0 and _OPENER.search(self._text, self._end[previous], start) is not None
        if following == len(self._start):
            return self._other[previous] and not opened
        if previous < 0 or (
            is_chinese(self._text[self._start[following]])
            and bisect_left(self._clauses, self._start[following]) == bisect_left(self._clauses, start)
        ):
            return self._other[following]
        return self._other[following if opened else previous]

    def sentence(self, position: int) -> int:
        """Return the number of the sentence that a position is in."""
        return bisect_left(self._sentences, position)

    def hedged(self, start: int, end: int) -> bool:
        """Return whether the clause says that this would only be nice."""
        following = _CLAUSE.search(self._text, end)
        return (
            _HEDGE.search(self._text, self._clause_start(start), following.start() if following else len(self._text))
            is not None
        )

    def _clause_start(self, position: int) -> int:
        number = bisect_left(self._clauses, position)
        return self._clauses[number - 1] + 1 if number else 0

    def numbers(self, starts: Sequence[int], wishes: Sequence[Wish]) -> list[int]:
        """Return the number of each wish's goal, from where each starts in the text.

        A new goal begins with a sentence whose price or rating is not the one spoken of so far.
        """
        numbers = [0] * len(wishes)
        goal, current = 0, -1
        told: dict[str, set[tuple[float | None, float | None]]] = {}
        for place in sorted(range(len(wishes)), key=starts.__getitem__):
            sentence = self.sentence(starts[place])
            if sentence != current:
                current = sentence
                news = _amounts(wishes[k] for k in range(len(wishes)) if self.sentence(starts[k]) == sentence)
                if any(told.get(kind, bounds) != bounds for kind, bounds in news.items()):
                    goal, told = goal + 1, {}
                told |= news
            numbers[place] = goal
        return numbers

    def several(self, starts: Sequence[int]) -> bool:
        """Return whether more than one sentence names a goal of this domain and has a wish starting in it."""
        asking = {self.sentence(start) for start, other in zip(self._start, self._other, strict=True) if not other}
        return len(asking & {self.sentence(start) for start in starts}) > 1


def _amounts(wishes: Iterable[Wish]) -> dict[str, set[tuple[float | None, float | None]]]:
    found: dict[str, set[tuple[float | None, float | None]]] = {}
    for wish in wishes:
        if wish.kind in {"price", "rating"}:
            found.setdefault(wish.kind, set()).add((wish.low, wish.high))
    return found
