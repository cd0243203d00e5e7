"""``tablecast bench strategies``: what each way of fine-tuning costs and brings."""

import json
from typing import Annotated

import typer
from rich.table import Table

from ops.errors import explained
from ops.terminal import Terminal
from ops.train_command import bars


def strategies(
    *,
    steps: Annotated[int, typer.Option(min=10, help="Of the optimiser, for each strategy.")] = 100,
    batch: Annotated[int, typer.Option(min=2, help="Pairs in a step.")] = 16,
    users: Annotated[int, typer.Option(min=100, help="Of the simulated city.")] = 600,
    restaurants: Annotated[int, typer.Option(min=50, help="Of the simulated city.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Of city and training.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Fine-tune the packaged language model on a small simulated city by every strategy, one after the other.

    Quality is the mean reciprocal rank of requests held back, by cosine alone. Takes many minutes on a CPU.

    Example: tablecast bench strategies --steps 200
    """
    import tempfile
    from pathlib import Path

    from models.base_model import PACKAGED
    from models.dataset import read_dataset
    from models.fine_tuning.settings import Settings
    from models.training_data import training_data
    from ops.bench.strategies import compare
    from ops.simulate_command import PRINTED_START_MS
    from ops.simulator.dataset import write_city
    from ops.simulator.world import build_world
    from schemas.domains import pack_for
    from schemas.errors import BadInputError
    from streams.logs import configure_logs

    with explained(), bars() as tell:
        configure_logs("strategies", "warning")
        with tempfile.TemporaryDirectory(prefix="tablecast-city-") as folder:
            world = build_world(seed, users=users, restaurants=restaurants)
            write_city(Path(folder) / "city", world, PRINTED_START_MS, 42)
            data = read_dataset(Path(folder) / "city")
        learnt = training_data(data, pack_for(data.meta.domain), seed)
        if learnt is None:
            raise BadInputError("so small a city says too little: take more users")
        settings = Settings(
            batch_size=batch, negatives=0, max_tokens=64, most_steps=steps, epochs=1000, evaluate_every=steps, seed=seed
        )
        results = list(compare(PACKAGED, learnt, settings, tell))
    if as_json:
        typer.echo(json.dumps([result._asdict() for result in results]))
        return
    table = Table("strategy", "mrr before", "mrr after", "numbers trained", "s a step", "peak MB")
    for each in results:
        table.add_row(
            each.strategy,
            f"{each.mrr_before:.3f}",
            f"{each.mrr_after:.3f}",
            f"{each.trained_parameters:,}",
            f"{each.seconds / each.steps:.2f}",
            f"{each.peak_memory_mb:,}",
        )
    Terminal().print(table)
