"""The training loop.

    from models.fine_tuning.pairs import Pair, TrainingData
    from models.fine_tuning.training import fine_tune

    data = TrainingData([Pair("quiet noodles", "7", "Lan's noodle house. Quiet."), ...], catalogue)
    fine_tune("packaged:multilingual-e5-small", data, Path("my-model"), Settings(strategy="lora"))

The same settings, data and base model give the same weights, byte for byte, on one kind of CPU with one version of
torch and one number of threads: chance at a step is a function of the seed and the step's number, nothing else. That
is also why a run that was cut off goes on from its last checkpoint as if nothing had happened: call it again.

Several GPUs share every batch (``torch.nn.DataParallel``). With a process per GPU each would see only its own part of
the batch, and with it fewer negatives; and it would need a launcher, where this is a function to call.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from models.base_model import BaseModel, load_base

from . import adalora, adversarial, checkpoints
from .augmentation import Augmentation, Paraphrases, Translator, prepare
from .checkpoints import Evaluation, State, best_first
from .loss import sampled_softmax
from .optimisation import learning_rate_factor, make_optimiser, set_learning_rate
from .pairs import Batch, Dealer, TrainingData, Validation, rows_by_step
from .result import MANIFEST, FineTuned, weights_sha256, write_result
from .settings import FineTuningError, Settings
from .strategies import Adapted, adapt
from .tower import Tower, tokenise
from .tracking import Record, tracked
from .validation import mean_reciprocal_rank

CHECKPOINTS = "checkpoints"

_PACKAGES = ("torch", "transformers", "tokenizers", "peft", "numpy")
_OPTIMISER, _ADALORA = "optimiser/", "adalora/"
_log = structlog.get_logger(__name__)


def fine_tune(
    base: str,
    data: TrainingData,
    folder: Path,
    settings: Settings | None = None,
    *,
    paraphrases: Paraphrases | None = None,
    translator: Translator | None = None,
    wandb_project: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FineTuned:
    """Fine-tune the base model of a name or folder, write the result into ``folder`` and return its manifest.

    ``folder`` is new, or that of the same run cut off, which is taken up again. ``progress`` is told the steps done,
    and of how many.

    Raises:
        BaseModelError: the base model can't be loaded.
        FineTuningError: the data, the settings or what lies in ``folder`` don't fit.

    """
    settings = settings or Settings()
    if (folder / MANIFEST).exists():
        raise FineTuningError(f"fine-tuning: {folder} holds a finished model: give another folder or remove it")
    device = _device(settings)
    loaded = load_base(base)
    augmentation = prepare(
        [pair.query for pair in data.pairs], settings, paraphrases, translator, loaded.tokenizer.mask_token or ""
    )
    base_sha256 = weights_sha256(loaded)
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    per_epoch = -(-len(data.pairs) // (settings.batch_size * settings.accumulation))
    steps = min(settings.epochs * per_epoch, settings.most_steps or settings.epochs * per_epoch)
    identity = _identity(base_sha256, settings, data, augmentation)
    newest = checkpoints.read_newest(folder / CHECKPOINTS, identity)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        loaded.model.to(device)
        before = _mrr(data.validation, loaded, settings, device) if newest is None else newest.state.before
        run = _prepare(loaded, data, augmentation, settings, device, steps)
        state = State(run=identity, step=0, evaluations=[], before=before) if newest is None else _resume(run, newest)
        folder.mkdir(parents=True, exist_ok=True)
        with tracked(folder, done=state.step, wandb_project=wandb_project) as record:
            state = _train(run, folder / CHECKPOINTS, state, record, progress)
            mrr, averaged = _settle(run, folder / CHECKPOINTS, state)
    if mrr is not None and state.before is not None and mrr < state.before:
        _log.warning("fine-tuning made validation worse", before=state.before, after=mrr)
    manifest = write_result(
        folder,
        run.adapted,
        FineTuned(
            base=base,
            base_sha256=base_sha256,
            settings=settings,
            pairs=len(data.pairs),
            catalogue=len(data.catalogue),
            validation_queries=len(data.validation.queries) if data.validation else 0,
            steps=state.step,
            stopped_early=state.step < steps,
            mrr_before=state.before,
            mrr_after=mrr,
            evaluations=state.evaluations,
            averaged_steps=averaged,
            parameters=parameters,
            trained_parameters=sum(parameter.numel() for parameter in run.adapted.trained.values()),
            seconds=round(state.seconds, 3),
            device=str(run.device),
            threads=torch.get_num_threads(),
            versions={package: version(package) for package in _PACKAGES},
        ),
    )
    shutil.rmtree(folder / CHECKPOINTS)
    return manifest


@dataclass(frozen=True, slots=True)
class _Run:
    """What stays the same from step to step."""

    settings: Settings
    data: TrainingData
    steps: int
    device: torch.device
    adapted: Adapted
    tower: Tower
    parallel: torch.nn.Module  # the tower, or the tower on several GPUs
    optimiser: torch.optim.Optimizer
    dealer: Dealer
    augmentation: Augmentation


def _prepare(
    loaded: BaseModel,
    data: TrainingData,
    augmentation: Augmentation,
    settings: Settings,
    device: torch.device,
    steps: int,
) -> _Run:
    adapted = adapt(loaded, settings, steps)
    tower = Tower(adapted.base.model, adapted.base.pooling, settings.precision).to(device)
    several = device.type == "cuda" and torch.cuda.device_count() > 1
    return _Run(
        settings,
        data,
        steps,
        device,
        adapted,
        tower,
        torch.nn.DataParallel(tower) if several else tower,
        make_optimiser(adapted.trained, settings),
        Dealer(data, settings.negatives),
        augmentation,
    )


def _train(run: _Run, folder: Path, state: State, record: Record, progress: Callable[[int, int], None] | None) -> State:
    """Take the steps that are left, or fewer when validation stops getting better, and return the last state."""
    settings, started = run.settings, time.monotonic() - state.seconds
    if state.step == 0 and state.before is not None:
        record(0, {"validation/mrr": state.before})
    per_step = settings.batch_size * settings.accumulation
    every_row = rows_by_step(len(run.data.pairs), per_step, run.steps, settings.seed, state.step)
    for step, rows in enumerate(every_row, state.step + 1):
        if _no_longer_better(state.evaluations, settings.patience):
            break
        record(step, _step(run, step, rows))
        if step % settings.evaluate_every == 0 or step == run.steps:
            mrr = _mrr_of(run)
            if mrr is not None:
                record(step, {"validation/mrr": mrr})
            state = msgspec.structs.replace(
                state,
                step=step,
                evaluations=[*state.evaluations, Evaluation(step, mrr)],
                seconds=time.monotonic() - started,
            )
            _save(run, folder, state)
        if progress:
            progress(step, run.steps)
    return state


def _step(run: _Run, step: int, rows: NDArray[np.int64]) -> dict[str, float]:
    """Take one step of the optimiser, numbered from 1, and return its figures."""
    settings, trained = run.settings, run.adapted.trained
    factor = learning_rate_factor(step, run.steps, settings.warm_up, settings.schedule)
    set_learning_rate(run.optimiser, settings.peak_learning_rate * factor)
    run.parallel.train()
    loss = 0.0
    for part, start in enumerate(range(0, len(rows), settings.batch_size)):
        some = rows[start : start + settings.batch_size]
        generator = np.random.default_rng([settings.seed, step, part])
        batch = run.dealer.deal(some, generator)
        queries = [run.augmentation.change(query, settings, generator) for query in batch.queries]
        weight = len(some) / len(rows)
        loss += weight * _backward(run, batch._replace(queries=queries), weight, int(generator.integers(2**32)))
    if settings.strategy == "adalora":
        adalora.add_orthogonality_gradient(run.adapted.peft, trained)
    length = torch.nn.utils.clip_grad_norm_(trained.values(), settings.max_gradient).item()
    if not np.isfinite(length):
        raise FineTuningError(
            f"fine-tuning: the gradient of step {step} is not finite: lower the learning rate, raise the temperature, "
            "or use the precision fp32"
        )
    run.optimiser.step()
    if settings.strategy == "adalora":
        adalora.allocate(run.adapted.peft, step)
    run.optimiser.zero_grad()
    return {"train/loss": loss, "train/gradient": length, "train/learning_rate": settings.peak_learning_rate * factor}


def _backward(run: _Run, batch: Batch, weight: float, seed: int) -> float:
    """Add a batch's gradient and return its loss."""
    settings, base = run.settings, run.adapted.base
    queries = tokenise(base, batch.queries, "query", settings.max_tokens, run.device)
    items = tokenise(base, batch.items, "passage", settings.max_tokens, run.device)
    target, allowed, log_inclusion = (
        torch.from_numpy(array).to(run.device) for array in (batch.target, batch.allowed, batch.log_inclusion)
    )

    def loss_of(shifts: Sequence[torch.Tensor | None]) -> torch.Tensor:
        cosines = run.parallel(*queries, shifts[0]) @ run.parallel(*items, shifts[1]).T
        return sampled_softmax(
            cosines,
            target,
            allowed,
            log_inclusion,
            temperature=settings.temperature,
            label_smoothing=settings.label_smoothing,
        )

    def embeddings() -> list[torch.Tensor]:
        return [run.tower.embeddings(ids) * mask[:, :, None] for ids, mask in (queries, items)]

    return adversarial.backward(loss_of, embeddings, settings, weight=weight, seed=seed)


def _mrr_of(run: _Run) -> float | None:
    return _mrr(run.data.validation, run.adapted.base, run.settings, run.device, run.parallel)


def _mrr(
    validation: Validation | None,
    base: BaseModel,
    settings: Settings,
    device: torch.device,
    tower: torch.nn.Module | None = None,
) -> float | None:
    if validation is None:
        return None
    tower = tower or Tower(base.model, base.pooling, settings.precision)
    return mean_reciprocal_rank(tower, base, validation, settings.max_tokens, device)


def _no_longer_better(evaluations: Sequence[Evaluation], patience: int) -> bool:
    """Whether the last ``patience`` evaluations were no better than the best one before them."""
    figures = [evaluation.mrr for evaluation in evaluations if evaluation.mrr is not None]
    return len(figures) > patience and max(figures[-patience:]) <= max(figures[:-patience])


def _resume(run: _Run, newest: checkpoints.Checkpoint) -> State:
    """Set parameters and what is remembered to a checkpoint, and return its state."""
    state, trained, memory = newest
    checkpoints.set_parameters(run.adapted.trained, trained)
    checkpoints.restore_optimiser(run.optimiser, run.adapted.trained, _below(memory, _OPTIMISER))
    if run.settings.strategy == "adalora":
        tables = {name: tensor.to(run.device) for name, tensor in _below(memory, _ADALORA).items()}
        adalora.restore(run.adapted.peft, tables, state.ranks)
    _log.info("fine-tuning goes on", step=state.step, of=run.steps)
    return state


def _save(run: _Run, folder: Path, state: State) -> None:
    optimiser = checkpoints.optimiser_memory(run.optimiser, run.adapted.trained)
    memory = {_OPTIMISER + name: tensor for name, tensor in optimiser.items()}
    if run.settings.strategy == "adalora":
        tables, ranks = adalora.memory(run.adapted.peft)
        memory |= {_ADALORA + name: tensor for name, tensor in tables.items()}
        state = msgspec.structs.replace(state, ranks=ranks)
    checkpoints.write(folder, state, run.adapted.trained, memory, run.settings.average)


def _below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _settle(run: _Run, folder: Path, state: State) -> tuple[float | None, list[int]]:
    """Set the parameters to the mean of the best checkpoints, or to the best one alone if that validates better.

    Returns the mean reciprocal rank, if there is a validation, and the steps of the checkpoints.
    """
    best = best_first(state.evaluations)[: run.settings.average]
    alone = best[0]
    if len(best) > 1:
        steps = sorted(evaluation.step for evaluation in best)
        checkpoints.set_parameters(run.adapted.trained, checkpoints.average(folder, steps))
        mrr = _mrr_of(run)
        if mrr is None or alone.mrr is None or mrr >= alone.mrr:
            return mrr, steps
    checkpoints.set_parameters(run.adapted.trained, checkpoints.average(folder, [alone.step]))
    return alone.mrr, [alone.step]


def _identity(base_sha256: str, settings: Settings, data: TrainingData, augmentation: Augmentation) -> str:
    """Return a sha256 over all that decides the weights."""
    parts = [base_sha256, msgspec.to_builtins(settings), *_everything(data), asdict(augmentation)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _everything(data: TrainingData) -> list[object]:
    validation = data.validation
    asked = [[query.text, sorted(query.relevant)] for query in validation.queries] if validation else []
    return [list(data.pairs), dict(data.catalogue), asked, dict(validation.items) if validation else {}]


def _device(settings: Settings) -> torch.device:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise FineTuningError("fine-tuning: device is cuda, but torch finds no GPU here: use auto or cpu")
    return torch.device("cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu")
