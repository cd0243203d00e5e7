"""The learned ranker: gradient boosted trees over ``candidate_features``, with exact additive reasons.

LambdaMART (Burges, "From RankNet to LambdaRank to LambdaMART", 2010) as LightGBM has it. A candidate's score is the sum
of its features' Shapley values (Lundberg et al., "Consistent individualized feature attribution for tree ensembles",
2018), which LightGBM computes exactly; each feature's value goes to the part of the score that the feature belongs to.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from models.features import FEATURES, NAMES
from models.item_tables import ItemTables
from schemas.errors import BadInputError

if TYPE_CHECKING:
    import lightgbm

BINS = 63  # of a feature: more take longer to learn from
MAX_DEPTH = 8  # of trees: exact reasons take time by its square
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

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the scores [n] of candidates [n, len(NAMES)]; only differences within a request mean anything."""
        if not len(features):
            return np.zeros(0)
        return np.asarray(self.trees.predict(features, num_threads=1), np.float64)

    def parts(self, features: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float64]:
        """Return what each part of the score contributes [n, len(names)]; a row's sum is its score less a constant."""
        if not len(features):
            return np.zeros((0, len(names)))
        values = np.asarray(self.trees.predict(features, pred_contrib=True, num_threads=1), np.float64)
        parts = np.zeros((len(features), len(names)))
        for column, part in enumerate(FEATURES.values()):
            parts[:, names.index(part)] += values[:, column]
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
    sizes: NDArray[np.int64]  # [requests]


def fit_trees(groups: Groups, *, rounds: int, leaves: int, learning_rate: float, seed: int) -> "lightgbm.Booster":
    """Fit the trees. Same groups and seed, same trees.

    Raises:
        RankerError: LightGBM can't be loaded.

    """
    library = ranking_library()
    data = library.Dataset(
        groups.features,
        groups.relevant.astype(np.int32),
        group=groups.sizes,
        feature_name=list(NAMES),
        params={"max_bin": BINS},
    )
    options = {
        "objective": "lambdarank",
        "lambdarank_truncation_level": 20,
        "num_leaves": leaves,
        "max_depth": MAX_DEPTH,
        "learning_rate": learning_rate,
        "min_data_in_leaf": 50,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 5.0,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    trees: lightgbm.Booster = library.train(options, data, rounds)
    return trees


def ranking_library() -> Any:
    """Return LightGBM, loaded when it is needed: without a trained ranker nothing needs it."""
    try:
        import lightgbm
    except OSError as error:
        raise RankerError(f"LightGBM can't be loaded: {error}. On Debian and Ubuntu: apt install libgomp1") from error
    return lightgbm
