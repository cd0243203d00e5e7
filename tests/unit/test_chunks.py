"""Long texts in chunks: nothing lost, nothing cut in the middle of a sentence, short texts left alone."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.chunks import CHUNK_SIZE, MAX_CHUNKS, chunks, item_chunks
from models.texts import item_text
from schemas.domains import pack_for
from schemas.records import Item

EATING = pack_for("restaurant")
ENGLISH = "The soup came late, but it was hot! We paid $3.50 for it. Would we come again? Of course."
CHINESE = "汤很热，服务也不错！面条很有嚼劲。下次还会再来吗？当然会的；推荐给大家。"


@pytest.mark.parametrize("text", ["", " ", "Noodle Bar", ENGLISH, CHINESE, "🍜" * 200, "x" * 740, "面" * 240])
def test_a_short_text_is_one_chunk_to_the_letter(text):
    assert chunks(text) == [text]


@pytest.mark.parametrize("sentences", [ENGLISH + " ", CHINESE, ENGLISH + CHINESE, ENGLISH + "\n\n"])
def test_chunks_of_ordinary_sentences_are_about_a_chunk_long_and_end_where_a_sentence_ends(sentences):
    text = sentences * 40
    found = chunks(text)
    assert len(found) > 5
    assert "".join("".join(found).split()) == "".join(text.split())
    for chunk in found:
        assert re.search(r"[.!?。！？；]$", chunk)
        size = len(chunk) + 2 * sum(ord(character) > 0x2E7F for character in chunk)
        assert 0.7 * CHUNK_SIZE < size < 1.3 * CHUNK_SIZE


def test_a_decimal_point_ends_no_sentence_and_a_missing_space_hides_no_end():
    text = "Now $3.50 for soup.And so it goes. " * 60
    assert all(chunk.endswith(("soup.", "goes.")) for chunk in chunks(text))


def test_of_a_very_long_text_there_are_chunks_from_all_over_it_and_always_its_beginning():
    text = "".join(f"This is sentence number {number} of them. " for number in range(1000))
    found = chunks(text)
    places = [int(re.search(r"\d+", chunk)[0]) for chunk in found]
    assert len(found) == MAX_CHUNKS
    assert text.startswith(found[0])
    assert text.rstrip().endswith(found[-1])
    assert all(30 < later - earlier < 80 for earlier, later in pairwise(places))


@pytest.mark.parametrize(
    "text", ["x" * 40_000, "面" * 40_000, "🍜" * 40_000, "word " * 8_000, "\n" * 40_000, ". " * 9_000]
)
def test_forty_thousand_characters_without_a_sentence_are_cut_all_the_same(text):
    found = chunks(text)
    assert 1 <= len(found) <= MAX_CHUNKS
    if text.strip(". \n"):
        assert len(found) == MAX_CHUNKS
        assert all(len(chunk) <= 2 * CHUNK_SIZE for chunk in found)
        assert not any("wor" in chunk[-3:] for chunk in found)


@given(st.text(st.sampled_from("aB 。.!\n面🍜،é,"), max_size=4000))
def test_what_no_chunk_holds_is_space(text):
    found = chunks(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert chunks(text) == found
    assert all(found) or found == [text]


def test_an_items_first_chunk_starts_with_what_its_text_starts_with():
    long = Item(
        domain="restaurant", name="Noodle Bar", categories=["Noodles", "Late"], price=45.0, text=f"{ENGLISH} " * 150,
        attributes={"private_room": True},
    )  # fmt: skip
    first, *others = item_chunks(EATING, long)
    assert first.startswith("Noodle Bar. Noodles, Late. cheap eats. private room. The soup came late")
    assert len(others) == MAX_CHUNKS - 1
    short = Item(domain="restaurant", name="川菜馆", categories=["川菜"], text=CHINESE)
    assert item_chunks(EATING, short) == [item_text(EATING, short)]
