"""A model folder is believed only when it holds exactly what its manifest says; nothing else gets in."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_models import tiny_encoder

from models.artefact import ArtefactError, ModelManifest, load_recommender, parse_manifest, read_model, write_model
from models.base_model import load_base
from models.export import export_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("artefact")
    return export_encoder(load_base(str(tiny_encoder(folder / "bert"))), folder / "exported", "fp32")


@pytest.fixture(scope="module")
def original(tmp_path_factory, encoder) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    write_model(folder, name="tiny", base="bert", encoder=encoder, metrics={"mrr": 0.5}, training={"seed": 7})
    return folder


@pytest.fixture
def model(tmp_path, original) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


def edit(model: Path, **changes: object) -> None:
    path = model / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def files(model: Path) -> dict[str, dict[str, object]]:
    return json.loads((model / "model.json").read_text())["files"]


def test_what_was_written_is_read(model):
    manifest = read_model(model)
    assert (manifest.name, manifest.base, manifest.parent) == ("tiny", "bert", None)
    assert (manifest.metrics, manifest.training) == ({"mrr": 0.5}, {"seed": 7})
    assert set(manifest.files) == {"encoder/encoder.json", "encoder/model.onnx", "encoder/tokenizer.json"}


def test_the_version_is_that_of_the_files_alone(tmp_path, encoder, model):
    same = write_model(tmp_path / "same", name="other", base="other", encoder=encoder, metrics={"mrr": 0.9})
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "adapter.safetensors").write_bytes(b"1")
    more = write_model(tmp_path / "more", name="tiny", base="bert", encoder=encoder, weights=weights)
    assert same.version == read_model(model).version != more.version


def test_a_model_answers_with_its_name_and_version(model):
    encoder, recommender = load_recommender(model, threads=1)
    assert recommender.version == f"tiny@{read_model(model).version}"
    assert recommender.catalogue.dim == encoder.dim
    assert np.isclose(np.linalg.norm(encoder.encode(encoder.tokenize(["noodles"], "query"))[0]), 1, atol=1e-5)


def test_a_folder_that_holds_something_is_not_written_over(tmp_path, model, encoder):
    with pytest.raises(ArtefactError, match="exists already"):
        write_model(model, name="tiny", base="bert", encoder=encoder)


def test_a_part_with_a_pickled_file_makes_no_model_and_leaves_nothing(tmp_path, encoder):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(ArtefactError, match=r"pytorch_model\.bin"):
        write_model(tmp_path / "out" / "model", name="tiny", base="bert", encoder=encoder, weights=weights)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda model: (model / "model.json").unlink(), r"model\.json is missing"),
        (lambda model: (model / "model.json").write_text("{"), r"model\.json is damaged"),
        (lambda model: (model / "model.json").write_text("[" * 100_000), r"model\.json is damaged"),
        (lambda model: (model / "model.json").write_bytes(b'{"format": 1, "name": "\xff"}'), r"model\.json is damaged"),
        (lambda model: (model / "model.json").write_bytes(b" " * (5 << 20)), r"model\.json is not a model's manifest"),
        (lambda model: (model / "encoder/model.onnx").unlink(), r"encoder/model\.onnx is missing"),
        (lambda model: (model / "encoder/model.onnx").write_bytes(b"half"), r"encoder/model\.onnx has 4 bytes"),
        (lambda model: flip(model / "encoder/model.onnx"), r"encoder/model\.onnx is damaged: sha256"),
        (lambda model: (model / "encoder/more.json").write_text("{}"), r"encoder/more\.json is not in model\.json"),
        (lambda model: (model / "encoder/code.py").write_text("1"), r"encoder/code\.py"),
        (lambda model: (model / "readme.txt").write_text("1"), r"readme\.txt"),
        (lambda model: (model / "encoder/link.json").symlink_to("/etc/hostname"), r"encoder/link\.json is not a plain"),
        (lambda model: (model / "weights").symlink_to("/etc"), "weights is not a plain file"),
        (lambda model: edit(model, format=2), r"model\.json is damaged.*format"),
        (lambda model: edit(model, version="0" * 16), "version 0000000000000000 is not that of its files"),
        (lambda model: edit(model, name="../x"), r"model\.json is damaged.*name"),
        (lambda model: edit(model, metrics={"mrr": "high"}), r"model\.json is damaged.*metrics"),
        (lambda model: edit(model, created=-1), r"model\.json is damaged.*created"),
        (lambda model: edit(model, files={}), "names no file of an encoder"),
        (lambda model: edit(model, files=[1]), r"model\.json is damaged.*files"),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_refused_and_the_file_is_named(model, damage, message):
    damage(model)
    with pytest.raises(ArtefactError, match=message):
        read_model(model)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "path",
    ["../evil.json", "/etc/passwd.json", "encoder/../../evil.json", "encoder//x.json", "encoder/./x.json",
     "encoder\\..\\x.json", "encoder/x\0.json", "encoder/.hidden.json", "encoder/x.pkl", "other/x.json", "model.json",
     "encoder", "", "encoder/" + "x" * 300 + ".json", "encoder/\n.json"],
)  # fmt: skip
def test_a_manifest_may_not_name_files_elsewhere_or_of_other_kinds(model, path):
    edit(model, files=files(model) | {path: {"size": 1, "sha256": "0" * 64}})
    with pytest.raises(ArtefactError, match="is not a file of a model"):
        parse_manifest((model / "model.json").read_bytes(), "there/model.json")


def test_files_that_are_no_model_inside_are_refused_although_their_hashes_are_right(tmp_path, encoder):
    wrong = Path(shutil.copytree(encoder, tmp_path / "wrong"))
    (wrong / "encoder.json").write_text('{"format": 1}')
    ranker = tmp_path / "ranker"
    ranker.mkdir()
    (ranker / "ranker.json").write_text("{}")
    for name, parts in {"one": {"encoder": wrong}, "two": {"encoder": encoder, "ranker": ranker}}.items():
        manifest = write_model(tmp_path / name, name="tiny", base="bert", **parts)
        assert isinstance(manifest, ModelManifest)
        with pytest.raises(ArtefactError, match=name):
            load_recommender(tmp_path / name)
