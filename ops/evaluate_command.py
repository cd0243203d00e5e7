"""``tablecast evaluate``: measure the model on a neutral dataset directory, with or without the running stages."""

import asyncio
import json
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from models.dataset import read_dataset
from ops.errors import explained
from ops.progress import progress_bar
from ops.terminal import Terminal
from schemas.domains import pack_for
from schemas.errors import BadInputError
from streams.kafka import partition_of
from streams.logs import configure_logs
from streams.settings import load_settings

Mode = Literal["static", "streaming"]
Split = Literal["train", "valid", "test"]


def evaluate(
    directory: Annotated[Path, typer.Argument(help="A neutral dataset directory (items, interactions, requests).")],
    *,
    mode: Annotated[
        Mode, typer.Option(help="static: state of split=train; streaming: every event before the request.")
    ] = "streaming",
    split: Annotated[Split, typer.Option(help="Whose requests are measured.")] = "valid",
    through_kafka: Annotated[
        bool, typer.Option("--through-kafka", help="Post the very same records and measure what the stages answer.")
    ] = False,
    model: Annotated[
        str,
        typer.Option(help='"base" (all layers read the texts), "shipped" (what `up` serves) or a model\'s folder.'),
    ] = "base",
    against: Annotated[
        str | None,
        typer.Option(help='Also print paired tests against "counting" (the floor) or another model, as in --model.'),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Rank the catalogue for every request of a split and print how good the lists are.

    Example: tablecast evaluate data/fsq-nyc --mode streaming --split valid --json

    Example: tablecast evaluate data/fsq-nyc --model models/nyc --against counting

    Example: tablecast evaluate data/fsq-nyc --split valid --through-kafka
    """
    from models.artefact import load_recommender
    from models.base_model import cache_folder
    from models.counting import counted_list
    from models.embedding_cache import EmbeddingCache
    from models.evaluation import Lister, bare_catalogue, fill_catalogue, lister_of
    from models.evaluation import evaluate as evaluate_offline

    with explained():
        if through_kafka and mode == "static":
            raise BadInputError("--through-kafka is for --mode streaming: running stages see every event")
        if through_kafka and against is not None:
            raise BadInputError("--against needs both lists of a request; it can't be used with --through-kafka")
        settings = load_settings()
        inference = settings.inference.model_copy(update={"model": model})
        settings = settings.model_copy(update={"inference": inference})
        configure_logs("evaluate", "warning")
        data = read_dataset(directory)
        pack = pack_for(data.meta.domain)
        total = sum(request.split == split for request in data.requests)
        if not total:
            raise BadInputError(f"{directory} has no requests of split {split!r}")
        started = time.perf_counter()
        with progress_bar() as progress:
            task = progress.add_task("requests", total=total)

            def advance() -> None:
                progress.advance(task)

            if through_kafka:
                from ops.evaluate_through_kafka import evaluate_through_kafka

                figures = asyncio.run(evaluate_through_kafka(settings, data, pack, split, advance))
            else:
                cache = EmbeddingCache(cache_folder() / "embeddings.sqlite")

                def lister(model: str) -> Lister:
                    encoder, recommender = load_recommender(model)
                    fill_catalogue(recommender.catalogue, data, pack, encoder, cache)
                    return lister_of(encoder, recommender)

                other: Lister | None = None
                if against == "counting":
                    catalogue = bare_catalogue(data, pack)
                    other = partial(counted_list, catalogue, pack)
                elif against is not None:
                    other = lister(against)
                figures = evaluate_offline(
                    data,
                    pack,
                    mode,
                    split,
                    lister(settings.inference.model),
                    against=other,
                    partition_of=lambda user: partition_of(user, settings.kafka.partitions),
                    progress=advance,
                )
    figures["seconds"] = round(time.perf_counter() - started, 1)
    if as_json:
        typer.echo(json.dumps({"dataset": directory.resolve().name, "mode": mode, "split": split, **figures}))
    else:
        table = Table("metric", "value", title=f"{directory.resolve().name}, {mode}, {split}")
        for name, value in figures.items():
            table.add_row(name, f"{value:,}")
        Terminal().print(table)
