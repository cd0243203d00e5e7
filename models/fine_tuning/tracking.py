"""Where the figures of a run go: always to ``metrics.jsonl``, to TensorBoard and Weights & Biases where they are.

``tensorboard --logdir FOLDER`` shows the runs below a folder.
"""

import importlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .settings import FineTuningError

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"

Record = Callable[[int, Mapping[str, float]], None]


@contextmanager
def tracked(folder: Path, *, done: int = 0, wandb_project: str | None = None) -> Iterator[Record]:
    """Yield a function that records figures at a step. What was recorded after step ``done`` is forgotten first.

    Raises:
        FineTuningError: a project of Weights & Biases is named, but the package is not installed.

    """
    with ExitStack() as stack:
        records = [stack.enter_context(_lines(folder / METRICS, done))]
        if importlib.util.find_spec("tensorboard"):
            records.append(stack.enter_context(_tensorboard(folder / TENSORBOARD, done)))
        if wandb_project is not None:
            records.append(stack.enter_context(_wandb(folder, wandb_project)))

        def record(step: int, figures: Mapping[str, float]) -> None:
            for one in records:
                one(step, figures)

        yield record


@contextmanager
def _lines(path: Path, done: int) -> Iterator[Record]:
    before = path.read_text(encoding="utf-8").splitlines(keepends=True) if done and path.exists() else []
    # A line that a crash cut short was written after the last checkpoint.
    kept = [line for line in before if line.endswith("}\n") and json.loads(line)["step"] <= done]
    with path.open("w", encoding="utf-8") as file:
        file.writelines(kept)

        def record(step: int, figures: Mapping[str, float]) -> None:
            file.write(json.dumps({"step": step, **figures}) + "\n")
            file.flush()

        yield record


@contextmanager
def _tensorboard(folder: Path, done: int) -> Iterator[Record]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=done + 1) as writer:

        def record(step: int, figures: Mapping[str, float]) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, step)

        yield record


@contextmanager
def _wandb(folder: Path, project: str) -> Iterator[Record]:
    try:
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise FineTuningError(
            "fine-tuning: Weights & Biases is not installed: run `pip install wandb` or name no project"
        ) from error
    with wandb.init(project=project, dir=folder, name=folder.name) as run:
        yield lambda step, figures: run.log(dict(figures), step=step)
