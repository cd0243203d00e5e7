"""Hard filters over the catalogue. What is unknown about an item counts against it."""

from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from models.catalogue import Catalogue
from schemas.domains import DomainPack
from schemas.records import Attributes, Constraints, Context, Item

LATEST_MS = 253_402_214_400_000  # 9999-12-31 UTC: the last day that exists in every time zone
MOST_MASKS = 60  # an hour's


def allowed_rows(
    catalogue: Catalogue, pack: DomainPack, constraints: Constraints | None, context: Context, event_time: int
) -> np.ndarray:
    """Return a mask [catalogue.size] of the items that may be recommended.

    Items of other domains and unavailable ones are always out. A constraint of a kind that the domain pack does not
    list is ignored, and so is a distance where nobody knows the user's location.
    """
    size = catalogue.size
    allowed: np.ndarray = catalogue.available[:size] & (
        catalogue.domain[:size] == catalogue.domain_code.get(pack.name, -1)
    )
    if constraints is None:
        return allowed
    kinds = set(pack.constraints)
    price = catalogue.price[:size]
    if "price" in kinds and constraints.price_min is not None:
        allowed &= price >= constraints.price_min
    if "price" in kinds and constraints.price_max is not None:
        allowed &= price <= constraints.price_max
    if "max_distance" in kinds and constraints.max_distance is not None and context.location is not None:
        allowed &= catalogue.metres_from(context.location) <= constraints.max_distance
    if "open_at" in kinds and constraints.open_at is not None:
        moment = event_time if constraints.open_at == "now" else constraints.open_at
        allowed &= open_rows(catalogue, moment, context.time_zone)
    if "categories" in kinds and constraints.categories:
        allowed &= _in_categories(catalogue, constraints.categories)
    if "exclude_categories" in kinds and constraints.exclude_categories:
        allowed &= ~_in_categories(catalogue, constraints.exclude_categories)
    if "exclude_items" in kinds and constraints.exclude_items:
        rows = catalogue.rows(constraints.exclude_items)
        allowed[rows[rows >= 0]] = False
    if "attributes" in kinds and constraints.attributes:
        for row in np.flatnonzero(allowed):
            allowed[row] = _has_attributes(catalogue.items[row], constraints.attributes)
    if "attributes" in kinds and constraints.at_least:
        for row in np.flatnonzero(allowed):
            allowed[row] = _is_at_least(catalogue.items[row], constraints.at_least)
    return allowed


def both(posted: Constraints | None, said: Constraints) -> Constraints:
    """Return constraints that ask for all that two ask for; where both set the same, the posted one counts."""
    if posted is None:
        return said
    merged: dict[str, Any] = {}
    for name in Constraints.__struct_fields__:
        ours, theirs = getattr(posted, name), getattr(said, name)
        if name in {"exclude_items", "exclude_categories"}:
            merged[name] = list(dict.fromkeys([*ours, *theirs]))
        elif isinstance(ours, dict):
            merged[name] = {**theirs, **ours}
        else:
            merged[name] = ours or theirs if isinstance(ours, list) else theirs if ours is None else ours
    return Constraints(**merged)


def open_rows(
    catalogue: Catalogue, moment: int, time_zone: str | None, rows: NDArray[np.int64] | None = None
) -> NDArray[np.bool_]:
    """Return a mask [catalogue.size], or [rows], of what is open at a moment (ms), in each item's own time zone.

    The mask of the whole catalogue is kept for others who ask in the same minute, and not to be written to.
    """
    minutes = tuple(_minute_of_week(moment, zone or zone_of(time_zone)) for zone in catalogue.time_zones)
    if rows is not None:
        return _open(catalogue, minutes, rows)
    masks = catalogue.open_masks
    if minutes not in masks:
        if len(masks) == MOST_MASKS:
            masks.clear()
        masks[minutes] = _open(catalogue, minutes, slice(catalogue.size))
        masks[minutes].flags.writeable = False
    return masks[minutes]


def _open(catalogue: Catalogue, minutes: Sequence[int], which: NDArray[np.int64] | slice) -> NDArray[np.bool_]:
    local = np.array(minutes)[catalogue.time_zone[which]][:, None]
    hours = catalogue.hours[which]
    within = (hours[:, :, 0] <= local) & (local < hours[:, :, 1])
    is_open: NDArray[np.bool_] = np.logical_or.reduce(within, axis=1)
    return is_open


def zone_of(name: str | None) -> tzinfo:
    """Return a time zone by its name, UTC for none and for one that does not exist."""
    try:
        return ZoneInfo(name) if name else UTC
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def _minute_of_week(moment: int, zone: tzinfo) -> int:
    local = datetime.fromtimestamp(min(moment, LATEST_MS) / 1000, zone)
    return local.weekday() * 1440 + local.hour * 60 + local.minute


def _in_categories(catalogue: Catalogue, names: list[str]) -> np.ndarray:
    mask = np.zeros(catalogue.size, bool)
    for name in names:
        mask[list(catalogue.rows_in_category.get(name.casefold(), ()))] = True
    return mask


def _has_attributes(item: Item | None, wanted: Attributes) -> bool:
    if item is None:
        return False
    for name, value in wanted.items():
        found = item.attributes.get(name)
        options = value if isinstance(value, list) else [value]
        have = found if isinstance(found, list) else [found]
        if not any(option in have for option in options):
            return False
    return True


def _is_at_least(item: Item | None, wanted: dict[str, float]) -> bool:
    if item is None:
        return False
    found = [(item.attributes.get(name), least) for name, least in wanted.items()]
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and value >= least for value, least in found
    )
