"""``tablecast train``: learn a ranker from a neutral dataset directory."""

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from models.dataset import check_new, read_dataset
from ops.errors import explained
from ops.progress import progress_bar
from schemas.domains import pack_for
from streams.logs import configure_logs
from streams.settings import load_settings


def train(
    directory: Annotated[Path, typer.Argument(help="A neutral dataset directory (items, interactions, requests).")],
    *,
    out: Annotated[Path, typer.Option(help="A new folder for the model: the base encoder with the trained ranker.")],
    requests: Annotated[int, typer.Option(min=1, help="About how many training requests are made.")] = 6000,
    rounds: Annotated[int, typer.Option(min=1, help="Trees.")] = 200,
    leaves: Annotated[int, typer.Option(min=2, help="Leaves of a tree.")] = 24,
    learning_rate: Annotated[float, typer.Option(min=1e-4, max=1, help="Of the trees.")] = 0.05,
    dimensions: Annotated[int, typer.Option(min=0, help="Of the item factors.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and data make the same ranker.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was trained as JSON.")] = False,
) -> None:
    """Train a ranker on the directory's split=train; no other split is looked at.

    Example: tablecast train data/fsq-nyc --out models/nyc

    Example: tablecast evaluate data/fsq-nyc --model models/nyc
    """
    from models.artefact import write_model
    from models.base_model import PACKAGED
    from models.export import default_encoder_folder, load_default_encoder
    from models.ranker_training import Progress, train_ranker

    with explained():
        configure_logs("train", "warning")
        check_new(out)
        data = read_dataset(directory)
        pack = pack_for(data.meta.domain)
        started = time.perf_counter()
        with progress_bar() as bar:
            task = bar.add_task("training requests", total=requests)

            def advance(progress: Progress) -> None:
                bar.update(task, completed=progress.done, total=progress.of)

            ranker = train_ranker(
                data,
                pack,
                requests=requests,
                rounds=rounds,
                leaves=leaves,
                learning_rate=learning_rate,
                dimensions=dimensions,
                seed=seed,
                progress=advance,
            )
        load_default_encoder().close()  # exported, if it was not yet
        with tempfile.TemporaryDirectory(prefix="tablecast-train-") as folder:
            ranker.save(Path(folder))
            manifest = write_model(
                out,
                name=load_settings().inference.model_name,
                base=PACKAGED,
                encoder=default_encoder_folder(),
                ranker=Path(folder),
                training={
                    "dataset": directory.resolve().name,
                    "requests": requests,
                    "rounds": rounds,
                    "leaves": leaves,
                    "learning_rate": learning_rate,
                    "dimensions": dimensions,
                    "seed": seed,
                },
            )
        report = {
            "model": str(out),
            "version": manifest.version,
            "trees": ranker.trees.num_trees(),
            "items": len(ranker.tables.item_row),
            "megabytes": round(sum(file.size for file in manifest.files.values()) / 1e6, 2),
            "seconds": round(time.perf_counter() - started, 1),
        }
    if as_json:
        typer.echo(json.dumps(report))
    else:
        Console().print(
            f"{out}: {report['trees']} trees over {report['items']:,} items, {report['megabytes']} MB, "
            f"in {report['seconds']} s"
        )
