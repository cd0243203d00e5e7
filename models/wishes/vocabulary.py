"""The words of a domain's catalogue and the items they stand for, changed in place as items come and go."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from models.wishes.tokens import CHINESE, Token, is_chinese, spelled, term
from schemas.domains import WishWords
from schemas.records import Item

MAX_TOKENS = 16  # of a term; what is longer is prose
MAX_LENGTH = 200  # characters of a term, as a wish carries it; compatibility forms can be longer than a label
MAX_TERMS = 500  # of an item
_END = ""  # marks in a trie that a term ends here
_SCRIPTS = re.compile(rf"[{CHINESE}]+|[^{CHINESE}]+")
_EMPTY = {
    "没有",
    "无",
    "其他",
    "其它",
    "none",
    "other",
    "null",
    "unknown",
    "no",
    "yes",
    "true",
    "false",
}  # values that say nothing
_BRACKET = re.compile(r"[(（]")

Trie = dict[str, Any]


class Use(NamedTuple):
    """What a term is to some items: a category, a value of an attribute, an attribute that holds, a landmark, a name.

    ``attribute`` and ``value`` are as the catalogue writes them; ``value`` of a category is its name.
    """

    kind: Literal["category", "value", "flag", "landmark", "name"]
    attribute: str
    value: str


class Vocabulary:
    """All terms of one domain: categories, values and names of attributes, landmarks, names of items."""

    def __init__(self, words: WishWords) -> None:
        self.uses: dict[str, dict[Use, set[int]]] = {}
        self._words = words
        self._trie: Trie = {}
        self._kinds: dict[str, set[str]] = {}
        self._entries: dict[int, list[tuple[tuple[str, ...], Use]]] = {}
        self._rating = np.full(1024, np.nan)

    def put(self, row: int, item: Item) -> None:
        """Take in what an item in a catalogue row says about itself, in place of what that row said before."""
        self.remove(row)
        entries = self._entries[row] = []
        for tokens, use in _terms(item, self._words):
            if len(entries) == MAX_TERMS:
                break
            key = spelled(tokens)
            if key not in self.uses:
                self.uses[key] = {}
                insert(self._trie, tokens, key)
                for suffix in _suffixes(tokens):
                    self._kinds.setdefault(suffix, set()).add(key)
            self.uses[key].setdefault(use, set()).add(row)
            entries.append((tokens, use))
        if row >= len(self._rating):
            self._rating = np.concatenate([self._rating, np.full(row + 1, np.nan)])
        self._rating[row] = _number(item.attributes.get(self._words.rating))

    def remove(self, row: int) -> None:
        """Forget what the item in a row said; terms that no other item has are gone."""
        for tokens, use in self._entries.pop(row, ()):
            key = spelled(tokens)
            uses = self.uses.get(key, {})
            rows = uses.get(use, set())
            rows.discard(row)
            if use in uses and not rows:
                del uses[use]
            if key in self.uses and not uses:
                del self.uses[key]
                _delete(self._trie, tokens)
                for suffix in _suffixes(tokens):
                    self._kinds[suffix].discard(key)
                    if not self._kinds[suffix]:
                        del self._kinds[suffix]
        if row < len(self._rating):
            self._rating[row] = np.nan

    def longest(self, tokens: Sequence[Token], position: int) -> tuple[int, str]:
        """Return how many tokens the longest term at a position has, 0 for none, and the term."""
        return longest(self._trie, tokens, position)

    def kinds(self, key: str) -> set[str]:
        """Return the longer terms whose last words are a term: a Caesar salad is a salad."""
        return self._kinds.get(key, set())

    def ratings(self, size: int) -> np.ndarray:
        """Return the rating of every row [size], NaN where there is none."""
        missing = np.full(max(size - len(self._rating), 0), np.nan)
        return np.concatenate([self._rating[:size], missing])


def insert(trie: Trie, tokens: Sequence[str], value: Any) -> None:
    """Put a term into a trie."""
    for token in tokens:
        trie = trie.setdefault(token, {})
    trie[_END] = value


def longest(trie: Trie, tokens: Sequence[Token], position: int) -> tuple[int, Any]:
    """Return how many tokens the longest term at a position has, 0 for none, and its value."""
    length, value = 0, None
    for end in range(position, len(tokens)):
        trie = trie.get(tokens[end].text)  # type: ignore[assignment]
        if trie is None:
            break
        if _END in trie:
            length, value = end - position + 1, trie[_END]
    return length, value


def _delete(trie: Trie, tokens: Sequence[str]) -> None:
    path = [trie]
    for token in tokens:
        path.append(path[-1][token])
    del path[-1][_END]
    for parent, token in zip(reversed(path[:-1]), reversed(tokens), strict=True):
        if parent[token]:
            break
        del parent[token]


def _suffixes(tokens: Sequence[str]) -> Iterator[str]:
    for start in range(1, len(tokens)):
        suffix = tokens[start:]
        if len(suffix) > 1 or not is_chinese(suffix[0]):
            yield spelled(suffix)


def _terms(item: Item, words: WishWords) -> Iterator[tuple[tuple[str, ...], Use]]:
    for name in item.categories:
        yield from _term(name, Use("category", "", name))
    for name, value in item.attributes.items():
        if value is True:
            yield from _term(name, Use("flag", name, ""))
        for entry in [value] if isinstance(value, str) else value if isinstance(value, list) else ():
            if name in words.landmarks:
                for part in _SCRIPTS.findall(entry):
                    yield from _term(part, Use("landmark", name, entry))
            else:
                yield from _term(entry, Use("value", name, entry))
    for name in {item.name, _BRACKET.split(item.name)[0]}:
        if len(term(name)) > 1:  # many a name of one word is also a word
            yield from _term(name, Use("name", "", item.name))


def _term(words: str, use: Use) -> Iterable[tuple[tuple[str, ...], Use]]:
    tokens = term(words)
    if (
        0 < len(tokens) <= MAX_TOKENS
        and len(spelled(tokens)) <= MAX_LENGTH
        and any(token.replace("'", "").isalpha() for token in tokens)
        and spelled(tokens) not in _EMPTY
    ):
        yield tokens, use


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")
