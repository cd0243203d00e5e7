"""How well an item fits a text: cosine and shared words together, decided by contents alone."""

import random

import numpy as np
import pytest

from models import dataset
from models.catalogue import BEST_CHUNKS, Catalogue
from models.chunks import item_chunks
from models.evaluation import catalogue_item, fill_catalogue
from models.recommender import Recommender, similarities
from schemas.domains import pack_for
from schemas.records import Context, Item, JoinedRequest, Request, Source

DIM = 32
TEXTS = ["Dumplings by hand", "Quiet tea house", "担担面和麻婆豆腐", "🍜", "Dumplings, noodles and tea", ""]


def unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def fill(catalogue: Catalogue, texts: list[str], domain: str = "restaurant") -> Catalogue:
    for text in texts:
        catalogue.put(f"{domain} {text}", Item(domain=domain, name=text), unit(len(text)))
    return catalogue


def asked(text: str) -> JoinedRequest:
    request, source = Request(request_id="r", domain="restaurant", text=text), Source(partition=0, offset=0)
    return JoinedRequest(request=request, event_time=1, context=Context(), source=source)


def fits(catalogue: Catalogue, text: str, query: np.ndarray | None = None) -> np.ndarray:
    """Return how well TEXTS fit, in their order."""
    cosines = catalogue.cosines((unit(99) if query is None else query)[None])[0]
    return similarities(catalogue, asked(text), cosines)[catalogue.rows([f"restaurant {text}" for text in TEXTS])]


@pytest.mark.parametrize(
    ("text", "best"), [("a dumpling", 0), ("quiet tea", 1), ("有麻婆豆腐吗", 2), ("tea & noodles", 4)]
)
def test_of_items_whose_cosines_say_nothing_the_one_that_shares_the_rarest_words_fits_best(text, best):
    catalogue = Catalogue(DIM)
    for name in TEXTS:
        catalogue.put(f"restaurant {name}", Item(domain="restaurant", name=name), unit(1))
    assert fits(catalogue, text).argmax() == best


@pytest.mark.parametrize("text", ["", "🍜", "sushi"])
def test_a_text_that_shares_no_word_with_any_item_is_judged_by_its_vector(text):
    catalogue = fill(Catalogue(DIM), TEXTS)
    cosines = catalogue.cosines(unit(99)[None])[0]
    assert (
        fits(catalogue, text).tobytes() == cosines[catalogue.rows([f"restaurant {name}" for name in TEXTS])].tobytes()
    )


def test_words_and_vector_both_count():
    catalogue = fill(Catalogue(DIM), TEXTS)
    for number, name in enumerate(TEXTS):
        scores = fits(catalogue, "quiet dumplings by hand in a tea house", unit(len(name)))
        assert scores[number] > fits(catalogue, "quiet dumplings by hand in a tea house")[number]


def test_the_order_of_items_and_what_was_removed_change_no_bit():
    seen = set()
    for seed in range(5):
        texts = random.Random(seed).sample(TEXTS, len(TEXTS))
        catalogue = fill(fill(Catalogue(DIM), texts), [f"gone {number}" for number in range(9)])
        for number in range(9):
            catalogue.remove(f"restaurant gone {number}")
        for text in texts[:3]:
            catalogue.remove(f"restaurant {text}")
        seen.add(fits(fill(catalogue, texts), "tea and dumplings, 担担面").tobytes())
    assert len(seen) == 1


def test_an_empty_catalogue_and_one_item():
    assert similarities(Catalogue(DIM), asked("tea"), np.zeros(0)).tolist() == []
    catalogue = fill(Catalogue(DIM), ["tea"])
    cosines = catalogue.cosines(unit(99)[None])[0]
    assert similarities(catalogue, asked("tea"), cosines) > cosines
    assert similarities(catalogue, asked("soup"), cosines) == cosines


class LengthEncoder:
    """Stands for a text encoder: a text's vector depends on its length alone."""

    dim = DIM

    def tokenize(self, texts: list[str], kind: str) -> list[str]:
        assert kind == "passage"
        return texts

    def encode(self, tokens: list[str], kind="query") -> np.ndarray:
        return np.stack([unit(len(text)) for text in tokens])


def test_a_datasets_items_are_put_with_the_vectors_of_all_their_chunks():
    pack = pack_for("restaurant")
    reviews = " ".join(f"Visit {number}: {'good ' * (number % 7)}soup." for number in range(300))
    items = [
        dataset.Item(item_id=name, name=name, categories=(), text=text)
        for name, text in (("long", reviews), ("short", "Soup."), ("twin", reviews))
    ]
    recommender = Recommender(DIM, "m@1")
    fill_catalogue(
        recommender.catalogue, dataset.Dataset(items, [], [], dataset.Meta(domain="restaurant")), pack, LengthEncoder()
    )
    catalogue = recommender.catalogue
    cosines = catalogue.cosines(unit(99)[None])[0]
    for item in items:
        chunks = item_chunks(pack, catalogue_item(item, pack))
        best = sorted((float(unit(len(chunk)) @ unit(99)) for chunk in chunks), reverse=True)[:BEST_CHUNKS]
        assert cosines[catalogue.row_of[item.item_id]] == pytest.approx(sum(best) / len(best), abs=5e-4)
    assert len(item_chunks(pack, catalogue_item(items[0], pack))) > BEST_CHUNKS
