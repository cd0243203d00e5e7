"""Training the ranker from a dataset's past: the same state, candidates and features as at serving time.

Time is cut several times. For each cut the tables are built from what came before it, and requests are taken from what
came after, up to the next cut, so that no table has seen the choice it helps to predict. Half as many requests again
are joined with a state that stopped at the cut: a ranker must also cope with a state that is weeks old. Where a dataset
knows only the order of each user's choices, or is measured by leaving out each user's last one, the last choices of
some users are left out instead. The tables that the ranker is served with are built from everything.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from models.candidates import first_choice_terms
from models.catalogue import Catalogue
from models.dataset import Dataset, Interaction, Request
from models.evaluation import Mode, bare_catalogue, joined_requests
from models.features import FAMILY, NAMES, candidate_features
from models.first_choice_training import first_choice, fit_first_choices
from models.history import moment_of
from models.item_tables import Choice, ItemTables, build_tables
from models.ranker import Groups, Ranker, fit_trees
from models.ranking import Weights, question, ranking_scene
from models.returning import ReturnModel, describe
from models.returning_training import NEW, Answered, fit_returning
from models.sequence_training import SequenceSettings, train_sequence
from schemas.domains import DomainPack
from schemas.errors import BadInputError
from schemas.records import JoinedRequest

CUTS = (0.45, 0.6, 0.75, 0.9)  # of the training interactions
STALE_SHARE = 0.5  # of the requests, once more with a state that stopped at the cut
MOST_LEFT_OUT = 0.5  # of the users' last choices, so that the tables still know most of what there is
MIDDLE_SHARE = 0.15  # of the choices that do not end a session, beside all those that do
PARTS = 4  # of the users, each of which sees a model of what users return to that others have made
SURE, OF_THE_REST = (
    60,
    0.25,
)  # likeliest candidates that trees learn from, and the share of the others, known ones aside
RANK, COUNT = NAMES.index("chance_rank"), NAMES.index("count")
K = 10


class Progress(NamedTuple):
    """How far the making of groups is."""

    done: int
    of: int


@dataclass(frozen=True)
class Material:
    """What trees are fitted to, and the tables that go with them."""

    groups: Groups
    tables: ItemTables


def train_ranker(
    data: Dataset,
    pack: DomainPack,
    *,
    requests: int,
    lists: int,
    rounds: int,
    leaves: int,
    learning_rate: float,
    dimensions: int,
    seed: int,
    catalogue: Catalogue | None = None,
    sequence: SequenceSettings | None = None,
    without: Collection[str] = (),
    progress: Callable[[Progress], None] = lambda _: None,
) -> Ranker:
    """Train on split=train alone. Same data, arguments and processor, same ranker.

    Args:
        data: a whole dataset; other splits are not looked at.
        pack: its domain.
        requests: about how many training requests are made from its interactions; what users return to is learned
            from all of them.
        lists: how many of these, at most, the rest is learned from, as lists of candidates.
        rounds: trees of each of the two forests.
        leaves: of a tree.
        learning_rate: of the trees.
        dimensions: of the item factors.
        seed: of all chance.
        catalogue: the dataset's items with their embeddings; None: their texts are not looked at.
        sequence: how the transformer over the latest choices is trained; None: without one.
        without: families of features that the trees do not get to see, to learn what each is worth.
        progress: is told about the slow part.

    Raises:
        BadInputError: there are too few interactions to learn from, or no such family.

    """
    catalogue = bare_catalogue(data, pack) if catalogue is None else catalogue
    material = training_material(
        data,
        pack,
        catalogue,
        requests=requests,
        lists=lists,
        dimensions=dimensions,
        seed=seed,
        sequence=sequence,
        without=without,
        progress=progress,
    )
    groups = material.groups.hiding(without)
    trees = fit_trees(groups, rounds=rounds, leaves=leaves, learning_rate=learning_rate, seed=seed)
    return Ranker(trees, material.tables)


def training_material(
    data: Dataset,
    pack: DomainPack,
    catalogue: Catalogue,
    *,
    requests: int,
    lists: int,
    dimensions: int,
    seed: int,
    sequence: SequenceSettings | None = None,
    without: Collection[str] = (),
    progress: Callable[[Progress], None] = lambda _: None,
) -> Material:
    """Learn everything but the trees, and make the lists that these are fitted to; see ``train_ranker``."""
    if unknown := set(without) - set(FAMILY.values()):
        raise BadInputError(f"no family of features {sorted(unknown)}; there are {sorted(set(FAMILY.values()))}")
    train = [event for event in data.interactions if event.split == "train"]

    def learned(known: Iterable[Interaction]) -> ItemTables:
        tables = build_tables(catalogue, choices(events := list(known)), dimensions=dimensions, seed=seed)
        if sequence is None or "next" in without:
            return tables
        model = train_sequence(catalogue, choices(events), sequence, repeats=pack.repeats, seed=seed)
        return dataclasses.replace(tables, sequence=model)

    questions = training_questions(data, train, pack, requests, learned, seed, progress)
    returning = None
    if "returning" not in without:
        questions, returning = with_returning(questions, catalogue, pack, seed)
    drawn = np.random.default_rng(seed).permutation(len(questions))[:lists]
    listed = [questions[number] for number in np.sort(drawn).tolist()]
    first = first_choice_weights(listed, catalogue, pack, seed)
    made = list(training_groups(listed, first, catalogue, pack, seed, progress))
    if not made:
        raise BadInputError("too few interactions to learn from: no choice could be made a training request")
    features, relevant, stands_for = (np.concatenate(column) for column in zip(*made, strict=True))
    groups = Groups(features, relevant, stands_for, np.array([len(each) for each, *_ in made], np.int64))
    return Material(groups, dataclasses.replace(learned(train), first=first, returning=returning))


def choices(events: Iterable[Interaction]) -> Iterator[Choice]:
    """Yield interactions as what tables are built from."""
    for event in events:
        if event.kind not in {"impression", "dismissal"}:
            yield Choice(event.user_id, event.item_id, event.event_time, event.session_id)


class Question(NamedTuple):
    """A training request with the state it saw, and the tables of its past."""

    user: str
    joined: JoinedRequest
    relevant: tuple[str, ...]
    tables: ItemTables


def training_questions(
    data: Dataset,
    train: Sequence[Interaction],
    pack: DomainPack,
    requests: int,
    learned: Callable[[Iterable[Interaction]], ItemTables],
    seed: int,
    progress: Callable[[Progress], None],
) -> list[Question]:
    """Return about so many choices of the past as requests."""
    rng = np.random.default_rng(seed)
    slices = _left_out(train, requests, rng) if _leaves_out(data) else _after_cuts(train, requests, rng)
    of = sum(len(each.requests) for each in slices)
    tables, past = ItemTables(), -1
    questions: list[Question] = []
    for each in slices:
        if each.past != past:
            tables, past = learned(event for event in each.events if event.split == "train"), each.past
        sample = Dataset(data.items, each.events, each.requests, data.meta)
        for request, joined in joined_requests(sample, pack, each.mode, "valid"):
            questions.append(Question(request.user_id, joined, request.relevant, tables))
            progress(Progress(len(questions), of))
    return questions


def first_choice_weights(
    questions: Sequence[Question], catalogue: Catalogue, pack: DomainPack, seed: int
) -> NDArray[np.float32]:
    """Return what each term is worth, ever and by the moment, from those questions whose answer was new to the user."""
    rng = np.random.default_rng(seed)
    answers = []
    for each in questions:
        asking = question(catalogue, pack, each.joined, Weights())
        answer = catalogue.rows(each.relevant)
        answer = answer[(answer >= 0) & asking.free[answer]]
        others = np.setdiff1d(np.flatnonzero(asking.free), answer)
        if len(answer) and len(others):
            terms = first_choice_terms(catalogue, pack, each.tables, each.joined, asking.history, asking.mentioned)
            moment = moment_of(each.joined, asking.history)
            answers.append(first_choice(crc32(each.user.encode()), terms, int(rng.choice(answer)), others, moment, rng))
    return fit_first_choices(answers)


def with_returning(
    questions: Sequence[Question], catalogue: Catalogue, pack: DomainPack, seed: int
) -> tuple[list[Question], ReturnModel | None]:
    """Return the questions with tables that know what users return to, and the model of that from all of them.

    What a question sees was learned from other users' questions, as the trees would trust it too much otherwise.
    """
    answered = []
    for each in questions:
        asking = question(catalogue, pack, each.joined, Weights())
        described = describe(catalogue, pack, each.joined, asking.history, asking.mentioned)
        chosen = [number for number in described.item.tolist() if each.joined.items[number] in each.relevant]
        answered.append(Answered(described, chosen[-1] if chosen else NEW))
    part = [crc32(each.user.encode()) % PARTS for each in questions]
    models = [
        fit_returning([each for each, other in zip(answered, part, strict=True) if other != left_out], seed=seed)
        for left_out in range(PARTS)
    ]
    seeing: dict[tuple[int, int], ItemTables] = {}
    for each, left_out in zip(questions, part, strict=True):
        if (id(each.tables), left_out) not in seeing:
            seeing[id(each.tables), left_out] = dataclasses.replace(each.tables, returning=models[left_out])
    seen = [
        each._replace(tables=seeing[id(each.tables), left_out]) for each, left_out in zip(questions, part, strict=True)
    ]
    return seen, fit_returning(answered, seed=seed)


def training_groups(
    questions: Sequence[Question],
    first: NDArray[np.float32],
    catalogue: Catalogue,
    pack: DomainPack,
    seed: int,
    progress: Callable[[Progress], None],
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield lists of questions whose answer is a candidate, as ``Groups`` has them.

    Features [candidates, len(NAMES)], relevance [candidates], and how many candidates each stands for.
    """
    rng = np.random.default_rng(seed)
    known: dict[int, ItemTables] = {}
    for number, each in enumerate(questions):
        if id(each.tables) not in known:
            known[id(each.tables)] = each.tables.with_first(first)
        tables = known[id(each.tables)]
        scene = ranking_scene(question(catalogue, pack, each.joined, Weights()), Weights(), tables, K)
        relevant = np.isin(scene.rows, catalogue.rows(each.relevant))
        progress(Progress(number + 1, len(questions)))
        if relevant.any():
            features = candidate_features(scene)
            likely = relevant | (features[:, RANK] < SURE) | (features[:, COUNT] > 0)
            kept = likely | (rng.random(len(relevant)) < OF_THE_REST)
            yield features[kept], relevant[kept], np.where(likely, 1.0, 1 / OF_THE_REST)[kept].astype(np.float32)


@dataclass(frozen=True)
class Slice:
    """Training requests and the events they may see: split=train is what the tables know."""

    past: int  # slices of the same past have the same tables
    events: list[Interaction]
    requests: list[Request]
    mode: Mode


def _leaves_out(data: Dataset) -> bool:
    return "leave-one-out" in (data.meta.protocol or "") or "order" in (data.meta.time or "")


def _left_out(train: Sequence[Interaction], requests: int, rng: np.random.Generator) -> list[Slice]:
    """Return the last choices of some users, for whom everything else is the past."""
    of_user: dict[str, list[Interaction]] = defaultdict(list)
    for event in train:
        of_user[event.user_id].append(event)
    lasts = [events[-1] for events in of_user.values() if len(events) > 1]
    share = min(MOST_LEFT_OUT, requests / max(len(lasts), 1))
    held = {event.event_id for event in lasts if rng.random() < share}
    events = [replace(event, split="valid") if event.event_id in held else event for event in train]
    return [Slice(0, events, [_request(event) for event in events if event.split == "valid"], "static")]


def _after_cuts(train: Sequence[Interaction], requests: int, rng: np.random.Generator) -> list[Slice]:
    """Return choices between cuts of time, seen with the state of their moment and with the state at the cut."""
    times = [train[int(len(train) * cut)].event_time for cut in CUTS] if train else []
    spans = list(zip(times, [*times[1:], train[-1].event_time + 1], strict=True)) if train else []
    plans: list[tuple[int, int, Mode, list[Request]]] = []
    for start, end in spans:
        fresh = list(_possible(train, start, end, rng))
        plans += [(start, end, "streaming", fresh), (start, end, "static", fresh)]
    total = sum(len(possible) * (1 if mode == "streaming" else STALE_SHARE) for _, _, mode, possible in plans)
    share = min(1.0, requests / max(total, 1))
    slices = []
    for start, end, mode, possible in plans:
        drawn = [each for each in possible if rng.random() < share * (1 if mode == "streaming" else STALE_SHARE)]
        events = [
            event if event.event_time < start else replace(event, split="valid")
            for event in train
            if event.event_time < end
        ]
        slices.append(Slice(start, events, drawn, mode))
    return slices


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
                yield _request(event)


def _request(event: Interaction) -> Request:
    return Request(
        request_id=event.event_id,
        user_id=event.user_id,
        event_time=event.event_time,
        split="valid",
        session_id=event.session_id,
        relevant=(event.item_id,),
        label_event_id=event.event_id,
    )
