"""Guardrails of a canary that may be looked at after every answer: sequential tests by betting.

Every guardrail is a rate of something bad in the canary's answers and in the champion's: not clicked, dead letter,
degraded, slower than a limit. Two claims are bet against, each with a capital that starts at 1:

- *the canary is no worse*: canary rate <= champion rate + tolerance. When it loses, the canary is rolled back.
- *the canary is worse than allowed*: canary rate >= champion rate + margin. When it loses on all guardrails, the canary
  is promoted.

Where few answers are good, as with clicks, a margin says more as a share of them: "the canary loses at least the share
d of the champion's good answers" is canary rate >= (1 - d) champion rate + d. So every claim is about
canary rate - k champion rate, with k = 1 or k = 1 - d.

Answers are gathered into blocks with at least one of either side, n of the canary's and m of the champion's. To bet
against "canary rate - k champion rate <= d", choose before the block a guess x of the champion's rate and a stake
L > 0; the capital is multiplied by

    product over the canary's answers of    1 + L (bad - k x - d)
    product over the champion's answers of  1 - L k n/m (bad - x)

As 1 + u <= exp(u), the expected factor is at most exp(n L (canary rate - k champion rate - d)), which is at most 1
where the claim holds, **whatever the rates are and however they change from block to block**: the hour of the day, say,
moves both. So the capital is a non-negative supermartingale, and by Ville's inequality it ever reaches 1/alpha with a
probability of at most alpha, no matter how often one looks. The factors are those of Turner, Ly and Grunwald ("Generic
E-variables for exact sequential k-sample tests that allow for optional stopping", 2021) for two Bernoulli streams, in
the betting form of Waudby-Smith and Ramdas ("Estimating means of bounded random variables by betting", 2024). Stakes
for several sizes of the effect are held at once, a mixture as in the mixture SPRT (Robbins 1970; Johari et al.,
"Peeking at A/B tests", KDD 2017). LEARNING.md has what is assumed, and what was measured.
"""

import math
from typing import Literal, NamedTuple

import msgspec

from schemas.errors import BadInputError

Decision = Literal["continue", "roll back", "promote"]

# Odds of something bad, canary to champion, that are bet on: from a little worse to broken.
HARMS = (1.15, 1.35, 1.7, 2.5, 5.0, 30.0)
# How far from the margin the canary's true rate is bet to be, in margins: 1 is as good as the champion.
ADVANTAGES = (0.6, 1.0, 1.6)
BOLDEST = 0.9  # share of the capital that one answer may cost


class Guardrail(msgspec.Struct, frozen=True):
    """One rate that must not rise. Rates are shares of answers, 0 to 1."""

    name: str
    margin: float  # how much worse than the champion a canary may be promoted
    tolerance: float = 0.0  # how much worse it may be without being rolled back; below the margin
    of_good: bool = False  # whether both are shares of the champion's good answers, not of all

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < self.margin < 1:
            raise BadInputError(f"guardrail {self.name}: 0 <= tolerance < margin < 1 must hold")


GUARDRAILS = (
    # A clicked list pays for everything else, so any loss counts; a fifth is what some thousands of answers can tell
    # where one in ten is clicked.
    Guardrail("not clicked", margin=0.2, of_good=True),
    # A dead letter is a request without an answer. None is expected, and one in 200 is more than any gain is worth.
    Guardrail("dead letter", margin=0.005),
    # A cheaper list is still a list; a slightly larger model is no reason to roll back.
    Guardrail("degraded", margin=0.03, tolerance=0.01),
    Guardrail("slow", margin=0.03, tolerance=0.01),
)


class Rules(msgspec.Struct, frozen=True):
    """What decides. False alarms are bounded over all guardrails together and over the whole life of a canary."""

    guardrails: tuple[Guardrail, ...] = GUARDRAILS
    false_alarms: float = 0.05  # probability of rolling back a canary that is no worse anywhere
    false_promotions: float = 0.05  # probability of promoting one that is worse than a margin allows
    least_answers: int = (
        1_000  # of the canary on every guardrail before it can be promoted: rare requests must have come
    )


class Claim(NamedTuple):
    """Where the canary's rate lies beside the champion's: so far above it, or with so many fewer good answers."""

    difference: float
    of_good: bool = False  # whether the difference is a share of the champion's good answers

    @property
    def champions(self) -> float:
        """Return by what the champion's rate counts."""
        return 1 - self.difference if self.of_good else 1.0

    def limit(self, champion: float) -> float:
        """Return the canary's rate at the edge of the claim."""
        return self.champions * champion + self.difference


class Counts(msgspec.Struct):
    """Answers of one side that count, and how many of them were bad."""

    answers: int = 0
    bad: int = 0

    @property
    def rate(self) -> float:
        """Return the share of bad answers, 0 without any."""
        return self.bad / self.answers if self.answers else 0.0


def _even(stakes: int) -> list[float]:
    return [-math.log(stakes)] * stakes


class Evidence(msgspec.Struct):
    """What is known of one guardrail: a few numbers, whatever the number of answers."""

    canary: Counts = msgspec.field(default_factory=Counts)
    champion: Counts = msgspec.field(default_factory=Counts)
    canary_block: Counts = msgspec.field(default_factory=Counts)  # of the block that is not closed yet
    champion_block: Counts = msgspec.field(default_factory=Counts)
    worse: list[float] = msgspec.field(default_factory=lambda: _even(len(HARMS)))  # log capital per stake
    worse_at_best: float = 0.0  # highest log capital so far, which is what counts
    allowed: list[float] = msgspec.field(default_factory=lambda: _even(len(ADVANTAGES)))
    allowed_at_best: float = 0.0


CanaryState = dict[str, Evidence]  # by guardrail; encode it with msgspec to keep it


def new_state(rules: Rules) -> CanaryState:
    """Return the state of a canary that has answered nothing."""
    return {guardrail.name: Evidence() for guardrail in rules.guardrails}


def observe(state: CanaryState, guardrail: Guardrail, *, canary: bool, bad: bool) -> None:
    """Take in one answer of either side, in the order in which they are known. Changes the state in place.

    Which side an answer is of, and when it is counted, must not depend on whether it was bad: a click counts when its
    attribution window closes, like a missing one. Count a user once, or answers are not independent.
    """
    evidence = state[guardrail.name]
    block = evidence.canary_block if canary else evidence.champion_block
    block.answers += 1
    block.bad += bad
    if evidence.canary_block.answers and evidence.champion_block.answers:
        _close(evidence, guardrail)


def _close(evidence: Evidence, guardrail: Guardrail) -> None:
    """Bet on the block, then learn from it."""
    canary, champion = evidence.canary_block, evidence.champion_block
    answers = evidence.canary.answers + evidence.champion.answers
    guess = (evidence.canary.bad + evidence.champion.bad + 0.5) / (answers + 1)
    no_worse = Claim(guardrail.tolerance, of_good=guardrail.of_good)
    from_here = min(no_worse.limit(guess), 1 - 1e-6)
    stakes = [(odds - 1) / (1 + (odds - 1) * from_here) for odds in HARMS]
    _bet(evidence.worse, stakes, guess, no_worse, canary, champion)
    evidence.worse_at_best = max(evidence.worse_at_best, log_mean_capital(evidence.worse))
    worse_than_allowed = Claim(guardrail.margin, of_good=guardrail.of_good)
    limit = min(worse_than_allowed.limit(guess), 1 - 1e-6)
    variance = limit * (1 - limit)
    stakes = [-min(part * (limit - guess), 0.95 * limit) / variance for part in ADVANTAGES]
    _bet(evidence.allowed, stakes, guess, worse_than_allowed, canary, champion)
    evidence.allowed_at_best = max(evidence.allowed_at_best, log_mean_capital(evidence.allowed))
    evidence.canary = Counts(evidence.canary.answers + canary.answers, evidence.canary.bad + canary.bad)
    evidence.champion = Counts(evidence.champion.answers + champion.answers, evidence.champion.bad + champion.bad)
    evidence.canary_block, evidence.champion_block = Counts(), Counts()


def _bet(
    capital: list[float], stakes: list[float], guess: float, claim: Claim, canary: Counts, champion: Counts
) -> None:
    """Multiply each stake's capital, kept as its logarithm, by the block's factor.

    The stakes are right for a champion whose rate is known; the fewer answers of it there are, the less is to be
    risked.
    """
    n, m = canary.answers, champion.answers
    limit = claim.limit(guess)
    weight = claim.champions * n / m
    for number, stake_at_most in enumerate(stakes):
        wanted = stake_at_most * m / (n + m)
        # No answer may cost more than the boldest share: neither a good one nor a bad one, of either side.
        if wanted > 0:
            stake = min(wanted, BOLDEST / max(limit, 1e-12), BOLDEST / (weight * (1 - guess)))
        else:
            stake = -min(-wanted, BOLDEST / max(1 - limit, 1e-12), BOLDEST / (weight * guess))
        capital[number] += (
            canary.bad * math.log1p(stake * (1 - limit))
            + (n - canary.bad) * math.log1p(-stake * limit)
            + champion.bad * math.log1p(-stake * weight * (1 - guess))
            + (m - champion.bad) * math.log1p(stake * weight * guess)
        )


def log_mean_capital(capital: list[float]) -> float:
    """Return the logarithm of the capital over all stakes; each started with an equal share of 1."""
    most = max(capital)
    return most + math.log(sum(math.exp(value - most) for value in capital))


class Finding(msgspec.Struct, frozen=True):
    """One guardrail's figures."""

    guardrail: str
    canary: float  # rate of bad answers
    champion: float
    canary_answers: int
    champion_answers: int
    evidence_worse: float  # the capital that was won against "no worse"; rolled back at `needed_worse`
    needed_worse: float
    evidence_allowed: float  # against "worse than allowed"
    needed_allowed: float


class Judgement(msgspec.Struct, frozen=True):
    """The decision with all figures that led to it."""

    decision: Decision
    reason: str
    findings: list[Finding]


def judge(state: CanaryState, rules: Rules) -> Judgement:
    """Return what to do now. Once it is to roll back or to promote, that is the decision: stop there.

    Bad news first: with one guardrail broken nothing is promoted. Each guardrail gets an equal share of the false
    alarms (union bound); a promotion needs all of them, so each may use its whole probability (intersection-union
    test).
    """
    needed_worse = len(rules.guardrails) / rules.false_alarms
    needed_allowed = 1 / rules.false_promotions
    findings = [
        Finding(
            guardrail=guardrail.name,
            canary=evidence.canary.rate,
            champion=evidence.champion.rate,
            canary_answers=evidence.canary.answers,
            champion_answers=evidence.champion.answers,
            evidence_worse=_capital(evidence.worse_at_best),
            needed_worse=needed_worse,
            evidence_allowed=_capital(evidence.allowed_at_best),
            needed_allowed=needed_allowed,
        )
        for guardrail in rules.guardrails
        for evidence in (state[guardrail.name],)
    ]
    for finding in findings:
        if finding.evidence_worse >= needed_worse:
            return Judgement("roll back", f"{_rates(finding)}: worse than the champion", findings)
    waiting = [finding for finding in findings if finding.canary_answers < rules.least_answers]
    if waiting:
        fewest = min(waiting, key=lambda finding: finding.canary_answers)
        reason = f"{fewest.guardrail}: {fewest.canary_answers:,} of {rules.least_answers:,} answers"
        return Judgement("continue", reason, findings)
    for finding in findings:
        if finding.evidence_allowed < needed_allowed:
            return Judgement("continue", f"{_rates(finding)}: not told apart from worse than allowed yet", findings)
    return Judgement("promote", "no guardrail is worse than its margin allows", findings)


def _capital(logarithm: float) -> float:
    return math.exp(min(logarithm, 700.0))


def _rates(finding: Finding) -> str:
    return (
        f"{finding.guardrail}: {finding.canary:.2%} of {finding.canary_answers:,} answers against "
        f"{finding.champion:.2%} of {finding.champion_answers:,}"
    )
