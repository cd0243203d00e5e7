"""How soon a change of the catalogue shows: an item that is posted is recommended, one that is gone never again.

Each item goes through posted, unavailable, available again, and removed by a tombstone, while somebody keeps asking for
just this item. A change is timed from its acknowledgement to the first answer that shows it.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from aiokafka import AIOKafkaConsumer

from ops.bench.deployment import NO_PROGRESS_SECONDS, Deployment, deployed, next_record, reading
from ops.bench.spread import Spread, spread
from ops.simulator.city import DOMAIN
from ops.simulator.events import catalogue
from ops.simulator.world import build_world
from schemas.codec import decode, encode
from schemas.records import Constraints, Item, Recommendation, Request
from schemas.topics import CATALOG_ITEMS, RECOMMENDATIONS, USERS_REQUESTS
from streams.kafka import full_name
from streams.settings import Settings

LIMIT_MS = 1_000  # within which a change must show
ASKED_AGAIN = 3  # requests after one that shows that the item is gone


@dataclass(frozen=True)
class CatalogueReport:
    """Times from acknowledgement to the first answer that shows the change."""

    items: int
    posted_ms: Spread  # until it is recommended
    unavailable_ms: Spread  # until it is not recommended any more
    available_again_ms: Spread
    removed_ms: Spread
    shown_although_gone: int  # answers to requests posted after an answer had shown that the item is gone

    @property
    def faults(self) -> list[str]:
        """Every broken promise as a sentence."""
        changes = {"posted": self.posted_ms, "unavailable": self.unavailable_ms,
                   "available again": self.available_again_ms, "removed": self.removed_ms}  # fmt: skip
        found = [
            f"that an item was {change} took up to {times.longest:.0f} ms to show, not less than {LIMIT_MS}"
            for change, times in changes.items()
            if times.longest >= LIMIT_MS
        ]
        if self.shown_although_gone:
            found.append(f"{self.shown_although_gone} answers have an item that was gone when they were asked for")
        return found


async def run_catalogue(
    settings: Settings, items: int = 30, *, restaurants: int = 2_000, progress: Callable[[int], None] | None = None
) -> CatalogueReport:
    """Measure on topics and stages of its own, beside a simulated city's restaurants, see ``catalogue_live``."""
    world = await asyncio.to_thread(build_world, users=1, restaurants=restaurants)
    async with deployed(settings, catalogue(world, time.time_ns() // 1_000_000)) as deployment:
        return await catalogue_live(deployment, items, progress)


async def catalogue_live(
    deployment: Deployment, items: int = 30, progress: Callable[[int], None] | None = None
) -> CatalogueReport:
    """Put so many new items through all changes on running stages.

    Raises:
        StalledError: a request is not answered, or a change does not show.

    """
    times: dict[str, list[float]] = {"posted": [], "unavailable": [], "available again": [], "removed": []}
    shown_although_gone = 0
    async with reading(deployment, RECOMMENDATIONS) as answers:
        guest = _Guest(deployment, answers)
        for number in range(items):
            item_id, item = _item(number)
            for change, value in (
                ("posted", item),
                ("unavailable", msgspec.structs.replace(item, available=False)),
                ("available again", item),
                ("removed", None),
            ):
                gone = value is None or not value.available
                times[change].append(await guest.milliseconds_until(item_id, item, value, shown=not gone))
                for _ in range(ASKED_AGAIN if gone else 0):
                    shown_although_gone += await guest.is_shown(item_id, item)
            if progress:
                progress(number + 1)
        for number in range(items):
            shown_although_gone += await guest.is_shown(*_item(number))
    posted, unavailable, again, removed = (spread(values) for values in times.values())
    return CatalogueReport(items, posted, unavailable, again, removed, shown_although_gone)


def _item(number: int) -> tuple[str, Item]:
    """Return an item that is alone in its category."""
    name = f"Noodle bar number {number}"
    return f"live-{number}", Item(domain=DOMAIN, name=name, categories=["noodles", f"live-{number}"])


class _Guest:
    """Somebody who asks for one item and waits for the answer, again and again."""

    def __init__(self, deployment: Deployment, answers: AIOKafkaConsumer) -> None:
        self._deployment, self._answers = deployment, answers
        self._asked = 0

    async def milliseconds_until(self, item_id: str, item: Item, value: Item | None, *, shown: bool) -> float:
        """Post a record to the catalogue; return how long after its acknowledgement an answer shows the change."""
        topic = full_name(self._deployment.settings.kafka, CATALOG_ITEMS)
        await self._deployment.producer.send_and_wait(topic, encode(value) if value else None, item_id.encode())
        began = time.monotonic()
        while await self.is_shown(item_id, item) != shown:
            if time.monotonic() - began > NO_PROGRESS_SECONDS:
                raise self._deployment.stalled(f"{item_id} is {'not ' if shown else ''}recommended")
        return (time.monotonic() - began) * 1000

    async def is_shown(self, item_id: str, item: Item) -> bool:
        """Ask for the item and tell whether it was recommended."""
        self._asked += 1
        request = Request(
            request_id=f"live-{self._asked}-{time.time_ns()}",
            domain=DOMAIN,
            text=item.name,
            constraints=Constraints(categories=[item_id]),
        )
        topic = full_name(self._deployment.settings.kafka, USERS_REQUESTS)
        await self._deployment.producer.send_and_wait(topic, encode(request), b"guest")
        while True:
            record = await next_record(self._deployment, self._answers, f"answer to {request.request_id}")
            answer = decode(Recommendation, record.value)
            if answer.request_id == request.request_id:
                return any(entry.item_id == item_id for entry in answer.items)
