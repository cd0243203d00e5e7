"""What a run leaves behind, and how it becomes a base model again.

    fine_tuning.json      how it was made and what came out; written last
    model/                the merged model as an ordinary Hugging Face folder, for ``load_base``
    trained.safetensors   the trained parameters alone; with fine_tuning.json enough to make model/ again over the base

A run of the strategy full has no trained.safetensors, which would be model/ once more.
"""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from models.base_model import BaseModel, load_base, save_base, written_at_once
from models.encoder import file_sha256

from .checkpoints import TRAINED, Evaluation, set_parameters
from .settings import FineTuningError, Settings
from .strategies import FEWEST_ADALORA_STEPS, Adapted, adapt, merge

MANIFEST, MODEL = "fine_tuning.json", "model"
_FORMAT = 1


class FineTuned(msgspec.Struct, frozen=True, kw_only=True):
    """What fine_tuning.json says."""

    format: int = _FORMAT
    base: str
    base_sha256: str  # of the base model's weights, see weights_sha256
    weights_sha256: str = ""  # of the merged model's
    settings: Settings
    pairs: int
    catalogue: int  # items
    validation_queries: int
    steps: int
    stopped_early: bool
    mrr_before: float | None  # of the validation queries by the base model as it was
    mrr_after: float | None
    evaluations: list[Evaluation]
    averaged_steps: list[int]  # the checkpoints that the result is the mean of
    parameters: int  # of the base model
    trained_parameters: int
    seconds: float  # spent training and evaluating
    device: str
    threads: int  # of torch; another number may round sums otherwise
    versions: dict[str, str]  # of the packages that the weights depend on
    sha256: dict[str, str] = {}  # by file name

    @property
    def name(self) -> str:
        """A name for the model that is the same wherever its folder lies."""
        return f"{self.base}+{self.settings.strategy}-{self.weights_sha256[:12]}"


def weights_sha256(base: BaseModel) -> str:
    """Return a sha256 over the names, shapes and values of a model's weights, whatever files they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(base.model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def write_result(folder: Path, adapted: Adapted, manifest: FineTuned) -> FineTuned:
    """Write a finished run and return its manifest with the hashes filled in. ``adapted`` is used up."""
    hashes: dict[str, str] = {}
    if manifest.settings.strategy != "full":
        draft = folder / f".{TRAINED}"
        save_file({name: parameter.detach().cpu().contiguous() for name, parameter in adapted.trained.items()}, draft)
        draft.replace(folder / TRAINED)
        hashes[TRAINED] = file_sha256(folder / TRAINED)
    base = merge(adapted)
    shutil.rmtree(folder / MODEL, ignore_errors=True)  # left by a run that was cut off here
    with written_at_once(folder / MODEL) as draft:
        save_base(base, draft)
    for path in sorted((folder / MODEL).iterdir()):
        hashes[f"{MODEL}/{path.name}"] = file_sha256(path)
    manifest = msgspec.structs.replace(manifest, weights_sha256=weights_sha256(base), sha256=hashes)
    draft = folder / f".{MANIFEST}"
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    draft.replace(folder / MANIFEST)
    return manifest


def read_manifest(folder: Path) -> FineTuned:
    """Return what fine_tuning.json says.

    Raises:
        FineTuningError: there is none, or this version can't read it.

    """
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=FineTuned)
    except FileNotFoundError as error:
        raise FineTuningError(f"fine-tuning: {path} is missing: no fine-tuning has been finished there") from error
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FineTuningError(f"fine-tuning: {path} is damaged ({error}): fine-tune again") from error
    if manifest.format != _FORMAT:
        raise FineTuningError(
            f"fine-tuning: {path} has format {manifest.format}, this version reads {_FORMAT}: fine-tune again"
        )
    return manifest


def load_fine_tuned(folder: Path, cache: Path | None = None) -> BaseModel:
    """Return the fine-tuned model: from model/ where that is, else by merging the trained parameters over the base.

    ``cache``: see ``load_base``.

    Raises:
        FineTuningError: files are missing or damaged, or the base model is not the one that was fine-tuned.
        BaseModelError: the base model can't be loaded.

    """
    manifest = read_manifest(folder)
    whole = (folder / MODEL).is_dir()
    if not whole and TRAINED not in manifest.sha256:
        raise FineTuningError(
            f"fine-tuning: {folder / MODEL} is missing, and full fine-tuning has nothing else: copy it"
        )
    for name, expected in manifest.sha256.items():
        if name.startswith(MODEL) == whole:
            _check(folder / name, expected)
    base = load_base(str(folder / MODEL)) if whole else _merged_over_base(folder, manifest, cache)
    return replace(base, name=manifest.name)


def _merged_over_base(folder: Path, manifest: FineTuned, cache: Path | None) -> BaseModel:
    base = load_base(manifest.base, cache)
    if (found := weights_sha256(base)) != manifest.base_sha256:
        raise FineTuningError(
            f"fine-tuning: {folder} was trained over {manifest.base!r} with weights {manifest.base_sha256[:12]}, but "
            f"those that are loaded by this name are {found[:12]}: get the same version of it, or fine-tune again"
        )
    with torch.random.fork_rng():  # what is drawn here is overwritten
        adapted = adapt(base, manifest.settings, max(manifest.steps, FEWEST_ADALORA_STEPS))
    try:
        set_parameters(adapted.trained, load_file(folder / TRAINED))
    except (OSError, SafetensorError) as error:
        raise FineTuningError(f"fine-tuning: {folder / TRAINED} can't be read ({error}): copy it again") from error
    return merge(adapted)


def _check(path: Path, expected: str) -> None:
    if not path.is_file():
        raise FineTuningError(f"fine-tuning: {path} is missing: copy the folder again or fine-tune again")
    if (actual := file_sha256(path)) != expected:
        raise FineTuningError(
            f"fine-tuning: {path} is damaged (sha256 {actual}, expected {expected}): copy it again or fine-tune again"
        )
