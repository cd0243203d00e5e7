"""Domain packs: all that is particular to restaurants, travel or shops, as data.

A pack is one TOML file beside this module. Code elsewhere never names a domain: it asks the pack for words, text
templates, the worth of an action and the constraints that make sense.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Literal

import msgspec

from schemas.errors import BadInputError

Language = Literal["en", "zh"]
ConstraintKind = Literal[
    "price", "max_distance", "open_at", "categories", "attributes", "exclude_items", "exclude_categories"
]


class Phrases(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The texts of one language. Braces name fields that are filled in."""

    item: str  # {name} {categories} {text} {price} {attributes}: what the language model reads about an item
    query: str  # {text} {context}: what it reads about a request
    separator: str  # between listed words
    context: dict[str, dict[str, str]]  # context field -> value -> words
    why: dict[str, str]  # part of the score -> reason; {distance} {price} {visits} {category}
    wishes: dict[str, str]  # what was understood -> how it is told; {low} {high} {words}
    price: dict[str, str] = {}  # level -> words


class Meaning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Words of any language that mean one thing here, and words that mean its opposite."""

    same: list[str]
    opposite: list[str] = []


class WishWords(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What words mean in this domain, all languages together; case, width and plural do not matter.

    The names of categories, attributes and their values need not be here: they are read from the catalogue.
    """

    rating: str  # the attribute that holds an item's rating
    rating_scale: float  # its best value
    landmarks: list[str]  # attributes that name what is nearby
    goals: list[str]  # what people call the things of this domain; says nothing about which of them
    price: list[str]  # words beside a number that make it a price
    rated: list[str]  # words before a number that make it a rating
    cheap: list[str]
    dear: list[str]
    well_rated: list[str]
    per_head: bool = False  # whether the catalogue's prices are what one person pays
    meanings: list[Meaning] = []


class DomainPack(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One domain."""

    name: str
    description: str
    phrases: dict[Language, Phrases]
    action_value: dict[str, float]  # feedback kind -> what it is worth in training, 0 to 1
    constraints: list[ConstraintKind]
    context_fields: list[str]  # the context fields that go into the query's words
    near_metres: float  # the distance at which being near has lost two thirds of its pull
    wishes: WishWords
    repeats: bool = True  # whether people choose the same item again
    aliases: list[str] = []
    price_levels: dict[str, float] = {}  # level -> upper price bound, ascending


class UnknownDomainError(BadInputError):
    """No pack has that name."""


@cache
def load_packs() -> Mapping[str, DomainPack]:
    """Return all packs by name and alias."""
    packs: dict[str, DomainPack] = {}
    for file in sorted(resources.files(__name__).iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".toml"):
            continue
        try:
            pack = msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), DomainPack)
        except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise ValueError(f"domain pack {file.name}: {error}") from error
        for name in (pack.name, *pack.aliases):
            packs[name] = pack
    return packs


def pack_for(domain: str) -> DomainPack:
    """Return the pack of a domain.

    Raises:
        UnknownDomainError: there is none; the message lists those there are.

    """
    packs = load_packs()
    try:
        return packs[domain]
    except KeyError:
        known = ", ".join(sorted({pack.name for pack in packs.values()}))
        raise UnknownDomainError(f"unknown domain {domain!r}; this installation has: {known}") from None
