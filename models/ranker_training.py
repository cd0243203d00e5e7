"""Training the ranker from a dataset's past: the same state, candidates and features as at serving time.

Time is cut several times. For each cut the tables are built from what came before it, and requests are taken from what
came after, up to the next cut, so that no table has seen the choice it helps to predict. Half as many requests again
are joined with a state that stopped at the cut: a ranker must also cope with a state that is weeks old. The tables that
the ranker is served with are built from everything.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from models.catalogue import Catalogue
from models.dataset import Dataset, Interaction, Request
from models.evaluation import Mode, catalogue_item, joined_requests
from models.features import candidate_features
from models.item_tables import Choice, ItemTables, build_tables
from models.ranker import Groups, Ranker, fit_trees
from models.ranking import Weights, question, ranking_scene
from schemas.domains import DomainPack
from schemas.errors import BadInputError

CUTS = (0.45, 0.6, 0.75, 0.9)  # of the training interactions
STALE_SHARE = 0.5  # of the requests, once more with a state that stopped at the cut
MIDDLE_SHARE = 0.15  # of the choices that do not end a session, beside all those that do
K = 10


class Progress(NamedTuple):
    """How far the making of groups is."""

    done: int
    of: int


def train_ranker(
    data: Dataset,
    pack: DomainPack,
    *,
    requests: int,
    rounds: int,
    leaves: int,
    learning_rate: float,
    dimensions: int,
    seed: int,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Ranker:
    """Train on split=train alone. Same data, arguments and processor, same ranker.

    Args:
        data: a whole dataset; other splits are not looked at.
        pack: its domain.
        requests: about how many training requests are made from its interactions.
        rounds: trees.
        leaves: of a tree.
        learning_rate: of the trees.
        dimensions: of the item factors.
        seed: of all chance.
        progress: is told about the slow part.

    Raises:
        BadInputError: there are too few interactions to learn from.

    """
    train = [event for event in data.interactions if event.split == "train"]
    catalogue = bare_catalogue(data, pack)
    made = list(training_groups(data, train, catalogue, pack, requests, dimensions, seed, progress))
    if not made:
        raise BadInputError("too few interactions to learn from: no choice could be made a training request")
    groups = Groups(
        np.concatenate([features for features, _ in made]),
        np.concatenate([relevant for _, relevant in made]),
        np.array([len(relevant) for _, relevant in made], np.int64),
    )
    trees = fit_trees(groups, rounds=rounds, leaves=leaves, learning_rate=learning_rate, seed=seed)
    return Ranker(trees, build_tables(catalogue, choices(train), dimensions=dimensions, seed=seed))


def bare_catalogue(data: Dataset, pack: DomainPack) -> Catalogue:
    """Return the dataset's items without embeddings: the ranker does not look at texts."""
    catalogue = Catalogue(1)
    for item in data.items:
        catalogue.put(item.item_id, catalogue_item(item, pack), np.zeros((1, 1), np.float32))
    return catalogue


def choices(events: Iterable[Interaction]) -> Iterator[Choice]:
    """Yield interactions, each with the one before it in its session; without sessions, of its user."""
    last: dict[tuple[str, str | None], str] = {}
    for event in events:
        key = event.user_id, event.session_id
        yield Choice(event.user_id, event.item_id, event.event_time, last.get(key))
        last[key] = event.item_id


def training_groups(
    data: Dataset,
    train: Sequence[Interaction],
    catalogue: Catalogue,
    pack: DomainPack,
    requests: int,
    dimensions: int,
    seed: int,
    progress: Callable[[Progress], None],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield features [candidates, len(NAMES)] and relevance [candidates] of requests whose answer is a candidate."""
    rng = np.random.default_rng(seed)
    times = [train[int(len(train) * cut)].event_time for cut in CUTS] if train else []
    spans = list(zip(times, [*times[1:], train[-1].event_time + 1], strict=True)) if train else []
    plans: list[tuple[int, int, Mode, list[Request]]] = []
    for start, end in spans:
        fresh = list(_possible(train, start, end, rng))
        plans += [(start, end, "streaming", fresh), (start, end, "static", fresh)]
    total = sum(len(possible) * (1 if mode == "streaming" else STALE_SHARE) for _, _, mode, possible in plans)
    share = min(1.0, requests / max(total, 1))
    drawn = [
        [each for each in possible if rng.random() < share * (1 if mode == "streaming" else STALE_SHARE)]
        for _, _, mode, possible in plans
    ]
    done, of = 0, sum(map(len, drawn))
    tables = ItemTables()
    for (start, end, mode, _), sample in zip(plans, drawn, strict=True):
        if mode == "streaming":
            past = choices(event for event in train if event.event_time < start)
            tables = build_tables(catalogue, past, dimensions=dimensions, seed=seed)
        events = [
            event if event.event_time < start else replace(event, split="valid")
            for event in train
            if event.event_time < end
        ]
        for request, joined in joined_requests(Dataset(data.items, events, sample, data.meta), pack, mode, "valid"):
            scene = ranking_scene(question(catalogue, pack, joined, Weights()), Weights(), tables, K)
            relevant = np.isin(scene.rows, catalogue.rows(request.relevant))
            done += 1
            progress(Progress(done, of))
            if relevant.any():
                yield candidate_features(scene), relevant


def _possible(train: Sequence[Interaction], start: int, end: int, rng: np.random.Generator) -> Iterator[Request]:
    """Yield the choices of a span of time as requests: those that end a session, and a share of the others.

    The item must have been chosen by somebody before the span. The first choice of a session has no session to go by,
    and is left out where there are sessions.
    """
    known = {event.item_id for event in train if event.event_time < start}
    sessions: dict[tuple[str, str | None], list[Interaction]] = defaultdict(list)
    for event in train:
        if event.event_time < end:
            sessions[event.user_id, event.session_id].append(event)
    for session in sessions.values():
        for position, event in enumerate(session):
            kept = position == len(session) - 1 or rng.random() < MIDDLE_SHARE
            opens = event.session_id is not None and position == 0
            if kept and not opens and event.event_time >= start and event.item_id in known:
                yield Request(
                    request_id=event.event_id,
                    user_id=event.user_id,
                    event_time=event.event_time,
                    split="valid",
                    session_id=event.session_id,
                    relevant=(event.item_id,),
                    label_event_id=event.event_id,
                )
