"""What the words of a joined request change about its answer: constraints, a part of the score, what is told."""

from dataclasses import dataclass
from datetime import tzinfo

import msgspec
import numpy as np

from models.catalogue import Catalogue
from models.constraints import allowed_rows, both, zone_of
from models.texts import language_of
from models.wishes.asked import asked_part
from models.wishes.phrase import understood_phrase
from models.wishes.reader import limits, read_wishes
from schemas.domains import DomainPack
from schemas.records import Constraints, JoinedRequest, Understood, Wish


@dataclass(frozen=True)
class Heeded:
    """A request with the constraints posted and those said, the part ``asked`` [catalogue.size], and what is told.

    ``allowed`` is the mask [catalogue.size] of those constraints where it had to be found out.
    """

    joined: JoinedRequest
    asked: np.ndarray | None = None
    allowed: np.ndarray | None = None
    understood: Understood | None = None


def heed(catalogue: Catalogue, pack: DomainPack, joined: JoinedRequest) -> Heeded:
    """Read the wishes in a request's text and put them to work.

    An app that posts a constraint means it, words may be misread: what was posted is never overruled, and if no item
    meets all that was said, what was said only ranks.
    """
    request, context = joined.request, joined.context
    vocabulary = catalogue.vocabularies.get(pack.name)
    if vocabulary is None or not request.text:
        return Heeded(joined)
    zone = _zone(catalogue, context.time_zone)
    located = context.location is not None
    wishes = read_wishes(request.text, pack, vocabulary, joined.event_time, zone, located=located)
    if not wishes:
        return Heeded(joined)
    posted = request.constraints
    wishes = [_filtering(wish, wish.filters and not _is_posted(wish, posted or Constraints(), pack)) for wish in wishes]
    relaxed, allowed = False, None
    if (said := limits(wishes, pack, vocabulary)) is not None:
        every = both(posted, said)
        allowed = allowed_rows(catalogue, pack, every, context, joined.event_time)
        if not allowed.any():
            allowed = allowed_rows(catalogue, pack, posted, context, joined.event_time)
            relaxed = bool(allowed.any())
        if relaxed:
            wishes = [_filtering(wish, False) for wish in wishes]
        else:
            joined = msgspec.structs.replace(joined, request=msgspec.structs.replace(request, constraints=every))
    phrase = understood_phrase(wishes, pack, language_of(request.text), zone, relaxed=relaxed)
    return Heeded(
        joined,
        asked_part(catalogue, vocabulary, pack, wishes, context, joined.event_time),
        allowed,
        Understood(wishes=wishes, phrase=phrase, relaxed=relaxed),
    )


def _filtering(wish: Wish, filters: bool) -> Wish:
    return wish if wish.filters == filters else msgspec.structs.replace(wish, filters=filters)


def _is_posted(wish: Wish, posted: Constraints, pack: DomainPack) -> bool:
    """Return whether the app itself has set the constraint that a wish would set."""
    match wish.kind:
        case "price":
            return posted.price_min is not None or posted.price_max is not None
        case "rating":
            return pack.wishes.rating in posted.at_least or pack.wishes.rating in posted.attributes
        case "distance":
            return posted.max_distance is not None
        case "open":
            return posted.open_at is not None
        case "category" | "attribute":
            return not wish.avoid and bool(posted.categories)
    return False


def _zone(catalogue: Catalogue, user: str | None) -> tzinfo:
    """Return the user's time zone; if that is unknown, the first one that an item has."""
    others = [zone for zone in catalogue.time_zones if zone is not None]
    return others[0] if user is None and others else zone_of(user)
