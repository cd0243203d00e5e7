"""What the answers of a canary and of its champion come to, as the guardrails of ``models.sequential`` count them.

Each user counts once on each side: with the first answer (whether it was a cheaper one, or slow), with the first
request without one, and with the first list whose time for feedback is over. So no user weighs more than another,
whoever asks often, and answers are independent, which the test needs. Both sides count from the event time of the
canary's first answer on, once that has been read.

Records of one partition give the same counts in whatever pieces they are read, and ``count=False`` reads what has been
counted before: who reads the topics from where the canary began, up to where the evidence was kept, goes on from there.
"""

import heapq
from collections import defaultdict

import msgspec

from models.sequential import GUARDRAILS, CanaryState, Judgement, Rules, new_state, observe
from models.shown_lists import Key, list_key
from schemas.records import DeadLetter, Recommendation, TrainingExample

NOT_CLICKED, DEAD_LETTER, DEGRADED, SLOW = "not clicked", "dead letter", "degraded", "slow"  # of `GUARDRAILS`
MOST_EVIDENCE = 1e12  # that is told; more convinces nobody further


class Evidence(msgspec.Struct, kw_only=True):
    """What has been counted: all that has to be kept to go on after a restart."""

    canary: str  # name@version
    champion: str | None  # likewise; None: whatever else answers
    state: CanaryState
    click_margin: float  # what was bet against: of another one it says nothing
    rolled_back: int = 0  # how often the canary was before
    start: int | None = None  # event time of the canary's first answer
    end: int = 0  # event time of the newest answer

    @property
    def about(self) -> tuple[str, str | None, int, float]:
        """What it is evidence of: it says nothing about another pair, margin, or life of the canary."""
        return self.canary, self.champion, self.rolled_back, self.click_margin


class _List(msgspec.Struct):
    """A list that may still get feedback."""

    user: str
    canary: bool
    event_time: int
    clicked: bool = False


class CanaryCount:
    """Counts records into ``evidence``; users are named by their pseudonyms."""

    def __init__(self, evidence: Evidence, rules: Rules, *, slow_ms: float, window_ms: int) -> None:
        self.evidence = evidence
        self._guardrails = {guardrail.name: guardrail for guardrail in rules.guardrails}
        self._slow_ms, self._window_ms = slow_ms, window_ms
        self._counted: dict[str, set[tuple[bool, str]]] = defaultdict(set)  # by guardrail: side and user
        self._open: dict[int, list[tuple[int, Key]]] = defaultdict(list)  # heaps by partition: when feedback ends
        self._lists: dict[Key, _List] = {}

    def on_recommendation(self, user: str, time: int, answer: Recommendation, *, count: bool = True) -> None:
        """Take in an answer; ``time`` is the record's timestamp."""
        canary = self._side(answer.model)
        if canary is None or not self._began(canary, time):
            return
        bad = {
            DEAD_LETTER: False,
            DEGRADED: answer.degraded is not None,
            SLOW: answer.timings.ranked - answer.timings.joined > self._slow_ms,
        }
        if self._first(SLOW, canary, user) and count:
            for name, is_bad in bad.items():
                self._observe(name, canary, time, bad=is_bad)

    def on_dead_letter(self, user: str, letter: DeadLetter, *, count: bool = True) -> None:
        """Take in a record that could not be processed; those that were not to be answered don't count."""
        canary = self._side(letter.model)
        if canary is None or not self._began(canary, letter.event_time):
            return
        if self._first(DEAD_LETTER, canary, user) and count:
            self._observe(DEAD_LETTER, canary, letter.event_time, bad=True)

    def on_example(self, partition: int, user: str, time: int, example: TrainingExample, *, count: bool = True) -> None:
        """Take in what came of a list; it counts when later examples of its partition say that its time is over.

        A click must not count sooner than a missing one, or the side with more clicks would look better at first.

        Raises:
            msgspec.DecodeError: its joined request is none.

        """
        canary = self._side(example.model)
        if canary is not None:
            key, event_time = list_key(example)
            if key not in self._lists:
                self._lists[key] = _List(user, canary, event_time)
                heapq.heappush(self._open[partition], (event_time + self._window_ms, key))
            self._lists[key].clicked |= any(shown.label > 0 for shown in example.shown)
        lists = self._open[partition]
        while lists and lists[0][0] < time:
            self._close(self._lists.pop(heapq.heappop(lists)[1]), count=count)

    def _close(self, each: _List, *, count: bool) -> None:
        if self._began(each.canary, each.event_time) and self._first(NOT_CLICKED, each.canary, each.user) and count:
            self._observe(NOT_CLICKED, each.canary, each.event_time, bad=not each.clicked)

    def _side(self, model: str | None) -> bool | None:
        """Return True for the canary's, False for the champion's, None for somebody else's."""
        if model == self.evidence.canary:
            return True
        return False if model is not None and self.evidence.champion in (None, model) else None

    def _began(self, canary: bool, time: int) -> bool:
        """Tell whether the canary answered then already; it begins with its first answer."""
        if canary and self.evidence.start is None:
            self.evidence.start = time
        return self.evidence.start is not None and time >= self.evidence.start

    def _first(self, guardrail: str, canary: bool, user: str) -> bool:
        counted = self._counted[guardrail]
        if (canary, user) in counted:
            return False
        counted.add((canary, user))
        return True

    def _observe(self, name: str, canary: bool, time: int, *, bad: bool) -> None:
        self.evidence.end = max(self.evidence.end, time)
        observe(self.evidence.state, self._guardrails[name], canary=canary, bad=bad)


def rules_with(click_margin: float) -> Rules:
    """Return the rules with a margin of one's own for clicks, as a share of the champion's."""
    return Rules(
        guardrails=tuple(
            msgspec.structs.replace(guardrail, margin=click_margin) if guardrail.name == NOT_CLICKED else guardrail
            for guardrail in GUARDRAILS
        )
    )


def new_evidence(canary: str, champion: str | None, rules: Rules, rolled_back: int = 0) -> Evidence:
    """Return the evidence on a canary that has answered nothing; versions are name@version."""
    (clicks,) = (guardrail for guardrail in rules.guardrails if guardrail.name == NOT_CLICKED)
    return Evidence(
        canary=canary,
        champion=champion,
        state=new_state(rules),
        click_margin=clicks.margin,
        rolled_back=rolled_back,
    )


def figures(judgement: Judgement) -> dict[str, float]:
    """Return all that a judgement rests on, by guardrail and figure."""
    return {
        f"{finding.guardrail}: {name.replace('_', ' ')}": min(float(value), MOST_EVIDENCE)
        for finding in judgement.findings
        for name, value in msgspec.structs.asdict(finding).items()
        if name != "guardrail"
    }
