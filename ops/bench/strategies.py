"""Fine-tuning strategies side by side: the same pairs in the same order for each, and a process for each."""

import multiprocessing
import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec

from models.fine_tuning.pairs import TrainingData
from models.fine_tuning.settings import Settings, Strategy
from schemas.errors import ExplainedError

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


class Measured(NamedTuple):
    """What a strategy came to."""

    strategy: Strategy
    mrr_before: float | None  # of the requests held back, ranked by cosine alone
    mrr_after: float | None
    trained_parameters: int
    steps: int
    seconds: float
    peak_memory_mb: int  # most memory the process held, model, optimiser and torch itself included


def compare(
    base: str, data: TrainingData, settings: Settings, progress: Callable[[str, int, int], None]
) -> Iterator[Measured]:
    """Yield what every strategy comes to with the same settings but its own learning rate.

    Raises:
        ExplainedError: one of them failed; its process has said why.

    """
    spawn = multiprocessing.get_context("spawn")  # a forked process would start with the memory of this one
    for strategy in STRATEGIES:
        chosen = msgspec.structs.replace(settings, strategy=strategy, learning_rate=None)
        receiver, sender = spawn.Pipe(duplex=False)
        process = spawn.Process(target=_measure, args=(sender, base, data, chosen))
        process.start()
        sender.close()  # what is left open is the child's end, so that its death ends the wait
        try:
            while not isinstance(said := receiver.recv(), Measured):
                progress(strategy, *said)
        except EOFError as error:
            raise ExplainedError(f"fine-tuning by {strategy} failed") from error
        finally:
            process.join()
        yield said


def _measure(sender: Any, base: str, data: TrainingData, settings: Settings) -> None:
    from models.fine_tuning.training import fine_tune

    with tempfile.TemporaryDirectory(prefix="tablecast-strategies-") as folder:
        result = fine_tune(
            base, data, Path(folder) / "run", settings, progress=lambda done, of: sender.send((done, of))
        )
    sender.send(
        Measured(
            settings.strategy,
            result.mrr_before,
            result.mrr_after,
            result.trained_parameters,
            result.steps,
            result.seconds,
            round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),  # KiB on Linux
        )
    )
