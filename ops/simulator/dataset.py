"""The city's life as a neutral dataset directory: what people asked for, and where they then went.

Every request is one that the city posts while it lives. Its right answer is where the user truly goes, drawn with
probability proportional to exp(utility) from all restaurants, whether or not anybody recommended it. Hard constraints
are left out: the format has no place for them, and they repeat a part of the wish.
"""

import heapq
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from models import dataset
from models.dataset import Interaction, Meta, Split, write_dataset
from ops.simulator.chance import chance
from ops.simulator.choice import choose
from ops.simulator.city import DOMAIN
from ops.simulator.events import Event, events, history
from ops.simulator.world import DAY_MS, World, moment_of
from schemas.errors import BadInputError
from schemas.records import Context, Feedback, Item, Request

REQUESTS_PER_USER_PER_DAY = 0.1
VISITS_PER_USER_PER_DAY = 0.2
DECISION_MS = 1_000  # between a request and the visit that answers it
LEAST_DAYS = 3


def write_city(
    directory: Path,
    world: World,
    start_ms: int,
    days: int,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Meta:
    """Write so many days of the city's life, the same bytes for the same arguments; ``progress`` is told the days done.

    The last sixth of the days is split=test, the sixth before it split=valid.

    Raises:
        BadInputError: fewer than three days can't be split.
        DatasetError: the directory can't be written.

    """
    if days < LEAST_DAYS:
        raise BadInputError(f"{days} days can't be split into train, valid and test: take {LEAST_DAYS} or more")
    held = max(1, days // 6)

    def split_of(time_ms: int) -> Split:
        day = (time_ms - start_ms) // DAY_MS
        return "train" if day < days - 2 * held else "valid" if day < days - held else "test"

    interactions: list[Interaction] = []
    requests: list[dataset.Request] = []
    for entry in _life(world, start_ms, days, split_of):
        if isinstance(entry, Interaction):
            interactions.append(entry)
        else:
            requests.append(entry)
        progress(int((entry.event_time - start_ms) // DAY_MS), days)
    return write_dataset(
        directory,
        (neutral_item(item_id, item) for item_id, item in world.city.items.items()),
        _by_time(interactions),
        requests,
        Meta(
            domain=DOMAIN,
            source=f"simulated city, seed {world.seed}, {len(world.people.ids)} people: nothing in it is real",
            language="zh, en",
            protocol=f"by time: {days - 2 * held} days train, {held} valid, {held} test; one right answer, drawn by "
            "the utilities of all restaurants",
        ),
    )


def _life(
    world: World, start_ms: int, days: int, split_of: Callable[[int], Split]
) -> Iterator[Interaction | dataset.Request]:
    """Yield requests, each followed by the visit that answers it, and visits that nobody asked about."""
    end_ms = start_ms + days * DAY_MS
    rate = REQUESTS_PER_USER_PER_DAY * len(world.people.ids) / (DAY_MS / 1000)
    asked = events(world, start_ms, rate, until_ms=end_ms)
    unasked = history(world, end_ms, days=days, visits_per_user_per_day=VISITS_PER_USER_PER_DAY)
    said: dict[str, Context] = {}
    for number, event in enumerate(heapq.merge(asked, unasked, key=lambda event: event.time_ms)):
        if isinstance(event.record, Context):
            said[event.key] = event.record
        elif isinstance(event.record, Feedback):
            yield _visit(event, f"v{number}", event.record, split_of(event.time_ms))
        elif isinstance(event.record, Request):
            yield from _answered(world, event, event.record, said[event.key], split_of(event.time_ms))


def _visit(event: Event, event_id: str, feedback: Feedback, split: Split) -> Interaction:
    return Interaction(
        event_id=event_id,
        user_id=event.key,
        item_id=feedback.item_id,
        kind=feedback.kind,
        event_time=event.time_ms,
        split=split,
    )


def _answered(
    world: World, event: Event, request: Request, said: Context, split: Split
) -> tuple[dataset.Request, Interaction]:
    """Return a request in the context said just before it, and where the user goes."""
    context = _fields(said) | (_fields(request.context) if request.context else {})
    moment = moment_of(world, request.request_id)
    item_id = world.at(moment.time_ms).city.ids[
        choose(world, moment, chance(world.seed, "decision", request.request_id))
    ]
    answer = f"a-{request.request_id}"
    return (
        dataset.Request(
            request_id=request.request_id,
            user_id=event.key,
            event_time=event.time_ms,
            split=split,
            text=request.text or None,
            session_id=request.session_id,
            context=context,
            relevant=(item_id,),
            label_event_id=answer,
        ),
        Interaction(
            event_id=answer,
            user_id=event.key,
            item_id=item_id,
            kind="visit",
            event_time=event.time_ms + DECISION_MS,
            session_id=request.session_id,
            split=split,
            context=context,
        ),
    )


def _fields(context: Context) -> dict[str, Any]:
    """Return what a context says."""
    fields: dict[str, Any] = msgspec.to_builtins(context)
    return {name: value for name, value in fields.items() if name != "v"}


def neutral_item(item_id: str, item: Item) -> dataset.Item:
    """Return a record of ``catalog.items`` as a dataset has it."""
    return dataset.Item(
        item_id=item_id,
        name=item.name,
        categories=tuple(item.categories),
        text=item.text,
        location=item.location,
        price=item.price,
        hours=item.hours,
        attributes=dict(item.attributes),
    )


def _by_time(interactions: list[Interaction]) -> list[Interaction]:
    return sorted(interactions, key=lambda event: event.event_time)
