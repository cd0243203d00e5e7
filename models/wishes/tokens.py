"""Words as they are compared: case, width and plural do not matter, and Chinese has a token per character."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

MAX_TEXT = 8_000  # characters; compatibility forms can be longer than what was typed
CHINESE = r"\u3400-\u9fff"
_TOKEN = re.compile(rf"[{CHINESE}]|[^\W_{CHINESE}]+(?:'[^\W_{CHINESE}]+)?")
_CHINESE = re.compile(rf"[{CHINESE}]")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Token(NamedTuple):
    """``text`` is what is compared; ``start`` and ``end`` are where it stands."""

    text: str
    start: int
    end: int


def normal(text: str) -> str:
    """Return a text in lower case with plain letters, digits and apostrophes."""
    # A Chinese comma needs no space after it; a plain one without would be part of a number: 人均100，4.5分以上.
    text = text[:MAX_TEXT].replace("，", ", ")
    return unicodedata.normalize("NFKC", text).casefold().replace("’", "'")[:MAX_TEXT]


def is_chinese(token: str) -> bool:
    """Return whether a token is a Chinese character."""
    return _CHINESE.match(token) is not None


def tokens_of(text: str) -> list[Token]:
    """Return the tokens of a text that is ``normal``."""
    return [Token(_singular(match[0]), match.start(), match.end()) for match in _TOKEN.finditer(text)]


@lru_cache(maxsize=65_536)
def term(words: str) -> tuple[str, ...]:
    """Return the tokens of a name as catalogues write it: ``GoodForKids`` and ``good_for_kids`` are three words."""
    return tuple(token.text for token in tokens_of(normal(_HUMP.sub(" ", words))))


def spelled(tokens: Sequence[str]) -> str:
    """Return tokens as one string, with spaces where a script has them; equal for equal tokens."""
    parts: list[str] = []
    for token in tokens:
        if parts and not is_chinese(token) and not is_chinese(parts[-1]):
            parts.append(" ")
        parts.append(token)
    return "".join(parts)


def _singular(word: str) -> str:
    word = word.removesuffix("'s")
    if len(word) < 4 or not word.endswith("s") or word.endswith("ss"):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    return word[:-1]
