"""The catalogue as arrays: what is in it, and scores that depend on ids and contents alone."""

import numpy as np
import pytest

from models.catalogue import BEST_CHUNKS, Catalogue, CatalogueError, normal_categories, week_intervals
from models.chunks import MAX_CHUNKS
from schemas.records import Item, Location

DIM = 32


def unit(seed: int, dim: int = DIM) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def item(name: str = "n", **fields: object) -> Item:
    return Item(**{"domain": "restaurant", "name": name, **fields})  # type: ignore[arg-type]


def test_an_item_can_be_put_replaced_and_removed():
    catalogue = Catalogue(DIM)
    catalogue.put("a", item(categories=["Noodles"], price=5.0, location=Location(lat=1, lon=2)), unit(1))
    catalogue.put("a", item(categories=["Rice"]), unit(2))
    assert len(catalogue) == 1
    row = catalogue.row_of["a"]
    assert np.isnan(catalogue.price[row])
    assert np.isnan(catalogue.point[row]).all()
    assert catalogue.rows_in_category == {"noodles": set(), "rice": {row}}
    catalogue.remove("a")
    catalogue.remove("never there")
    assert len(catalogue) == 0
    assert not catalogue.available[: catalogue.size].any()
    assert catalogue.rows(["a"]).tolist() == [-1]


def test_rows_are_used_again_and_the_arrays_grow_when_they_must():
    catalogue = Catalogue(DIM)
    for number in range(1500):
        catalogue.put(f"i{number}", item(price=float(number)), unit(number))
    for number in range(0, 1500, 2):
        catalogue.remove(f"i{number}")
    for number in range(750):
        catalogue.put(f"new{number}", item(price=9000.0), unit(number))
    assert (len(catalogue), catalogue.size) == (1500, 1500)
    rows = catalogue.rows([f"i{number}" for number in range(1, 1500, 2)])
    assert catalogue.price[rows].tolist() == [float(number) for number in range(1, 1500, 2)]


def test_an_item_with_many_opening_hours_makes_room_for_them_and_keeps_the_others():
    catalogue = Catalogue(DIM)
    catalogue.put("few", item(hours=[[(0, 60)]] + [[]] * 6), unit(1))
    busy = [[(start, start + 60) for start in range(0, 960, 120)] for _ in range(7)]
    catalogue.put("many", item(hours=busy), unit(2))
    assert catalogue.hours[catalogue.row_of["few"], 0].tolist() == [0, 60]
    assert np.count_nonzero(catalogue.hours[catalogue.row_of["many"], :, 1]) == 56


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (item(domain="bakery"), "unknown domain 'bakery'"),
        (item(time_zone="Mars/Olympus"), "not an IANA name"),
        (item(time_zone="../../etc/passwd"), "not an IANA name"),
        (item(time_zone="America"), "not an IANA name"),
        (item(hours=[[(600, 600)]] + [[]] * 6), "closing at 2040"),
    ],
)
def test_an_item_that_can_not_be_taken_in_leaves_the_old_one_as_it_was(wrong, reason):
    catalogue = Catalogue(DIM)
    catalogue.put("a", item("old"), unit(1))
    with pytest.raises(CatalogueError, match=reason):
        catalogue.put("a", wrong, unit(2))
    assert [entry and entry.name for entry in catalogue.items] == ["old"]
    assert catalogue.available[catalogue.row_of["a"]]


def test_hours_after_sunday_midnight_are_on_monday():
    assert week_intervals(item(hours=[[]] * 6 + [[(1200, 1500)]])) == [(6 * 1440 + 1200, 7 * 1440), (0, 60)]
    assert week_intervals(item()) == []


def test_categories_are_compared_without_case_and_counted_once():
    assert normal_categories(item(categories=["Hot Pot", "hot pot", "川菜", "STRASSE", "straße"])) == [
        "hot pot", "川菜", "strasse",
    ]  # fmt: skip


@pytest.mark.parametrize("dim", [32, 384, 1024])
def test_cosines_are_right_to_half_a_thousandth(dim):
    catalogue = Catalogue(dim)
    for number in range(200):
        catalogue.put(f"i{number}", item(), unit(number, dim))
    queries = np.stack([unit(1000 + number, dim) for number in range(20)] + [unit(7, dim)])
    exact = queries.astype(np.float64) @ np.stack([unit(number, dim) for number in range(200)]).T.astype(np.float64)
    assert np.abs(catalogue.cosines(queries) - exact).max() < 5e-4


def test_a_cosine_is_the_same_to_the_bit_whatever_is_beside_it():
    names = [f"i{number}" for number in range(300)]
    queries = np.stack([unit(1000 + number, 384) for number in range(33)])
    seen = []
    for seed in range(3):
        catalogue, order = Catalogue(384), np.random.default_rng(seed).permutation(300)
        for number in order:
            catalogue.put(names[number], item(), unit(int(number), 384))
        together = catalogue.cosines(queries)[:, catalogue.rows(names)]
        alone = np.concatenate([catalogue.cosines(query[None]) for query in queries])[:, catalogue.rows(names)]
        seen += [together.tobytes(), alone.tobytes()]
    assert len(set(seen)) == 1


def chunked(seed: int, dim: int = DIM) -> np.ndarray:
    """Return the embeddings of a text of 1 to MAX_CHUNKS chunks."""
    return np.stack([unit(100 * seed + number, dim) for number in range(seed % MAX_CHUNKS + 1)])


def test_a_long_texts_cosine_is_the_average_of_the_best_of_its_chunks():
    catalogue, query = Catalogue(384), unit(9999, 384)
    for number in range(40):
        catalogue.put(f"i{number}", item(), chunked(number, 384))
    for number in range(40):
        each = sorted((chunked(number, 384).astype(np.float64) @ query.astype(np.float64)).tolist(), reverse=True)
        best = each[:BEST_CHUNKS]
        cosine = catalogue.cosines(query[None])[0, catalogue.row_of[f"i{number}"]]
        assert cosine == pytest.approx(sum(best) / len(best), abs=5e-4)


def test_an_item_of_one_chunk_keeps_its_cosine_to_the_bit_beside_long_ones():
    short, mixed = Catalogue(DIM), Catalogue(DIM)
    queries = np.stack([unit(1), unit(2)])
    for number in range(10):
        short.put(f"i{number}", item(), unit(number))
        mixed.put(f"long{number}", item(), chunked(number + 1))
        mixed.put(f"i{number}", item(), unit(number)[None])
    names = [f"i{number}" for number in range(10)]
    assert (
        mixed.cosines(queries)[:, mixed.rows(names)].tobytes() == short.cosines(queries)[:, short.rows(names)].tobytes()
    )


def test_scores_of_long_items_do_not_change_by_a_bit_with_order_removals_replacements_and_batch():
    names, texts = [f"i{number}" for number in range(60)], ["noodles", "rice and noodles", "担担面", "quiet"]
    queries = np.stack([unit(1000 + number, 384) for number in range(9)])
    seen = set()
    for seed in range(3):
        catalogue, random = Catalogue(384), np.random.default_rng(seed)
        for number in random.permutation(60):
            catalogue.put(names[number], item("other"), chunked(int(random.integers(60)), 384))
        for number in random.permutation(60)[: 20 * seed]:
            catalogue.remove(names[number])
        for number in random.permutation(60):
            catalogue.put(names[number], item(text=texts[number % 4]), chunked(int(number), 384))
        rows = catalogue.rows(names)
        seen.add(catalogue.cosines(queries)[:, rows].tobytes())
        seen.add(np.concatenate([catalogue.cosines(query[None]) for query in queries])[:, rows].tobytes())
        assert catalogue.size == 60
        words = catalogue.words.scores("noodles, 担担面", catalogue.size)[rows]
        assert words.tobytes() == np.tile(words[:4], 15).tobytes()
        assert words[0] > words[3] == 0
    assert len(seen) == 1


def test_room_for_chunks_is_used_again():
    catalogue = Catalogue(DIM)
    for _ in range(50):
        for number in range(20):
            catalogue.put(f"i{number}", item(), chunked(MAX_CHUNKS - 1))
            catalogue.remove(f"i{number}")
    assert catalogue.size == 1
    assert len(catalogue.chunk_embedding) <= 4 * MAX_CHUNKS


def test_an_item_that_was_long_and_is_short_has_one_chunk():
    catalogue = Catalogue(DIM)
    catalogue.put("a", item(), chunked(7))
    catalogue.put("a", item(), unit(3))
    assert catalogue.cosines(unit(3)[None])[0, 0] == pytest.approx(1, abs=1e-3)


def test_an_empty_catalogue_has_no_cosines():
    assert Catalogue(DIM).cosines(unit(1)[None]).shape == (1, 0)
    catalogue = Catalogue(DIM)
    catalogue.put("a", item(), chunked(19))
    catalogue.remove("a")
    assert catalogue.cosines(unit(1)[None]).shape == (1, 1)
