"""A student as what sets it apart from its base model: a few megabytes, to be shipped where the base is at hand.

Every matrix is written as its difference to that of the base model's layer it began as, in blocks of 32 values of 4
bits with one scale each, the way the packaged base model itself is; vectors as differences in 16 bits. Differences are
smaller than weights, so that the rounding is too: models/DISTILLATION.md has its cost. The embedding tables are the
base model's.
"""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .base_model import BaseModel
from .encoder import ArtefactError
from .pruning import prune

_FORMAT = 1
_BLOCK = 32
_LIMIT = 7  # of 4 bits with a sign; -8 is not used
_CODES, _SCALES = ".codes", ".scales"


class StudentHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What the file says besides tensors."""

    format: int = _FORMAT
    base: str
    base_layers: int
    kept_layers: list[int]  # of the base model's, counted from 0


def save_student(student: BaseModel, base: BaseModel, kept_layers: list[int], path: Path) -> None:
    """Write the differences between ``student`` and the same layers of ``base``, which is used up, to ``path``."""
    header = StudentHeader(base=base.name, base_layers=base.model.config.num_hidden_layers, kept_layers=kept_layers)
    prune(base, kept_layers)
    origin = base.model.state_dict()
    tensors: dict[str, NDArray[np.generic]] = {}
    for name, tensor in student.model.state_dict().items():
        if torch.equal(tensor, origin[name]):
            continue
        difference = (tensor - origin[name]).numpy()
        if difference.ndim == 2 and difference.size % (2 * _BLOCK) == 0:
            tensors[name + _CODES], tensors[name + _SCALES] = _pack(difference)
        else:
            tensors[name] = difference.astype(np.float16)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"student": msgspec.json.encode(header).decode()})


def restore_student(base: BaseModel, path: Path) -> BaseModel:
    """Return the student that was saved to ``path``. ``base`` is used up.

    Raises:
        ArtefactError: the file is missing, damaged, or made from another base model.

    """
    try:
        with safe_open(path, "numpy") as file:
            header = msgspec.json.decode(file.metadata()["student"], type=StudentHeader)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except FileNotFoundError as error:
        raise ArtefactError(f"{path} is missing: install Tablecast again") from error
    except (OSError, SafetensorError, msgspec.DecodeError, KeyError, TypeError) as error:
        raise ArtefactError(f"{path} is damaged ({error}): install Tablecast again") from error
    if (header.base, header.base_layers) != (base.name, base.model.config.num_hidden_layers):
        raise ArtefactError(f"{path} holds a student of {header.base!r}, not of {base.name!r}")
    prune(base, header.kept_layers)
    state = base.model.state_dict()
    try:
        for name in {name.removesuffix(_CODES).removesuffix(_SCALES) for name in tensors}:
            shape = state[name].shape
            difference = (
                _unpack(tensors[name + _CODES], tensors[name + _SCALES]) if name + _CODES in tensors else tensors[name]
            )
            state[name] += torch.from_numpy(difference.astype(np.float32).reshape(shape))
    except (KeyError, ValueError) as error:
        raise ArtefactError(f"{path} is damaged ({error}): install Tablecast again") from error
    return replace(base, name=f"{base.name}, student of {len(header.kept_layers)} layers")


def _pack(matrix: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Two values a byte, and one scale for each block of 32: uint8 [size / 2], float16 [size / 32]."""
    blocks = matrix.reshape(-1, _BLOCK)
    scales = _best_scales(blocks)
    codes = _codes(blocks, scales.astype(np.float32)).reshape(-1, 2)
    return (codes[:, 0] | codes[:, 1] << 4).astype(np.uint8), scales


def _best_scales(blocks: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return the scale of each block that loses least; the largest value may be cut off for the sake of the others."""
    largest = np.abs(blocks).max(axis=1) / _LIMIT
    best, least = np.zeros(len(blocks), np.float16), np.full(len(blocks), np.inf, np.float32)
    for factor in (1.0, 0.93, 0.86, 0.8, 0.74):
        scales = (largest * factor).astype(np.float16)
        wide = scales.astype(np.float32)[:, None]
        error = np.square((_codes(blocks, wide[:, 0]).astype(np.float32) - 8) * wide - blocks).sum(axis=1)
        better = error < least
        best[better], least[better] = scales[better], error[better]
    return best


def _codes(blocks: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.uint8]:
    steps = np.rint(blocks / np.where(scales > 0, scales, np.inf)[:, None])
    return (np.clip(steps, -_LIMIT, _LIMIT) + 8).astype(np.uint8)


def _unpack(codes: NDArray[np.uint8], scales: NDArray[np.float16]) -> NDArray[np.float32]:
    values = np.stack([codes & 15, codes >> 4], axis=1).reshape(-1, _BLOCK).astype(np.float32) - 8
    return values * scales.astype(np.float32)[:, None]
