"""One call makes a whole model, goes on after a crash, and leaves out what can't be; a page says what it is worth."""

import json
import re

import msgspec
import pytest
from tiny_models import tiny_encoder

from models import model_training
from models.artefact import load_recommender, read_model
from models.base_model import load_base, save_base
from models.dataset import Dataset, DatasetError, read_dataset
from models.fine_tuning.settings import Settings
from models.model_training import RankerSettings, TrainingSettings, read_settings, train_model
from models.sequence_training import SequenceSettings
from ops.report.page import write_report
from ops.simulator.dataset import write_city
from ops.simulator.world import build_world
from schemas.domains import pack_for
from schemas.errors import BadInputError

PACK = pack_for("restaurant")
START_MS = 1_788_220_800_000


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    folder = tmp_path_factory.mktemp("city") / "data"
    write_city(folder, build_world(3, users=150, restaurants=30), START_MS, 30)
    return read_dataset(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny model with weights large enough that texts differ, which those of a new one are not."""
    folder = tmp_path_factory.mktemp("base")
    loaded = load_base(str(tiny_encoder(folder / "new")))
    for parameter in loaded.model.parameters():
        parameter.data.mul_(5 if parameter.ndim == 2 else 1)
    save_base(loaded, folder / "base")
    return str(folder / "base")


@pytest.fixture(scope="module")
def settings(base):
    return TrainingSettings(
        base=base,
        fine_tuning=Settings(
            batch_size=8, negatives=2, most_steps=12, evaluate_every=4, max_tokens=40, learning_rate=3e-3
        ),
        ranker=RankerSettings(
            requests=60,
            lists=60,
            rounds=5,
            leaves=4,
            dimensions=4,
            sequence=SequenceSettings(dimensions=8, layers=1, epochs=1),
        ),
    )


def trained(data, folder, settings, **changes):
    return train_model(data, PACK, folder, settings, name="city", command="tablecast train city", **changes)


@pytest.fixture(scope="module")
def model(city, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "city"
    trained(city, folder, settings)
    return folder


class TestModel:
    def test_is_a_folder_that_serves_with_both_parts(self, model, city):
        encoder, recommender = load_recommender(model)
        assert recommender.ranker is not None
        assert encoder.encode(encoder.tokenize(["安静的川菜"], "query")).shape == (1, 32)
        encoder.close()
        assert not list(model.parent.glob(".*"))  # nothing is left beside it

    def test_says_how_it_was_made(self, model):
        training = read_model(model).training
        assert training["command"] == "tablecast train city"
        assert training["fine_tuning"]["trained_parameters"] > 0
        assert [step for step, _ in training["curve"]["mrr"]] == [0, 4, 8, 12]
        assert len(training["curve"]["loss"]) == 12

    def test_is_the_same_again_and_does_not_depend_on_labels_kept_back(self, model, city, settings, tmp_path):
        without = city._replace(
            requests=[request for request in city.requests if request.split == "train"],
            interactions=[event for event in city.interactions if event.split == "train"],
        )
        assert trained(without, tmp_path / "less", settings).manifest.version == read_model(model).version

    def test_is_fine_tuned_further_from(self, model, city, settings, tmp_path):
        further = trained(
            city, tmp_path / "further", msgspec.structs.replace(settings, base=str(model)), parts=("encoder",)
        )
        assert further.manifest.parent == read_model(model).version
        assert further.manifest.base == read_model(model).base
        assert further.left_out == {"ranker": "not asked for"}

    def test_goes_on_after_a_crash_and_ends_the_same(self, model, city, settings, tmp_path, monkeypatch):
        def crash(*_args, **_options):
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(model_training, "train_ranker", crash)
            with pytest.raises(KeyboardInterrupt):
                trained(city, tmp_path / "cut", settings)
        with monkeypatch.context() as patched:
            patched.setattr(model_training, "fine_tune", crash)  # finished, and not begun again
            assert trained(city, tmp_path / "cut", settings).manifest.version == read_model(model).version

    def test_is_not_written_over(self, model, city, settings):
        with pytest.raises(DatasetError, match="exists already"):
            trained(city, model, settings)


class TestLeftOut:
    def test_the_language_model_where_there_are_no_texts(self, city, settings, tmp_path):
        silent = city._replace(
            requests=[],
            items=[msgspec.structs.replace(item, text=None) for item in city.items],
        )
        result = trained(silent, tmp_path / "model", settings)
        assert result.left_out == {"encoder": "there are no texts to learn from"}
        assert result.fine_tuned is None
        assert not (tmp_path / "model" / "weights").exists()

    def test_the_ranker_where_nobody_chose_anything(self, city, settings, tmp_path):
        result = trained(city._replace(interactions=[]), tmp_path / "model", settings)
        assert result.left_out == {"ranker": "there are no interactions of split=train"}
        assert result.fine_tuned is not None

    def test_the_transformer_over_choices_where_people_choose_the_same_again(
        self, city, settings, tmp_path, monkeypatch
    ):
        asked_for = []

        def stop(*_, sequence, **__):
            asked_for.append(sequence)
            raise InterruptedError

        monkeypatch.setattr(model_training, "train_ranker", stop)
        plain = msgspec.structs.replace(settings, ranker=RankerSettings())
        for domain in ("restaurant", "shop"):
            with pytest.raises(InterruptedError):
                train_model(
                    city, pack_for(domain), tmp_path / domain, plain, name="city", command="", parts=("ranker",)
                )
        assert asked_for == [None, SequenceSettings()]

    def test_but_not_everything(self, city, settings, tmp_path):
        with pytest.raises(BadInputError, match=r"nothing to train: encoder: .*; ranker: "):
            trained(Dataset([], [], [], city.meta), tmp_path / "model", settings)
        assert not list(tmp_path.iterdir())


class TestSettings:
    def test_are_read_from_a_file(self, tmp_path):
        (tmp_path / "train.toml").write_text('seed = 3\n[fine_tuning]\nstrategy = "ia3"\n[ranker]\nrounds = 7\n')
        settings = read_settings(tmp_path / "train.toml")
        assert (settings.seed, settings.fine_tuning.strategy, settings.ranker.rounds) == (3, "ia3", 7)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("seed = ", "train.toml"),
            ("sead = 3", "sead"),
            ('[fine_tuning]\nstrategy = "lorra"', "lorra"),
            ("[fine_tuning]\nrank = 0", "rank"),
            ("[fine_tuning]\nlearning_rate = true", "learning_rate"),
        ],
    )
    def test_that_are_wrong_are_refused_by_name(self, tmp_path, text, said):
        (tmp_path / "train.toml").write_text(text)
        with pytest.raises(BadInputError, match=said):
            read_settings(tmp_path / "train.toml")

    def test_that_are_missing_are_refused(self, tmp_path):
        with pytest.raises(BadInputError, match=r"none\.toml can't be read"):
            read_settings(tmp_path / "none.toml")


@pytest.fixture(scope="module")
def written(model, city, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    trained(city, folder / "before", settings, parts=("ranker",))
    path = folder / "report.html"
    figures = write_report(model, city, PACK, path, before=folder / "before", partition_of=lambda _: 0)
    return path.read_text(encoding="utf-8"), figures


class TestReport:
    def test_stands_alone(self, written):
        page, _ = written
        assert page.count("<svg") == 2
        assert not re.search(r"(src|href)=\"(?!#)", page)

    def test_says_what_was_measured_for_whom(self, written):
        page, figures = written
        assert list(figures) == ["before", "language model fine-tuned", "after"]
        assert f"{figures['after']['mrr']:.3f}" in page
        for group in ("with text", "without text", "in Chinese", "in English", "users with a past"):
            assert f"<td>{group}</td>" in page

    def test_says_how_it_was_trained(self, written):
        page, _ = written
        assert "tablecast train city" in page
        assert "strategy" in page

    def test_without_requests_to_measure_on_says_so(self, model, city, tmp_path):
        train = city._replace(requests=[request for request in city.requests if request.split == "train"])
        assert write_report(model, train, PACK, tmp_path / "page.html", partition_of=lambda _: 0) == {}
        assert "nothing was measured" in (tmp_path / "page.html").read_text()


def test_the_manifest_is_json_that_anything_reads(model):
    assert json.loads((model / "model.json").read_text())["training"]["settings"]["fine_tuning"]["strategy"] == "lora"
