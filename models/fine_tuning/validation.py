"""How well the encoder ranks items for queries whose right answers are known."""

import numpy as np
import torch

from models.base_model import BaseModel

from .pairs import Validation
from .tower import encode


def mean_reciprocal_rank(
    tower: torch.nn.Module, base: BaseModel, validation: Validation, max_tokens: int, device: torch.device
) -> float:
    """Return the mean over the queries of 1 / rank of the best right item.

    Wrong items with an equal cosine rank before it, so that a model to which all texts are the same is worth nothing.
    """
    item_ids = list(validation.items)
    number = {item_id: place for place, item_id in enumerate(item_ids)}
    texts = [validation.items[item_id] for item_id in item_ids]
    items = encode(tower, base, texts, "passage", max_tokens, device)
    queries = encode(tower, base, [query.text for query in validation.queries], "query", max_tokens, device)
    total = 0.0
    for query, vector in zip(validation.queries, queries, strict=True):
        cosines = items @ vector
        right = [number[item_id] for item_id in query.relevant if item_id in number]
        best = cosines[right].max()
        cosines[right] = -np.inf
        total += 1 / (1 + int((cosines >= best).sum()))
    return total / len(validation.queries)
