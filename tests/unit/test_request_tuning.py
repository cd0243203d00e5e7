"""A student learns what requests choose, with the items' vectors as they are, and does not forget how to read."""

import random

import msgspec
import numpy as np
import pytest
import torch
from tiny_models import tiny_encoder

from models.base_model import load_base
from models.request_tuning import Catalogued, Remembered, TuningSettings, read, remembers, tune

WORDS = ["lantern", "river", "quiet", "noodles", "late", "music", "安静", "河边", "面条", "深夜"]
SETTINGS = TuningSettings(steps=60, requests=8, texts=8, learning_rate=3e-3, warm_up=5)


def tokens(base, texts):
    return [np.array(base.tokenizer(text)["input_ids"], np.int64) for text in texts]


@pytest.fixture
def folder(tmp_path):
    return str(tiny_encoder(tmp_path / "base"))


def some(folder):
    """Requests of one word, each of which chooses one item; and texts that are read as before."""
    base = load_base(folder)
    rng = np.random.default_rng(0)
    items = rng.normal(size=(len(WORDS), 32)).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    catalogue = Catalogued(tokens(base, WORDS), items, np.eye(len(WORDS), dtype=np.float32))
    texts = tokens(base, [" ".join(random.Random(n).choices(WORDS, k=4)) for n in range(60)])
    with torch.inference_mode():
        return catalogue, Remembered(texts, read(base, texts).numpy())


def hits(student, catalogue):
    with torch.inference_mode():
        found = (read(student, catalogue.tokens) @ torch.from_numpy(catalogue.items).T).argmax(dim=1)
    return int((found == torch.arange(len(found))).sum())


def test_it_learns_what_is_chosen_and_is_held_to_what_it_read_before(folder):
    catalogue, texts = some(folder)
    free, held = load_base(folder), load_base(folder)
    before = hits(free, catalogue)
    tune(free, [catalogue], texts, msgspec.structs.replace(SETTINGS, remember=0.0))
    tune(held, [catalogue], texts, SETTINGS)
    assert hits(held, catalogue) > before + 3
    assert remembers(held, texts).cosine > remembers(free, texts).cosine


def test_the_same_arguments_give_the_same_weights_and_tables_stay(folder):
    catalogue, texts = some(folder)
    students = [load_base(folder) for _ in range(2)]
    for student in students:
        tune(student, [catalogue], texts, SETTINGS)
    one, other = (student.model.state_dict() for student in students)
    assert all(tensor.equal(other[name]) for name, tensor in one.items())
    assert one["embeddings.word_embeddings.weight"].equal(
        load_base(folder).model.state_dict()["embeddings.word_embeddings.weight"]
    )


def test_the_length_of_other_texts_changes_no_vector(folder):
    base = load_base(folder)
    with torch.inference_mode():
        alone, beside = read(base, tokens(base, WORDS[:1])), read(base, tokens(base, WORDS))
    torch.testing.assert_close(alone[0], beside[0])
