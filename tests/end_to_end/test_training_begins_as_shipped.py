"""What a first training begins at is what stages serve until a model is announced."""

import pytest

from models.artefact import BASE, SHIPPED, load_recommender
from models.retraining import starting_model


@pytest.mark.parametrize("model", [SHIPPED, BASE])
def test_a_first_training_begins_at_the_model_that_is_served(model, tmp_path):
    made = starting_model(tmp_path / "model", model, "tablecast")
    served, begun = load_recommender(model, threads=1), load_recommender(made, threads=1)
    assert begun[0].version == served[0].version
    rankers = [recommender.ranker and recommender.ranker.version for _, recommender in (served, begun)]
    assert rankers[0] == rankers[1]
