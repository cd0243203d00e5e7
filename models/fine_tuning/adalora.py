"""What AdaLoRA does besides an ordinary training step, and what it remembers between steps."""

from collections.abc import Mapping
from typing import Any

import torch

_TABLES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
Ranks = dict[str, list[bool]]  # parameter -> which of its directions are still in use


def add_orthogonality_gradient(peft: Any, trained: Mapping[str, torch.nn.Parameter]) -> None:
    """Add the gradient of the term that keeps the directions of each update apart, without which none can be spared."""
    terms = []
    for name, parameter in trained.items():
        if "lora_A" in name or "lora_B" in name:
            products = parameter @ parameter.T if "lora_A" in name else parameter.T @ parameter
            terms.append((products - torch.eye(len(products), device=products.device)).norm())
    (_config(peft).orth_reg_weight * torch.stack(terms).mean()).backward()


def allocate(peft: Any, step: int) -> None:
    """Move ranks to where they are needed after step 1, 2, ...; gradients must still be there."""
    peft.base_model.update_and_allocate(step)


def memory(peft: Any) -> tuple[dict[str, torch.Tensor], Ranks | None]:
    """Return what the next steps depend on."""
    allocator = peft.base_model.rankallocator
    tensors = {f"{table}/{name}": tensor for table in _TABLES for name, tensor in getattr(allocator, table).items()}
    return tensors, _config(peft).rank_pattern


def restore(peft: Any, tensors: Mapping[str, torch.Tensor], ranks: Ranks | None) -> None:
    """Set what ``memory`` returned."""
    for key, tensor in tensors.items():
        table, name = key.split("/", 1)
        getattr(peft.base_model.rankallocator, table)[name] = tensor
    _config(peft).rank_pattern = ranks


def _config(peft: Any) -> Any:
    return peft.peft_config[peft.active_adapter]
