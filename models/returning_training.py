"""Training the model of what users return to (``models.returning``) from requests whose answers are known.

By the likelihood of the answers: of an item among the user's choices, or of something new. The network is small and
what it sees names neither user nor item, so some thousand requests are enough, and seconds.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.history import MOMENT_NUMBERS
from models.returning import CHOICE_NUMBERS, MOST, Described, ReturnModel

HIDDEN, NEW_HIDDEN = 32, 16
EPOCHS = 8
BATCH = 128  # requests
LEARNING_RATE, DECAY, MOST_SLOPE = 3e-3, 1e-4, 1.0
NEW = -1  # stands for the answer that is none of the user's choices


class Answered(NamedTuple):
    """A request's history in numbers, and the id table's number of the item that was chosen, ``NEW`` for none of it."""

    described: Described
    answer: int


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.choice, self.moment = nn.Linear(CHOICE_NUMBERS, HIDDEN), nn.Linear(MOMENT_NUMBERS, HIDDEN, bias=False)
        self.second, self.out = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 1)
        self.direct = nn.Linear(CHOICE_NUMBERS, 1, bias=False)
        self.new, self.new_out = nn.Linear(MOMENT_NUMBERS, NEW_HIDDEN), nn.Linear(NEW_HIDDEN, 1)
        nn.init.constant_(self.new_out.bias, 2.0)

    def forward(
        self, choices: torch.Tensor, moments: torch.Tensor, of: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return exp(s) [choices] and exp(n) [requests]; ``of`` is the request of each choice [choices]."""
        hidden = torch.relu(self.choice(choices) + self.moment(moments)[of])
        worth = (self.out(torch.relu(self.second(hidden))) + self.direct(choices))[:, 0]
        new = self.new_out(torch.relu(self.new(moments)))[:, 0]
        return torch.exp(worth.clamp(-MOST, MOST)), torch.exp(new.clamp(-MOST, MOST))


def fit_returning(answered: Sequence[Answered], *, seed: int) -> ReturnModel | None:
    """Fit the model; None where no answer was among the user's choices. Same requests, order and seed: same model."""
    if not any(each.answer != NEW for each in answered):
        return None
    centre, spread = _normal(np.concatenate([each.described.choices for each in answered]))
    moment_centre, moment_spread = _normal(np.stack([each.described.moment for each in answered]))
    with torch.random.fork_rng(devices=()), _one_thread():
        torch.manual_seed(seed)
        network, rng = _Network(), np.random.default_rng(seed)
        optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=DECAY)
        batches = -(-len(answered) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=EPOCHS * batches)
        for _ in range(EPOCHS):
            order = rng.permutation(len(answered))
            for start in range(0, len(order), BATCH):
                batch = [answered[number] for number in order[start : start + BATCH].tolist()]
                choices = (np.concatenate([each.described.choices for each in batch]) - centre) / spread
                moments = (np.stack([each.described.moment for each in batch]) - moment_centre) / moment_spread
                loss = _loss(network, torch.from_numpy(choices), torch.from_numpy(moments), batch)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters(), MOST_SLOPE)
                optimiser.step()
                schedule.step()
    return _exported(network, centre, spread, moment_centre, moment_spread)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Add up in one order: several threads do not, on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _loss(network: _Network, choices: torch.Tensor, moments: torch.Tensor, batch: Sequence[Answered]) -> torch.Tensor:
    of = torch.from_numpy(np.repeat(np.arange(len(batch)), [len(each.described.item) for each in batch]))
    right = torch.from_numpy(np.concatenate([each.described.item == each.answer for each in batch]))
    worth, new = network(choices, moments, of)
    everything = new.index_add(0, of, worth)
    is_new = torch.tensor([each.answer == NEW for each in batch])
    answers = torch.where(is_new, new, torch.zeros_like(new).index_add(0, of, worth * right))
    loss: torch.Tensor = (torch.log(everything) - torch.log(answers + 1e-9)).mean()
    return loss


def _normal(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return values.mean(axis=0), values.std(axis=0) + np.float32(1e-3)


def _exported(
    network: _Network,
    centre: NDArray[np.float32],
    spread: NDArray[np.float32],
    moment_centre: NDArray[np.float32],
    moment_spread: NDArray[np.float32],
) -> ReturnModel:
    """Return the weights with what brings the numbers to one scale folded in."""
    learned = {name: values.detach().numpy().T for name, values in network.named_parameters()}
    choice, moment = learned["choice.weight"] / spread[:, None], learned["moment.weight"] / moment_spread[:, None]
    direct, new = learned["direct.weight"][:, 0] / spread, learned["new.weight"] / moment_spread[:, None]
    constants = np.array([learned["out.bias"][0] - centre @ direct, learned["new_out.bias"][0]], np.float32)
    return ReturnModel(
        choice=np.ascontiguousarray(choice),
        moment=np.ascontiguousarray(moment),
        first_bias=(learned["choice.bias"] - centre @ choice - moment_centre @ moment).astype(np.float32),
        second=np.ascontiguousarray(learned["second.weight"]),
        second_bias=learned["second.bias"].copy(),
        out=learned["out.weight"][:, 0].copy(),
        direct=direct.astype(np.float32),
        new_moment=np.ascontiguousarray(new),
        new_bias=(learned["new.bias"] - moment_centre @ new).astype(np.float32),
        new_out=learned["new_out.weight"][:, 0].copy(),
        constants=constants,
    )
