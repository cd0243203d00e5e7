"""A neutral dataset as the records that apps would have posted, and the requests joined with the state they would see.

*static*: what everybody does and each user's history come from split=train; of the evaluated splits a request sees its
own session so far. *streaming*: every event earlier than the request, whichever split it is in. The event that a
request is labelled with always comes after it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import msgspec
import numpy as np

from models import dataset
from models.catalogue import Catalogue
from models.chunks import item_chunks
from models.dataset import Dataset
from models.embedding_cache import EmbeddingCache
from models.encoder import Encoder
from models.join import GlobalState, join
from models.metrics import paired_gains, summarise
from models.recommender import Recommender, request_text
from models.user_state import UserState, already_applied, apply_feedback
from schemas import records
from schemas.domains import DomainPack
from schemas.records import Context, Feedback, FeedbackKind, Item, JoinedRequest, RecommendedItem, Request, Source
from schemas.topics import USERS_FEEDBACK

PartitionOf = Callable[[str], int]
Mode = Literal["static", "streaming"]
Lister = Callable[[JoinedRequest], list[str]]  # the ids of a ranked list, best first
# Of the lists that are measured, for requests with one right answer and with several: within the candidates, as in
# serving. What lies deeper counts as missed.
DEPTH, DEPTH_OF_SEVERAL = 100, 300


def catalogue_item(item: dataset.Item, pack: DomainPack) -> Item:
    """Return a dataset's item as an app would post it to ``catalog.items``."""
    return Item(
        domain=pack.name,
        name=item.name[:300],
        categories=[name[:200] for name in item.categories if name][:100],
        text=(item.text or "")[:40_000],
        location=item.location,
        price=item.price,
        hours=item.hours,
        attributes=_attributes(item.attributes),
    )


def posted_feedback(event: dataset.Interaction, pack: DomainPack) -> Feedback:
    """Return an interaction as an app would post it to ``users.feedback``; a kind we have no word for is a visit."""
    kind: FeedbackKind = event.kind if event.kind in get_args(FeedbackKind) else "visit"  # type: ignore[assignment]
    if kind == "rating" and event.rating is None:
        kind = "visit"
    return Feedback(
        item_id=event.item_id, domain=pack.name, kind=kind, session_id=event.session_id, rating=event.rating
    )


def posted_request(request: dataset.Request, pack: DomainPack) -> Request:
    """Return a request as an app would post it to ``users.requests``, for a list as long as it is measured."""
    return Request(
        request_id=request.request_id,
        domain=pack.name,
        text=(request.text or "")[:4_000],
        k=DEPTH if len(request.relevant) == 1 else DEPTH_OF_SEVERAL,
        context=_context(request.context),
        session_id=request.session_id,
        explain=False,
    )


def timeline(data: Dataset, split: str) -> Iterator[dataset.Interaction | dataset.Request]:
    """Yield all interactions in order of time, and each of the split's requests right before its label event.

    Requests without a label event come before whatever happens at their time: it may be what they ask for.
    """
    labelled: dict[str, list[dataset.Request]] = defaultdict(list)
    timed: list[dataset.Request] = []
    known = {event.event_id for event in data.interactions}
    for request in data.requests:
        if request.split != split:
            continue
        if request.label_event_id in known:
            labelled[str(request.label_event_id)].append(request)
        else:
            timed.append(request)
    timed.sort(key=lambda request: request.event_time, reverse=True)
    for event in data.interactions:
        while timed and timed[-1].event_time <= event.event_time:
            yield timed.pop()
        yield from labelled.get(event.event_id, ())
        yield event
    yield from reversed(timed)


def joined_requests(
    data: Dataset, pack: DomainPack, mode: Mode, split: str, partition_of: PartitionOf = lambda _: 0
) -> Iterator[tuple[dataset.Request, JoinedRequest]]:
    """Yield the split's requests with the state each may see, by the functions that the state stage uses.

    ``partition_of`` says which partition a user's records would lie in: item signals are bounded per partition, so
    that the rarest of very many followers may depend on it.
    """
    everybody = GlobalState()
    for item in data.items:
        everybody.places.put(item.item_id, pack.name, item.location)
    users: dict[str, UserState] = defaultdict(UserState)
    sessions: dict[tuple[str, str | None], UserState] = {}

    def learn(event: dataset.Interaction, offset: int) -> None:
        user, feedback = users[event.user_id], posted_feedback(event, pack)
        if already_applied(user, USERS_FEEDBACK.name, offset):
            return
        previous = apply_feedback(user, event.event_time, feedback)
        if feedback.kind not in {"impression", "dismissal"}:
            for _ in everybody.signals.apply(
                partition_of(event.user_id), offset, event.event_time, pack.name, event.item_id, previous
            ):
                pass

    if mode == "static":
        for offset, event in enumerate(data.interactions):
            if event.split == "train":
                learn(event, offset)
    for offset, entry in enumerate(timeline(data, split)):
        if isinstance(entry, dataset.Interaction):
            if mode == "streaming":
                learn(entry, offset)
            elif entry.split != "train" and entry.session_id:
                key = entry.user_id, entry.session_id
                if key not in sessions:
                    sessions[key] = _copy(users[entry.user_id])
                apply_feedback(sessions[key], entry.event_time, posted_feedback(entry, pack))
            continue
        user = sessions.get((entry.user_id, entry.session_id)) or users[entry.user_id]
        yield (
            entry,
            join(
                user,
                everybody,
                pack,
                posted_request(entry, pack),
                event_time=entry.event_time,
                source=Source(partition=0, offset=offset),
            ),
        )


def bare_catalogue(data: Dataset, pack: DomainPack) -> Catalogue:
    """Return the dataset's items without embeddings, for what does not look at texts."""
    catalogue = Catalogue(1)
    for item in data.items:
        catalogue.put(item.item_id, catalogue_item(item, pack), np.zeros((1, 1), np.float32))
    return catalogue


def fill_catalogue(
    catalogue: Catalogue, data: Dataset, pack: DomainPack, encoder: Encoder, cache: EmbeddingCache | None = None
) -> None:
    """Put the dataset's items into a catalogue; equal texts are encoded once, cached ones never."""
    items = [catalogue_item(item, pack) for item in data.items]
    texts = [item_chunks(pack, item) for item in items]
    distinct = list(dict.fromkeys(text for chunks in texts for text in chunks))
    encoded = (
        cache.encode(encoder, distinct) if cache else encoder.encode(encoder.tokenize(distinct, "passage"), "passage")
    )
    vector_of = dict(zip(distinct, encoded, strict=True))
    for entry, item, chunks in zip(data.items, items, texts, strict=True):
        catalogue.put(entry.item_id, item, np.stack([vector_of[text] for text in chunks]))


def first_choices(data: Dataset, mode: Mode, split: str) -> Iterator[str]:
    """Yield the ids of the split's requests whose user has chosen none of the right answers before, as far as seen."""
    chosen: dict[str, set[str]] = defaultdict(set)
    in_session: dict[tuple[str, str | None], set[str]] = defaultdict(set)
    if mode == "static":
        for event in data.interactions:
            if event.split == "train":
                chosen[event.user_id].add(event.item_id)
    for entry in timeline(data, split):
        session = entry.user_id, entry.session_id
        if isinstance(entry, dataset.Request):
            if not (chosen[entry.user_id] | in_session[session]) & set(entry.relevant):
                yield entry.request_id
        elif mode == "streaming":
            chosen[entry.user_id].add(entry.item_id)
        elif entry.session_id:
            in_session[session].add(entry.item_id)


def figures_of(
    data: Dataset, mode: Mode, split: str, asked: Sequence[dataset.Request], ranked: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Return the metrics of ranked lists, and where some users chose something for the first time, those of these.

    Raises:
        ValueError: there is no request.

    """
    figures = summarise(ranked, [request.relevant for request in asked])
    first = set(first_choices(data, mode, split))
    new = [number for number, request in enumerate(asked) if request.request_id in first]
    if 0 < len(new) < len(asked):
        of_new = summarise([ranked[number] for number in new], [asked[number].relevant for number in new])
        figures |= {f"new_{name}": value for name, value in of_new.items()}
    return figures


def evaluate(
    data: Dataset,
    pack: DomainPack,
    mode: Mode,
    split: str,
    lister: Lister,
    *,
    against: Lister | None = None,
    partition_of: PartitionOf = lambda _: 0,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Rank the catalogue for every request of a split and return the metrics, and what is gained over another lister.

    Raises:
        ValueError: the split has no requests.

    """
    asked, ranked, others = [], [], []
    for request, joined in joined_requests(data, pack, mode, split, partition_of):
        asked.append(request)
        ranked.append(lister(joined))
        if against is not None:
            others.append(against(joined))
        progress()
    figures = figures_of(data, mode, split, asked, ranked)
    return figures | (paired_gains(ranked, others, [request.relevant for request in asked]) if against else {})


def lister_of(encoder: Encoder, recommender: Recommender) -> Lister:
    """Return a model as what is measured: its catalogue must have been filled."""

    def ranked(joined: JoinedRequest) -> list[str]:
        text = request_text(joined)
        vector = encoder.encode(encoder.tokenize([text], "query"))[0] if text else None
        return [item.item_id for item in recommender.recommend([joined], [vector])[0]]

    return ranked


def ranked_requests(
    data: Dataset,
    pack: DomainPack,
    mode: Mode,
    split: str,
    encoder: Encoder,
    recommender: Recommender,
    *,
    cache: EmbeddingCache | None = None,
    partition_of: PartitionOf = lambda _: 0,
) -> Iterator[tuple[dataset.Request, JoinedRequest, list[RecommendedItem]]]:
    """Yield the split's requests, each with the state it saw and the list it gets."""
    fill_catalogue(recommender.catalogue, data, pack, encoder, cache)
    for request, joined in joined_requests(data, pack, mode, split, partition_of):
        text = request_text(joined)
        vector = encoder.encode(encoder.tokenize([text], "query"))[0] if text else None
        yield request, joined, recommender.recommend([joined], [vector])[0]


def _copy(state: UserState) -> UserState:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=UserState)


def _attributes(raw: dict[str, Any]) -> records.Attributes:
    """Keep the attributes that the contract can carry; datasets hold anything."""
    kept: records.Attributes = {}
    for name, value in raw.items():
        if not name:
            continue
        if isinstance(value, str):
            kept[name[:200]] = value[:4_000]
        elif isinstance(value, bool | int | float):
            kept[name[:200]] = value
        elif isinstance(value, list | tuple) and all(isinstance(entry, str) and entry for entry in value):
            kept[name[:200]] = [entry[:200] for entry in value[:100]]
    return dict(list(kept.items())[:100])


def _context(raw: dict[str, Any]) -> Context | None:
    try:
        return msgspec.convert(raw, Context) if raw else None
    except msgspec.ValidationError:
        return None
