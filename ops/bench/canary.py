"""How often a healthy canary is rolled back, and how many users see a bad one before it is.

A fast simulation of ``models.sequential`` without Kafka: answers come one by one, each of a user of its own, and the
test is looked at after every one. All rates rise and fall together by a third, as over a day.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from models.sequential import Decision, Rules, judge, new_state, observe

USUAL = {"dead letter": 0.0005, "degraded": 0.01, "slow": 0.01}  # of the champion, as shares of answers
SWING = 1 / 3  # how far the click rate and the others rise and fall
DAY = 5_000  # answers in a rise and fall


@dataclass(frozen=True)
class Canary:
    """A canary as it truly is: what its click rate is multiplied by, and what is added to the other rates."""

    name: str
    clicks: float = 1.0
    added_failures: float = 0.0  # share of answers


CANARIES = (
    Canary("healthy"),
    Canary("clicks -10%", clicks=0.9),
    Canary("clicks -30%", clicks=0.7),
    Canary("clicks -50%", clicks=0.5),
    Canary("5% more dead letters, degraded and slow", added_failures=0.05),
)


@dataclass(frozen=True)
class Life:
    """What became of one canary."""

    decision: Decision
    users: int  # of the canary until then


def live(
    canary: Canary, rules: Rules, share: float, click_rate: float, users: int, seed: str, *, promote: bool = True
) -> Life:
    """Return what becomes of a canary with a share of the users, at most so many of its own.

    The champion is clicked at ``click_rate``, at most 3/4. Without ``promote`` it stays a canary to the end, so that a
    false alarm has all that time to come.
    """
    rng = random.Random(seed)
    state = new_state(rules)
    seen, time = 0, 0
    while seen < users:
        time += 1
        here = rng.random() < share
        seen += here
        wave = 1 + SWING * math.sin(2 * math.pi * time / DAY)
        for guardrail in rules.guardrails:
            if guardrail.name == "not clicked":
                rate = 1 - click_rate * wave * (canary.clicks if here else 1.0)
            else:
                rate = USUAL[guardrail.name] * wave + (canary.added_failures if here else 0.0)
            observe(state, guardrail, canary=here, bad=rng.random() < rate)
        if here:
            decision = judge(state, rules).decision
            if decision == "roll back" or (promote and decision == "promote"):
                return Life(decision, seen)
    return Life("continue", seen)


def measure_canaries(
    canary: Canary,
    share: float,
    click_rate: float,
    users: int,
    repetitions: int,
    *,
    rules: Rules | None = None,
    promote: bool = True,
    progress: Callable[[], None] = lambda: None,
) -> list[Life]:
    """Let so many canaries of a kind live."""
    lives = []
    for repetition in range(repetitions):
        seed = f"{canary.name}/{repetition}"
        lives.append(live(canary, rules or Rules(), share, click_rate, users, seed, promote=promote))
        progress()
    return lives


def figures(lives: list[Life]) -> dict[str, int | dict[str, int] | None]:
    """Return how many met which end, and after how many users of the canary they were rolled back."""
    caught = sorted(life.users for life in lives if life.decision == "roll back")
    return {
        "canaries": len(lives),
        **{
            decision.replace(" ", "_"): sum(life.decision == decision for life in lives)
            for decision in ("roll back", "promote", "continue")
        },
        "users_until_rolled_back": {
            f"p{percent}": caught[min(len(caught) * percent // 100, len(caught) - 1)] for percent in (50, 90)
        }
        if caught
        else None,
    }
