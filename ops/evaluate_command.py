"""``tablecast evaluate``: measure the model on a neutral dataset directory, with or without the running stages."""

import asyncio
import json
import time
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from models.dataset import read_dataset
from ops.errors import explained
from ops.progress import progress_bar
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
    ranker: Annotated[
        Path | None, typer.Option(help="A folder that `tablecast train` wrote; without it the starting weights rank.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Rank the catalogue for every request of a split and print how good the lists are.

    Example: tablecast evaluate data/fsq-nyc --mode streaming --split valid --json

    Example: tablecast evaluate data/fsq-nyc --split valid --through-kafka
    """
    from models.base_model import cache_folder
    from models.embedding_cache import EmbeddingCache
    from models.evaluation import evaluate as evaluate_offline
    from models.export import load_default_encoder
    from models.ranker import Ranker
    from models.recommender import Recommender

    with explained():
        if through_kafka and mode == "static":
            raise BadInputError("--through-kafka is for --mode streaming: running stages see every event")
        settings = load_settings()
        if ranker is not None:
            inference = settings.inference.model_copy(update={"ranker_dir": ranker})
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
                encoder = load_default_encoder()
                folder = settings.inference.ranker_dir
                trained = Ranker.load(folder) if folder else None
                recommender = Recommender(encoder.dim, encoder.version, ranker=trained)
                figures = evaluate_offline(
                    data,
                    pack,
                    mode,
                    split,
                    encoder,
                    recommender,
                    cache=EmbeddingCache(cache_folder() / "embeddings.sqlite"),
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
        Console().print(table)
