"""``tablecast bench ablations``: what each family of the ranker's features is worth."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from ops.errors import explained
from ops.train_command import bars

if TYPE_CHECKING:
    from ops.bench.ablations import Ablation

SHOWN = ("acc@1", "acc@10", "mrr")


def ablations(
    directory: Annotated[Path, typer.Argument(help="A neutral dataset directory (items, interactions, requests).")],
    *,
    settings: Annotated[Path | None, typer.Option(help="A TOML file, as for `tablecast train`.")] = None,
    split: Annotated[Literal["valid", "test"], typer.Option(help="Whose requests are measured.")] = "valid",
    model: Annotated[str, typer.Option(help="Whose language model reads the items, as in `evaluate`.")] = "base",
    seed: Annotated[int, typer.Option(min=0, help="Of all chance.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Fit the ranker's trees with all families of features and without each, and measure both modes.

    Lists of candidates are made once. What is lost without a family is shown with half of its 95% interval, request by
    request. Takes some minutes, and one more for each family.

    Example: tablecast bench ablations data/fsq-nyc
    """
    from models.artefact import load_recommender
    from models.base_model import cache_folder
    from models.dataset import read_dataset
    from models.embedding_cache import EmbeddingCache
    from models.evaluation import fill_catalogue
    from models.model_training import TrainingSettings, read_settings
    from ops.bench.ablations import ablate
    from schemas.domains import pack_for
    from streams.logs import configure_logs

    with explained(), bars() as tell:
        configure_logs("ablations", "warning")
        data = read_dataset(directory)
        pack = pack_for(data.meta.domain)
        chosen = (read_settings(settings) if settings else TrainingSettings()).ranker
        encoder, recommender = load_recommender(model)
        fill_catalogue(recommender.catalogue, data, pack, encoder, EmbeddingCache(cache_folder() / "embeddings.sqlite"))
        results = list(ablate(data, pack, recommender.catalogue, chosen, split=split, seed=seed, progress=tell))
    if as_json:
        typer.echo(json.dumps([result._asdict() for result in results]))
        return
    table = Table("hidden", "mode", *SHOWN, "new acc@10", title=f"{directory.resolve().name}, {split}, seed {seed}")
    for result in results:
        new = result.figures.get("new_acc@10")
        cells = [_cell(result, name) for name in SHOWN]
        table.add_row(result.hidden or "nothing", result.mode, *cells, "" if new is None else f"{new:.4f}")
    Console().print(table)


def _cell(result: "Ablation", name: str) -> str:
    """Return a figure, or how far a family's absence moves it, with half of the 95% interval."""
    if result.hidden is None:
        return f"{result.figures[name]:.4f}"
    return f"{result.gains[f'gain_{name}']:+.4f} ±{result.gains[f'gain_{name}_95']:.4f}"
