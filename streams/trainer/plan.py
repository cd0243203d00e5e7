"""What a training run is: an offset range with all else that decides the weights, and how far it has come.

A run is planned once and recorded before anything is read, as metadata of the trainer group's offset commits: each
partition's commit stands at the beginning of the range and says where it ends. That is written in the same place, and
in the same transactions, as the commit that ends the run, so a trainer that dies anywhere, or on a machine that is
lost with its disk, is followed by one that repeats the same run. Pure functions; Kafka is in ``app``.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from schemas.errors import BadInputError
from streams.settings import TrainerSettings

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MOST_EXAMPLES = 50_000  # in one run; what is beyond them is the next one's
REPLAY_REACH = 10  # the replay buffer is drawn from so many times as many examples before the range

Phase = Literal["reading", "training", "exporting", "uploading", "announcing"]
PHASES: tuple[Phase, ...] = get_args(Phase)
Offset = Annotated[int, Meta(ge=0)]


class RangeError(BadInputError):
    """A range can't be trained on; the message says which partition and why."""


class Span(msgspec.Struct, frozen=True):
    """Offsets [start, end) of one partition, and from where on older examples may be replayed."""

    start: Offset
    end: Offset
    replay_from: Offset


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One training: the same run gives the same weights."""

    topic: str
    spans: dict[int, Span]  # by partition
    items_end: Offset  # the catalogue is that before this offset of its topic
    parent: str  # the champion's version
    replay: Offset  # lists
    seed: Offset = 0

    @property
    def name(self) -> str:
        """The range, for people: ``retraining[0:120-450,1:80-300]``."""
        spans = ",".join(f"{number}:{span.start}-{span.end}" for number, span in sorted(self.spans.items()))
        return f"{self.topic}[{spans}]"

    @property
    def id(self) -> str:
        """A hash of all that decides the weights, 16 hexadecimal digits."""
        return hashlib.blake2b(
            msgspec.json.encode(msgspec.to_builtins(self, str_keys=True), order="deterministic"), digest_size=8
        ).hexdigest()

    @property
    def examples(self) -> int:
        """How many offsets the range has."""
        return sum(span.end - span.start for span in self.spans.values())


class Mark(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the metadata of one partition's offset commit says of the run in progress; Kafka takes up to 4,096 bytes."""

    end: Offset
    replay_from: Offset
    items_end: Offset
    parent: str
    replay: Offset
    seed: Offset
    phase: Phase


def plan(
    topic: str,
    ends: Mapping[int, int],
    beginnings: Mapping[int, int],
    trained: Mapping[int, int],
    *,
    items_end: int,
    parent: str,
    replay: int,
) -> Run:
    """Return the next run: from where the last one ended up to ``ends``, at most ``MOST_EXAMPLES`` offsets of it.

    What retention has deleted before it was trained on is passed over.
    """
    spans = {}
    starts = {number: max(trained.get(number, 0), beginnings[number]) for number in ends}
    share = min(1.0, MOST_EXAMPLES / max(sum(ends[number] - starts[number] for number in ends), 1))
    reach = REPLAY_REACH * replay // max(len(ends), 1)
    for number, start in starts.items():
        end = start + math.ceil((ends[number] - start) * share)
        spans[number] = Span(start, end, max(beginnings[number], start - reach))
    return Run(topic=topic, spans=spans, items_end=items_end, parent=parent, replay=replay)


def marks(run: Run, phase: Phase) -> dict[int, tuple[int, str]]:
    """Return for each partition the offset and the metadata to commit while the run is in a phase."""
    return {
        number: (
            span.start,
            msgspec.json.encode(
                Mark(
                    end=span.end,
                    replay_from=span.replay_from,
                    items_end=run.items_end,
                    parent=run.parent,
                    replay=run.replay,
                    seed=run.seed,
                    phase=phase,
                )
            ).decode(),
        )
        for number, span in run.spans.items()
    }


def recorded(topic: str, committed: Mapping[int, tuple[int, str]]) -> tuple[Run, Phase] | None:
    """Return the run that ``marks`` recorded, and its phase; None if the last one was finished.

    Raises:
        RangeError: the metadata is not the trainer's.

    """
    spans: dict[int, Span] = {}
    last: Mark | None = None
    for number, (start, metadata) in committed.items():
        if not metadata:
            continue
        try:
            last = msgspec.json.decode(metadata, type=Mark)
        except msgspec.DecodeError as error:
            raise RangeError(
                f"the committed offset of {topic}/{number} does not carry a training run ({error}): "
                "another program commits in the trainer's group; reset the group's offsets"
            ) from error
        spans[number] = Span(start, last.end, last.replay_from)
    if last is None:
        return None
    run = Run(
        topic=topic,
        spans=dict(sorted(spans.items())),
        items_end=last.items_end,
        parent=last.parent,
        replay=last.replay,
        seed=last.seed,
    )
    return run, last.phase


def check_kept(run: Run, beginnings: Mapping[int, int]) -> None:
    """Refuse a range whose beginning is no longer on the topic.

    Raises:
        RangeError: names the first such partition.

    """
    for number, span in sorted(run.spans.items()):
        kept = beginnings.get(number, 0)
        if span.replay_from < min(kept, span.end):
            raise RangeError(
                f"{run.name} can't be repeated: of {run.topic}/{number} it needs offsets from {span.replay_from} on, "
                f"and retention has deleted those before {kept}"
            )


class Arrivals(msgspec.Struct):
    """What has come since the last run."""

    examples: int = 0
    oldest: int | None = None  # event time, milliseconds
    newest: int | None = None

    def add(self, time: int) -> None:
        """Count an example with its event time."""
        self.examples += 1
        self.oldest = time if self.oldest is None else min(self.oldest, time)
        self.newest = time if self.newest is None else max(self.newest, time)


def due(settings: TrainerSettings, arrivals: Arrivals) -> str | None:
    """Return why it is time to train, or None."""
    if arrivals.examples >= settings.examples:
        return f"{arrivals.examples} new examples"
    if arrivals.newest is not None and arrivals.oldest is not None:
        hours = (arrivals.newest - arrivals.oldest) / HOUR_MS
        if hours >= settings.hours:
            return f"{hours:.1f} hours of event time with {arrivals.examples} new examples"
    return None


def day_to_check(arrivals: Arrivals, window_ms: int) -> int | None:
    """Return where the last day of event time begins whose examples have all come, if some of them are new.

    ``window_ms`` is how long after a list its examples may come. A day of which all has been trained on is no news.
    """
    if arrivals.newest is None or arrivals.oldest is None:
        return None
    end = (arrivals.newest - window_ms) // DAY_MS * DAY_MS
    return end - DAY_MS if arrivals.oldest < end else None
