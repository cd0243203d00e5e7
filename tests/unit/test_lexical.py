"""Shared words: which count, how much, and that nothing but the texts decides."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.lexical import MAX_QUERY_TERMS, LexicalIndex, terms

TEXTS = [
    "Noodle Bar. Hand-pulled noodles by the river",
    "川菜馆。麻婆豆腐、担担面",
    "Café Ümlaut 🍜 serves Kölsch and 担担面",
    "A very quiet place to read, with cakes and more cakes",
    "",
    "🍜🍜🍜",
    "noodles " * 3000 + "and one dumpling",
]


def index_of(texts: dict[int, str]) -> LexicalIndex:
    index = LexicalIndex()
    for row, text in texts.items():
        index.put(row, text)
    return index


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Dishes, the DISH; two cherries!", ["the", "dish", "the", "dish", "two", "cherry"]),
        ("bus glasses boxes courses basis 2024", ["bus", "glass", "box", "course", "basis", "2024"]),
        ("麻婆豆腐 面", ["麻婆", "婆豆", "豆腐", "面"]),
        ("点kfc吧", ["点", "kfc", "吧"]),
        ("ＫＦＣ Straße", ["kfc", "strasse"]),
        ("ラーメン 국수", ["ラー", "ーメ", "メン", "국수"]),
        ("лапша café_noir", ["лапша", "café", "noir"]),
        ("🍜 ... !", []),
        ("", []),
    ],
)
def test_words_are_compared_without_case_width_and_plural_and_chinese_by_pairs_of_characters(text, expected):
    assert terms(text) == Counter(expected)


def test_the_text_that_shares_the_rare_words_comes_first():
    index = index_of(dict(enumerate(TEXTS)))
    size = len(TEXTS)
    assert index.scores("quiet reading with cake", size).argmax() == 3
    assert index.scores("想吃麻婆豆腐", size).argmax() == 1
    assert set(np.flatnonzero(index.scores("担担面", size))) == {1, 2}
    assert index.scores("kölsch 担担面", size).argmax() == 2
    assert index.scores("dumpling noodle", size).argmax() == 6


def test_scores_are_between_nothing_shared_and_everything_shared():
    index = index_of(dict(enumerate(TEXTS)))
    for text in [*TEXTS, "nothing of this"]:
        scores = index.scores(text, len(TEXTS))
        assert scores.min() >= 0
        assert scores.max() < 1
    assert not index.scores("zebra", len(TEXTS)).any()
    assert not index.scores("🍜", len(TEXTS)).any()


def test_a_text_that_says_it_more_often_for_its_length_scores_higher():
    index = index_of({0: "soup " + "bread " * 200, 1: "soup " * 20 + "bread " * 200, 2: "soup " * 20 + "rice " * 4000})
    rare, often, diluted = index.scores("soup", 3)
    assert often > diluted
    assert often > rare
    assert diluted == pytest.approx(rare, rel=0.2)


def test_an_empty_index_and_one_text():
    index = LexicalIndex()
    assert index.scores("noodles", 0).tolist() == []
    assert index.scores("noodles", 3).tolist() == [0, 0, 0]
    index.put(2, "noodles")
    assert index.scores("noodles", 3).tolist() == [0, 0, pytest.approx(0.7, abs=0.1)]
    index.remove(2)
    index.remove(2)
    assert index.scores("noodles", 3).tolist() == [0, 0, 0]
    assert len(index) == 0


def test_a_replaced_text_is_forgotten():
    index = index_of({0: "noodles", 1: "rice", 2: "soup"})
    index.put(0, "bread")
    assert not index.scores("noodles", 3).any()
    assert index.scores("bread", 3).argmax() == 0


@given(st.randoms(), st.lists(st.sampled_from(TEXTS), min_size=1, max_size=12), st.sampled_from(TEXTS))
def test_the_order_in_which_texts_came_and_went_and_their_rows_change_no_bit(order, texts, asked):
    plain = index_of(dict(enumerate(texts))).scores(asked, len(texts))
    rows = list(range(3 * len(texts)))
    order.shuffle(rows)
    messy = LexicalIndex()
    for row in rows:
        messy.put(row, order.choice(TEXTS))
    order.shuffle(rows)
    keep = rows[: len(texts)]
    for row in rows:
        if row not in keep or order.random() < 0.5:
            messy.remove(row)
    for row, text in sorted(zip(keep, texts, strict=True), key=lambda _: order.random()):
        messy.put(row, text)
    assert messy.scores(asked, 3 * len(texts))[keep].tobytes() == plain.tobytes()


def test_of_a_request_of_thousands_of_words_the_rarest_count():
    index = index_of({row: "common " + " ".join(f"w{n}" for n in range(row)) for row in range(300)})
    asked = [f"w{n}" for n in range(299)] + ["common"]
    rarest = asked[-1 - MAX_QUERY_TERMS : -1]
    random.Random(1).shuffle(asked)
    assert index.scores(" ".join(asked), 300).tobytes() == index.scores(" ".join(rarest), 300).tobytes()


def test_rows_far_apart_are_no_trouble():
    index = index_of({5000: "noodles", 3: "rice", 70_000: "noodles and rice"})
    assert np.flatnonzero(index.scores("rice", 70_001)).tolist() == [3, 70_000]
