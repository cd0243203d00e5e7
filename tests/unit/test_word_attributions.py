"""Which words moved a text score: they sum to it, they are the request's own, and the weights are those served."""

import numpy as np
import pytest
import torch
from tiny_models import tiny_decoder, tiny_encoder

from models.base_model import load_base
from models.catalogue import Catalogue
from models.encoder import ArtefactError, Encoder
from models.export import export_encoder
from models.ranking import Weights
from models.recommender import WORDS_WEIGHT
from models.word_attributions import _words, integrated_gradients, language_model, word_attributions
from schemas.records import Item

NAMES = {"a": "Quiet Noodle Garden", "b": "安静的川菜馆", "c": "Loud Burger Bar", "d": "Harbour Fish"}


@pytest.fixture(scope="module", params=[tiny_encoder, tiny_decoder], ids=["encoder", "decoder"])
def model(request, tmp_path_factory):
    return load_base(str(request.param(tmp_path_factory.mktemp("base") / "tiny")))


@pytest.fixture(scope="module")
def catalogue():
    rng = np.random.default_rng(4)
    catalogue = Catalogue(32)
    for item_id, name in NAMES.items():
        chunks = rng.normal(size=(7 if item_id == "d" else 1, 32))
        chunks /= np.linalg.norm(chunks, axis=1, keepdims=True)
        catalogue.put(item_id, Item(domain="restaurant", name=name), chunks.astype(np.float32))
    return catalogue


def text_part(model, catalogue, text, said, item_id):
    """The text part of a list, of the torch model's vector."""
    with torch.inference_mode():
        hidden = model.model(torch.tensor([model.tokenizer(text)["input_ids"]])).last_hidden_state[0]
    vector = torch.nn.functional.normalize(hidden.mean(dim=0) if model.pooling == "mean" else hidden[-1], dim=0)
    fit = catalogue.cosines(vector.numpy()[None])[0] + WORDS_WEIGHT * catalogue.words.scores(said, catalogue.size)
    return (fit[catalogue.row_of[item_id]] - fit.mean()) / Weights().text_spread


@pytest.mark.parametrize("said", ["quiet noodles", "安静一点的川菜", "a 川菜 bar, quiet!"])
@pytest.mark.parametrize("item_id", ["a", "b", "d"])
def test_the_words_sum_to_the_score_that_the_list_has(model, catalogue, said, item_id):
    text = f"{said}. It rains"
    found = word_attributions(model, catalogue, text, said, item_id, Weights())
    assert sum(word.value for word in found.words) + found.without == pytest.approx(found.score, abs=1e-9)
    assert found.score == pytest.approx(text_part(model, catalogue, text, said, item_id), abs=0.01)
    assert "".join(word.text for word in found.words) == text.replace(" ", "")


def test_gradients_are_complete_and_marks_of_the_tokenizer_get_nothing(model):
    ids = torch.tensor(model.tokenizer("a quiet place")["input_ids"])
    own = np.array([place not in {0, len(ids) - 1} for place in range(len(ids))])
    direction = np.random.default_rng(1).normal(size=32)

    def product(numbers):
        with torch.inference_mode():
            hidden = model.model(numbers[None]).last_hidden_state[0]
        vector = hidden.mean(dim=0) if model.pooling == "mean" else hidden[-1]
        return float(torch.nn.functional.normalize(vector, dim=0).numpy() @ direction)

    tokens, rest = integrated_gradients(model, ids, own, direction)
    padded = torch.where(torch.from_numpy(own), torch.tensor(model.tokenizer.pad_token_id), ids)
    assert rest == pytest.approx(product(padded), abs=1e-5)
    assert tokens.sum() == pytest.approx(product(ids) - product(padded), abs=1e-4)
    assert np.abs(tokens[own]).min() > 0
    assert not tokens[~own].any()


def test_a_shared_word_counts_where_it_is_said_and_for_whom_has_it(model, catalogue):
    words = {
        item_id: dict(word_attributions(model, catalogue, "loud place", "loud place", item_id, Weights()).words)
        for item_id in ("c", "a")
    }
    assert words["c"]["loud"] > words["a"]["loud"]


def test_words_are_between_spaces_and_as_the_tokens_are_where_there_are_none():
    text = "dog-friendly 安静一点的，near me"
    tokens = [(0, 3), (3, 12), (12, 15), (15, 17), (17, 18), (18, 19), (19, 23), (23, 26)]
    assert [text[start:end] for start, end in _words(text, tokens)] == [
        "dog-friendly", "安静", "一点", "的", "，", "near", "me",
    ]  # fmt: skip


def test_weights_that_are_not_those_of_the_encoder_are_refused(tmp_path):
    served, other = (load_base(str(tiny_encoder(tmp_path / name, seed=seed))) for name, seed in (("a", 1), ("b", 9)))
    encoder = Encoder.load(export_encoder(served, tmp_path / "served", "fp32"))
    assert language_model(encoder, tmp_path / "none").name == served.name
    other.model.save_pretrained(tmp_path / "a")
    with pytest.raises(ArtefactError, match="not at hand"):
        language_model(encoder, tmp_path / "none")
