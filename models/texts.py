"""What the language model reads: a domain pack's templates filled in with an item's or a request's words."""

import re
from functools import cache

from schemas.domains import DomainPack, Language, Phrases
from schemas.records import Attributes, Context, Item, Request

_CHINESE = re.compile(r"[\u3400-\u9fff]")
_EMPTY_CLAUSES = re.compile(r"(?:\s*[.。,，、]){2,}")


def language_of(text: str) -> Language:
    """Return the language a text is answered in: Chinese if it has a Chinese character, else English."""
    return "zh" if _CHINESE.search(text) else "en"


def price_level(pack: DomainPack, price: float | None) -> str | None:
    """Return the pack's name for a price, if it has one."""
    if price is None:
        return None
    return next((level for level, bound in pack.price_levels.items() if price <= bound), None)


def item_text(pack: DomainPack, item: Item) -> str:
    """Return the text that stands for an item."""
    phrases = pack.phrases[language_of(item.name + item.text + "".join(item.categories))]
    level = price_level(pack, item.price)
    return _fill(
        phrases.item,
        name=item.name,
        categories=phrases.separator.join(item.categories),
        price=phrases.price.get(level, "") if level else "",
        attributes=phrases.separator.join(_attribute_words(item.attributes)),
        text=item.text,
    )


def query_text(pack: DomainPack, request: Request, context: Context) -> str:
    """Return the text that stands for a request, or "" for one without words."""
    words = request.text.strip()
    if not words:
        return ""
    phrases = pack.phrases[language_of(words)]
    return _fill(
        phrases.query, text=words, context=phrases.separator.join(context_words(pack.context_fields, phrases, context))
    )


def context_words(fields: list[str], phrases: Phrases, context: Context) -> list[str]:
    """Return the pack's words for what is happening around the user."""
    words = []
    for field in fields:
        value = getattr(context, field, None) or context.fields.get(field)
        known = phrases.context.get(field, {})
        if isinstance(value, str) and value in known:
            words.append(known[value])
    return words


def _attribute_words(attributes: Attributes) -> list[str]:
    words: list[str] = []
    for name, value in attributes.items():
        if value is True:
            words.append(name.replace("_", " "))
        elif isinstance(value, str):
            words.append(value)
        elif isinstance(value, list):
            words.extend(value)
    return words


@cache
def _clauses(template: str) -> tuple[str, str]:
    """Return a template's full stop, which separates its clauses, and what to strip from its ends."""
    stop = "。" if "。" in template else ". "
    return stop, stop.strip() + " "


def _fill(template: str, **values: str) -> str:
    stop, ends = _clauses(template)
    filled = template.format(**{name: value.strip(ends) for name, value in values.items()})
    return _EMPTY_CLAUSES.sub(stop, filled).strip(ends)
