"""The panels of the Grafana dashboard as one picture, where there is no Grafana: a Prometheus answers their queries.

For a report or an incident's page: python -m ops.dashboard_picture dashboard.png --minutes 30
"""

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import typer
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ops.errors import explained
from schemas.errors import BadInputError

DASHBOARD = Path(__file__).parent / "grafana" / "dashboards" / "tablecast.json"
GRID_COLUMNS = 24  # Grafana's
POINTS = 300
MOST_NAMED = 6  # lines of a panel whose names are written beside them
GIB, MIB = 2**30, 2**20
UNITS: Mapping[str, Callable[[float], str]] = {
    "s": lambda value: f"{value * 1000:g} ms" if 0 < value < 1 else f"{value:g} s",
    "bytes": lambda value: f"{value / GIB:.1f} GiB" if value >= GIB else f"{value / MIB:.0f} MiB",
    "percentunit": lambda value: f"{value:.0%}",
    "ops": lambda value: f"{value:g}/s",
    "short": lambda value: f"{value:g}",
}
STYLE: dict[Any, Any] = {
    "figure.facecolor": "#181b1f",
    "axes.facecolor": "#181b1f",
    "axes.edgecolor": "#44474d",
    "axes.grid": True,
    "grid.color": "#2c2f35",
    "text.color": "#ccccdc",
    "xtick.color": "#9a9aa8",
    "ytick.color": "#9a9aa8",
    "font.size": 7,
    "axes.titlesize": 8,
}


def draw(
    picture: Annotated[Path, typer.Argument(help="PNG or SVG file to write.")],
    *,
    minutes: Annotated[float, typer.Option(min=0.1, help="Up to now.")] = 30,
    prometheus: Annotated[str, typer.Option(help="Address of Prometheus.")] = "http://127.0.0.1:9090",
) -> None:
    """Draw the dashboard's panels over the last minutes."""
    with explained():
        panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
        end = time.time()
        span = end - minutes * 60, end
        rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
        with plt.rc_context(STYLE):
            figure = plt.figure(figsize=(16, rows * 0.27))
            for panel in panels:
                place = panel["gridPos"]
                left, top = place["x"] / GRID_COLUMNS, 1 - place["y"] / rows
                if panel["type"] == "row":
                    figure.text(0.008, top - 0.8 / rows, panel["title"], fontsize=10, weight="bold")
                    continue
                width, height = place["w"] / GRID_COLUMNS, place["h"] / rows
                axes = figure.add_axes((left + 0.035, top - height + 1.1 / rows, width - 0.045, height - 2.2 / rows))
                _draw_panel(axes, panel, prometheus, span)
            at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(end))
            figure.text(0.99, 1 - 0.8 / rows, f"minutes before {at}", ha="right")
            figure.savefig(picture, dpi=100)
            plt.close(figure)


def _draw_panel(axes: Axes, panel: dict[str, Any], prometheus: str, span: tuple[float, float]) -> None:
    lines = [
        (_name(target.get("legendFormat", ""), series["metric"]), series["values"])
        for target in panel["targets"]
        for series in _ask(prometheus, target["expr"], span)
    ]
    for name, values in lines:
        minutes = [(moment - span[1]) / 60 for moment, _ in values]
        axes.plot(minutes, [float(value) for _, value in values], label=name, linewidth=1)
    axes.set_title(panel["title"], loc="left")
    axes.set_xlim((span[0] - span[1]) / 60, 0)
    unit = UNITS[panel["fieldConfig"]["defaults"].get("unit", "short")]
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: unit(value)))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_ylim(bottom=0)
    if 0 < len(lines) <= MOST_NAMED:
        axes.legend(loc="upper left", frameon=False, fontsize=6, ncols=2 if len(lines) > 2 else 1)
    elif not lines:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center")


def _ask(prometheus: str, expression: str, span: tuple[float, float]) -> list[dict[str, Any]]:
    """Return the series of an expression over a span of seconds since 1970."""
    step = max(1.0, (span[1] - span[0]) / POINTS)
    query = urllib.parse.urlencode({"query": expression, "start": span[0], "end": span[1], "step": step})
    try:
        with urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{query}", timeout=30) as answer:  # noqa: S310
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    except OSError as error:
        raise BadInputError(f"no Prometheus answers on {prometheus}: {error}") from error
    return found


def _name(form: str, labels: Mapping[str, str]) -> str:
    for label, value in labels.items():
        form = form.replace("{{" + label + "}}", value)
    return form


if __name__ == "__main__":
    typer.run(draw)
