"""What each family of the ranker's features is worth: the same lists, trees fitted anew with the family hidden."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from models.catalogue import Catalogue
from models.dataset import Dataset, Request
from models.evaluation import Mode, figures_of, joined_requests
from models.features import FAMILY, candidate_features
from models.metrics import paired_gains
from models.model_training import RankerSettings
from models.ranker import Ranker, fit_trees, hidden
from models.ranker_training import Progress, training_material
from models.ranking import Weights, best_first, question, ranking_scene
from schemas.domains import DomainPack

MODES: tuple[Mode, ...] = get_args(Mode)
FAMILIES = tuple(dict.fromkeys(FAMILY.values()))


class Ablation(NamedTuple):
    """What one mode comes to with a family hidden, None for all of them seen."""

    hidden: str | None
    mode: Mode
    figures: dict[str, float]
    gains: dict[str, float]  # over all of them seen, as ``paired_gains`` has it; negative where the family is missed


class Asked(NamedTuple):
    """A request to be measured, with its candidates."""

    request: Request
    rows: NDArray[np.int64]
    features: NDArray[np.float32]


def ablate(
    data: Dataset,
    pack: DomainPack,
    catalogue: Catalogue,
    settings: RankerSettings,
    *,
    split: str,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> Iterator[Ablation]:
    """Yield the figures of all families together, then without each, in both modes.

    Candidates, tables and what is known of returning and first choices stay as they are: only the trees, and what is
    added to them, do not see the family.

    Raises:
        BadInputError: there is too little to learn from.
        ValueError: the split has no requests.

    """

    def advance(done: Progress) -> None:
        progress("the ranker's training requests", done.done, done.of)

    material = training_material(
        data,
        pack,
        catalogue,
        requests=settings.requests,
        lists=settings.lists,
        dimensions=settings.dimensions,
        seed=seed,
        sequence=settings.sequence_for(pack),
        progress=advance,
    )
    asked: dict[Mode, list[Asked]] = {}
    for mode in MODES:
        asked[mode] = []
        for request, joined in joined_requests(data, pack, mode, split):
            asking = question(catalogue, pack, joined, Weights())
            scene = ranking_scene(asking, Weights(), material.tables, joined.request.k)
            asked[mode].append(Asked(request, scene.rows, candidate_features(scene)))
    whole: dict[Mode, list[list[str]]] = {}
    for number, family in enumerate((None, *FAMILIES)):
        progress("trees", number, 1 + len(FAMILIES))
        families = [family] if family else []
        trees = fit_trees(
            material.groups.hiding(families),
            rounds=settings.rounds,
            leaves=settings.leaves,
            learning_rate=settings.learning_rate,
            seed=seed,
        )
        ranker = Ranker(trees, material.tables)
        for mode in MODES:
            ranked = [_list(catalogue, ranker, each, families) for each in asked[mode]]
            requests = [each.request for each in asked[mode]]
            gains = {}
            if family:
                gains = paired_gains(ranked, whole[mode], [request.relevant for request in requests])
            else:
                whole[mode] = ranked
            yield Ablation(family, mode, figures_of(data, mode, split, requests, ranked), gains)


def _list(catalogue: Catalogue, ranker: Ranker, asked: Asked, families: Sequence[str]) -> list[str]:
    scores = np.round(ranker.scores(hidden(asked.features, families)), 6)
    return [catalogue.item_ids[row] for row in asked.rows[best_first(catalogue, asked.rows, scores)].tolist()]
