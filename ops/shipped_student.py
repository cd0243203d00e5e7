"""Make the student that comes with Tablecast again: distil it, let it learn from choices, write it into models/shipped.

    python -m ops.shipped_student work/student

Cut off, the same command goes on where it was; only what is learned from choices, in ten minutes, begins anew.
models/DISTILLATION.md says what comes out, and how long it takes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer

from models.base_model import cache_folder, load_base
from models.chunks import item_chunks
from models.distillation import Agreement, Settings, cut, distil
from models.embedding_cache import EmbeddingCache
from models.encoder import Encoder
from models.export import SHIPPED_STUDENT, load_default_encoder
from models.pruning import kept_layers
from models.request_tuning import Catalogued, Remembered, TuningSettings, remembers, tune
from models.student_weights import restore_student, save_student
from models.texts import query_text
from ops.errors import explained
from ops.progress import progress_bar
from ops.simulator.choice import utility
from ops.simulator.city import DOMAIN
from ops.simulator.events import events
from ops.simulator.world import build_world, moment_of
from ops.student_texts import texts
from schemas.domains import pack_for
from schemas.records import Context, Item, Request
from streams.logs import configure_logs

LAYERS, STEPS = 4, 1_200
START_MS = 1_782_000_000_000
TUNING = TuningSettings(steps=250)
# Texts that are not to be forgotten, and others, which the distillation did not learn from, to tell whether they were.
REMEMBERED, HELD_OUT = slice(1_000, 7_000), slice(400)


class City(NamedTuple):
    """A simulated city whose people's choices are learned from."""

    seed: int
    restaurants: int
    users: int


CITIES = (City(11, 300, 1_000), City(12, 600, 1_500))  # the default city is left for measuring
REQUESTS = 5_000  # with words, of each city


def make(
    work: Annotated[Path, typer.Argument(help="A folder for archives, checkpoints and the finished student.")],
    *,
    steps: Annotated[int, typer.Option(min=1, help="So many steps the student learns from its teacher.")] = STEPS,
    out: Annotated[Path, typer.Option(help="The file that is written.")] = SHIPPED_STUDENT,
) -> None:
    """Distil the shipped student from the packaged base model and let it learn from choices, on one core.

    Example: python -m ops.shipped_student work/student
    """
    with explained():
        configure_logs("student", "info")
        torch.set_num_threads(1)  # another number would round sums otherwise
        learned = texts(work / "archives")
        distilled = work / "distilled.safetensors"
        teacher = load_default_encoder(threads=1)
        with progress_bar() as bar:
            task = bar.add_task("learning from the teacher", total=steps)
            student, manifest = distil(
                load_base(),
                teacher,
                learned,
                work / "run",
                Settings(layers=LAYERS, steps=steps),
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
            save_student(student, load_base(), manifest.kept_layers, distilled)
            task = bar.add_task("learning from choices", total=TUNING.steps)
            before, after = learn_choices(
                distilled, teacher, learned, out, lambda done, total: bar.update(task, completed=done, total=total)
            )
        teacher.close()
        typer.echo(f"{out}: {out.stat().st_size:,} bytes; distilled: {before}; with choices learned: {after}")


def learn_choices(
    distilled: Path,
    teacher: Encoder,
    learned: Sequence[str],
    out: Path,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> tuple[Agreement, Agreement]:
    """Write the distilled student, gone on learning from choices; return how near to its teacher it was and is."""

    def remembered(some: Sequence[str]) -> Remembered:
        tokens = [cut(ids, Settings().max_tokens) for ids in teacher.tokenize(some, "query")]
        return Remembered(tokens, teacher.encode(tokens))

    student = restore_student(load_base(), distilled)
    held_out = remembered(learned[HELD_OUT])
    before = remembers(student, held_out)
    cities = [choices(city, teacher) for city in CITIES]
    tune(student, cities, remembered(learned[REMEMBERED]), TUNING, progress=progress)
    base = load_base()
    save_student(student, base, kept_layers(base.model.config.num_hidden_layers, LAYERS), out)
    return before, remembers(student, held_out)


def choices(city: City, teacher: Encoder) -> Catalogued:
    """Return requests of a city's people, and how likely each goes where."""
    world = build_world(city.seed, users=city.users, restaurants=city.restaurants)
    pack = pack_for(DOMAIN)
    read = [chunks.mean(axis=0) for chunks in embedded(teacher, world.city.items.values())]
    asked, chosen, context = [], [], Context()
    for event in events(world, START_MS, 1 / 60):
        if isinstance(event.record, Context):
            context = event.record
        elif isinstance(event.record, Request) and event.record.text:
            asked.append(query_text(pack, event.record, context))
            worth = utility(world, moment_of(world, event.record.request_id))
            odds = np.exp(worth - worth.max())
            chosen.append((odds / odds.sum()).astype(np.float32))
            if len(asked) == REQUESTS:
                break
    items = np.stack(read)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    return Catalogued(teacher.tokenize(asked, "query"), items.astype(np.float32), np.stack(chosen))


def embedded(encoder: Encoder, items: Iterable[Item]) -> Iterator[np.ndarray]:
    """Yield the vectors of each item's chunks [chunks, dim], those that were made before from the cache."""
    cache = EmbeddingCache(cache_folder() / "embeddings.sqlite")
    for item in items:
        yield cache.encode(encoder, item_chunks(pack_for(item.domain), item))
    cache.close()


if __name__ == "__main__":
    typer.run(make)
