"""``tablecast bench off-policy | canary``: whether the statistics of the learning loop keep what they promise."""

import json
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer
from rich.table import Table

from ops.errors import explained
from ops.progress import progress_bar
from ops.terminal import Terminal

Repetitions = Annotated[int, typer.Option(min=1, max=10_000, help="Repetitions.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]


class Method(StrEnum):
    """Ways to explore."""

    SOFTMAX = "softmax"
    EPSILON = "epsilon"


class CandidateName(StrEnum):
    """How much the candidate differs from the policy that was logged."""

    LIKE = "like"
    BETTER = "better"
    OTHER = "other"


def off_policy(
    *,
    repetitions: Repetitions = 100,
    lists: Annotated[int, typer.Option(min=100, help="Logged lists of each repetition.")] = 1_000,
    candidate: Annotated[CandidateName, typer.Option(help="How far from what was logged.")] = CandidateName.BETTER,
    method: Annotated[Method, typer.Option(help="How the logging policy explores.")] = Method.SOFTMAX,
    temperature: Annotated[float, typer.Option(min=0.01, help="Of softmax.")] = 0.3,
    epsilon: Annotated[float, typer.Option(min=0, max=1, help="Of epsilon.")] = 0.5,
    top: Annotated[int, typer.Option(min=10, max=1000, help="How many items take part.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulated city.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Count how often the interval of an off-policy estimate holds the true click rate. Needs no broker.

    Example: tablecast bench off-policy --repetitions 100
    """
    from models.exploration import Exploration
    from ops.bench.off_policy import CANDIDATES, measure_coverage, population
    from ops.simulator.world import build_world

    requests = min(lists, 1_000)
    with explained(), progress_bar() as bar:
        policy = Exploration(method.value, top=top, epsilon=epsilon, temperature=temperature)
        task = bar.add_task("requests", total=requests)
        people = population(build_world(seed), requests, top, CANDIDATES[candidate], lambda: bar.advance(task))
        task = bar.add_task("repetitions", total=repetitions)
        results = measure_coverage(people, policy, lists, repetitions, lambda: bar.advance(task))
    if as_json:
        typer.echo(json.dumps([result.figures() for result in results]))
        return
    table = Table(title=f"clicks per list of a candidate that is {candidate.value}, from {lists:,} lists")
    for name in results[0].figures():
        table.add_column(name.replace("_", " "))
    for result in results:
        table.add_row(*("" if value is None else str(value) for value in result.figures().values()))
    Terminal().print(table)


def canary(
    *,
    repetitions: Repetitions = 100,
    share: Annotated[float, typer.Option(min=0.01, max=0.9, help="Of users who get the canary.")] = 0.1,
    click_rate: Annotated[float, typer.Option(min=0.001, max=0.75, help="Share of the champion's lists.")] = 0.1,
    users: Annotated[int, typer.Option(min=100, help="Of a canary, at most.")] = 5_000,
    as_json: AsJson = False,
) -> None:
    """Count false alarms over healthy canaries, and users until a bad one is rolled back. Needs no broker.

    Each kind of canary lives so many times. `healthy, never promoted` stays to the end: all its alarms are false.

    Example: tablecast bench canary --repetitions 100 --share 0.1
    """
    from ops.bench.canary import CANARIES, figures, measure_canaries

    results = {}
    with explained(), progress_bar() as bar:
        for kind in CANARIES:
            for promote in (False, True) if kind.name == "healthy" else (True,):
                name = kind.name if promote else f"{kind.name}, never promoted"
                task = bar.add_task(name, total=repetitions)
                lives = measure_canaries(
                    kind, share, click_rate, users, repetitions, promote=promote, progress=partial(bar.advance, task)
                )
                results[name] = figures(lives)
    if as_json:
        typer.echo(json.dumps(results))
        return
    table = Table(title=f"{repetitions} canaries of each kind, {share:.0%} of users, at most {users:,} of them")
    for name in ("canary", "rolled back", "promoted", "undecided", "users until rolled back: half", "nine of ten"):
        table.add_column(name)
    for name, result in results.items():
        caught = result["users_until_rolled_back"]
        quantiles = [str(count) for count in caught.values()] if isinstance(caught, dict) else ["", ""]
        table.add_row(name, *(str(result[end]) for end in ("roll_back", "promote", "continue")), *quantiles)
    Terminal().print(table)
