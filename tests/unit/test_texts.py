"""Templates filled in: no clause without words, in the language of what is said."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.texts import item_text, language_of, price_level, query_text
from schemas.domains import load_packs, pack_for
from schemas.records import Context, Item, Request

EATING = pack_for("restaurant")
EMPTY_CLAUSE = re.compile(r"[.。,，、]\s*[.。,，、]|^\s*[.。,，、]|\s$")
plain = st.text(st.characters(categories=["Lu", "Ll", "Lo", "Nd"]), max_size=8)


def test_an_item_in_english_and_in_chinese():
    english = Item(
        domain="restaurant", name="Noodle Bar", categories=["Noodles", "Late"], price=45.0, text="By the river.",
        attributes={"private_room": True, "music": "none", "parking": ["street", "mall"], "smoking": False, "n": 9.0},
    )  # fmt: skip
    assert item_text(EATING, english) == (
        "Noodle Bar. Noodles, Late. cheap eats. private room, none, street, mall. By the river"
    )
    chinese = Item(domain="restaurant", name="川菜馆", categories=["川菜", "中餐"], price=200.0)
    assert item_text(EATING, chinese) == "川菜馆。川菜、中餐。中高档"


def test_clauses_that_have_nothing_to_say_are_left_out():
    assert item_text(EATING, Item(domain="restaurant", name="Noodle Bar")) == "Noodle Bar"
    assert item_text(EATING, Item(domain="restaurant", name="", categories=["Noodles"])) == "Noodles"
    assert item_text(EATING, Item(domain="restaurant", name="")) == ""


def test_braces_in_what_people_write_are_only_braces():
    assert item_text(EATING, Item(domain="restaurant", name="{text} {0} {")) == "{text} {0} {"


@given(
    st.sampled_from(sorted(load_packs())), plain, st.lists(plain, max_size=3), plain,
    st.none() | st.floats(0, 1e9), st.dictionaries(plain, st.booleans() | plain, max_size=3),
)  # fmt: skip
def test_no_item_text_has_an_empty_clause(domain, name, categories, text, price, attributes):
    item = Item(
        domain=domain, name=name, categories=[c for c in categories if c], text=text, price=price,
        attributes={key: value for key, value in attributes.items() if value},
    )  # fmt: skip
    filled = item_text(pack_for(domain), item)
    assert not EMPTY_CLAUSE.search(filled)
    assert name in filled
    assert text in filled


def asked(text: str, **context: object) -> str:
    return query_text(EATING, Request(request_id="r", domain="restaurant", text=text), Context(**context))  # type: ignore[arg-type]


def test_a_request_is_read_with_what_is_happening_around_the_user():
    assert asked("quiet noodles", weather="rain", company="couple", fields={"daypart": "noon"}) == (
        "quiet noodles. on a rainy day, for a date, for lunch"
    )
    assert asked("安静的川菜", weather="rain", fields={"daypart": "noon"}) == "安静的川菜。下雨天、午餐"


def test_context_without_a_word_for_it_is_not_said():
    assert asked("noodles") == "noodles"
    assert asked("noodles", weather="fog", device="phone", fields={"daypart": 3.0}) == "noodles"


@pytest.mark.parametrize("text", ["", "  ", "\n", "...", "。"])
def test_a_request_without_words_has_no_text_to_encode(text):
    assert asked(text, weather="rain") in {"", "on a rainy day", "下雨天"}
    assert asked(text) == ""


def test_one_chinese_character_makes_it_chinese():
    assert [language_of(text) for text in ("", "noodles", "a 面", "ラーメン", "🍜")] == ["en", "en", "zh", "en", "en"]


def test_prices_have_the_level_whose_bound_they_do_not_exceed():
    assert [price_level(EATING, price) for price in (None, 0.0, 50.0, 50.01, 1e9)] == [
        None, "cheap", "cheap", "moderate", "luxury",
    ]  # fmt: skip
