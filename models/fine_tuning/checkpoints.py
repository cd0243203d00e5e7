"""Where a run has come to, so that it can go on after a crash: safetensors and JSON, never pickle.

A checkpoint is a folder that appears at once. The newest holds everything; of the best ones before it only the trained
parameters are kept, to be averaged.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from models.base_model import written_at_once
from models.encoder import file_sha256

from .settings import FineTuningError

TRAINED, MEMORY, STATE = "trained.safetensors", "memory.safetensors", "state.json"

Tensors = Mapping[str, torch.Tensor]


class Evaluation(NamedTuple):
    """A measurement on the way. mrr: None without validation."""

    step: int
    mrr: float | None


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint holds besides tensors."""

    run: str  # sha256 over all that decides the weights
    step: int
    evaluations: list[Evaluation]
    before: float | None = None  # mrr of the base model as it was
    seconds: float = 0.0
    ranks: dict[str, list[bool]] | None = None  # of adalora
    sha256: dict[str, str] = {}  # by file name


class Checkpoint(NamedTuple):
    """A checkpoint as it was read."""

    state: State
    trained: dict[str, torch.Tensor]
    memory: dict[str, torch.Tensor]


def best_first(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return the evaluations, best first, later ones before equal earlier ones."""
    return sorted(evaluations, key=lambda evaluation: (-(evaluation.mrr or 0.0), -evaluation.step))


def write(folder: Path, state: State, trained: Tensors, memory: Tensors, kept: int) -> None:
    """Write a checkpoint into ``folder`` and remove all but the ``kept`` best ones from it.

    ``memory`` is what the optimiser remembers; ``state.sha256`` is filled in.
    """
    with written_at_once(_place(folder, state.step)) as draft:
        for name, tensors in ((TRAINED, trained), (MEMORY, memory)):
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, draft / name)
        hashes = {name: file_sha256(draft / name) for name in (TRAINED, MEMORY)}
        (draft / STATE).write_bytes(msgspec.json.encode(msgspec.structs.replace(state, sha256=hashes)))
    wanted = {evaluation.step for evaluation in best_first(state.evaluations)[:kept]}
    for path in _all(folder):
        step = _step(path)
        if step < state.step and step not in wanted:
            shutil.rmtree(path)
        elif step < state.step:
            (path / MEMORY).unlink(missing_ok=True)


def read_newest(folder: Path, run: str) -> Checkpoint | None:
    """Return the newest checkpoint, or None if there is none.

    Raises:
        FineTuningError: it is damaged or belongs to another run.

    """
    places = _all(folder)
    if not places:
        return None
    place = places[-1]
    state = _read_state(place)
    if state.run != run:
        raise FineTuningError(
            f"fine-tuning: {folder} holds a run with other settings, data or base model: give another folder, or "
            "remove this one to begin anew"
        )
    return Checkpoint(state, _read_tensors(place, TRAINED, state), _read_tensors(place, MEMORY, state))


def average(folder: Path, steps: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return the mean of the trained parameters of several checkpoints (Izmailov et al., UAI 2018).

    Raises:
        FineTuningError: one of them is damaged.

    """
    total: dict[str, torch.Tensor] = {}
    for step in steps:
        place = _place(folder, step)
        for name, tensor in _read_tensors(place, TRAINED, _read_state(place)).items():
            total[name] = total[name] + tensor.double() if name in total else tensor.double()
    return {name: (tensor / len(steps)).float() for name, tensor in total.items()}


def optimiser_memory(
    optimiser: torch.optim.Optimizer, trained: Mapping[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """Return what the optimiser remembers about each parameter, flat."""
    return {
        f"{slot}/{name}": tensor
        for name, parameter in trained.items()
        for slot, tensor in optimiser.state.get(parameter, {}).items()
    }


def restore_optimiser(
    optimiser: torch.optim.Optimizer, trained: Mapping[str, torch.nn.Parameter], memory: Tensors
) -> None:
    """Set what ``optimiser_memory`` returned."""
    for key, tensor in memory.items():
        slot, name = key.split("/", 1)
        parameter = trained[name]
        # AdamW counts its steps on the CPU, wherever the parameters are.
        optimiser.state[parameter][slot] = tensor if tensor.ndim == 0 else tensor.to(parameter.device)


def set_parameters(trained: Mapping[str, torch.nn.Parameter], values: Tensors) -> None:
    """Copy values into the parameters of the same names.

    Raises:
        FineTuningError: names or shapes differ.

    """
    if {name: value.shape for name, value in values.items()} != {name: p.shape for name, p in trained.items()}:
        raise FineTuningError("fine-tuning: the saved parameters are not those of this base model and strategy")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(values[name])


def _place(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}"


def _step(place: Path) -> int:
    return int(place.name.removeprefix("step-"))


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _read_state(place: Path) -> State:
    try:
        return msgspec.json.decode((place / STATE).read_bytes(), type=State)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(place / STATE, str(error)) from error


def _read_tensors(place: Path, name: str, state: State) -> dict[str, torch.Tensor]:
    path = place / name
    try:
        if file_sha256(path) != state.sha256.get(name):
            raise _damaged(path, "its sha256 is not the one in " + STATE)
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, str(error)) from error
    return tensors


def _damaged(path: Path, reason: str) -> FineTuningError:
    return FineTuningError(f"fine-tuning: {path} is damaged ({reason}): remove {path.parent.parent} to begin anew")
