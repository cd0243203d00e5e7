"""Which items the ranker looks at: what the state mentions, and the best others of the catalogue from several sources.

What the state mentions is the user's own items, what follows the last one, what is popular near it and everywhere. The
sources add what is near the last choice, around the places the user goes to, liked by people of the same taste, and
popular, each at this hour of the week; and what fits the words and the place of the request.
"""

import numpy as np
from numpy.typing import NDArray

from models.catalogue import Catalogue
from models.features import History, metres_between
from models.item_tables import ItemTables, hour_of_week
from schemas.domains import DomainPack
from schemas.records import JoinedRequest

LEARNED = 250  # candidates from the sources that tables know
MIXTURE = {"near": 0.4, "around": 0.3, "similar": 0.6, "popular": 0.2}  # by hit rate over a check-in data set's past
CENTRES = 10  # of a user's items, by count, that stand for the places the user goes to


def learned_candidates(
    catalogue: Catalogue,
    pack: DomainPack,
    tables: ItemTables,
    joined: JoinedRequest,
    history: History,
    mentioned: NDArray[np.int64],
    allowed: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Return catalogue rows of the best allowed items that are not mentioned, at most ``LEARNED``, in no order.

    ``mentioned`` are the catalogue rows of the joined request's id table, -1 for items that are gone.
    """
    open_rows = allowed.copy()
    open_rows[mentioned[mentioned >= 0]] = False
    rows = np.flatnonzero(open_rows)
    rows = rows[np.argsort(catalogue.tie_break[rows])]  # no sum may depend on the order of rows
    item, category = tables.items_of(catalogue, rows), tables.categories_of(catalogue, rows)
    popular = tables.item_count[item] * tables.item_hour(
        item, category, hour_of_week(catalogue, rows, joined.event_time)
    )
    weight = {"popular": popular}
    if len(history.item):
        own = mentioned[history.item]
        unit = pack.near_metres / 2
        if own[-1] >= 0:
            metres = metres_between(catalogue.point[rows], catalogue.point[own[-1:]])[:, 0]
            weight["near"] = popular * np.nan_to_num(np.exp(-metres / unit))
        centres, visits = np.unique(own[own >= 0], return_counts=True)
        kept = np.lexsort((catalogue.tie_break[centres], -visits))[:CENTRES]
        metres = metres_between(catalogue.point[rows], catalogue.point[centres[kept]])
        weight["around"] = popular * (np.nan_to_num(np.exp(-metres / unit)) @ np.sqrt(visits[kept]))
        profile = tables.profile(catalogue, own)
        if profile is not None:
            weight["similar"] = np.maximum(tables.factors[item] @ profile, 0.0)
    score = np.zeros(len(rows))
    for source, values in weight.items():
        score += MIXTURE[source] * values / (values.sum() + 1e-9)
    best: NDArray[np.int64] = rows[np.argsort(-score, kind="stable")[:LEARNED]]
    return best
