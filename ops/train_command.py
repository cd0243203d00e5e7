"""``tablecast train``: learn a ranker from a neutral dataset directory."""

import json
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


def train(
    directory: Annotated[Path, typer.Argument(help="A neutral dataset directory (items, interactions, requests).")],
    *,
    out: Annotated[Path, typer.Option(help="A new folder for the ranker.")],
    requests: Annotated[int, typer.Option(min=1, help="About how many training requests are made.")] = 6000,
    rounds: Annotated[int, typer.Option(min=1, help="Trees.")] = 200,
    leaves: Annotated[int, typer.Option(min=2, help="Leaves of a tree.")] = 24,
    learning_rate: Annotated[float, typer.Option(min=1e-4, max=1, help="Of the trees.")] = 0.05,
    dimensions: Annotated[int, typer.Option(min=0, help="Of the item factors.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and data make the same ranker.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was trained as JSON.")] = False,
) -> None:
    """Train a ranker on the directory's split=train; no other split is looked at.

    Example: tablecast train data/fsq-nyc --out rankers/nyc

    Example: tablecast evaluate data/fsq-nyc --ranker rankers/nyc
    """
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
        out.mkdir(parents=True, exist_ok=True)
        ranker.save(out)
        report = {
            "ranker": str(out),
            "trees": ranker.trees.num_trees(),
            "items": len(ranker.tables.item_row),
            "megabytes": round(sum(file.stat().st_size for file in out.iterdir()) / 1e6, 2),
            "seconds": round(time.perf_counter() - started, 1),
        }
    if as_json:
        typer.echo(json.dumps(report))
    else:
        Console().print(
            f"{out}: {report['trees']} trees over {report['items']:,} items, {report['megabytes']} MB, "
            f"in {report['seconds']} s"
        )
