"""What the training and exporting phases do with what was read; no Kafka in here, so threads and tests may call it."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from models import retraining
from models.artefact import ModelManifest
from models.feedback_training import Correction
from schemas.records import Item
from streams.trainer.plan import Run
from streams.trainer.reading import Examples


def train(folder: Path, champion: Path, examples: Examples, items: Mapping[str, Item], run: Run) -> None:
    """Write what the run's examples teach the champion into ``folder``.

    Raises:
        ArtefactError: the champion is not a model.
        NothingToLearnError: no list has anything to choose between.

    """
    loaded = retraining.load_champion(champion, items)
    try:
        retraining.train(
            folder, loaded, examples.new, examples.replayed, Correction(seed=run.seed), erased=examples.erased
        )
    finally:
        loaded.encoder.close()


def export(folder: Path, trained: Path, champion: Path, name: str, run: Run) -> ModelManifest:
    """Make a model in ``folder`` of what ``train`` wrote; its manifest names the run. One that is there is returned."""
    report = retraining.read_report(trained)
    assert report is not None
    training = {"range": run.name, "run": msgspec.to_builtins(run, str_keys=True), **msgspec.to_builtins(report)}
    return retraining.export(folder, trained, champion, name=name, training=training, metrics=report.metrics)
