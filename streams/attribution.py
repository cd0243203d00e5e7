"""Feedback joined to the list it belongs to, and the training example that comes of it. Pure functions."""

import hashlib
from collections.abc import Sequence
from typing import Literal

import msgspec

from models.user_state import Slate
from schemas.domains import DomainPack
from schemas.records import Feedback, Shown, TrainingExample

Attribution = tuple[Slate, Literal["request_id", "last_touch"]]


def attribute(slates: Sequence[Slate], feedback: Feedback, time: int, window_ms: int) -> Attribution | None:
    """Return the list an action belongs to, or None.

    It is the newest list, at most ``window_ms`` of event time older than the action, that has the item on it and, where
    the app sent a request id, answers that request; without a request id that is last touch.
    """
    for slate in reversed(slates):
        if (
            slate.time <= time <= slate.time + window_ms
            and feedback.item_id in slate.items
            and feedback.request_id in (None, slate.request_id)
        ):
            return slate, "last_touch" if feedback.request_id is None else "request_id"
    return None


def action_example(
    slate: Slate,
    how: Literal["request_id", "last_touch"],
    feedback: Feedback,
    time: int,
    joined: bytes,
    pack: DomainPack,
) -> TrainingExample:
    """Return the example of one action: what was acted on has its worth as label, the rest of what was shown has 0."""
    value = pack.action_value.get(feedback.kind, 0.0)
    if feedback.kind == "rating" and feedback.rating is not None:
        value *= feedback.rating
    return TrainingExample(
        example_id=_example_id(slate, feedback.kind, feedback.item_id),
        request_id=slate.request_id,
        model=slate.model,
        joined=msgspec.Raw(joined),
        shown=_shown(slate, feedback.item_id, value),
        action=feedback.kind,
        item_id=feedback.item_id,
        action_time=time,
        attribution=how,
    )


def no_action_example(slate: Slate, joined: bytes) -> TrainingExample:
    """Return the example of a list whose window closed without an action."""
    return TrainingExample(
        example_id=_example_id(slate, "none"),
        request_id=slate.request_id,
        model=slate.model,
        joined=msgspec.Raw(joined),
        shown=_shown(slate, None, 0.0),
        action="none",
    )


def _example_id(slate: Slate, *what: str) -> str:
    """Return the same id for the same action on the same list, whatever ids apps make up."""
    name = "/".join((str(slate.source.partition), str(slate.source.offset), *what))
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def _shown(slate: Slate, chosen: str | None, value: float) -> list[Shown]:
    """Return what the user saw: what the app reported as seen, plus what was chosen; without reports the whole list."""
    seen = {*slate.impressions, chosen} if slate.impressions else set(slate.items)
    return [
        Shown(item_id=item, position=position, propensity=propensity, label=value if item == chosen else 0.0)
        for position, (item, propensity) in enumerate(zip(slate.items, slate.propensities, strict=True))
        if item in seen
    ]
