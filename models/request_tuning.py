"""A student goes on learning, from what was chosen: requests beside the items of the catalogue that they were made of.

    loss = KL(chosen || softmax(<h(request), e(i)> / tau)) + weight * (1 - cosine to the teacher + whom both find near)

h is the student, e(i) the teacher's vectors of the items, which stay as they are: no item needs a new vector. The
second part is that of ``models.distillation``, on texts of any kind, so that the student does not forget how to read
what the requests never say (compare Li & Hoiem, "Learning without forgetting", ECCV 2016). With tau as
``Weights.text_spread``, what is learned is what the text part of a score means.

The same arguments give the same weights, byte for byte, on one kind of CPU with one version of torch and one number of
threads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from .base_model import BaseModel
from .distillation import Agreement, agreement, forward, pool, similarity_loss, trained_parameters
from .encoder import TokenIds
from .fine_tuning.optimisation import set_learning_rate

_log = structlog.get_logger(__name__)


class TuningSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one run."""

    steps: int = 400
    requests: int = 32  # a step
    texts: int = 32  # a step, of those that are not to be forgotten
    learning_rate: float = 1e-4  # falls to 0 in a straight line, after a warm-up
    warm_up: int = 20  # steps
    temperature: float = 0.05  # of the cosines
    remember: float = 10.0  # weight of what is not to be forgotten
    seed: int = 0


@dataclass(frozen=True)
class Catalogued:
    """Requests to one catalogue."""

    tokens: Sequence[TokenIds]  # of each request's text
    items: NDArray[np.float32]  # unit vectors [items, dim]
    chosen: NDArray[np.float32]  # how likely each request's choice is each item [requests, items]


@dataclass(frozen=True)
class Remembered:
    """Texts with the teacher's vectors."""

    tokens: Sequence[TokenIds]
    vectors: NDArray[np.float32]  # unit vectors [texts, dim]


def tune(
    student: BaseModel,
    catalogues: Sequence[Catalogued],
    texts: Remembered,
    settings: TuningSettings,
    *,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> None:
    """Go on training ``student`` in place."""
    trained = trained_parameters(student)
    optimiser = torch.optim.AdamW(trained.values(), lr=settings.learning_rate, weight_decay=0.0)
    rng = np.random.default_rng(settings.seed)
    items = [torch.from_numpy(each.items) for each in catalogues]
    sizes = np.array([len(each.tokens) for each in catalogues])
    for step in range(1, settings.steps + 1):
        set_learning_rate(optimiser, settings.learning_rate * _factor(step, settings))
        place = int(rng.choice(len(catalogues), p=sizes / sizes.sum()))
        of = catalogues[place]
        rows = rng.choice(len(of.tokens), settings.requests, replace=False).tolist()
        asked = read(student, [of.tokens[row] for row in rows])
        found = (asked @ items[place].T / settings.temperature).log_softmax(dim=1)
        chosen = torch.from_numpy(of.chosen[rows])
        choice = -(chosen * found).sum(dim=1).mean()
        rows = rng.choice(len(texts.tokens), settings.texts, replace=False).tolist()
        said, expected = read(student, [texts.tokens[row] for row in rows]), torch.from_numpy(texts.vectors[rows])
        forgotten = (1 - (said * expected).sum(dim=1)).mean() + 0.1 * similarity_loss(said, expected)
        loss = choice + settings.remember * forgotten
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimiser.step()
        progress(step, settings.steps)
        if step % 25 == 0:
            _log.info("tuned", step=step, choice=round(choice.item(), 4), forgotten=round(forgotten.item(), 5))


def read(student: BaseModel, tokens: Sequence[TokenIds]) -> torch.Tensor:
    """Return unit vectors [texts, dim] of texts, padded to the longest."""
    lengths = [len(ids) for ids in tokens]
    ids = np.full((len(tokens), max(lengths)), student.tokenizer.pad_token_id or 0, np.int64)
    mask = np.zeros_like(ids)
    for place, (each, length) in enumerate(zip(tokens, lengths, strict=True)):
        ids[place, :length], mask[place, :length] = each, 1
    seen = torch.from_numpy(mask)
    return pool(forward(student, torch.from_numpy(ids), seen), seen, student)


def remembers(student: BaseModel, texts: Remembered) -> Agreement:
    """Compare the student with its teacher."""
    order = np.argsort([-len(ids) for ids in texts.tokens], kind="stable").tolist()
    with torch.inference_mode():
        some = [read(student, [texts.tokens[row] for row in order[at : at + 64]]) for at in range(0, len(order), 64)]
    return agreement(torch.cat(some).numpy(), texts.vectors[order])


def _factor(step: int, settings: TuningSettings) -> float:
    return min(step / settings.warm_up, (settings.steps - step + 1) / settings.steps)
