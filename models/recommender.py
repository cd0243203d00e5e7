"""The model as it is served: text encoder, catalogue and ranking behind three calls.

Serving, evaluation and replay go through ``texts`` and ``recommend``; nothing else turns a joined request into input.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.catalogue import Catalogue
from models.ranker import Ranker
from models.ranking import Weights, rank
from models.texts import query_text
from models.wishes.heed import heed
from schemas.domains import pack_for
from schemas.records import Item, JoinedRequest, RecommendedItem, Understood

Vectors = NDArray[np.float32]

WORDS_WEIGHT = 0.7  # how much cosine it is worth to say all of a request's words, again and again; models/TEXT.md


@dataclass(frozen=True)
class Answer:
    """A ranked list, and what was understood of the words it answers."""

    items: list[RecommendedItem]
    understood: Understood | None = None


class Recommender:
    """Answers joined requests. Not thread-safe: change and ask it from one thread."""

    def __init__(self, dim: int, version: str, weights: Weights | None = None, ranker: Ranker | None = None) -> None:
        self.version = version
        self.ranker = ranker
        self.weights = weights or Weights()
        self.catalogue = Catalogue(dim)

    def put(self, item_ids: Sequence[str], items: Sequence[Item], embeddings: Sequence[Vectors]) -> None:
        """Add or replace items, each with the embeddings [chunks, dim] of its ``models.chunks``.

        Raises:
            CatalogueError: an item cannot be taken in; those before it have been.

        """
        for item_id, item, embedding in zip(item_ids, items, embeddings, strict=True):
            self.catalogue.put(item_id, item, embedding)

    def recommend(
        self, joined: Sequence[JoinedRequest], vectors: Sequence[Vectors | None]
    ) -> list[list[RecommendedItem]]:
        """Return a ranked list for each request, whose text has the given vector [dim] (None: it has no text)."""
        return [answer.items for answer in self.answer(joined, vectors)]

    def answer(self, joined: Sequence[JoinedRequest], vectors: Sequence[Vectors | None]) -> list[Answer]:
        """Return what ``recommend`` does, with what was understood of each request's words."""
        with_text = [vector for vector in vectors if vector is not None]
        cosines = iter(self.catalogue.cosines(np.stack(with_text)) if with_text else ())
        answers = []
        for request, vector in zip(joined, vectors, strict=True):
            pack = pack_for(request.request.domain)
            heeded = heed(self.catalogue, pack, request)
            fit = None if vector is None else similarities(self.catalogue, request, next(cosines))
            items = rank(
                self.catalogue, pack, heeded.joined, fit, self.weights,
                asked=heeded.asked, allowed=heeded.allowed, ranker=self.ranker,
            )  # fmt: skip
            answers.append(Answer(items, heeded.understood))
        return answers


def similarities(catalogue: Catalogue, joined: JoinedRequest, cosines: np.ndarray) -> np.ndarray:
    """Return how well every row [size] fits a request's text: its cosine, and what they share in words on top."""
    fit: np.ndarray = cosines + WORDS_WEIGHT * catalogue.words.scores(joined.request.text, catalogue.size)
    return fit


def request_text(joined: JoinedRequest) -> str:
    """Return what the text encoder reads for a request, "" for nothing."""
    return query_text(pack_for(joined.request.domain), joined.request, joined.context)
