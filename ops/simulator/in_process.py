"""The city's people ask a model and act on its lists, all in one process: what the stages do, without topics.

For making and measuring rankers; ``ops.bench.learning`` lets the same people ask running stages.
"""

import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from models.join import GlobalState, join
from models.shown_lists import ShownList
from models.user_state import UserState, apply_context, apply_feedback
from ops.simulator.choice import Action, react
from ops.simulator.events import Event
from ops.simulator.world import Moment, World, moment_of
from schemas.codec import encode
from schemas.domains import DomainPack, pack_for
from schemas.records import Context, Feedback, JoinedRequest, Request, Shown, Source

Lister = Callable[[JoinedRequest], list[str]]  # the ids of a list, best first


class Asked(NamedTuple):
    """A request, the truth behind it, and what came of it."""

    moment: Moment
    joined: JoinedRequest
    items: list[str]  # the list, of which the first ``k`` were shown
    shown: ShownList  # as the trainer would put it together


def lived(world: World, lister: Lister, life: Iterable[Event]) -> Iterator[Asked]:
    """Yield every request of a life, answered by ``lister`` and acted on before anything later happens.

    A list may be longer than what is shown of it. ``life`` are visits, contexts and requests in order of event time; of
    the users nothing is known before.
    """
    everybody = GlobalState()
    for item_id, item in world.city.items.items():
        everybody.places.put(item_id, item.domain, item.location)
    users: dict[str, UserState] = defaultdict(UserState)
    offsets = itertools.count()
    acts: list[tuple[int, int, str, Feedback]] = []  # a heap by time, then in the order in which they were made

    def apply(time_ms: int, user: str, feedback: Feedback) -> None:
        previous = apply_feedback(users[user], time_ms, feedback)
        if feedback.kind not in {"impression", "dismissal"}:
            for _ in everybody.signals.apply(0, next(offsets), time_ms, feedback.domain, feedback.item_id, previous):
                pass

    for event in life:
        while acts and acts[0][0] <= event.time_ms:
            time_ms, _, user, feedback = heapq.heappop(acts)
            apply(time_ms, user, feedback)
        record = event.record
        if isinstance(record, Context):
            apply_context(users[event.key], event.time_ms, record)
        elif isinstance(record, Feedback):
            apply(event.time_ms, event.key, record)
        elif isinstance(record, Request):
            pack = pack_for(record.domain)
            joined = join(
                users[event.key],
                everybody,
                pack,
                msgspec.structs.replace(record, explain=False),  # nobody reads the reasons
                event_time=event.time_ms,
                source=Source(partition=0, offset=next(offsets)),
            )
            items = lister(joined)
            actions = react(world, record.request_id, items[: record.k])
            for action in actions:
                heapq.heappush(acts, (event.time_ms + action.delay_ms, next(offsets), event.key, action.feedback))
            yield Asked(moment_of(world, record.request_id), joined, items, _shown(event, joined, items, actions, pack))


def _shown(
    event: Event, joined: JoinedRequest, items: Sequence[str], actions: Sequence[Action], pack: DomainPack
) -> ShownList:
    worth: dict[str, float] = {}  # of what was looked at
    for action in actions:
        feedback = action.feedback
        value = pack.action_value.get(feedback.kind, 0.0) * (1.0 if feedback.rating is None else feedback.rating)
        worth[feedback.item_id] = max(worth.get(feedback.item_id, 0.0), value)
    return ShownList(
        (joined.source.partition, joined.source.offset),
        event.key,
        event.time_ms,
        "",
        msgspec.Raw(encode(joined)),
        [
            Shown(item_id=item, position=position, propensity=1.0, label=worth[item])
            for position, item in enumerate(items)
            if item in worth
        ],
    )
