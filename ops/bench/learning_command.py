"""``tablecast bench learning``: a model that learns from feedback beside one that does not."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ops.errors import explained
from ops.terminal import Terminal


def learning(
    folder: Annotated[Path, typer.Argument(help="Where results are kept; what is there already is not run again.")],
    *,
    seeds: Annotated[int, typer.Option(min=2, max=100, help="Cities, each with people of its own.")] = 5,
    days: Annotated[int, typer.Option(min=2, max=100, help="Each ends with a training, but for the first ones.")] = 10,
    first_training: Annotated[int, typer.Option(min=1, help="Days until then: the gate needs lists to tell.")] = 2,
    shift_after: Annotated[
        int | None,
        typer.Option(min=0, help="Days until tastes and places change; 0: from the first day on."),
    ] = None,
    requests: Annotated[int, typer.Option(min=100, help="A day.")] = 1_500,
    users: Annotated[int, typer.Option(min=10, help="Of each city.")] = 1_000,
    restaurants: Annotated[int, typer.Option(min=20, help="Of each city.")] = 300,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Let simulated people ask the shipped model and one that learns from them day by day, on a cluster.

    With --shift-after a kind of cooking falls out of fashion then, and a new district opens. Writes figures.json and
    learning.svg into the folder. Can be broken off: the next call goes on with the first seed that is not there.

    Example: tablecast bench learning build/learning --seeds 5 --shift-after 6
    """
    import asyncio

    import msgspec

    from ops.bench.learning import Day, Plan, lives
    from ops.bench.learning_figures import figures, picture
    from ops.bench.machine import machine
    from schemas.errors import BadInputError
    from streams.logs import configure_logs
    from streams.settings import load_settings

    console = Terminal(stderr=True)
    lived: dict[int, dict[str, list[Day]]] = {}
    with explained():
        configure_logs("bench", "error")
        folder.mkdir(parents=True, exist_ok=True)
        for seed in range(1, seeds + 1):
            plan = Plan(seed, days, first_training, shift_after, requests, users, restaurants)
            path = folder / f"seed-{seed}.json"
            if not path.exists():
                path.write_bytes(msgspec.json.encode((plan, asyncio.run(lives(load_settings(), plan, console.print)))))
            kept, lived[seed] = msgspec.json.decode(path.read_bytes(), type=tuple[Plan, dict[str, list[Day]]])
            if kept != plan:
                raise BadInputError(f"{path} was made with other options ({kept}): take another folder")
        shift = shift_after or None  # a world that was the later one all along has none
        found = figures(lived, first_training, shift)
        (folder / "figures.json").write_text(json.dumps({"machine": machine(), **found}, indent=1), encoding="utf-8")
        picture(lived, shift, folder / "learning.svg")
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = Table("day", "frozen", "learning", "gain", title=f"true clicks per list, {seeds} seeds, 95% intervals")
    clicks, gain = found["clicks_per_list"], found["gain"]
    assert isinstance(clicks, dict)
    assert isinstance(gain, list)
    for number, row in enumerate(zip(clicks["frozen"], clicks["learning"], gain, strict=True), 1):
        table.add_row(str(number), *(f"{mean:.3f} ± {half:.3f}" for mean, half in row))
    Terminal().print(table)
