"""The load of every measurement: rounds of the simulated city's life, ready to post."""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ops.simulator.choice import react
from ops.simulator.events import Event, events, history
from ops.simulator.poison import Posting, posting
from ops.simulator.world import World
from schemas.codec import decode
from schemas.records import Recommendation, Request
from schemas.topics import USERS_FEEDBACK

HISTORY_DAYS = 7
SIMULATED_RATE = 50.0  # requests per second of event time: a round stays well within the attribution window
BEFORE_NOW_MS = 3_600_000  # where event time begins, so that no round reaches into the future


@dataclass(frozen=True)
class Answer:
    """A recommendation as it was read."""

    time_ms: int  # event time of its request
    user_id: str
    value: bytes


class Workload:
    """Event time goes on from round to round."""

    def __init__(self, world: World, began_ms: int | None = None) -> None:
        self.world = world
        self._began_ms = time.time_ns() // 1_000_000 - BEFORE_NOW_MS if began_ms is None else began_ms
        self._life = events(world, self._began_ms, SIMULATED_RATE, daily_rhythm=False)

    def past(self) -> Iterator[Posting]:
        """Yield the visits of the last days, so that users have a history and items are popular."""
        return map(posting, history(self.world, self._began_ms, days=HISTORY_DAYS))

    def round(self, requests: int, answers: Sequence[Answer]) -> list[Posting]:
        """Return so many requests with their contexts and some visits, and the reactions to an earlier round's answers.

        With the recommendations of that earlier round, which the state stage reads too, this is the mix of events that
        the stage sees when it runs.
        """
        postings = []
        for event in self._life:
            postings.append(posting(event))
            requests -= isinstance(event.record, Request)
            if not requests:
                break
        return interleaved(postings, [posting(event) for answer in answers for event in self.reactions(answer)])

    def reactions(self, answer: Answer) -> Iterator[Event]:
        """Yield what the user does with an answer."""
        recommendation = decode(Recommendation, answer.value)
        for action in react(self.world, recommendation.request_id, [item.item_id for item in recommendation.items]):
            yield Event(answer.time_ms + action.delay_ms, USERS_FEEDBACK, answer.user_id, action.feedback)


def interleaved(first: Sequence[Posting], second: Sequence[Posting]) -> list[Posting]:
    """Return both sequences merged evenly, each in its own order."""
    places = itertools.chain(
        ((number / len(first), entry) for number, entry in enumerate(first)),
        ((number / len(second), entry) for number, entry in enumerate(second)),
    )
    return [entry for _, entry in sorted(places, key=lambda place: place[0])]
