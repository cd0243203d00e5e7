"""What ``tablecast request --why`` says, but for the reading of the topic: by the model that answered, or nothing."""

import pytest
from tiny_models import tiny_encoder

from models.artefact import write_model
from models.base_model import load_base
from models.export import export_encoder
from ops.request_words import shaded, words_that_moved
from schemas.errors import BadInputError
from schemas.records import Item, Recommendation, RecommendedItem, Request, Source
from streams.settings import InferenceSettings, Settings

ITEMS = {
    f"place-{number}": Item(domain="restaurant", name=name)
    for number, name in enumerate(("Quiet Noodle Garden", "安静的川菜馆", "Loud Burger Bar"))
}
ASKED = Request(request_id="r", domain="restaurant", text="安静一点的川菜")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    encoder = export_encoder(load_base(str(tiny_encoder(folder / "tiny"))), folder / "encoder", "fp32")
    manifest = write_model(folder / "model", name="tiny", base=str(folder / "tiny"), encoder=encoder)
    return folder / "model", f"tiny@{manifest.version}"


@pytest.fixture
def settings(served, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Settings(data_dir=tmp_path, inference=InferenceSettings(model=str(served[0])))


def answer_of(model, top):
    return Recommendation(
        request_id="r",
        domain="restaurant",
        model=model,
        items=[RecommendedItem(item_id=top, score=1.0)],
        source=Source(partition=0, offset=0),
    )


def test_the_words_are_those_of_the_request_and_sum_to_the_score(served, settings):
    told = []
    found = words_that_moved(
        settings, ASKED, answer_of(served[1], "place-1"), ITEMS, lambda *how_far: told.append(how_far)
    )
    assert "".join(word.text for word in found.words) == ASKED.text
    assert sum(word.value for word in found.words) + found.without == pytest.approx(found.score)
    assert told[-1] == (3, 3)
    assert all(word.text in shaded(found).plain for word in found.words)


def test_another_model_than_the_one_that_answered_says_nothing(served, settings):
    with pytest.raises(BadInputError, match="tiny@0123456789abcdef, which is not on this machine"):
        words_that_moved(settings, ASKED, answer_of("tiny@0123456789abcdef", "place-1"), ITEMS, lambda *_: None)


def test_an_item_that_is_gone_has_no_words(served, settings):
    with pytest.raises(BadInputError, match="place-9 has left the catalogue"):
        words_that_moved(settings, ASKED, answer_of(served[1], "place-9"), ITEMS, lambda *_: None)
