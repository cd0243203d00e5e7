"""What was recommended then beside what is recommended now. No Kafka in here."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from schemas.codec import encode
from schemas.records import JoinedRequest, Recommendation, Source, Timings

Verdict = Literal["identical", "rescored", "reordered", "different", "not answered then", "not answered now"]
MAX_EXAMPLES = 5  # of each verdict
SHOWN_ITEMS = 10


@dataclass(frozen=True)
class Example:
    """One request with another answer than then."""

    request_id: str
    verdict: Verdict
    reason: str
    then: list[str]  # item ids
    now: list[str]
    largest_score_change: float  # among the items of both lists


@dataclass
class Comparison:
    """How the answers compare; constant in memory."""

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)  # "then -> now"
    examples: list[Example] = field(default_factory=list)
    kept: float = 0.0  # sum over requests of the share of the former list that is in the present one

    @property
    def total(self) -> int:
        """How many requests were compared."""
        return self.verdicts.total()

    def add(
        self,
        then: Recommendation | None,
        now: Recommendation | None,
        *,
        request_id: str,
        state: str | None = None,
        catalogue: str | None = None,
    ) -> None:
        """Take in one request, with what is known of why its answers may differ: its state before all else."""
        verdict = verdict_of(then, now)
        self.verdicts[verdict] += 1
        if then is not None and now is not None:
            self.models[f"{then.model} -> {now.model}"] += 1
            self.kept += overlap(then, now)
        if verdict == "identical":
            return
        reason = state or reason_of(then, now) or catalogue or "not known"
        self.reasons[reason] += 1
        if sum(example.verdict == verdict for example in self.examples) < MAX_EXAMPLES:
            self.examples.append(Example(request_id, verdict, reason, _ids(then), _ids(now), _score_change(then, now)))


def without_timings(recommendation: Recommendation) -> bytes:
    """Return the bytes that must be the same when the same request is answered by the same model."""
    return encode(msgspec.structs.replace(recommendation, timings=Timings()))


def verdict_of(then: Recommendation | None, now: Recommendation | None) -> Verdict:
    """Return how two answers to a request compare; where the request lay does not matter.

    *identical*: every byte apart from timings and source. *rescored*: the same list, with other scores or reasons.
    *reordered*: the same items in another order. *different*: other items.
    """
    if then is None:
        return "not answered then"
    if now is None:
        return "not answered now"
    if without_timings(then) == without_timings(msgspec.structs.replace(now, source=then.source)):
        return "identical"
    if _ids(then) == _ids(now):
        return "rescored"
    return "reordered" if sorted(_ids(then)) == sorted(_ids(now)) else "different"


def reason_of(then: Recommendation | None, now: Recommendation | None) -> str | None:
    """Return what the answers themselves say about why they differ."""
    if then is None or now is None:
        return "there is no answer to compare with"
    if then.degraded != now.degraded:
        return f"then {then.degraded or 'a full answer'}, now {now.degraded or 'a full answer'}"
    if then.model != now.model:
        return "another model"
    return None


def overlap(then: Recommendation, now: Recommendation) -> float:
    """Return which share of the former list is in the present one; 1 if that was empty."""
    former = _ids(then)
    return len({*former} & {*_ids(now)}) / len(former) if former else 1.0


def state_difference(then: JoinedRequest, now: JoinedRequest) -> str | None:
    """Return in what the state that a request saw differs, None if it is the same byte for byte."""
    changes: Mapping[str, object] = {
        "source": Source(partition=0, offset=0), "received_at": 0, "joined_at": 0
    }  # fmt: skip
    if encode(msgspec.structs.replace(then, **changes)) == encode(msgspec.structs.replace(now, **changes)):
        return None
    if then.request != now.request:
        return "another request"
    if then.context != now.context:
        return "its state: another context"
    if then.history != now.history or then.items[: len(then.history.item)] != now.items[: len(now.history.item)]:
        return "its state: another history of the user"
    return "its state: other counts over all users"


def catalogue_difference(changed: Mapping[str, int], event_time: int, *answers: Recommendation | None) -> str | None:
    """Return which listed item was changed after a request, given when each was changed last."""
    for answer in answers:
        for item in answer.items if answer else ():
            if changed.get(item.item_id, -1) > event_time:
                return "the catalogue: a listed item was changed since"
    if any(time > event_time for time in changed.values()):
        return "the catalogue: an item was changed since"
    return None


def _ids(answer: Recommendation | None) -> list[str]:
    return [item.item_id for item in answer.items] if answer else []


def _score_change(then: Recommendation | None, now: Recommendation | None) -> float:
    if then is None or now is None:
        return 0.0
    scores = {item.item_id: item.score for item in then.items}
    return max((abs(item.score - scores[item.item_id]) for item in now.items if item.item_id in scores), default=0.0)
