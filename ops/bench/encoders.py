"""What a student costs and gains: speed and quality of several encoders side by side, in one run.

    python -m ops.bench.encoders work/encoders --dataset data/reviews --dataset data/dialogues

The encoders are the packaged base model in float32 and int8, and the shipped student, whose teacher reads the items.
Speeds are texts per second of processor time of one core, which other processes disturb less than the clock; variants
take turns. Quality is measured on neutral dataset directories and on the simulated city, by cosines alone and by the
whole score. models/DISTILLATION.md has the figures.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer

from models import dataset
from models.base_model import PACKAGED, cache_folder, load_base
from models.dataset import Dataset, Meta, read_dataset
from models.distillation import agreement
from models.embedding_cache import EmbeddingCache
from models.encoder import Encoder
from models.evaluation import evaluate, fill_catalogue, joined_requests, lister_of
from models.export import export_encoder, load_default_encoder, load_shipped_encoder
from models.metrics import summarise
from models.recommender import Recommender, request_text
from ops.errors import explained
from ops.simulator.city import DOMAIN
from ops.simulator.dataset import neutral_item
from ops.simulator.events import events
from ops.simulator.world import build_world, moment_of
from schemas.domains import DomainPack, pack_for
from schemas.records import Request
from streams.logs import configure_logs

SHAPES = ((16, 1), (32, 1), (32, 8), (32, 32))  # tokens, texts in a run
ROUNDS = 7
_TEXTS_PER_ROUND = 96
_CITY_REQUESTS, _CITY_START_MS, _CITY_RATE = 400, 1_788_220_800_000, 1 / 60
_METRICS = ("n", "ndcg@10", "precision@10", "r_precision", "mrr")


def main(
    work: Annotated[Path, typer.Argument(help="A folder for the float32 encoder.")],
    *,
    datasets: Annotated[
        list[Path] | None, typer.Option("--dataset", help="A neutral dataset directory with texts.")
    ] = None,
) -> None:
    """Measure all encoders and print JSON."""
    with explained():
        configure_logs("encoders", "warning")
        encoders = _encoders(work)
        cache = EmbeddingCache(cache_folder() / "embeddings.sqlite")
        sets = {"simulated city": city_dataset()} | {path.name: read_dataset(path) for path in datasets or []}
        report = {
            "texts per second and core": speeds(encoders),
            "cosine to float32, mean of the requests": {
                name: _closeness(data, encoders) for name, data in sets.items()
            },
            "quality": {name: _quality(data, encoders, cache) for name, data in sets.items()},
        }
        typer.echo(json.dumps(report, indent=2))


def _encoders(work: Path) -> dict[str, Encoder]:
    whole = work / "base-fp32"
    if not whole.is_dir():
        export_encoder(load_base(PACKAGED), whole, "fp32")
    return {
        "base, float32": Encoder.load(whole, threads=1),
        "base, int8": load_default_encoder(threads=1),
        "student, int8": load_shipped_encoder(threads=1),
    }


def speeds(encoders: dict[str, Encoder]) -> dict[str, dict[str, float]]:
    """Return the median of the rounds: texts per second of processor time, by encoder and shape."""
    rng = np.random.default_rng(0)
    taken: dict[tuple[str, int, int], list[float]] = {}
    for _ in range(ROUNDS):
        for length, batch in SHAPES:
            tokens = [rng.integers(10, 50_000, length) for _ in range(_TEXTS_PER_ROUND)]
            for name, encoder in encoders.items():
                started = time.process_time()
                for start in range(0, _TEXTS_PER_ROUND, batch):
                    encoder.encode(tokens[start : start + batch])
                rate = _TEXTS_PER_ROUND / (time.process_time() - started)
                taken.setdefault((name, length, batch), []).append(rate)
    return {
        name: {
            f"L{length} B{batch}": round(statistics.median(taken[name, length, batch]), 1) for length, batch in SHAPES
        }
        for name in encoders
    }


def city_dataset() -> Dataset:
    """Return the simulated city's restaurants, and requests that name a cuisine or an attribute.

    Right are all restaurants of the wished cuisine that have every attribute wished for, said or not.
    """
    world = build_world()
    city = world.city
    items = [
        msgspec.structs.replace(neutral_item(item_id, item), hours=None)  # what is right does not look at them
        for item_id, item in city.items.items()
    ]
    requests: list[dataset.Request] = []
    for event in events(world, _CITY_START_MS, _CITY_RATE):
        if len(requests) == _CITY_REQUESTS:
            break
        if not isinstance(event.record, Request) or not event.record.text:
            continue
        moment = moment_of(world, event.record.request_id)
        fits = city.has[:, list(moment.attributes)].all(axis=1)
        if moment.cuisine is not None:
            fits &= city.cuisine == moment.cuisine
        if (moment.cuisine is None and not moment.attributes) or not fits.any():
            continue
        requests.append(
            dataset.Request(
                request_id=event.record.request_id,
                user_id=event.key,
                event_time=event.time_ms,
                split="valid",
                text=event.record.text,
                relevant=tuple(city.ids[row] for row in np.flatnonzero(fits)),
            )
        )
    return Dataset(meta=Meta(domain=DOMAIN), items=items, interactions=[], requests=requests)


def _quality(data: Dataset, encoders: dict[str, Encoder], cache: EmbeddingCache) -> dict[str, dict[str, object]]:
    pack = pack_for(data.meta.domain)
    found: dict[str, dict[str, object]] = {}
    for name, encoder in encoders.items():
        recommender = Recommender(encoder.dim, name)
        fill_catalogue(recommender.catalogue, data, pack, encoder, cache)
        whole = evaluate(data, pack, "static", "valid", lister_of(encoder, recommender))
        alone = _cosines_alone(data, pack, encoder, recommender)
        found[name] = {
            part: {metric: figures[metric] for metric in _METRICS if metric in figures}
            for part, figures in (("whole score", whole), ("cosines alone", alone))
        }
    return found


def _cosines_alone(data: Dataset, pack: DomainPack, encoder: Encoder, recommender: Recommender) -> dict[str, float]:
    ids = recommender.catalogue.item_ids
    ranked, relevant = [], []
    for request, joined in joined_requests(data, pack, "static", "valid"):
        vector = encoder.encode(encoder.tokenize([request_text(joined)], "query"))
        (cosines,) = recommender.catalogue.cosines(vector)
        ranked.append([ids[row] for row in np.argsort(-cosines, kind="stable")])
        relevant.append(request.relevant)
    return summarise(ranked, relevant)


def _closeness(data: Dataset, encoders: dict[str, Encoder]) -> dict[str, dict[str, float]]:
    texts = list(dict.fromkeys(request.text for request in data.requests if request.text))
    vectors = {name: encoder.encode(encoder.tokenize(texts, "query")) for name, encoder in encoders.items()}
    reference = vectors["base, float32"]
    return {name: agreement(rows, reference)._asdict() for name, rows in vectors.items()}


if __name__ == "__main__":
    typer.run(main)
