"""A domain pack's words, ready to be looked for: what means what, what people call the things of this domain."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

from models.wishes.tokens import normal, spelled, term
from models.wishes.vocabulary import Trie, insert
from schemas.domains import load_packs, pack_for


@dataclass(frozen=True)
class Meaning:
    """One side of a pair of opposites: the terms that mean it, and those that mean the opposite."""

    same: tuple[str, ...]
    opposite: tuple[str, ...]


@dataclass(frozen=True)
class Phrasebook:
    """``tags`` maps a term to what it says: goal, elsewhere, cheap, dear or well_rated."""

    trie: Trie = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    meanings: dict[str, Meaning] = field(default_factory=dict)
    price: str = ""  # pattern of the words that make a number a price
    price_elsewhere: str = ""  # of those that make it the price of something in another domain
    rating: str = ""

    def add(self, words: Iterable[str], tag: str) -> None:
        """Add words that are not in yet."""
        for key in self._insert(words):
            self.tags.setdefault(key, tag)

    def mean(self, same: Iterable[str], opposite: Iterable[str]) -> None:
        """Add the words of a meaning."""
        keys, against = self._insert(same), self._insert(opposite)
        self.meanings.update(dict.fromkeys(keys, Meaning(keys, against)))
        self.meanings.update(dict.fromkeys(against, Meaning(against, keys)))

    def _insert(self, words: Iterable[str]) -> tuple[str, ...]:
        keys = []
        for tokens in map(term, words):
            keys.append(spelled(tokens))
            insert(self.trie, tokens, keys[-1])
        return tuple(keys)


@cache
def phrasebook(domain: str) -> Phrasebook:
    """Return the phrasebook of a domain."""
    pack = pack_for(domain)
    others = [other for other in {each.name: each for each in load_packs().values()}.values() if other is not pack]
    words = pack.wishes
    ours = set(words.price)
    book = Phrasebook(
        price=_pattern(words.price),
        price_elsewhere=_pattern(word for other in others for word in other.wishes.price if word not in ours),
        rating=_pattern(words.rated),
    )
    book.add(words.goals, "goal")
    for other in others:
        book.add(other.wishes.goals, "elsewhere")
    book.add(words.cheap, "cheap")
    book.add(words.dear, "dear")
    book.add(words.well_rated, "well_rated")
    for meaning in words.meanings:
        book.mean(meaning.same, meaning.opposite)
    return book


def _pattern(words: Iterable[str]) -> str:
    longest_first = sorted({normal(word) for word in words}, key=len, reverse=True)
    return "(?:" + "|".join(map(_whole, longest_first)) + ")" if longest_first else r"(?!)"


def _whole(word: str) -> str:
    """Return a pattern for a word that is not part of another: "pp" is not in "10 ppl"."""
    before, after = (r"(?<![a-z])" if word[0].isascii() else ""), (r"(?![a-z])" if word[-1].isascii() else "")
    return before + re.escape(word) + after
