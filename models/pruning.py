"""Leave layers of a language model out."""

from collections.abc import Sequence

import torch

from schemas.errors import BadInputError

from .base_model import BaseModel


class PruningError(BadInputError):
    """A model can't be made of fewer layers; the text says why."""


def kept_layers(total: int, kept: int) -> list[int]:
    """Return which layers a student keeps: the first, the last, and those evenly spaced between them.

    Raises:
        PruningError: the teacher has no more layers than that.

    """
    if not 1 <= kept < total:
        raise PruningError(f"a student of {kept} layers needs a teacher of more, not of {total}")
    if kept == 1:
        return [total - 1]
    return [round(place * (total - 1) / (kept - 1)) for place in range(kept)]


def prune(base: BaseModel, layers: Sequence[int]) -> None:
    """Leave out all layers of ``base`` but these.

    Raises:
        PruningError: the model's layers can't be found.

    """
    config = base.model.config
    lists = [
        (parent, name)
        for parent in base.model.modules()
        for name, child in parent.named_children()
        if isinstance(child, torch.nn.ModuleList) and len(child) == config.num_hidden_layers
    ]
    if len(lists) != 1:
        raise PruningError(f"can't tell which parts of {base.name!r} are its layers")
    parent, name = lists[0]
    every = getattr(parent, name)
    setattr(parent, name, torch.nn.ModuleList([every[layer] for layer in layers]))
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in layers]
    config.num_hidden_layers = len(layers)
