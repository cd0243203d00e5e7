"""Which parameters are decayed, and how large a step is taken when."""

import math
from collections.abc import Mapping

import torch

from .settings import Schedule, Settings


def make_optimiser(trained: Mapping[str, torch.nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """Return the optimiser of the trained parameters. The learning rate is set anew before each step."""
    matrices = [parameter for parameter in trained.values() if _is_matrix(parameter)]
    vectors = [parameter for parameter in trained.values() if not _is_matrix(parameter)]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=settings.peak_learning_rate)
    return torch.optim.SGD(groups, lr=settings.peak_learning_rate, momentum=0.9)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def learning_rate_factor(step: int, steps: int, warm_up: float, schedule: Schedule) -> float:
    """Return what the peak learning rate is multiplied with in step 1 to ``steps``: up to 1, then down towards 0."""
    rising = warm_up * steps
    if step < rising:
        return step / rising
    left = (steps - step + 1) / (steps - rising + 1)
    return left if schedule == "linear" else (1 - math.cos(math.pi * left)) / 2


def _is_matrix(parameter: torch.nn.Parameter) -> bool:
    """Whether it has two dimensions or more that are not 1; the scales of IA3 are written as matrices of one column."""
    return sum(length > 1 for length in parameter.shape) >= 2
