"""The learned ranker: gradient boosted trees over ``candidate_features``, with exact additive reasons.

    score(i) = log chance(i) + trees(i)

The chance is that of the models of returning and of first choices, one distribution over old and new items. The trees
are two forests, whose errors differ, added up. One corrects the chance: it maximises the likelihood of what was chosen
among the candidates of its list (a softmax; Cao et al., "Learning to rank: from pairwise approach to listwise
approach", ICML 2007), so that old and new candidates stay on one scale. The other begins at nothing and cares for the
top of the list (LambdaMART; Burges, "From RankNet to LambdaRank to LambdaMART", 2010). What the trees say of a
candidate is the sum of its features' Shapley values (Lundberg et al., "Consistent individualized feature attribution
for tree ensembles", 2018), which LightGBM computes exactly; each goes to the part of the score that its feature
belongs to.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from models.features import FAMILY, FEATURES, NAMES
from models.item_tables import ItemTables
from schemas.errors import BadInputError

if TYPE_CHECKING:
    import lightgbm

BINS = 63  # of a feature: more take longer to learn from
MAX_DEPTH = 8  # of trees: exact reasons take time by its square
CHANCE, KNOWN = NAMES.index("chance"), NAMES.index("count")
EVEN, LEAST = 0.007, 1e-6  # chances: where the score begins to speak for a candidate, and the least there is
LEAST_SLOPE = 1e-6
TREES_FILE, NAMES_FILE = "ranker.txt", "ranker.json"


class _Header(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the file of names says: the features, in the order of the trees' inputs, and what the trees add to."""

    features: tuple[str, ...]
    corrects_weights: bool = False


class RankerError(BadInputError):
    """A folder does not hold a ranker that this version can use; the message says why."""


@dataclass(frozen=True)
class Ranker:
    """Trees and the tables their features are looked up in. Answers do not depend on what else is asked with them."""

    trees: "lightgbm.Booster"
    tables: ItemTables
    corrects_weights: bool = False  # whether trees come on top of all parts by the starting weights, or in their place
    version: str = "unsaved"  # content hash of its files, 16 hexadecimal digits

    @cached_property
    def looks_at(self) -> frozenset[str]:
        """The features that a score and its reasons depend on."""
        used = np.flatnonzero(self.trees.feature_importance())
        chances = () if self.tables.returning is None else (CHANCE, KNOWN)
        return frozenset(NAMES[column] for column in (*used.tolist(), *chances))

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the scores [n] of candidates [n, len(NAMES)]; only differences within a request mean anything."""
        if not len(features):
            return np.zeros(0)
        return log_chance(features) + np.asarray(self.trees.predict(features, num_threads=1), np.float64)

    def parts(self, features: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float64]:
        """Return what each part of the score contributes [n, len(names)]; a row's sum is its score less a constant."""
        if not len(features):
            return np.zeros((0, len(names)))
        values = np.asarray(self.trees.predict(features, pred_contrib=True, num_threads=1), np.float64)
        # The last column is what all candidates have in common.
        parts: NDArray[np.float64] = values[:, :-1] @ _membership(tuple(names))
        known = features[:, KNOWN] > 0
        for part, those in (("habit", known), ("learned", ~known)):
            parts[those, names.index(part)] += log_chance(features[those])
        return parts

    def save(self, folder: Path) -> None:
        """Write the ranker into a folder."""
        self.trees.save_model(folder / TREES_FILE)
        (folder / NAMES_FILE).write_bytes(msgspec.json.encode(_Header(NAMES, self.corrects_weights)))
        self.tables.save(folder)

    @classmethod
    def load(cls, folder: Path) -> "Ranker":
        """Read what ``save`` wrote.

        Raises:
            RankerError: a file is missing or damaged, or was written for other features.

        """
        library = ranking_library()
        try:
            header = msgspec.json.decode((folder / NAMES_FILE).read_bytes(), type=_Header)
            trees = library.Booster(model_file=folder / TREES_FILE)
            tables = ItemTables.load(folder)
        except (OSError, ValueError, KeyError, SafetensorError, library.basic.LightGBMError) as error:
            raise RankerError(f"{folder} holds no ranker that can be read: {error}") from error
        if header.features != NAMES:
            raise RankerError(f"{folder} was trained on other features than this version has: train it anew")
        digest = hashlib.sha256()
        for file in sorted(folder.iterdir()):
            digest.update(file.read_bytes())
        return cls(trees, tables, header.corrects_weights, digest.hexdigest()[:16])


@dataclass(frozen=True)
class Groups:
    """Candidates of many requests, one after the other."""

    features: NDArray[np.float32]  # [candidates, len(NAMES)]
    relevant: NDArray[np.bool_]  # [candidates]
    stands_for: NDArray[np.float32]  # how many candidates of the same kind each is a sample of [candidates]
    sizes: NDArray[np.int64]  # [requests]

    def hiding(self, families: Collection[str]) -> "Groups":
        """Return the same lists with some families of features set to 0, so that no tree looks at them."""
        return replace(self, features=hidden(self.features, families))


@cache
def _membership(parts: tuple[str, ...]) -> NDArray[np.float64]:
    """Return 1 where a feature belongs to a part [len(NAMES), len(parts)], else 0."""
    return np.array([[float(part == own) for part in parts] for own in FEATURES.values()])


def log_chance(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return how likely each candidate [n] is, before the trees, as a logarithm that is 0 at ``EVEN``."""
    chance = features[:, CHANCE].astype(np.float64)
    return np.where(chance < 0, np.maximum(chance, np.log(LEAST)) - np.log(EVEN), 0.0)


def hidden(features: NDArray[np.float32], families: Collection[str]) -> NDArray[np.float32]:
    """Return features [n, len(NAMES)] with some families set to 0."""
    if not families:
        return features
    kept = features.copy()
    kept[:, [FAMILY[name] in families for name in NAMES]] = 0.0
    return kept


def fit_trees(groups: Groups, *, rounds: int, leaves: int, learning_rate: float, seed: int) -> "lightgbm.Booster":
    """Fit two forests of so many trees and return them as one. Same groups and seed, same trees.

    Raises:
        RankerError: LightGBM can't be loaded.

    """
    library = ranking_library()

    class Apart(library.Dataset):  # type: ignore[misc, name-defined]
        """Boosting begins at nothing, although the trees come after others."""

        def set_init_score(self, score: NDArray[np.float64] | None) -> "Apart":
            return super().set_init_score(None if score is None else np.zeros(len(score)))  # type: ignore[no-any-return]

    shape = {
        "feature_name": list(NAMES),
        "group": groups.sizes,
        "params": {"max_bin": BINS},
    }
    label = groups.relevant.astype(np.int32)
    options = {
        "num_leaves": leaves,
        "max_depth": MAX_DEPTH,
        "learning_rate": learning_rate,
        "min_data_in_leaf": 50,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "seed": seed,
        "deterministic": True,
        "num_threads": 1,  # on busy cores several add up in one order or another, "deterministic" or not
        "force_row_wise": True,
        "verbosity": -1,
    }
    likely: lightgbm.Booster = library.train(
        options | {"objective": partial(_gradients, groups), "lambda_l2": 2.0},
        library.Dataset(groups.features, label, init_score=log_chance(groups.features), **shape),
        rounds,
    )
    both: lightgbm.Booster = library.train(
        options | {"objective": "lambdarank", "lambdarank_truncation_level": 20, "lambda_l2": 5.0},
        Apart(groups.features, label, **shape),
        rounds,
        init_model=likely,
    )
    return both


def _gradients(
    groups: Groups, scores: NDArray[np.float64], _: "lightgbm.Dataset"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the first and second derivatives [candidates] of minus the log-likelihood of what was chosen."""
    starts = np.append(0, np.cumsum(groups.sizes)[:-1])

    def spread(of_list: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.repeat(of_list, groups.sizes)

    raised = groups.stands_for * np.exp(scores - spread(np.maximum.reduceat(scores, starts)))
    chances = raised / spread(np.add.reduceat(raised, starts))
    chosen = groups.relevant / spread(np.add.reduceat(groups.relevant.astype(np.float64), starts))
    return chances - chosen, np.maximum(chances * (1 - chances), LEAST_SLOPE)


def ranking_library() -> Any:
    """Return LightGBM, loaded when it is needed: without a trained ranker nothing needs it."""
    try:
        import lightgbm
    except OSError as error:
        raise RankerError(f"LightGBM can't be loaded: {error}. On Debian and Ubuntu: apt install libgomp1") from error
    return lightgbm
