"""What words say that vectors blur: BM25 (Robertson and Zaragoza, 2009) over the items' whole texts.

Length is compared with a fixed ``PIVOT`` and not with the average, so that long texts (reviews) are judged by how often
they speak of something, short ones (a name and a list) by whether they do, and a new item changes other scores only by
the rarity of words. A row's score depends on its text and on the set of all texts, never on the order in which they
were put or on row numbers, to the last bit.
"""

import math
import re
import unicodedata
from array import array
from collections import Counter

import numpy as np

K1 = 1.2
B = 0.75
PIVOT = 100  # words
MAX_QUERY_TERMS = 64  # the rarest of a request's; it may have 4,000 characters

# A run of characters of scripts that put no space between words, or a word of any other script.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
_RUN = re.compile(rf"[{_UNSPACED}]+|[^\W_{_UNSPACED}]+")
_IS_UNSPACED = re.compile(rf"[{_UNSPACED}]")


def terms(text: str) -> Counter[str]:
    """Return how often each word occurs, without case and plural endings; of Chinese, each pair of characters."""
    counts: Counter[str] = Counter()
    for run, count in Counter(_RUN.findall(unicodedata.normalize("NFKC", text).casefold())).items():
        for term, _, _ in _terms_of_run(run):
            counts[term] += count
    return counts


def term_places(text: str) -> list[tuple[str, int, int]]:
    """Return where each term of a text is: the term, its first character and the one after its last."""
    folded = [
        (letter, place)
        for place, character in enumerate(text)
        for letter in unicodedata.normalize("NFKC", character).casefold()
    ]
    return [
        (term, folded[run.start() + start][1], folded[run.start() + end - 1][1] + 1)
        for run in _RUN.finditer("".join(letter for letter, _ in folded))
        for term, start, end in _terms_of_run(run.group())
    ]


def _terms_of_run(run: str) -> list[tuple[str, int, int]]:
    if not _IS_UNSPACED.match(run):
        return [(_singular(run), 0, len(run))]
    if len(run) == 1:
        return [(run, 0, 1)]
    return [(run[place : place + 2], place, place + 2) for place in range(len(run) - 1)]


def _singular(word: str) -> str:
    """Return an English word without its plural ending; an odd word only has to come out the same each time."""
    if len(word) < 4 or word.endswith(("us", "ss", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word.removesuffix("s")


class LexicalIndex:
    """An inverted index of texts by row number, changed in place."""

    def __init__(self) -> None:
        self._postings: dict[str, tuple[array[int], array[int]]] = {}  # term -> rows, how often it occurs in each
        self._terms_of: dict[int, tuple[str, ...]] = {}
        self._saturation = np.zeros(1024)  # by row: occurrences that are worth half of infinitely many

    def __len__(self) -> int:
        return len(self._terms_of)

    def put(self, row: int, text: str) -> None:
        """Add or replace the text of a row."""
        self.remove(row)
        counts = terms(text)
        for term, count in counts.items():
            rows, occurrences = self._postings.setdefault(term, (array("l"), array("l")))
            rows.append(row)
            occurrences.append(count)
        if row >= len(self._saturation):
            self._saturation = np.concatenate([self._saturation, np.zeros(max(row, len(self._saturation)))])
        self._saturation[row] = K1 * (1 - B + B * counts.total() / PIVOT)
        self._terms_of[row] = tuple(counts)

    def remove(self, row: int) -> None:
        """Forget the text of a row; a row without one is no error."""
        for term in self._terms_of.pop(row, ()):
            rows, occurrences = self._postings[term]
            place, last_row, last_count = rows.index(row), rows.pop(), occurrences.pop()
            if place < len(rows):
                rows[place], occurrences[place] = last_row, last_count
            elif not rows:
                del self._postings[term]

    def scores(self, text: str, size: int) -> np.ndarray:
        """Return for rows [size] how much of what a text says each row says too, 0 to 1.

        BM25 divided by what a row would get that repeats all words of the text without end. A word that no row has
        counts there too: what is left of a text is not the whole of it.
        """
        scores = np.zeros(size)
        highest = 0.0
        for term, rarity in self._rarities(text):
            highest += rarity
            rows, said = self._said(term)
            scores[rows] += rarity * said
        return scores / highest if highest else scores

    def by_term(self, text: str, size: int) -> dict[str, np.ndarray]:
        """Return what each of the terms of a text adds to the ``scores`` of rows [size]."""
        rarities = self._rarities(text)
        highest = sum(rarity for _, rarity in rarities)
        added = {}
        for term, rarity in rarities:
            rows, said = self._said(term)
            added[term] = np.zeros(size)
            added[term][rows] = rarity / highest * said
        return added

    def _rarities(self, text: str) -> list[tuple[str, float]]:
        """Return the terms of a text that count and what each is worth, the rarest first."""
        found = sorted((len(self._postings[term][0]) if term in self._postings else 0, term) for term in terms(text))
        return [
            (term, math.log(1 + (len(self) - frequency + 0.5) / (frequency + 0.5)))
            for frequency, term in found[:MAX_QUERY_TERMS]
        ]

    def _said(self, term: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that have a term, and how much each says it: 0 to 1."""
        if term not in self._postings:
            return np.zeros(0, np.int64), np.zeros(0)
        rows, occurrences = (np.frombuffer(column, dtype=np.dtype("l")) for column in self._postings[term])
        return rows, occurrences / (occurrences + self._saturation[rows])
