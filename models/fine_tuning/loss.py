"""Softmax cross-entropy over a sample of the catalogue, corrected for how the sample was drawn."""

import numpy as np
import torch
from numpy.typing import NDArray


def log_inclusion(share: NDArray[np.float64], draws: int, evenly: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the logarithm of each item's probability to be in a batch: float32 [n].

    share: [n] of all pairs, whose items fill the batch in ``draws`` draws; evenly: [n] probability to be drawn from the
    catalogue besides. Items are in a batch once, however often they are drawn.
    """
    with np.errstate(divide="ignore"):  # a share of 1: the item is in every batch
        missed = np.exp(draws * np.log1p(-share)) * (1 - evenly)
        return np.asarray(np.log1p(-missed), np.float32)


def sampled_softmax(
    cosines: torch.Tensor,
    target: torch.Tensor,
    allowed: torch.Tensor,
    log_inclusion: torch.Tensor,
    *,
    temperature: float,
    label_smoothing: float,
) -> torch.Tensor:
    """Return the mean loss of queries [B] that should find item ``target`` [B] among items [C]: a scalar.

    ``cosines`` [B, C] over the temperature are the logits. From each the item's ``log_inclusion`` [C] is taken, without
    which items that are in many batches would be pushed away for no other reason (log-Q correction, Yi et al., RecSys
    2019). Items that are not ``allowed`` [B, C] are left out.
    """
    logits = (cosines / temperature - log_inclusion).masked_fill(~allowed, float("-inf"))
    log_probability = torch.log_softmax(logits, dim=1)
    right = log_probability.gather(1, target[:, None])[:, 0]
    every = log_probability.masked_fill(~allowed, 0.0).sum(dim=1) / allowed.sum(dim=1)
    return -((1 - label_smoothing) * right + label_smoothing * every).mean()
