"""The report itself: measures, draws, and fills in ``page.html``."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from models.artefact import BASE, load_recommender, read_model
from models.base_model import cache_folder
from models.dataset import Dataset
from models.embedding_cache import EmbeddingCache
from models.evaluation import PartitionOf
from models.metrics import paired_difference
from models.recommender import Recommender
from ops.report import pictures
from ops.report.measure import METRICS, Measured, interval, measure, requests_measured
from schemas.domains import DomainPack

FEWEST = 10  # requests of a group; of fewer nothing can be said


@dataclass(frozen=True, slots=True)
class Row:
    """A group of requests: every model's mean and half width of each metric, and the change from before to after."""

    name: str
    requests: int
    figures: list[list[tuple[float, float]]]  # [models][metrics]
    change: list[tuple[float, float]]  # [metrics]


def write_report(
    model: Path,
    data: Dataset,
    pack: DomainPack,
    path: Path,
    *,
    before: str | Path = BASE,
    partition_of: PartitionOf,
    tell: Callable[[str, int, int], None] = lambda _what, _done, _of: None,
) -> dict[str, dict[str, float]]:
    """Measure a model's folder beside what was before on the data's split valid, write the page, return the means.

    ``before`` is as ``load_recommender`` takes it.

    Without such requests the page has no figures of quality, and says so.

    Raises:
        ArtefactError: the folder is not a model.

    """
    manifest = read_model(model)
    split, asked = requests_measured(data)
    cache = EmbeddingCache(cache_folder() / "embeddings.sqlite")
    measured: dict[str, Measured] = {}
    for name, load in _variants(model, before).items() if asked.requests else ():
        done = 0

        def advance(name: str = name) -> None:
            nonlocal done
            done += 1
            tell(f"measuring: {name}", done, len(asked.requests))

        encoder, recommender = load()
        measured[name] = measure(
            asked, pack, split, encoder, recommender, cache=cache, partition_of=partition_of, progress=advance
        )
        encoder.close()
    training: dict[str, Any] = manifest.training
    page = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(resources.files("ops.report").joinpath("page.html").read_text(encoding="utf-8"))
    path.write_text(
        page.render(
            manifest=manifest,
            base=before == BASE,
            training=training,
            fine_tuning=training.get("fine_tuning"),
            split=split,
            requests=len(asked.requests),
            metrics=METRICS,
            models=list(measured),
            rows=_rows(list(measured.values())),
            fewest=FEWEST,
            curves=pictures.learning_curves(training["curve"]) if training.get("curve") else None,
            calibration=pictures.calibration(measured) if measured else None,
        ),
        encoding="utf-8",
    )
    return {
        name: {metric: round(float(values.mean()), 4) for metric, values in each.scores.items()}
        for name, each in measured.items()
    }


def _variants(model: Path, before: str | Path) -> dict[str, Callable[[], tuple[Any, Recommender]]]:
    """Return the models to compare, by name: before, on the way where two parts were trained, after."""

    def encoder_alone() -> tuple[Any, Recommender]:
        encoder, whole = load_recommender(model)
        return encoder, Recommender(encoder.dim, whole.version)

    training = read_model(model).training
    both = training.get("fine_tuning") and "ranker" not in training.get("left_out", {})
    variants = {"before": lambda: load_recommender(before)}
    if both:
        variants["language model fine-tuned"] = encoder_alone
    variants["after"] = lambda: load_recommender(model)
    return variants


def _rows(measured: list[Measured]) -> list[Row]:
    if not measured:
        return []
    rows = []
    before, after = measured[0], measured[-1]
    for name, members in before.groups.items():
        if members.sum() < FEWEST:
            continue
        rows.append(
            Row(
                name,
                int(members.sum()),
                [[interval(each.scores[metric][members]) for metric in METRICS] for each in measured],
                [
                    paired_difference(after.scores[metric][members], before.scores[metric][members])
                    for metric in METRICS
                ],
            )
        )
    return rows
