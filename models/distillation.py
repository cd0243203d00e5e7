"""Layer pruning with distillation: a student that keeps a few of the teacher's layers and learns to do what it does.

    from models.distillation import Settings, distil

    distil(load_base(), teacher, ["quiet noodles", ...], Path("student"), Settings(layers=4))

The student begins as the teacher with layers left out and learns, on any texts, to give every token the teacher's last
hidden state, every text the teacher's vector, and every pair of texts the teacher's similarity (compare TinyBERT, Jiao
et al., EMNLP 2020, and MiniLM, Wang et al., NeurIPS 2020). Embedding tables stay as they are: teacher and student share
them. No labels are needed.

What the teacher says is computed once and kept on disk, since that costs as much as learning from it. The same
settings, texts, base and teacher give the same weights, byte for byte, on one kind of CPU with one version of torch and
one number of threads; a run that was cut off goes on from its last checkpoint as if nothing had happened.
"""

import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from .base_model import BaseModel, load_base, save_base, written_at_once
from .encoder import Encoder, TokenIds
from .fine_tuning import checkpoints
from .fine_tuning.checkpoints import Evaluation, State
from .fine_tuning.optimisation import set_learning_rate
from .fine_tuning.result import weights_sha256
from .fine_tuning.settings import FineTuningError
from .pruning import kept_layers, prune

MODEL, MANIFEST = "model", "distillation.json"
FEWEST_TEXTS = 100

_CHECKPOINTS, _TARGETS, _TARGETS_DONE = "checkpoints", "targets.f16", "targets.json"
_MOST_HELD_OUT = 1_000  # texts on which student and teacher are compared; a tenth of fewer than 10,000
_POOL = 2_048  # texts that are sorted by length together
_FALL = 0.25  # share of the steps, at the end, in which the learning rate falls to 0
_VECTOR_WEIGHT, _SIMILARITY_WEIGHT = 10.0, 1.0  # next to the hidden states; all three are about as large then
_TEMPERATURE = 0.05  # of similarities within a batch
_log = structlog.get_logger(__name__)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one run.

    Raises:
        FineTuningError: a value is out of its range.

    """

    layers: int = 4
    steps: int = 3_000
    batch_tokens: int = 1_024  # texts of about the same length, as many as fit
    max_tokens: int = 48  # longer texts are cut
    learning_rate: float = 4e-4  # constant after the warm-up; falls to 0 in the last quarter of the steps
    warm_up: int = 100  # steps
    evaluate_every: int = 150  # steps; a checkpoint is written each time
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "steps", "batch_tokens", "max_tokens", "learning_rate", "warm_up", "evaluate_every"):
            if getattr(self, name) <= 0:
                raise FineTuningError(f"distillation: {name} is {getattr(self, name)}, it must be greater than 0")
        if self.batch_tokens < self.max_tokens:
            raise FineTuningError(f"distillation: batch_tokens must be at least max_tokens, {self.max_tokens}")


class Agreement(NamedTuple):
    """How close the student is to the teacher on texts that it did not learn from."""

    cosine: float  # mean over texts
    mrr: float  # of the teacher's nearest text of each text, in the student's order
    top10: float  # share of the teacher's ten nearest texts that are among the student's ten


class Distilled(msgspec.Struct, frozen=True, kw_only=True):
    """What distillation.json says."""

    run: str  # sha256 over all that decides the weights but the number of steps
    base: str
    teacher: str  # version of the exported encoder
    weights_sha256: str
    settings: Settings
    kept_layers: list[int]  # of the teacher's, counted from 0
    texts: int
    held_out: int
    before: Agreement  # layers left out, nothing learned
    after: Agreement
    evaluations: list[Evaluation]
    trained_parameters: int
    seconds: float
    threads: int  # of torch

    @property
    def name(self) -> str:
        """A name for the student that is the same wherever its folder lies."""
        return f"{self.base}, student of {self.settings.layers} layers {self.weights_sha256[:12]}"


Progress = Callable[[int, int], None]


def distil(
    base: BaseModel,
    teacher: Encoder,
    texts: Sequence[str],
    folder: Path,
    settings: Settings | None = None,
    *,
    progress: Progress | None = None,
) -> tuple[BaseModel, Distilled]:
    """Return a student of ``base``, which is used up, and write it into ``folder``: a Hugging Face folder model/.

    ``teacher`` is ``base`` exported. ``folder`` is new, or that of the same run, which is taken up where it was cut
    off. ``progress`` is told the steps done, and of how many.

    Raises:
        FineTuningError: the settings, the texts or what lies in ``folder`` don't fit.

    """
    settings = settings or Settings()
    if len(texts) < FEWEST_TEXTS:
        raise FineTuningError(
            f"distillation: {len(texts)} texts are too few to learn from: give {FEWEST_TEXTS} or more"
        )
    layers = kept_layers(base.model.config.num_hidden_layers, settings.layers)
    targets = _Targets(teacher, texts, folder, settings.max_tokens)
    identity = _identity(base, targets, settings)
    if (folder / MANIFEST).is_file():
        return _finished(folder, identity, settings)
    folder.mkdir(parents=True, exist_ok=True)
    prune(base, layers)
    run = _prepare(base, targets, settings)
    newest = checkpoints.read_newest(folder / _CHECKPOINTS, identity)
    if newest is None:
        before = _agreement(run)
        state = State(run=identity, step=0, evaluations=[], before=before.mrr)
        _log.info("distilling", layers=layers, texts=len(texts), tokens=int(targets.lengths.sum()), **before._asdict())
    else:
        state, trained, memory = newest
        before = _agreement(run)
        checkpoints.set_parameters(run.trained, trained)
        checkpoints.restore_optimiser(run.optimiser, run.trained, memory)
        _log.info("distilling goes on", step=state.step, of=settings.steps)
    state = _train(run, folder / _CHECKPOINTS, state, progress)
    manifest = Distilled(
        run=identity,
        base=base.name,
        teacher=teacher.version,
        weights_sha256=weights_sha256(base),
        settings=settings,
        kept_layers=layers,
        texts=len(texts),
        held_out=targets.held_out,
        before=before,
        after=_agreement(run),
        evaluations=state.evaluations,
        trained_parameters=sum(parameter.numel() for parameter in run.trained.values()),
        seconds=round(state.seconds, 1),
        threads=torch.get_num_threads(),
    )
    shutil.rmtree(folder / MODEL, ignore_errors=True)  # left by a run that was cut off here
    with written_at_once(folder / MODEL) as draft:
        save_base(base, draft)
    draft = folder / f".{MANIFEST}"
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    draft.replace(folder / MANIFEST)
    shutil.rmtree(folder / _CHECKPOINTS)
    (folder / _TARGETS).unlink()
    (folder / _TARGETS_DONE).unlink()
    return replace(base, name=manifest.name), manifest


def _finished(folder: Path, identity: str, settings: Settings) -> tuple[BaseModel, Distilled]:
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Distilled)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FineTuningError(f"distillation: {path} is damaged ({error}): remove {folder}") from error
    if (manifest.run, manifest.settings.steps) != (identity, settings.steps):
        raise FineTuningError(f"distillation: {folder} holds another student: give another folder or remove it")
    return replace(load_base(str(folder / MODEL)), name=manifest.name), manifest


class _Targets:
    """Texts as token ids, and the teacher's last hidden states of their tokens, which it computes when first needed."""

    def __init__(self, teacher: Encoder, texts: Sequence[str], folder: Path, max_tokens: int) -> None:
        self._teacher = teacher
        self.tokens = [cut(ids, max_tokens) for ids in teacher.tokenize(texts, "query")]
        self.lengths = np.array([len(ids) for ids in self.tokens])
        self._bounds = np.concatenate([[0], np.cumsum(self.lengths)])  # where each text's tokens begin in the file
        self.held_out = min(_MOST_HELD_OUT, len(texts) // 10)  # so many of the first texts, nothing is learned from
        digest = hashlib.sha256(np.concatenate(self.tokens).tobytes() + self.lengths.tobytes())
        self.version = f"{teacher.version} {digest.hexdigest()}"
        self._folder = folder
        self._done = 0  # texts that the teacher has read
        self._states: np.memmap[Any, np.dtype[np.float16]] | None = None

    def states(self, row: int) -> NDArray[np.float16]:
        """Return the teacher's last hidden states of a text's tokens [tokens, dim]."""
        states = self._open() if self._states is None else self._states
        while row >= self._done:
            until = min(self._done + _POOL, len(self.tokens))
            some = self._teacher.hidden_states(self.tokens[self._done : until])
            states[self._bounds[self._done] : self._bounds[until]] = np.concatenate(some)
            states.flush()
            self._done = until
            (self._folder / _TARGETS_DONE).write_text(json.dumps({"version": self.version, "texts": until}))
        return states[self._bounds[row] : self._bounds[row + 1]]

    def _open(self) -> np.memmap[Any, np.dtype[np.float16]]:
        """Open the file, and find out how far the teacher has read if it was interrupted."""
        marker, path = self._folder / _TARGETS_DONE, self._folder / _TARGETS
        said = json.loads(marker.read_text()) if marker.exists() and path.exists() else {}
        self._done = said["texts"] if said.get("version") == self.version else 0
        shape = (int(self._bounds[-1]), self._teacher.dim)
        self._states = np.memmap(path, np.float16, "r+" if self._done else "w+", shape=shape)
        return self._states


@dataclass(frozen=True, slots=True)
class _Run:
    base: BaseModel
    targets: _Targets
    settings: Settings
    trained: dict[str, torch.nn.Parameter]
    optimiser: torch.optim.Optimizer


class _Batch(NamedTuple):
    ids: torch.Tensor  # int64 [texts, length]
    mask: torch.Tensor  # int64 [texts, length]
    states: torch.Tensor  # float32 [texts, length, dim], the teacher's


def cut(ids: TokenIds, most: int) -> TokenIds:
    """Return at most that many token ids; the last one says that the text ends."""
    return ids if len(ids) <= most else np.concatenate([ids[: most - 1], ids[-1:]])


def _identity(base: BaseModel, targets: _Targets, settings: Settings) -> str:
    """Return a sha256 over all that decides the weights at a step; how many steps follow does not."""
    fields = msgspec.to_builtins(settings)
    del fields["steps"]
    parts = [weights_sha256(base), targets.version, fields]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _prepare(base: BaseModel, targets: _Targets, settings: Settings) -> _Run:
    trained = trained_parameters(base)
    optimiser = torch.optim.AdamW(trained.values(), lr=settings.learning_rate, weight_decay=0.0)
    return _Run(base, targets, settings, trained, optimiser)


def trained_parameters(base: BaseModel) -> dict[str, torch.nn.Parameter]:
    """Make everything trained but embedding tables, and return it.

    No dropout: the teacher has none, and texts are rarely seen twice.
    """
    base.model.eval().requires_grad_(requires_grad=True)
    for module in base.model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.requires_grad_(requires_grad=False)
    return {name: parameter for name, parameter in base.model.named_parameters() if parameter.requires_grad}


def _train(run: _Run, folder: Path, state: State, progress: Progress | None) -> State:
    settings = run.settings
    started = time.monotonic() - state.seconds
    evaluations = list(state.evaluations)
    for step, rows in enumerate(_plan(run.targets, settings), 1):
        if step > settings.steps:
            break
        if step <= state.step:
            continue
        set_learning_rate(run.optimiser, settings.learning_rate * _factor(step, settings))
        loss = _loss(run, _batch(run, rows))
        run.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(run.trained.values(), 1.0)
        run.optimiser.step()
        if progress:
            progress(step, settings.steps)
        if step % settings.evaluate_every == 0 or step == settings.steps:
            agreement = _agreement(run)
            evaluations.append(Evaluation(step, agreement.mrr))
            seconds = time.monotonic() - started
            state = msgspec.structs.replace(state, step=step, evaluations=evaluations, seconds=seconds)
            memory = checkpoints.optimiser_memory(run.optimiser, run.trained)
            checkpoints.write(folder, state, run.trained, memory, kept=1)
            _log.info("distilled", step=step, of=settings.steps, loss=round(loss.item(), 4), **agreement._asdict())
    return state


def _factor(step: int, settings: Settings) -> float:
    """Return what the learning rate is multiplied with: a warm-up, a constant part, a straight fall at the end.

    Unlike a cosine it lets a run be made longer or shorter while it is in its constant part (Haegele et al., NeurIPS
    2024).
    """
    fall = _FALL * settings.steps
    return min(1.0, step / settings.warm_up, (settings.steps - step + 1) / fall)


def _plan(targets: _Targets, settings: Settings) -> Iterator[list[int]]:
    """Yield the texts of each step for ever.

    Pool after pool in the order of the texts, so that the teacher need not have read all; texts of similar length
    together, in a new order every time.
    """
    for epoch in itertools.count():
        rng = np.random.default_rng([settings.seed, epoch])
        for start in range(targets.held_out, len(targets.tokens), _POOL):
            pool = start + rng.permutation(min(_POOL, len(targets.tokens) - start))
            pool = pool[np.argsort(-targets.lengths[pool], kind="stable")]
            batches = list(_batches(pool.tolist(), targets.lengths, settings.batch_tokens))
            for place in rng.permutation(len(batches)):
                yield batches[place]


def _batches(rows: Sequence[int], lengths: NDArray[np.int64], budget: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for row in rows:  # longest first
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def _batch(run: _Run, rows: Sequence[int]) -> _Batch:
    targets = run.targets
    length = max(len(targets.tokens[row]) for row in rows)
    ids = np.full((len(rows), length), run.base.tokenizer.pad_token_id or 0, np.int64)
    mask = np.zeros_like(ids)
    states: NDArray[np.float32] | None = None
    for place, row in enumerate(rows):
        size = len(targets.tokens[row])
        ids[place, :size] = targets.tokens[row]
        mask[place, :size] = 1
        expected = targets.states(row)
        if states is None:
            states = np.zeros((len(rows), length, expected.shape[1]), np.float32)
        states[place, :size] = expected
    assert states is not None
    return _Batch(torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(states))


def _loss(run: _Run, batch: _Batch) -> torch.Tensor:
    states = forward(run.base, batch.ids, batch.mask)
    seen = batch.mask.bool()
    said, expected = states[seen], batch.states[seen]
    hidden = torch.nn.functional.mse_loss(said, expected) / expected.var(dim=0, correction=0).mean()
    vectors, targets = pool(states, batch.mask, run.base), pool(batch.states, batch.mask, run.base)
    apart = (1 - (vectors * targets).sum(dim=1)).mean()
    return hidden + _VECTOR_WEIGHT * apart + _SIMILARITY_WEIGHT * similarity_loss(vectors, targets)


def similarity_loss(vectors: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence between whom the teacher and the student find near each text of the batch."""
    if len(vectors) < 3:
        return vectors.sum() * 0
    itself = torch.eye(len(vectors), dtype=torch.bool)
    student, teacher = (
        (rows @ rows.T / _TEMPERATURE).masked_fill(itself, -1e4).log_softmax(dim=1) for rows in (vectors, targets)
    )
    return torch.nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def forward(base: BaseModel, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the last hidden states [texts, length, dim] of token ids and their mask [texts, length]."""
    options: dict[str, Any] = {"use_cache": False} if base.pooling == "last" else {}
    states: torch.Tensor = base.model(input_ids=ids, attention_mask=mask, **options).last_hidden_state
    return states


def pool(states: torch.Tensor, mask: torch.Tensor, base: BaseModel) -> torch.Tensor:
    """Return unit vectors [texts, dim] of hidden states [texts, length, dim]."""
    if base.pooling == "last":
        return normalize(states[torch.arange(len(states)), mask.sum(dim=1) - 1], dim=1)
    return normalize((states * mask[:, :, None]).sum(dim=1), dim=1)


def _agreement(run: _Run) -> Agreement:
    """Compare student and teacher on the texts held out."""
    lengths = run.targets.lengths
    rows = sorted(range(run.targets.held_out), key=lambda row: -lengths[row])
    student, teacher = [], []
    with torch.inference_mode():
        for some in _batches(rows, lengths, 4 * run.settings.batch_tokens):
            batch = _batch(run, some)
            student.append(pool(forward(run.base, batch.ids, batch.mask), batch.mask, run.base))
            teacher.append(pool(batch.states, batch.mask, run.base))
    return agreement(torch.cat(student).numpy(), torch.cat(teacher).numpy())


def agreement(student: NDArray[np.float32], teacher: NDArray[np.float32]) -> Agreement:
    """Compare two models' unit vectors of the same texts, float32 [texts, dim] each."""
    cosine = float((student * teacher).sum(axis=1).mean())
    near, nearest = (rows @ rows.T for rows in (student, teacher))
    np.fill_diagonal(near, -np.inf)
    np.fill_diagonal(nearest, -np.inf)
    wanted = nearest.argmax(axis=1)
    ranks = 1 + (near > near[np.arange(len(near)), wanted][:, None]).sum(axis=1)
    most = min(10, len(near) - 1)
    both = [
        len(set(mine) & set(theirs)) / most
        for mine, theirs in zip(np.argsort(-near)[:, :most], np.argsort(-nearest)[:, :most], strict=True)
    ]
    return Agreement(round(cosine, 5), round(float((1 / ranks).mean()), 5), round(float(np.mean(both)), 5))
