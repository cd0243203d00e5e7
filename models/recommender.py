"""The model as it is served: text encoder, catalogue and ranking behind three calls.

Serving, evaluation and replay go through ``texts`` and ``recommend``; nothing else turns a joined request into input.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.catalogue import Catalogue
from models.ranking import Weights, rank
from models.texts import query_text
from schemas.domains import pack_for
from schemas.records import Item, JoinedRequest, RecommendedItem

Vectors = NDArray[np.float32]


class Recommender:
    """Answers joined requests. Not thread-safe: change and ask it from one thread."""

    def __init__(self, dim: int, version: str, weights: Weights | None = None) -> None:
        self.version = version
        self.weights = weights or Weights()
        self.catalogue = Catalogue(dim)

    def put(self, item_ids: Sequence[str], items: Sequence[Item], embeddings: Vectors) -> None:
        """Add or replace items with their embeddings [n, dim].

        Raises:
            CatalogueError: an item cannot be taken in; those before it have been.

        """
        for item_id, item, embedding in zip(item_ids, items, embeddings, strict=True):
            self.catalogue.put(item_id, item, embedding)

    def recommend(
        self, joined: Sequence[JoinedRequest], vectors: Sequence[Vectors | None]
    ) -> list[list[RecommendedItem]]:
        """Return a ranked list for each request, whose text has the given vector [dim] (None: it has no text)."""
        with_text = [vector for vector in vectors if vector is not None]
        cosines = iter(self.catalogue.cosines(np.stack(with_text)) if with_text else ())
        return [
            rank(
                self.catalogue,
                pack_for(request.request.domain),
                request,
                None if vector is None else next(cosines),
                self.weights,
            )
            for request, vector in zip(joined, vectors, strict=True)
        ]


def request_text(joined: JoinedRequest) -> str:
    """Return what the text encoder reads for a request, "" for nothing."""
    return query_text(pack_for(joined.request.domain), joined.request, joined.context)
