"""Make the ranker that comes with Tablecast again: it learns from what people of simulated cities would choose.

    python -m ops.shipped_ranker

The starting weights answer them; the trees learn, on top of the weights, what is wrong with the order of the best
candidates. What of these is chosen is known exactly: the simulator's click probability. The ranker knows no item and no
user, and sees only what means the same in every catalogue (``SEEN``). models/SHIPPED.md says what it is worth.
"""

import shutil
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer

from models.artefact import SHIPPED_RANKER
from models.base_model import written_at_once
from models.encoder import Encoder
from models.export import load_shipped_encoder
from models.features import NAMES
from models.feedback_training import Compared, Correction, compared, fit
from models.item_tables import ItemTables
from models.ranker import NAMES_FILE, Ranker
from models.recommender import Recommender, request_text
from models.shown_lists import ShownList
from ops.errors import explained
from ops.progress import progress_bar
from ops.shipped_student import CITIES, City, embedded
from ops.simulator.chance import chance
from ops.simulator.choice import attractions
from ops.simulator.events import events, history
from ops.simulator.in_process import Asked, lived
from ops.simulator.world import DAY_MS, World, build_world
from schemas.errors import BadInputError
from schemas.records import Item, JoinedRequest, Shown
from streams.logs import configure_logs

START_MS = 1_782_000_000_000
PAST_DAYS = 7  # of visits that nobody asked about, so that people have a history
DEPTH, BEST, OTHERS = 200, 20, 20  # of a list: so many places, of which these are learned from
CORRECTION = Correction(trees=60, leaves=8, smallest_leaf=500)
# Metres, opening hours and a price beside those the user has paid are the same everywhere. What the simulated people
# make of kinds of places, of their habits and of what is popular is theirs alone: it does harm on real check-ins.
SEEN = ("metres_here", "open", "price_difference")
UNSAID = {"location": 0.1, "hours": 0.2, "price": 0.2}  # of the items: share for which each is not known


DAYS = 2  # of a request a user, in the cities that the student learns from too


def make(
    *,
    out: Annotated[Path, typer.Option(help="The folder that is written.")] = SHIPPED_RANKER,
) -> None:
    """Train the shipped ranker on simulated cities, on one core.

    Example: python -m ops.shipped_ranker --out work/ranker
    """
    with explained():
        configure_logs("ranker", "warning")
        if out.exists() and not (out / NAMES_FILE).is_file():
            raise BadInputError(f"{out} holds no ranker, and would be replaced by one: name another folder")
        encoder = load_shipped_encoder(threads=1)
        total = sum(city.users for city in CITIES) * DAYS
        groups: list[Compared] = []
        with progress_bar() as bar:
            task = bar.add_task("learning lists", total=total)
            for city in CITIES:
                for group in city_groups(city, encoder):
                    groups.append(group)
                    bar.update(task, completed=len(groups))
        encoder.close()
        ranker = Ranker(fit(groups, None, CORRECTION), ItemTables(), corrects_weights=True)
        shutil.rmtree(out, ignore_errors=True)  # else what is there already would stay
        with written_at_once(out) as draft:
            ranker.save(draft)
        typer.echo(f"{out}: {sum(file.stat().st_size for file in out.iterdir()):,} bytes from {len(groups):,} lists")


def city_groups(city: City, encoder: Encoder) -> Iterator[Compared]:
    """Yield what a city's people would choose, with the features that the ranker sees."""
    world = build_world(city.seed, users=city.users, restaurants=city.restaurants)
    items = {item_id: _patchy(world, item_id) for item_id in world.city.ids}
    recommender = filled(Recommender(encoder.dim, "starting"), encoder, items)

    def encode(texts: list[str]) -> np.ndarray:
        return encoder.encode(encoder.tokenize(texts, "query"))

    unseen = np.array([name not in SEEN for name in NAMES])
    until = START_MS + DAYS * DAY_MS
    life = chain(
        history(world, START_MS, days=PAST_DAYS),
        events(world, START_MS, city.users * 1000 / DAY_MS, until_ms=until),
    )

    def listed(joined: JoinedRequest) -> list[str]:
        text = request_text(joined)
        deep = msgspec.structs.replace(joined, request=msgspec.structs.replace(joined.request, k=DEPTH))
        return [item.item_id for item in recommender.recommend([deep], [encode([text])[0] if text else None])[0]]

    for number, asked in enumerate(lived(world, listed, life)):
        (group,) = compared(recommender, [_truth(world, asked, number)], encode, others=0)
        group.features[:, unseen] = 0.0
        yield group


def _truth(world: World, asked: Asked, number: int) -> ShownList:
    """Return the best of a list and some of the rest, as if each had been shown to so many that its worth is known."""
    rest = asked.items[BEST:]
    drawn = np.random.default_rng([world.seed, number]).choice(len(rest), min(OTHERS, len(rest)), replace=False)
    items = [*asked.items[:BEST], *(rest[place] for place in np.sort(drawn).tolist())]
    worth = attractions(world, asked.moment, items)
    shown = [
        Shown(item_id=item, position=0, propensity=1.0, label=label) for item, label in zip(items, worth, strict=True)
    ]
    return msgspec.structs.replace(asked.shown, shown=shown)


def _patchy(world: World, item_id: str) -> Item:
    """Return an item of which not everything is known: trees must not take the unknown for near, closed or cheap."""
    rng = chance(world.seed, "unsaid", item_id)
    hidden = {name: None for name, share in UNSAID.items() if rng.random() < share}
    return msgspec.structs.replace(world.city.items[item_id], **hidden)


def filled(recommender: Recommender, encoder: Encoder, items: Mapping[str, Item]) -> Recommender:
    """Return a recommender with these items put into its catalogue."""
    for (item_id, item), chunks in zip(items.items(), embedded(encoder, items.values()), strict=True):
        recommender.put([item_id], [item], [chunks])
    return recommender


if __name__ == "__main__":
    typer.run(make)
