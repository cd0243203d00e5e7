"""Learning what speaks for an item to be chosen for the first time (``models.candidates``) from answers that were new.

A conditional logit whose weights depend on the moment, by the likelihood of the answers. Each stands beside the
likeliest others and a sample of the rest, which counts as often as the rest is larger. A normal prior keeps the weights
near those that nothing has been learned of; how far the moment may move them is chosen by other users' answers.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.item_tables import TERMS, starting_weights

Numbers = NDArray[np.float64]

LIKELY, SAMPLED = 200, 200  # others that an answer stands beside
SURE = 1.0  # precision of the prior of what a term is worth, per standard deviation of the term
BY_MOMENT = (10.0, 40.0, 160.0, 640.0)  # precisions of how that depends on the moment, to choose from
PARTS = 4  # of the users, the first of which chooses


class FirstChoice(NamedTuple):
    """An answer that was new to its user, beside others."""

    user: int  # any number that is the same for all answers of a user
    values: NDArray[np.float32]  # of the terms, the answer first [1 + others, len(TERMS)]
    counted: NDArray[np.float32]  # logarithm of how many items each stands for [1 + others]
    moment: Numbers


def first_choice(
    user: int,
    terms: Mapping[str, Numbers],
    answer: int,
    others: NDArray[np.int64],
    moment: Numbers,
    rng: np.random.Generator,
) -> FirstChoice:
    """Return an answer beside some of the others, catalogue rows by which the terms are; ``rng`` draws the sample."""
    total = len(next(iter(terms.values())))
    of_row = np.stack([terms[name] if name in terms else np.zeros(total) for name in TERMS], axis=1)
    others = others[np.argsort(-(of_row[others] @ starting_weights()[0]), kind="stable")]
    rest = others[LIKELY:]
    drawn = rng.choice(rest, min(SAMPLED, len(rest)), replace=False)
    rows = np.concatenate([[answer], others[:LIKELY], drawn])
    counted = np.zeros(len(rows), np.float32)
    counted[len(rows) - len(drawn) :] = np.log(max(len(rest), 1) / max(len(drawn), 1))
    return FirstChoice(user, of_row[rows].astype(np.float32), counted, moment)


def fit_first_choices(answers: Sequence[FirstChoice]) -> NDArray[np.float32]:
    """Return what each term is worth, ever and by the moment, as ``ItemTables.first`` has it."""
    if not answers:
        return starting_weights().astype(np.float32)
    held = np.array([each.user % PARTS == 0 for each in answers])
    problem = _Problem(answers)
    stiffness = BY_MOMENT[-1]
    if held.any() and not held.all():
        likelihood = [problem.likelihood(problem.fit(~held, stiffness), held) for stiffness in BY_MOMENT]
        stiffness = BY_MOMENT[int(np.argmax(likelihood))]
    return problem.raw(problem.fit(np.ones(len(answers), bool), stiffness))


class _Problem:
    """The answers, their terms and moments on one scale."""

    def __init__(self, answers: Sequence[FirstChoice]) -> None:
        length = max(len(each.counted) for each in answers)
        self.values = np.zeros((len(answers), length, len(TERMS)), np.float32)
        self.counted = np.full((len(answers), length), -np.inf, np.float32)
        for number, each in enumerate(answers):
            self.values[number, : len(each.counted)] = each.values
            self.counted[number, : len(each.counted)] = each.counted
        real = np.isfinite(self.counted)
        self.scale = self.values[real].std(axis=0).astype(np.float64) + 1e-6
        self.values = ((self.values - self.values[real].mean(axis=0)) / self.scale).astype(np.float32)
        moments = np.stack([each.moment for each in answers])
        self.centre, self.spread = moments.mean(axis=0), moments.std(axis=0) + 1e-3
        self.design = np.hstack([np.ones((len(answers), 1)), (moments - self.centre) / self.spread])
        self.prior = starting_weights() * self.scale

    def likelihood(self, weights: Numbers, chosen: NDArray[np.bool_]) -> float:
        """Return the mean log-likelihood of some answers."""
        chances = _chances(self.values[chosen], self.counted[chosen], self.design[chosen] @ weights)
        return float(np.log(chances[:, 0] + 1e-30).mean())

    def fit(self, chosen: NDArray[np.bool_], stiffness: float) -> Numbers:
        """Return the likeliest weights [1 + MOMENT_NUMBERS, len(TERMS)] by some answers and the prior."""
        from scipy.optimize import minimize

        precision = np.full(self.prior.shape, stiffness)
        precision[0] = SURE
        values, counted, design = self.values[chosen], self.counted[chosen], self.design[chosen]

        def loss(flat: Numbers) -> tuple[float, Numbers]:
            weights = flat.reshape(self.prior.shape)
            chances = _chances(values, counted, design @ weights)
            off = weights - self.prior
            slope = np.matmul(chances[:, None, :], values)[:, 0, :] - values[:, 0]
            total = (precision * off**2).sum() - np.log(chances[:, 0] + 1e-30).sum()
            return float(total), (design.T @ slope + 2 * precision * off).ravel()

        found: Numbers = minimize(loss, self.prior.ravel(), jac=True, method="L-BFGS-B").x
        return found.reshape(self.prior.shape)

    def raw(self, weights: Numbers) -> NDArray[np.float32]:
        """Return weights for terms and moments as they are."""
        by_term = weights / self.scale
        by_moment = by_term[1:] / self.spread[:, None]
        return np.vstack([by_term[0] - self.centre @ by_moment, by_moment]).astype(np.float32)


def _chances(values: NDArray[np.float32], counted: NDArray[np.float32], weights: Numbers) -> NDArray[np.float32]:
    """Return how likely each of an answer and those beside it is [answers, 1 + others]."""
    scores = np.matmul(values, weights.astype(np.float32)[:, :, None])[:, :, 0] + counted
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances: NDArray[np.float32] = raised / raised.sum(axis=1, keepdims=True)
    return chances
