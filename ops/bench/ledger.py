"""What came back, counted against what was posted. No Kafka in here: records come in, broken promises come out."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ops.simulator.poison import Poison, Posting
from schemas.codec import decode
from schemas.records import DeadLetter, Recommendation

REASON_TOLERANCE = 1e-4
OVERLOADED = "overloaded"  # how the inference stage begins to say so
NAMED = 3  # ids that a fault names

EXPECTED_FAULT: Mapping[Poison, tuple[str, str]] = {  # error class, and a word that the explanation must have
    "random bytes": ("DecodeError", "not "),
    "missing field": ("DecodeError", "`domain`"),
    "wrong type": ("DecodeError", "`$.k`"),
    "huge text": ("DecodeError", "at most"),
    "far future": ("EventTimeError", "timestamp"),
    "no key": ("DecodeError", "no key"),
    "unknown domain": ("UnknownDomainError", "spaceports"),
}


class Place(NamedTuple):
    """Where a record lies."""

    topic: str
    partition: int
    offset: int


class Ledger:
    """The requests that were posted, and what is known of each."""

    def __init__(self, posted: Mapping[Place, Posting]) -> None:
        self._valid = {str(entry.request_id): entry for entry in posted.values() if entry.poison is None}
        self._poisonous = {place: entry for place, entry in posted.items() if entry.poison is not None}
        self._answers: Counter[str] = Counter()
        self._letters: Counter[Place] = Counter()
        self._shed: list[str] = []  # requests whose text was not read
        self._wrong: list[str] = []
        self.reasons: Counter[str] = Counter()  # "poison: error class" of dead letters
        self.items = 0  # recommended, over all answers
        self.empty = 0  # answers without an item
        self.degraded: Counter[str] = Counter()  # why answers are
        self.largest_reason_gap = 0.0  # between a score and the sum of its reasons

    @property
    def valid(self) -> int:
        """How many valid requests were posted."""
        return len(self._valid)

    @property
    def poisonous(self) -> int:
        """How many poisonous requests were posted."""
        return len(self._poisonous)

    @property
    def answered(self) -> int:
        """How many valid requests have an answer."""
        return len(self._valid.keys() & self._answers.keys())

    @property
    def dead_letters(self) -> int:
        """How many records have a dead letter."""
        return len(self._letters)

    @property
    def repeated_dead_letters(self) -> int:
        """How many dead letters there are beyond one a record."""
        return self._letters.total() - len(self._letters)

    def answer(self, key: bytes | None, event_time: int, value: bytes | None) -> None:
        """Count a record of `recommendations` and look at its list."""
        recommendation = decode(Recommendation, value)
        request_id = recommendation.request_id
        self._answers[request_id] += 1
        self.items += len(recommendation.items)
        self.empty += not recommendation.items
        if recommendation.degraded is not None:
            self.degraded[recommendation.degraded] += 1
            if OVERLOADED in recommendation.degraded:
                self._shed.append(request_id)
        asked = self._valid.get(request_id)
        if asked is not None and (key, event_time) != (asked.key, asked.time_ms):
            self._wrong.append(f"the answer to {request_id} has key {key!r} and time {event_time}, not its request's")
        scores = [item.score for item in recommendation.items]
        if scores != sorted(scores, reverse=True):
            self._wrong.append(f"the list for {request_id} is not sorted by score")
        if len({item.item_id for item in recommendation.items}) < len(scores):
            self._wrong.append(f"the list for {request_id} has an item twice")
        for item in recommendation.items:
            gap = abs(sum(item.reasons.values()) - item.score)
            self.largest_reason_gap = max(self.largest_reason_gap, gap)
            if not gap <= REASON_TOLERANCE:  # so that a score that is not a number is noticed
                self._wrong.append(f"the reasons of {item.item_id} for {request_id} miss its score by {gap:g}")

    def dead_letter(self, value: bytes | None) -> None:
        """Count a record of `deadletters` and look whether it says what was wrong."""
        letter = decode(DeadLetter, value)
        place = Place(letter.topic, letter.partition, letter.offset)
        self._letters[place] += 1
        entry = self._poisonous.get(place)
        if entry is None or entry.poison is None:
            self._wrong.append(f"{place} is a dead letter, but nothing was wrong with it: {letter.reason}")
            return
        self.reasons[f"{entry.poison}: {letter.error}"] += 1
        error, word = EXPECTED_FAULT[entry.poison]
        if letter.error != error or word not in letter.reason:
            self._wrong.append(f"{entry.poison} at {place} was taken for {letter.error}: {letter.reason}")
        posted = (None, None) if letter.payload == "withheld" else (entry.key, entry.value)
        if (letter.key, letter.value, letter.event_time) != (*posted, entry.time_ms):
            self._wrong.append(f"the dead letter of {entry.poison} at {place} is not the record that was posted")

    def faults(self, *, may_shed: bool, may_repeat_dead_letters: bool) -> list[str]:
        """Return every broken promise as a sentence."""
        found = [
            *_fault("valid requests were not answered", self._valid.keys() - self._answers.keys()),
            *_fault("requests were answered more than once", (name for name, n in self._answers.items() if n > 1)),
            *_fault("answers are to no valid request", self._answers.keys() - self._valid.keys()),
            *_fault("poisonous records are not in deadletters", self._poisonous.keys() - self._letters.keys()),
            *self._wrong,
        ]
        if self.repeated_dead_letters and not may_repeat_dead_letters:
            found += _fault(
                "records have more than one dead letter", (place for place, n in self._letters.items() if n > 1)
            )
        if not may_shed:
            found += _fault("answers are cheaper ones although no budget is set", self._shed)
        return found


def _fault(what: str, which: Iterable[object]) -> list[str]:
    names = [str(name) for name in which]
    if not names:
        return []
    return [f"{len(names)} {what}: {', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''}"]
