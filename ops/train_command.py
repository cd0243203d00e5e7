"""``tablecast train``: the whole model from a neutral dataset directory by one command."""

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from models.dataset import check_new, read_dataset
from ops.errors import explained
from ops.progress import progress_bar
from ops.terminal import Terminal
from schemas.domains import pack_for
from schemas.errors import BadInputError
from streams.kafka import partition_of
from streams.logs import configure_logs
from streams.settings import load_settings

if TYPE_CHECKING:
    from rich.progress import TaskID

    from models.model_training import TrainingSettings

Strategy = Literal["full", "top", "lora", "adalora", "ia3", "prefix"]
Part = Literal["encoder", "ranker"]


def train(
    directory: Annotated[Path, typer.Argument(help="A neutral dataset directory (items, interactions, requests).")],
    *,
    out: Annotated[Path, typer.Option(help="A new folder for the model.")],
    settings: Annotated[Path | None, typer.Option(help="A TOML file, see models/FINE_TUNING.md.")] = None,
    strategy: Annotated[
        Strategy | None, typer.Option(help="What of the language model is trained; lora unless settings say otherwise.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The language model: a Hugging Face name, a folder, or a model made by this.")
    ] = None,
    only: Annotated[Part | None, typer.Option(help="Train this part alone.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed and data make the same model.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML page about the model there.")] = None,
    wandb: Annotated[str | None, typer.Option(help="A project of Weights & Biases to send the curves to.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was trained as JSON.")] = False,
) -> None:
    """Fine-tune the language model and train the ranker on the directory's split=train; no other split is looked at.

    Where the data set has no texts, or no interactions, that part is left out. A run that was cut off goes on when it
    is started again. Where TensorBoard is installed, its curves lie beside OUT while it runs, in .OUT.*/fine_tuning.

    Example: tablecast train data/city --out models/city --report city.html

    Example: tablecast train data/fsq-nyc --out models/nyc --only ranker
    """
    with explained():
        configure_logs("train", "warning")
        check_new(out)
        if report is not None:
            _check_folder(report)
        data = read_dataset(directory)
        pack = pack_for(data.meta.domain)
        from models.model_training import train_model  # takes seconds, which what is wrong above need not wait for

        chosen = _chosen(settings, strategy, base, seed)
        started = time.perf_counter()
        with bars() as tell:
            trained = train_model(
                data,
                pack,
                out,
                chosen,
                name=load_settings().inference.model_name,
                command=shlex.join(["tablecast", *sys.argv[1:]]),
                parts=(only,) if only else ("encoder", "ranker"),
                wandb_project=wandb,
                tell=tell,
            )
            seconds = time.perf_counter() - started
            figures = write(out, directory, report, tell, "base") if report else None
    files = trained.manifest.files.values()
    summary = {
        "model": str(out),
        "version": trained.manifest.version,
        "left_out": dict(trained.left_out),
        **trained.manifest.metrics,
        "trained_parameters": trained.fine_tuned.trained_parameters if trained.fine_tuned else 0,
        "megabytes": round(sum(file.size for file in files) / 1e6, 2),
        "seconds": round(seconds, 1),
        **({"measured": figures} if figures else {}),
    }
    if as_json:
        typer.echo(json.dumps(summary))
        return
    terminal = Terminal()
    for part, why in trained.left_out.items():
        terminal.print(f"{part}: not trained, {why}")
    if trained.fine_tuned:
        before, after = trained.fine_tuned.mrr_before, trained.fine_tuned.mrr_after
        held = f", mrr of requests held back {before:.3f} -> {after:.3f}" if before is not None and after else ""
        terminal.print(f"encoder: {summary['trained_parameters']:,} numbers trained{held}")
    terminal.print(f"{out}: version {summary['version']}, {summary['megabytes']} MB, in {summary['seconds']} s")
    if report:
        terminal.print(f"{report}: what it is worth")


def report(
    model: Annotated[Path, typer.Argument(help="A model's folder, as `tablecast train` made it.")],
    directory: Annotated[Path, typer.Argument(help="The dataset directory to measure it on, by its split valid.")],
    *,
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    before: Annotated[str, typer.Option(help='What to compare it with: "base", "shipped" or a folder.')] = "base",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Write one HTML page about a model: before and after, for whom, how it was trained.

    Example: tablecast report models/city data/city --out city.html
    """
    with explained():
        configure_logs("report", "warning")
        _check_folder(out)
        with bars() as tell:
            figures = write(model, directory, out, tell, before)
    if as_json:
        typer.echo(json.dumps({"report": str(out), "measured": figures}))
    else:
        Terminal().print(f"{out}: what {model} is worth")


def write(
    model: Path, directory: Path, path: Path, tell: Callable[[str, int, int], None], before: str
) -> dict[str, dict[str, float]]:
    """Write the report of a model on a dataset directory and return the figures."""
    from ops.report.page import write_report

    data = read_dataset(directory)
    partitions = load_settings().kafka.partitions
    return write_report(
        model,
        data,
        pack_for(data.meta.domain),
        path,
        before=before,
        partition_of=lambda user: partition_of(user, partitions),
        tell=tell,
    )


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows how far something is, a bar for each thing."""
    with progress_bar() as progress:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=of)
            progress.update(tasks[what], completed=done, total=of)

        yield tell


def _check_folder(page: Path) -> None:
    """Raise BadInputError unless a page can lie there. Ask before work that would be in vain."""
    if page.is_dir() or not page.absolute().parent.is_dir():
        raise BadInputError(f"{page} can't be written: it is a folder, or is to lie in one that is not there")


def _chosen(file: Path | None, strategy: Strategy | None, base: str | None, seed: int | None) -> "TrainingSettings":
    """Return the settings of a file with what the options say put over them."""
    from models.model_training import TrainingSettings, read_settings

    settings = read_settings(file) if file else TrainingSettings()
    if strategy is not None:
        settings = msgspec.structs.replace(
            settings, fine_tuning=msgspec.structs.replace(settings.fine_tuning, strategy=strategy)
        )
    if base is not None:
        settings = msgspec.structs.replace(settings, base=base)
    if seed is not None:
        settings = msgspec.structs.replace(settings, seed=seed)
    return settings
