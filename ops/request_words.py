"""Which words of a request moved the text score of the first item of its list."""

import hashlib
import heapq
from collections.abc import Callable
from pathlib import Path

from aiokafka import ConsumerRecord
from rich.text import Text

from models.artefact import WEIGHTS, load_recommender
from models.base_model import cache_folder
from models.chunks import item_chunks
from models.embedding_cache import EmbeddingCache
from models.encoder import Encoder
from models.recommender import Recommender
from models.store import ModelStore
from models.texts import query_text
from models.word_attributions import TextScore, language_model, word_attributions
from schemas.codec import DecodeError, decode, decode_key
from schemas.domains import pack_for
from schemas.errors import BadInputError, ExplainedError
from schemas.records import Context, Item, Recommendation, Request
from schemas.topics import CATALOG_ITEMS
from streams.follower import Follower
from streams.settings import Settings

MOST_COMPARED = 1000  # items, of a larger catalogue, that stand for the average one
_FULL_SHADE = 120  # of 255, of the word that moved the score most


async def catalogue_items(settings: Settings, domain: str, wanted: str) -> dict[str, Item]:
    """Return the item that is wanted and at most ``MOST_COMPARED`` others of its domain, whichever hash least."""
    items: dict[str, Item] = {}

    async def take(records: list[ConsumerRecord]) -> None:
        for record in records:
            try:
                item_id, item = decode_key(record.key), decode(Item, record.value) if record.value else None
            except DecodeError:
                continue  # inference has reported it
            items.pop(item_id, None)
            if item is not None and item.domain == domain:
                items[item_id] = item

    follower = Follower(settings.kafka, CATALOG_ITEMS, take)
    await follower.start()
    try:
        await follower.wait_until_caught_up()
    finally:
        await follower.stop()
    others = heapq.nsmallest(
        MOST_COMPARED, items.keys() - {wanted}, lambda name: hashlib.sha256(name.encode()).digest()
    )
    return {name: items[name] for name in (wanted, *others) if name in items}


def words_that_moved(
    settings: Settings,
    asked: Request,
    answer: Recommendation,
    items: dict[str, Item],
    progress: Callable[[int, int], None],
) -> TextScore:
    """Return what each of the request's words added to the text score of the list's first item.

    Args:
        settings: say where models are.
        asked: the request, which has words.
        answer: its list, not empty.
        items: the list's first item, and others to compare it with.
        progress: is told how many items are embedded that were not known yet.

    Raises:
        BadInputError: the model that answered is not at hand, or the item is gone.

    """
    top, pack = answer.items[0].item_id, pack_for(asked.domain)
    if top not in items:
        raise BadInputError(f"{top} has left the catalogue: nothing can be said of its words")
    model, encoder, recommender = _model_that_answered(settings, answer.model)
    network = language_model(encoder, Path(model) / WEIGHTS)
    cache = EmbeddingCache(cache_folder() / "embeddings.sqlite")
    chunks = {item_id: item_chunks(pack, item) for item_id, item in items.items()}
    cache.encode(encoder, [text for several in chunks.values() for text in several], progress)
    for item_id, item in items.items():
        recommender.put([item_id], [item], [cache.encode(encoder, chunks[item_id])])
    cache.close()
    encoder.close()
    text = query_text(pack, asked, asked.context or Context())
    return word_attributions(network, recommender.catalogue, text, asked.text, top, recommender.weights)


def shaded(score: TextScore) -> Text:
    """Return the words, shaded by what they added: green for more, red for less."""
    most = max((abs(word.value) for word in score.words), default=0.0) or 1.0
    text = Text()
    for word in score.words:
        shade = round(_FULL_SHADE * abs(word.value) / most)
        colour = f"rgb(0,{shade},0)" if word.value > 0 else f"rgb({shade},0,0)"
        text.append(word.text, f"white on {colour}").append(f" {word.value:+.2f}  ", "dim")
    return text


def _model_that_answered(settings: Settings, name: str) -> tuple[str, Encoder, Recommender]:
    version = name.rpartition("@")[2]
    model = settings.inference.model
    encoder, recommender = load_recommender(model)
    if recommender.version.endswith(f"@{version}"):
        return model, encoder, recommender
    encoder.close()
    try:
        model = str(ModelStore(settings.model_store).fetch(version))
    except ExplainedError as error:
        raise BadInputError(
            f"--why needs the model that answered, {name}, which is not on this machine: set "
            f"TABLECAST_INFERENCE__MODEL to its folder, or TABLECAST_MODELS__STORE to where it is kept ({error})"
        ) from error
    return model, *load_recommender(model)
