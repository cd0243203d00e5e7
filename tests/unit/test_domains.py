"""Domain packs are data: complete in themselves, and named nowhere in the code that works with them."""

import io
import re
import string
import tokenize
from pathlib import Path

import pytest

from models.ranking import PARTS
from schemas.domains import DomainPack, UnknownDomainError, load_packs, pack_for
from schemas.records import INTERACTION_KINDS, Context

ROOT = Path(__file__).parents[2]
PACKS = sorted({pack.name: pack for pack in load_packs().values()}.values(), key=lambda pack: pack.name)
every_pack = pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.name)
DOMAIN_WORDS = re.compile(
    r"(?<![a-z])((restaurant|bistro|cuisine|dish|menu|meal|dinner|lunch|food|ramen|barbecue|tourist|sight|hotel|shop|"
    r"mall|goods)(s|es)?|travel)(?![a-z])|餐|菜|烤|旅|酒店|商店|购物",
    re.IGNORECASE,
)


def fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def test_there_are_packs_for_restaurants_travel_and_shops_under_all_their_names():
    assert [pack.name for pack in PACKS] == ["restaurant", "shop", "travel"]
    assert pack_for("food") is pack_for("restaurant")
    assert pack_for("mall") is pack_for("shop")
    assert pack_for("poi") is pack_for("travel")


def test_an_unknown_domain_is_answered_with_those_there_are():
    with pytest.raises(UnknownDomainError, match=r"unknown domain 'bakery'; .* restaurant, shop, travel"):
        pack_for("bakery")


@every_pack
def test_a_pack_speaks_both_languages_about_everything_it_may_have_to_say(pack: DomainPack):
    assert set(pack.phrases) == {"en", "zh"}
    for phrases in pack.phrases.values():
        assert set(PARTS) <= set(phrases.why)
        assert set(pack.price_levels) == set(phrases.price)
        assert set(phrases.context) == set(pack.context_fields)
        assert fields(phrases.item) == {"name", "categories", "price", "attributes", "text"}
        assert fields(phrases.query) == {"text", "context"}
        assert set().union(*map(fields, phrases.why.values())) <= {"distance", "visits", "category", "price"}


@every_pack
def test_a_pack_values_every_action_and_orders_its_prices(pack: DomainPack):
    assert set(pack.action_value) == set(INTERACTION_KINDS)
    assert all(0 <= value <= 1 for value in pack.action_value.values())
    assert list(pack.price_levels.values()) == sorted(pack.price_levels.values())
    assert pack.near_metres > 0


@every_pack
def test_plain_context_fields_of_a_pack_are_texts(pack: DomainPack):
    assert not {"location", "temperature"} & set(pack.context_fields)
    assert {"weather", "company"} <= set(Context.__struct_fields__)


def sources() -> list[Path]:
    return [path for folder in ("streams", "models") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_domain_word_stands_in_the_code_of_streams_and_models(path: Path):
    source = path.read_text(encoding="utf-8")
    found = [
        (token.start[0], token.string)
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type in {tokenize.NAME, tokenize.STRING, tokenize.COMMENT} and DOMAIN_WORDS.search(token.string)
    ]
    assert found == []
