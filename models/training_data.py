"""What the language model learns from a data set: what was asked and chosen or, where nobody asked, the items' texts.

*Requests.* Each request of split=train, worded as the text encoder reads it when serving, means the text of what was
chosen; of a long text, a chunk of it.

*Texts.* Where there are fewer than ``FEWEST_REQUESTS``, a sentence of an item's text means another chunk of the same
text, or, of a short text, what remains of it without the sentence (the inverse cloze task: Lee et al., "Latent
Retrieval for Weakly Supervised Open Domain Question Answering", ACL 2019). No label is looked at, so that a data set
whose requests are kept for measuring profits too.

To know when to stop, the last tenth of the training requests, or a sentence of some items, is put aside. Splits valid
and test are never looked at.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from models import dataset
from models.chunks import chunks, item_chunks, sentences
from models.dataset import Dataset
from models.evaluation import catalogue_item, posted_request
from models.fine_tuning.pairs import Pair, Query, TrainingData, Validation
from models.join import GlobalState, join
from models.recommender import request_text
from models.texts import item_text
from models.user_state import UserState
from schemas.domains import DomainPack
from schemas.records import Source

FEWEST_REQUESTS = 200
HELD_BACK = 0.1  # of the training requests, the last ones
MOST_QUERIES = 200  # that are measured with on the way
MOST_DISTRACTORS = 200  # items ranked for them besides the right ones
MOST_ANSWERS = 4  # of a request with many, drawn anew for each request
SENTENCES_PER_ITEM = 16
SENTENCE_SIZE = 15, 300  # characters; shorter ones say nothing, longer ones are not how people ask
FEWEST_SAID = 20  # characters of an item's text, below which there is nothing to learn from

T = TypeVar("T")


class _Asked(NamedTuple):
    text: str
    relevant: list[str]


class _Saying(NamedTuple):
    text: str
    part: int  # number of the chunk it was said in


def training_data(data: Dataset, pack: DomainPack, seed: int) -> TrainingData | None:
    """Return what there is to learn from, or None where nothing was said. A function of its arguments.

    Args:
        data: a whole dataset; labels of other splits than train are not looked at.
        pack: its domain.
        seed: of what is drawn.

    """
    texts = {item.item_id: item_chunks(pack, catalogue_item(item, pack)) for item in data.items}
    texts = {item_id: parts for item_id, parts in texts.items() if any(parts)}
    asked = [each for each in _asked(data, pack) if any(item_id in texts for item_id in each.relevant)]
    generator = np.random.default_rng(seed)
    if len(asked) >= FEWEST_REQUESTS:
        return _from_requests(asked, texts, generator)
    said = {
        item.item_id: text
        for item in data.items
        if len(item.text or "") >= FEWEST_SAID and (text := item_text(pack, catalogue_item(item, pack)))
    }
    return _from_texts(said, generator)


def _asked(data: Dataset, pack: DomainPack) -> Iterator[_Asked]:
    """Yield the training requests with words, by time, as the text encoder reads them."""
    nobody = GlobalState()
    requests = [request for request in data.requests if request.split == "train" and request.text]
    for request in sorted(requests, key=lambda request: request.event_time):
        text = _read(request, pack, nobody)
        if text:
            yield _Asked(text, list(request.relevant))


def _read(request: dataset.Request, pack: DomainPack, nobody: GlobalState) -> str:
    """Return what the text encoder reads for a request. What the user did before changes nothing about it."""
    joined = join(
        UserState(),
        nobody,
        pack,
        posted_request(request, pack),
        event_time=request.event_time,
        source=Source(partition=0, offset=0),
    )
    return request_text(joined)


def _from_requests(
    asked: Sequence[_Asked], texts: Mapping[str, Sequence[str]], generator: np.random.Generator
) -> TrainingData:
    held = round(len(asked) * HELD_BACK)
    pairs = [
        Pair(each.text, item_id, _one(texts[item_id], generator))
        for each in asked[:-held]
        for item_id in _some([item_id for item_id in each.relevant if item_id in texts], MOST_ANSWERS, generator)
    ]
    queries = [Query(each.text, each.relevant) for each in _some(asked[-held:], MOST_QUERIES, generator)]
    beginnings = {item_id: parts[0] for item_id, parts in texts.items()}
    return TrainingData(pairs, beginnings, _validation(queries, beginnings, generator))


def _from_texts(said: Mapping[str, str], generator: np.random.Generator) -> TrainingData | None:
    pairs: list[Pair] = []
    queries: list[Query] = []
    stands: dict[str, str] = {}  # for an item: one of its chunks
    measured = set(_some(list(said), MOST_QUERIES, generator))
    for item_id, text in said.items():
        parts = chunks(text)
        sayings = [
            _Saying(sentence, place)
            for place, part in enumerate(parts)
            for sentence in map(str.strip, sentences(part)[not place :])  # the very first begins with the name
            if SENTENCE_SIZE[0] <= len(sentence) <= SENTENCE_SIZE[1]
        ]
        drawn = _some(sayings, SENTENCES_PER_ITEM, generator)
        if item_id in measured and len(drawn) > 1:
            # What is measured with must not be read anywhere while training.
            held = drawn.pop()
            queries.append(Query(held.text, [item_id]))
            parts = [part.replace(held.text, " ") for part in parts]
        for saying in drawn:
            others = [part for place, part in enumerate(parts) if place != saying.part]
            rest = others or [parts[saying.part].replace(saying.text, " ")]
            pairs.append(Pair(saying.text, item_id, _one(rest, generator)))
        stands[item_id] = _one(parts, generator)
    if len(stands) < 2 or not pairs:
        return None
    return TrainingData(pairs, stands, _validation(queries, stands, generator) if queries else None)


def _validation(queries: Sequence[Query], texts: Mapping[str, str], generator: np.random.Generator) -> Validation:
    wanted = {item_id for query in queries for item_id in query.relevant}
    wanted |= set(_some(list(texts), MOST_DISTRACTORS, generator))
    return Validation(queries, {item_id: text for item_id, text in texts.items() if item_id in wanted})


def _one(of: Sequence[str], generator: np.random.Generator) -> str:
    return of[int(generator.integers(len(of)))]


def _some(of: Sequence[T], most: int, generator: np.random.Generator) -> list[T]:
    """Return at most so many, drawn evenly, in their order."""
    if len(of) <= most:
        return list(of)
    return [of[place] for place in sorted(generator.choice(len(of), most, replace=False).tolist())]
