"""The ranker learns from its own lists: what was chosen against what was shown beside it and not chosen.

A candidate keeps the champion's trees and adds a *correction*: a bounded number of trees, boosted on top of the whole
served score, which is the chance, the champion's trees, the text part and the wishes together, so that they learn what
that score gets wrong and nothing twice. The next candidate begins at the same base again and learns a new correction
from newer examples and a replay buffer of older ones: nothing the base knows can be forgotten, and the ranker does not
grow with every training. Scores stay sums of trees, so their Shapley values are as exact as before.

- Labels are graded by what an action is worth (LambdaMART, Burges 2010).
- What was logged with a propensity below 1 is weighed by its inverse, clipped (Swaminathan & Joachims, "Counterfactual
  risk minimization", ICML 2015).
- That higher positions are chosen more often whatever is there is a term of its own while training, and left out when
  serving (Guo et al., "PAL: a position-bias aware learning framework for CTR prediction", RecSys 2019).
- Beside what was shown stand some candidates that were not: else nothing would keep the correction from lifting what
  the base rightly left out.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.features import NAMES, candidate_features
from models.item_tables import ItemTables
from models.ranker import Ranker, log_chance, ranking_library
from models.ranking import before_trees, question
from models.recommender import Recommender, Vectors, request_text, similarities
from models.shown_lists import ShownList
from models.wishes.heed import heed
from schemas.domains import pack_for
from schemas.errors import BadInputError

if TYPE_CHECKING:
    import lightgbm

GRADES = 10  # of labels between 0 and 1
MOST_WEIGHT = 10.0  # of an item that was unlikely to be shown
UNSHOWN = 30  # candidates beside each list
POSITIONS = 100  # further ones count as the last


class NothingToLearnError(BadInputError):
    """No list of the examples has both something chosen and something left; the message says how many there were."""


@dataclass(frozen=True)
class Correction:
    """How the trees on top are fitted."""

    trees: int = 100
    leaves: int = 15
    learning_rate: float = 0.1
    smallest_leaf: int = 100  # candidates
    seed: int = 0


class Compared(NamedTuple):
    """Candidates of one list beside each other, [n] each."""

    features: NDArray[np.float32]  # [n, len(NAMES)]
    base: NDArray[np.float64]  # what the served score has besides the trees
    label: NDArray[np.float64]  # 0 to 1
    weight: NDArray[np.float64]
    position: NDArray[np.int32]


def learn_correction(
    recommender: Recommender,
    lists: Sequence[ShownList],
    encode: Callable[[list[str]], Vectors],
    correction: Correction,
    *,
    base_trees: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Ranker:
    """Return the champion's ranker with a new correction. Same arguments and processor, same trees.

    Args:
        recommender: the champion, with the catalogue that the lists are looked up in.
        lists: what was shown and chosen.
        encode: texts of requests to unit vectors [n, dim].
        correction: how it is fitted.
        base_trees: how many of the champion's first trees are kept; None: all. A champion without a ranker has none.
        progress: is told how many lists are done, and of how many.

    Raises:
        NothingToLearnError: there is no choice to learn from.

    """
    champion = recommender.ranker
    groups = [
        group
        for group in compared(recommender, [each for each in lists if each.acted], encode, progress=progress)
        if group.label.any() and not group.label.all()
    ]
    if not groups:
        raise NothingToLearnError(
            f"none of {len(lists)} lists has something chosen beside something not chosen: wait for more feedback"
        )
    # Without trees to begin at, as after a champion that had none, a correction is all there is.
    base = None if champion is None or base_trees == 0 else _first_trees(champion.trees, base_trees)
    return Ranker(fit(groups, base, correction), _tables(recommender), corrects_weights(recommender))


def corrects_weights(recommender: Recommender) -> bool:
    """Whether what is learned on top of a champion corrects the starting weights: if it was served by them."""
    return recommender.ranker is None or recommender.ranker.corrects_weights


def _tables(recommender: Recommender) -> ItemTables:
    return ItemTables() if recommender.ranker is None else recommender.ranker.tables


def compared(
    recommender: Recommender,
    lists: Sequence[ShownList],
    encode: Callable[[list[str]], Vectors],
    *,
    others: int = UNSHOWN,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Iterator[Compared]:
    """Yield what was shown of each list beside so many others, by the input function that serving uses."""
    catalogue, weights, tables = recommender.catalogue, recommender.weights, _tables(recommender)
    for number, shown_list in enumerate(lists, 1):
        joined = shown_list.request()
        pack = pack_for(joined.request.domain)
        text = request_text(joined)
        heeded = heed(catalogue, pack, joined)
        fit = similarities(catalogue, joined, catalogue.cosines(encode([text]))[0]) if text else None
        asking = question(catalogue, pack, heeded.joined, weights, fit, heeded.asked)
        scene, base = before_trees(
            asking, weights, tables, joined.request.k, corrects_weights=corrects_weights(recommender)
        )
        row_of = {row: place for place, row in enumerate(scene.rows.tolist())}
        shown = [(row_of.get(catalogue.row_of.get(each.item_id, -1), -1), each) for each in shown_list.shown]
        shown = [(place, each) for place, each in shown if place >= 0]  # an item may be gone since, or filtered now
        unshown = np.setdiff1d(np.arange(len(scene.rows)), [place for place, _ in shown])
        generator = np.random.default_rng(shown_list.key)
        unshown = generator.choice(unshown, min(others, len(unshown)), replace=False)
        places = np.concatenate([np.array([place for place, _ in shown], np.int64), np.sort(unshown)])
        last = max((each.position for _, each in shown), default=0) + 1
        features = candidate_features(scene)[places]
        yield Compared(
            features,
            base.sum(axis=1)[places] + log_chance(features),
            np.array([each.label for _, each in shown] + [0.0] * len(unshown)),
            np.array([min(1 / each.propensity, MOST_WEIGHT) for _, each in shown] + [1.0] * len(unshown)),
            np.minimum([each.position for _, each in shown] + [last] * len(unshown), POSITIONS).astype(np.int32),
        )
        progress(number, len(lists))


def _first_trees(trees: "lightgbm.Booster", number: int | None) -> "lightgbm.Booster":
    if number is None or number == trees.num_trees():
        return trees
    first: lightgbm.Booster = ranking_library().Booster(model_str=trees.model_to_string(num_iteration=number))
    return first


def fit(groups: Sequence[Compared], base: "lightgbm.Booster | None", correction: Correction) -> "lightgbm.Booster":
    """Return the trees of ``base`` and those of a correction on top of them and of the rest of the score."""
    library = ranking_library()
    features, other, label, weight, position = (np.concatenate(column) for column in zip(*groups, strict=True))

    class OnTop(library.Dataset):  # type: ignore[misc, name-defined]
        """Boosting begins at the base's trees and the rest of the score; LightGBM itself sees to the trees alone."""

        def set_init_score(self, score: NDArray[np.float64] | None) -> "OnTop":
            return super().set_init_score(other if score is None else score + other)  # type: ignore[no-any-return]

    data = OnTop(
        features,
        np.rint(label * GRADES).astype(np.int32),
        group=[len(group.label) for group in groups],
        weight=weight,
        position=position,
        init_score=None if base is not None else np.zeros(len(label)),
        feature_name=list(NAMES),
        free_raw_data=False,
    )
    options = {
        "objective": "lambdarank",
        "label_gain": list(range(GRADES + 1)),
        "lambdarank_truncation_level": 20,
        "num_leaves": correction.leaves,
        "learning_rate": correction.learning_rate,
        "min_data_in_leaf": correction.smallest_leaf,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 5.0,
        "seed": correction.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,  # sums in one order on every machine
        "verbosity": -1,
    }
    trees: lightgbm.Booster = library.train(options, data, correction.trees, init_model=base)
    return trees
