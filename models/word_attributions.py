"""Which words of a request moved an item's text score.

A text score is a cosine and shared words, each above what the catalogue's items get on average (``similarities``,
``ranking``). What each word adds to the shared words is exact. What it adds to the cosine comes from integrated
gradients (Sundararajan et al., "Axiomatic attribution for deep networks", ICML 2017): the gradient of the cosine by the
request's token embeddings, averaged on the way from padding to the request, times the way. Gauss and Legendre's points
make the average all but exact, so that the words' values sum to the score less that of a request without words.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from models.base_model import PACKAGED, BaseModel, load_base
from models.catalogue import BEST_CHUNKS, SCALE, Catalogue
from models.encoder import ArtefactError, Encoder
from models.export import LEAST_COSINE, PARITY_TEXTS, SERVED_TOKENS, SHIPPED_STUDENT, reference_vectors
from models.fine_tuning.result import load_fine_tuned
from models.lexical import term_places
from models.ranking import Weights
from models.recommender import WORDS_WEIGHT
from models.student_weights import restore_student

Array = NDArray[np.float64]
Place = tuple[int, int]  # of a text: the first character and the one after the last

POINTS = 48  # of the way from padding to the request, at which gradients are taken
_UNSPACED = re.compile(r"[\u0e00-\u0e7f\u3000-\u30ff\u3400-\u9fff\uff00-\uffef\U00020000-\U0003ffff]")


class Word(NamedTuple):
    """A word or, of a script without spaces, a piece as the language model reads it; what it adds to a text score."""

    text: str
    value: float


class TextScore(NamedTuple):
    """An item's text score, as in the part ``text`` of a list: the sum of the words' values and of ``without``."""

    words: list[Word]  # in the order of the text
    without: float  # what the item would get for a request of no words
    score: float


def language_model(encoder: Encoder, weights: Path) -> BaseModel:
    """Return the torch model that what reads requests was exported from, which alone has gradients.

    ``weights`` is where a model's folder has those of its fine-tuning; there need be none.

    Raises:
        ArtefactError: it is not at hand.

    """
    name = encoder.manifest.base
    if weights.is_dir():
        model = load_fine_tuned(weights)
    elif name == PACKAGED or not name.startswith(PACKAGED):
        model = load_base(name)
    else:
        model = restore_student(load_base(PACKAGED), SHIPPED_STUDENT)
    texts = list(PARITY_TEXTS[1:6])
    served = encoder.encode(encoder.tokenize(texts, "query"))
    cosine = float((served * reference_vectors(model, encoder, texts)).sum(axis=1).min())
    if cosine < LEAST_COSINE[encoder.manifest.precision]:
        raise ArtefactError(f"the weights of the encoder {name!r} are not at hand: {model.name!r} reads otherwise")
    return model


def word_attributions(
    model: BaseModel, catalogue: Catalogue, text: str, said: str, item_id: str, weights: Weights
) -> TextScore:
    """Return what each word adds to the text score of an item.

    Args:
        model: the torch model of what reads requests.
        catalogue: the item and those it is compared with, with their embeddings.
        text: what the encoder reads for the request, ``recommender.request_text``.
        said: the request's own words.
        item_id: of an item in the catalogue.
        weights: of the text score.

    """
    prefix, row = model.prefixes["query"], catalogue.row_of[item_id]
    rows = np.array(sorted(catalogue.row_of.values()))
    limit = min(SERVED_TOKENS, model.max_tokens)
    read = model.tokenizer(prefix + text, return_offsets_mapping=True, truncation=True, max_length=limit)
    ids = torch.tensor(read["input_ids"])
    places = [(start - len(prefix), end - len(prefix)) for start, end in read["offset_mapping"]]

    with torch.inference_mode():
        vector: Array = _unit_vectors(model, model.model.get_input_embeddings()(ids)[None])[0].double().numpy()
    average = np.mean([_compared(catalogue, each, vector) for each in rows.tolist()], axis=0)
    above = _compared(catalogue, row, vector) - average
    own = np.array([start < end and end > 0 for start, end in places])  # neither the prefix nor marks of the tokenizer
    tokens, without = integrated_gradients(model, ids, own, above)
    letters = np.zeros(len(text))
    for (start, end), value in zip(places, tokens.tolist(), strict=True):
        _spread(letters, text, (start, end), value)
    found = term_places(text)
    for term, added in catalogue.words.by_term(said, catalogue.size).items():
        where = [(start, end) for other, start, end in found if other == term]
        for place in where:
            _spread(letters, text, place, WORDS_WEIGHT * (added[row] - added[rows].mean()) / len(where))
    worth = weights.text / weights.text_spread
    words = [Word(text[start:end], worth * float(letters[start:end].sum())) for start, end in _words(text, places)]
    return TextScore(words, worth * without, worth * (without + float(letters.sum())))


def integrated_gradients(
    model: BaseModel, ids: torch.Tensor, own: NDArray[np.bool_], direction: Array
) -> tuple[Array, float]:
    """Return what each token [n] adds to the product of its text's unit vector with ``direction`` [dim], and the rest.

    The rest is what the product is if all tokens that are the text's ``own`` [n] are padding.
    """
    table, padding = model.model.get_input_embeddings().weight.detach(), model.tokenizer.pad_token_id
    there = table[ids]
    begin = torch.where(torch.from_numpy(own)[:, None], torch.zeros(1) if padding is None else table[padding], there)
    places, shares = np.polynomial.legendre.leggauss(POINTS)
    along = torch.tensor((places + 1) / 2, dtype=torch.float32)[:, None, None]
    towards = torch.tensor(direction, dtype=torch.float32)
    points = (begin + along * (there - begin)).requires_grad_()
    (slopes,) = torch.autograd.grad((_unit_vectors(model, points) @ towards).sum(), points)
    average = torch.einsum("p,pnd->nd", torch.tensor(shares / 2, dtype=torch.float32), slopes)
    with torch.inference_mode():
        rest = float(_unit_vectors(model, begin[None])[0] @ towards)
    return ((there - begin) * average).sum(dim=1).double().numpy(), rest


def _unit_vectors(model: BaseModel, embeddings: torch.Tensor) -> torch.Tensor:
    """Return the vectors [batch, dim] of texts of token embeddings [batch, n, dim]."""
    options = {"use_cache": False} if model.pooling == "last" else {}
    mask = torch.ones(embeddings.shape[:2], dtype=torch.int64)
    hidden = model.model(inputs_embeds=embeddings, attention_mask=mask, **options).last_hidden_state
    return torch.nn.functional.normalize(hidden.mean(dim=1) if model.pooling == "mean" else hidden[:, -1], dim=1)


def _compared(catalogue: Catalogue, row: int, vector: Array) -> Array:
    """Return the vector [dim] whose product with a request's is an item's cosine: the average of its best chunks."""
    later = catalogue.later_chunks[row]
    chunks = np.vstack([catalogue.embedding[row], catalogue.chunk_embedding[later[later > 0]]]).astype(np.float64)
    best: Array = chunks[np.argsort(-(chunks @ vector))[:BEST_CHUNKS]].mean(axis=0) / SCALE
    return best


def _spread(letters: Array, text: str, place: Place, value: float) -> None:
    """Add a value to the letters of a place, evenly; what only stands for a space goes to the letter that follows."""
    start, end = place
    where = [letter for letter in range(max(start, 0), end) if not text[letter].isspace()]
    letters[where or [min(max(end, 0), len(text) - 1)]] += value / max(len(where), 1)


def _words(text: str, tokens: list[Place]) -> list[Place]:
    """Return where words are: between spaces and, of scripts that have none, as the tokens are."""
    ends = {end for _, end in tokens}
    found, start = [], 0
    for end in range(1, len(text) + 1):
        pair = text[end - 1 : end + 1]
        if len(pair) < 2 or any(map(str.isspace, pair)) or (end in ends and _UNSPACED.search(pair)):
            if not text[start:end].isspace():
                found.append((start, end))
            start = end
    return found
