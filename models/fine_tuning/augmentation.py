"""Queries said differently: words and clauses exchanged, spans hidden, translated there and back."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from models.texts import language_of
from schemas.domains import DomainPack, Language

from .settings import FineTuningError, Settings

_MASKED = 0.2  # share of a text that a hidden span has on average
_WORDS = re.compile(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+")


class Translator(Protocol):
    """Translates texts; none is shipped. Resumed runs end alike only if equal texts are translated equally."""

    def __call__(self, texts: Sequence[str], source: Language, target: Language) -> Sequence[str]:
        """Return the translation of each text."""
        ...


@dataclass(frozen=True, slots=True)
class Paraphrases:
    """What may be exchanged: phrases within a group of equal meaning, and clauses between separators."""

    synonyms: Sequence[Sequence[str]]
    separators: Mapping[Language, Sequence[str]]


def paraphrases_of(pack: DomainPack) -> Paraphrases:
    """Return a domain pack's own: its words for a context or a price in each language mean the same.

    Changing the language in the middle of a text is what bilingual people do and multilingual encoders gain from.
    Clauses lie between the separators of the pack's query template.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for phrases in pack.phrases.values():
        for field, words in {**phrases.context, "price": phrases.price}.items():
            for value, said in words.items():
                groups.setdefault((field, value), []).append(said)
    separators: dict[Language, list[str]] = {}
    for language, phrases in pack.phrases.items():
        between = re.search(r"\{text\}(.+?)\{context\}", phrases.query)
        separators[language] = list(dict.fromkeys([*([between[1]] if between else []), phrases.separator, "，"]))
    return Paraphrases(list(groups.values()), separators)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """All that queries can be changed with."""

    paraphrases: Paraphrases
    translated: Mapping[str, str]  # by the query it came from
    mask: str  # stands for what is hidden

    def change(self, query: str, settings: Settings, generator: np.random.Generator) -> str:
        """Return the query, changed in each way as often as the settings say."""
        chances = generator.random(3)
        if chances[0] < settings.back_translate:
            query = self.translated.get(query, query)
        if chances[1] < settings.paraphrase:
            query = reorder(exchange(query, self.paraphrases.synonyms, generator), self.paraphrases, generator)
        if chances[2] < settings.mask_spans:
            query = hide_span(query, self.mask, generator)
        return query


def prepare(
    queries: Sequence[str],
    settings: Settings,
    paraphrases: Paraphrases | None,
    translator: Translator | None,
    mask: str,
) -> Augmentation:
    """Return what the settings ask for; the queries are translated now, each once.

    Raises:
        FineTuningError: they ask for something that is not given.

    """
    if settings.paraphrase and paraphrases is None:
        raise FineTuningError("fine-tuning: paraphrase needs words to exchange: give a domain pack, or set it to 0")
    if settings.back_translate and translator is None:
        raise FineTuningError("fine-tuning: back_translate needs a translator: give one, or set it to 0")
    translated = back_translate(queries, translator) if settings.back_translate and translator else {}
    return Augmentation(paraphrases or Paraphrases([], {}), translated, mask)


def back_translate(texts: Sequence[str], translator: Translator) -> dict[str, str]:
    """Return each text after translation to the other language and back."""
    result: dict[str, str] = {}
    languages: list[tuple[Language, Language]] = [("en", "zh"), ("zh", "en")]
    for source, target in languages:
        ours = [text for text in dict.fromkeys(texts) if language_of(text) == source]
        if ours:
            there = translator(ours, source, target)
            result.update(zip(ours, translator(there, target, source), strict=True))
    return result


def exchange(text: str, synonyms: Sequence[Sequence[str]], generator: np.random.Generator) -> str:
    """Return the text with every phrase of a group replaced by one of the same group."""
    for group in synonyms:
        for phrase in group:
            if _contains(text, phrase):
                text = _replaced(text, phrase, str(generator.choice(np.array(group, dtype=object))))
                break  # what was put there is not exchanged again
    return text


def reorder(text: str, paraphrases: Paraphrases, generator: np.random.Generator) -> str:
    """Return the text with its clauses in another order."""
    for separator in paraphrases.separators.get(language_of(text), ()):
        clauses = [clause for clause in text.split(separator) if clause]
        if len(clauses) > 1:
            return separator.join(clauses[place] for place in generator.permutation(len(clauses)))
    return text


def hide_span(text: str, mask: str, generator: np.random.Generator) -> str:
    """Return the text with some words (or Chinese characters) in a row replaced by ``mask``, but never all of them."""
    words = list(_WORDS.finditer(text))
    if len(words) < 2:
        return text
    hidden = min(int(generator.geometric(min(1.0, 1 / (_MASKED * len(words))))), len(words) - 1)
    first = int(generator.integers(len(words) - hidden + 1))
    return text[: words[first].start()] + mask + text[words[first + hidden - 1].end() :]


def _pattern(phrase: str) -> re.Pattern[str]:
    boundary = r"\b" if phrase.isascii() else ""
    return re.compile(boundary + re.escape(phrase) + boundary, re.IGNORECASE)


def _contains(text: str, phrase: str) -> bool:
    return _pattern(phrase).search(text) is not None


def _replaced(text: str, phrase: str, other: str) -> str:
    return _pattern(phrase).sub(lambda _: other, text)
