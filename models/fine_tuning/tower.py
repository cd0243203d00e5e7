"""From texts to unit vectors by the torch model that is being trained, the way ``models.encoder`` serves them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.base_model import BaseModel, Kind, Pooling

from .settings import Precision

_CHARACTERS_PER_TOKEN = 32  # more text than this is never looked at, as in models.encoder


class Tower(torch.nn.Module):
    """A language model with pooling. The same one reads queries and items.

    A module of its own so that ``torch.nn.DataParallel`` can split its batch.
    """

    def __init__(self, model: Any, pooling: Pooling, precision: Precision) -> None:
        super().__init__()
        self.model = model
        self._pooling = pooling
        self._half = precision == "bf16"
        self._options = {"use_cache": False} if pooling == "last" else {}

    def embeddings(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the input embeddings of token ids [n, length]: [n, length, width], no gradient."""
        with torch.no_grad():
            embeddings: torch.Tensor = self.model.get_input_embeddings()(ids)
            return embeddings

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, shift: torch.Tensor | None = None) -> torch.Tensor:
        """Return unit vectors float32 [n, dim] of token ids [n, length], where ``mask`` [n, length] has a 1.

        ``shift`` [n, length, width] is added to the input embeddings.
        """
        inputs = {"input_ids": ids}
        if shift is not None:
            inputs = {"inputs_embeds": self.model.get_input_embeddings()(ids) + shift}
        # Here rather than around the loop: DataParallel calls this in threads of its own.
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self._half):
            states = self.model(**inputs, attention_mask=mask, **self._options).last_hidden_state
        states = states.float()
        if self._pooling == "mean":
            weights = mask[:, :, None].to(states.dtype)
            vectors = (states * weights).sum(dim=1) / weights.sum(dim=1)
        else:
            vectors = states[torch.arange(len(ids), device=ids.device), mask.sum(dim=1) - 1]
        return torch.nn.functional.normalize(vectors, dim=1)


def tokenise(
    base: BaseModel, texts: Sequence[str], kind: Kind, max_tokens: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and mask, int64 [n, length of the longest], of texts after the prefix of their kind."""
    limit = min(max_tokens, base.max_tokens)
    prefix = base.prefixes[kind]
    # A lone surrogate, which no UTF-8 text holds but a Python string may, becomes a question mark.
    inputs = [
        (prefix + text[: limit * _CHARACTERS_PER_TOKEN]).encode("utf-8", "replace").decode("utf-8") for text in texts
    ]
    rows: list[list[int]] = base.tokenizer(inputs, truncation=True, max_length=limit).input_ids
    ids = np.full((len(rows), max(map(len, rows))), base.tokenizer.pad_token_id or 0, np.int64)
    mask = np.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
        mask[number, : len(row)] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def encode(
    tower: torch.nn.Module,
    base: BaseModel,
    texts: Sequence[str],
    kind: Kind,
    max_tokens: int,
    device: torch.device,
) -> NDArray[np.float32]:
    """Return unit vectors float32 [len(texts), dim] in evaluation mode; texts of similar length go together."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    vectors: list[NDArray[np.float32]] = []
    tower.eval()
    with torch.inference_mode():
        for start in range(0, len(order), _ENCODED_TOGETHER):
            rows = order[start : start + _ENCODED_TOGETHER]
            tokens = tokenise(base, [texts[row] for row in rows], kind, max_tokens, device)
            vectors.append(tower(*tokens).cpu().numpy())
    result = np.concatenate(vectors)
    result[order] = result.copy()
    return result


_ENCODED_TOGETHER = 64
