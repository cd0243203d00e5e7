"""The report's pictures, as SVG that stands in the page itself."""

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ops.report.measure import Measured, reliability

Points = Sequence[tuple[int, float]]

_COLOURS = ("#8a8a8a", "#d9822b", "#1f6f8b")  # before, on the way, after


def learning_curves(curve: Mapping[str, Points]) -> str:
    """Return the course of the loss, and of the reciprocal rank of held back requests where it was measured."""
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    names = {"loss": "training loss", "mrr": "mean reciprocal rank, held back"}
    shown = [name for name in names if curve.get(name)]
    for place, name in enumerate(shown, 1):
        axes = figure.add_subplot(1, len(shown), place)
        steps, values = zip(*curve[name], strict=True)
        axes.plot(steps, values, color=_COLOURS[-1], marker="o" if name == "mrr" else None, markersize=3)
        _labelled(axes, "step", names[name])
    return _svg(figure)


def calibration(measured: Mapping[str, Measured]) -> str:
    """Return how often the first item was right against how sure of it the model was."""
    figure = Figure(figsize=(4.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#c8c8c8", linewidth=1)
    for (name, each), colour in zip(measured.items(), _of(len(measured)), strict=True):
        said, was, gap = reliability(each)
        axes.plot(said, was, color=colour, marker="o", markersize=4, label=f"{name} (mean gap {gap:.3f})")
    _labelled(axes, "said: softmax of the first score", "was: share of first items that were right")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, fontsize=7, loc="upper left")
    return _svg(figure)


def _of(number: int) -> Sequence[str]:
    return _COLOURS[::2] if number == 2 else _COLOURS[-number:]


def _labelled(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _svg(figure: Figure) -> str:
    """Return the figure as an element; the same figure gives the same bytes."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "tablecast", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
