"""Figures and picture of ``learning``: means over seeds, with intervals that say what other seeds would give."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import t as students_t

from ops.bench.learning import Day

CONFIDENCE = 0.95
RECOVERED = 0.9
Array = NDArray[np.float64]
Lives = Mapping[int, Mapping[str, Sequence[Day]]]  # seed -> arm -> days


def interval(values: Array) -> tuple[float, float]:
    """Return the mean over at least two seeds and half the width of its 95% interval (Student's t)."""
    half = students_t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def figures(lives: Lives, first_training: int, shift_after: int | None) -> dict[str, object]:
    """Return everything that is claimed, as JSON takes it."""
    clicks = {arm: _column(lives, arm, "clicks") for arm in ("frozen", "learning")}
    gain = clicks["learning"] - clicks["frozen"]
    before = slice(first_training, shift_after)  # until then both are the same model
    found: dict[str, object] = {
        "seeds": sorted(lives),
        "lists_per_day": float(_column(lives, "frozen", "requests").mean()),
        "clicks_per_list": {arm: _intervals(values) for arm, values in clicks.items()},
        "best_possible": _intervals(_column(lives, "frozen", "best")),
        "gain": _intervals(gain),
        "gain_after_last_training": interval(gain[:, (shift_after or gain.shape[1]) - 1]),
        "gain_with_the_shift": interval(gain[:, first_training:].mean(axis=1)),
        "gain_mean": interval(gain[:, before].mean(axis=1)),
        "gain_of_each_seed": gain[:, before].mean(axis=1).round(4).tolist(),
        "frozen_mean": float(clicks["frozen"][:, before].mean()),
        "trainings": {seed: [day.training for day in arms["learning"][:-1]] for seed, arms in lives.items()},
    }
    if shift_after is not None and shift_after < gain.shape[1]:
        found["shift"] = {arm: recovery(lives, arm, shift_after) for arm in clicks}
    return found


def recovery(lives: Lives, arm: str, shift_after: int) -> dict[str, object]:
    """Return how far quality, the share of what the best lists would bring, fell and how soon it was back."""
    share = _share(lives, arm)
    before, after = share[:, shift_after - 1], share[:, shift_after:]
    lost = before - after[:, 0]
    regained = (after.mean(axis=0) - after[:, 0].mean()) / lost.mean()
    lists = np.cumsum(_column(lives, arm, "requests")[:, shift_after:].mean(axis=0))
    examples = _column(lives, arm, "examples").mean(axis=0)
    since = examples[shift_after:] - examples[shift_after - 1]
    return {
        "before": interval(before),
        "first_day": interval(after[:, 0]),
        "lost": interval(lost),
        "regained_by_day": regained.round(3).tolist(),
        "lists_until_recovered": _reached(regained, lists),
        "examples_until_recovered": _reached(regained, since),
    }


def _reached(regained: Array, seen: Array) -> float | None:
    """Return how much had been seen before the first day on which enough was regained; None: on no day."""
    days = np.flatnonzero(regained >= RECOVERED)
    return float(round(seen[days[0] - 1])) if len(days) and days[0] > 0 else None


def picture(lives: Lives, shift_after: int | None, path: Path) -> None:
    """Draw clicks per list and share of the best by day, each seed and their mean, as SVG."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels: dict[str, Callable[[str], Array]] = {
        "true clicks per list": lambda arm: _column(lives, arm, "clicks"),
        "share of what the best lists would bring": lambda arm: _share(lives, arm),
    }
    for place, (label, values) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), place)
        for arm, colour in (("frozen", "#8a8a8a"), ("learning", "#1f6f8b")):
            of_seeds = values(arm)
            days = np.arange(1, of_seeds.shape[1] + 1)
            axes.plot(days, of_seeds.T, color=colour, alpha=0.4, linewidth=0.7)
            axes.plot(days, of_seeds.mean(axis=0), color=colour, marker="o", markersize=3, label=arm)
        if shift_after is not None:
            axes.axvline(shift_after + 0.5, color="#d9822b", linewidth=1, linestyle="--", label="tastes shift")
        axes.set_ylim(bottom=0)
        axes.set_xticks(days)
        axes.set_xlabel("day", fontsize=8)
        axes.set_ylabel(label, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        if place == 1:
            axes.legend(frameon=False, fontsize=7, loc="upper left")
    with mpl.rc_context({"svg.hashsalt": "tablecast", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def _share(lives: Lives, arm: str) -> Array:
    return _column(lives, arm, "clicks") / _column(lives, arm, "best")


def _column(lives: Lives, arm: str, name: str) -> Array:
    """Return one value of each day [seeds, days]."""
    return np.array([[float(getattr(day, name)) for day in lives[seed][arm]] for seed in sorted(lives)])


def _intervals(values: Array) -> list[tuple[float, float]]:
    return [interval(column) for column in values.T]
