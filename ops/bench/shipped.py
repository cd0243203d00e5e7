"""What the shipped ranker is worth beside the starting weights that it corrects: true clicks and processor time.

    python -m ops.bench.shipped --seed 1 --seed 2

The people of a simulated city that the ranker has not seen ask both the same, with the same state; what a list is worth
is not counted but known: the sum of the simulator's exact click probabilities. models/SHIPPED.md has the figures.
"""

import json
import statistics
import time
from collections import defaultdict
from itertools import chain
from typing import Annotated

import msgspec
import numpy as np
import typer

from models.artefact import SHIPPED, load_recommender
from models.encoder import Encoder
from models.recommender import Recommender, request_text
from ops.errors import explained
from ops.shipped_ranker import PAST_DAYS, filled
from ops.simulator.choice import click_probabilities
from ops.simulator.events import events, history
from ops.simulator.in_process import lived
from ops.simulator.world import DAY_MS, World, build_world
from schemas.records import JoinedRequest
from streams.logs import configure_logs

START_MS = 1_788_220_800_000
TIMES = 3  # of each request and ranking the fastest counts


def main(
    *,
    seeds: Annotated[list[int], typer.Option("--seed", help="A city that the ranker has not been trained on.")],
    restaurants: Annotated[int, typer.Option(min=20)] = 2_000,
    users: Annotated[int, typer.Option(min=10)] = 3_000,
    requests: Annotated[int, typer.Option(min=10, help="About so many, over one day.")] = 700,
) -> None:
    """Measure in each city and print JSON."""
    with explained():
        configure_logs("shipped", "warning")
        encoder, shipped = load_recommender(SHIPPED, threads=1)
        report = {}
        for seed in seeds:
            world = build_world(seed, users=users, restaurants=restaurants)
            report[seed] = compare(world, requests, encoder, shipped)
        typer.echo(json.dumps(report, indent=2))


def compare(world: World, requests: int, encoder: Encoder, shipped: Recommender) -> dict[str, object]:
    """Return what the lists of both are worth, with half of the difference's 95% interval, and what they cost."""
    starting = filled(Recommender(encoder.dim, "starting"), encoder, world.city.items)
    corrected = Recommender(encoder.dim, "shipped", ranker=shipped.ranker)
    corrected.catalogue = starting.catalogue
    milliseconds: dict[str, list[float]] = defaultdict(list)
    lists: dict[str, list[str]] = {}

    def both(joined: JoinedRequest) -> list[str]:
        text = request_text(joined)
        vector = encoder.encode(encoder.tokenize([text], "query"))[0] if text else None
        for name, recommender in (("starting", starting), ("shipped", corrected)):
            lists[name] = [item.item_id for item in recommender.recommend([joined], [vector])[0]]
        told = msgspec.structs.replace(joined, request=msgspec.structs.replace(joined.request, explain=True))
        for why, asked in (("", joined), (", with reasons", told)):
            for name, recommender in (("starting", starting), ("shipped", corrected)):
                taken = []
                for _ in range(TIMES):
                    began = time.process_time()
                    recommender.recommend([asked], [vector])
                    taken.append(time.process_time() - began)
                milliseconds[name + why].append(1000 * min(taken))
        return lists["starting"]

    life = chain(
        history(world, START_MS, days=PAST_DAYS),
        events(world, START_MS, requests * 1000 / DAY_MS, until_ms=START_MS + DAY_MS),
    )
    clicks: dict[str, list[float]] = defaultdict(list)
    for asked in lived(world, both, life):
        for name, items in lists.items():
            clicks[name].append(sum(click_probabilities(world, asked.moment, items)))
    gain = np.array(clicks["shipped"]) - clicks["starting"]
    return {
        "requests": len(gain),
        "true clicks a list": {name: round(statistics.fmean(values), 4) for name, values in clicks.items()},
        "gain": [round(float(gain.mean()), 4), round(1.96 * float(gain.std(ddof=1)) / len(gain) ** 0.5, 4)],
        "median milliseconds": {name: round(statistics.median(values), 2) for name, values in milliseconds.items()},
    }


if __name__ == "__main__":
    typer.run(main)
