"""How often the intervals of ``models.off_policy`` hold the truth, which the simulated city knows exactly.

A logging policy and a candidate rank the city's places by true utility with errors, the candidate with smaller ones.
The logging policy explores, its lists are clicked as the city's people click, and the candidate's clicks per list are
estimated from that alone. The truth is the sum of the exact click probabilities of the candidate's lists.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.exploration import Exploration, draw
from models.off_policy import Estimate, Estimator, LoggedLists, NoSupportError, cross_fitted, estimate
from ops.simulator.chance import chances
from ops.simulator.choice import SCROLLING, click_probabilities, examination, utility
from ops.simulator.world import World, moment_at

Array = NDArray[np.float64]

PLACES = 10
START_MS = 1_788_220_800_000
SPAN_MS = 14 * 86_400_000
ESTIMATORS: tuple[Estimator, ...] = ("ips", "snips", "dr")
CANDIDATES = {"like": 0.9, "better": 0.7, "other": 0.0}  # name -> what is left of the logging policy's errors
ERROR = 0.7  # standard deviation of the logging policy's errors, in units of utility


@dataclass(frozen=True)
class Population:
    """Requests with all that is shown for them: arrays [requests, top], [requests, PLACES] or [requests]."""

    users: NDArray[np.int64]
    scores: Array  # the logging policy's, best first
    seen_by_candidate: Array  # the candidate's score of the same items
    attraction: Array  # probability that one who looks clicks
    candidate: NDArray[np.int64]  # the candidate's list as ranks in the logging policy's; -1 where it has no such item
    candidate_scores: Array
    candidate_clicks: Array  # the truth: expected clicks of the candidate's list


def population(
    world: World, requests: int, top: int, remaining: float, progress: Callable[[], None] = lambda: None
) -> Population:
    """Return so many requests of the city, ranked by both policies."""
    rng = chances(world.seed, "off-policy", remaining)
    columns: list[tuple[object, ...]] = []
    for number in range(requests):
        moment = moment_at(world, number, START_MS + number * SPAN_MS // requests)
        value = utility(world, moment)
        error = ERROR * rng.standard_normal(len(value))
        logging, candidate = value + error, value + remaining * error
        pool = np.argsort(-logging)[:top]
        listed = np.argsort(-candidate)[:PLACES]
        rank_of = {row: rank for rank, row in enumerate(pool.tolist())}
        ids = world.city.ids
        attraction = [
            probability / examination(place)
            for place, probability in enumerate(click_probabilities(world, moment, [ids[row] for row in pool]))
        ]
        columns.append(
            (
                moment.user,
                logging[pool],
                candidate[pool],
                attraction,
                [rank_of.get(row, -1) for row in listed.tolist()],
                candidate[listed],
                sum(click_probabilities(world, moment, [ids[row] for row in listed])),
            )
        )
        progress()
    return Population(*(np.array(column) for column in zip(*columns, strict=True)))


def log_lists(people: Population, policy: Exploration, lists: int, name: str) -> LoggedLists:
    """Return lists as the logging policy shows them to requests of the population, and what is clicked on them."""
    rng = chances("clicks", name)
    asked = rng.integers(len(people.users), size=lists)
    shown = np.empty((lists, PLACES), np.int64)
    propensity = np.empty((lists, PLACES))
    for row, request in enumerate(asked.tolist()):
        shown[row], propensity[row] = draw(people.scores[request], policy, f"{name}/{row}", PLACES)
    depth = rng.geometric(1 - SCROLLING, size=(lists, 1))
    attraction = np.take_along_axis(people.attraction[asked], shown, axis=1)
    clicks = ((np.arange(PLACES) < depth) & (rng.random(shown.shape) < attraction)).astype(np.float64)
    target = (shown == people.candidate[asked]).astype(np.float64)
    predicted, expected = cross_fitted(
        np.take_along_axis(people.seen_by_candidate[asked], shown, axis=1)[..., None],
        clicks,
        people.candidate_scores[asked][..., None],
        people.users[asked],
    )
    return LoggedLists(propensity, target, clicks, people.users[asked], predicted, expected)


@dataclass(frozen=True)
class Coverage:
    """How one estimator did over the repetitions that it did not refuse."""

    estimator: Estimator
    estimates: tuple[Estimate, ...]
    refusals: tuple[str, ...]
    truth: float  # clicks per list of the candidate

    def figures(self) -> dict[str, float | int | str | None]:
        """Return what a reader wants to know, as JSON takes it."""
        made = [made.candidate for made in self.estimates]
        error = np.array([interval.value - self.truth for interval in made])
        return {
            "estimator": self.estimator,
            "repetitions": len(made) + len(self.refusals),
            "refused": len(self.refusals),
            "covered": sum(interval.low <= self.truth <= interval.high for interval in made),
            "truth": round(self.truth, 4),
            "mean_estimate": round(float(self.truth + error.mean()), 4) if made else None,
            "root_mean_square_error": round(float(np.sqrt((error**2).mean())), 4) if made else None,
            "mean_half_width": round(float(np.mean([(i.high - i.low) / 2 for i in made])), 4) if made else None,
            "logged": round(float(np.mean([e.logged.value for e in self.estimates])), 4) if made else None,
            "effective_lists": round(float(np.mean([e.effective for e in self.estimates])), 1) if made else None,
            "support": round(float(np.mean([e.support for e in self.estimates])), 3) if made else None,
            "refusal": self.refusals[0] if self.refusals else None,
        }


def measure_coverage(
    people: Population,
    policy: Exploration,
    lists: int,
    repetitions: int,
    progress: Callable[[], None] = lambda: None,
) -> list[Coverage]:
    """Estimate the candidate again and again from new lists, by every estimator."""
    made: dict[Estimator, list[Estimate]] = {estimator: [] for estimator in ESTIMATORS}
    refused: dict[Estimator, list[str]] = {estimator: [] for estimator in ESTIMATORS}
    for repetition in range(repetitions):
        logs = log_lists(people, replace(policy, seed=repetition), lists, f"{repetition}")
        for estimator in ESTIMATORS:
            try:
                made[estimator].append(estimate(logs, estimator))
            except NoSupportError as error:
                refused[estimator].append(str(error))
        progress()
    truth = float(people.candidate_clicks.mean())
    return [Coverage(estimator, tuple(made[estimator]), tuple(refused[estimator]), truth) for estimator in ESTIMATORS]
