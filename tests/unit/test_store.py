"""A version is in the store when it is whole, is fetched only when it is sound, and stays while it is needed."""

import json
import shutil
import threading
import uuid
from pathlib import Path

import fsspec
import pytest

from models.artefact import ArtefactError, write_model
from models.store import CACHED_VERSIONS, ModelStore, StoreError


def model(folder: Path, content: str, name: str = "tiny") -> Path:
    """Write a model whose encoder is no encoder; the store does not look inside."""
    part = folder.with_name(f"{folder.name}-encoder")
    part.mkdir(parents=True)
    (part / "encoder.json").write_text(content)
    (part / "model.onnx").write_bytes(content.encode() * 1000)
    write_model(folder, name=name, base="bert", encoder=part)
    return folder


def version_of(folder: Path) -> str:
    return json.loads((folder / "model.json").read_text())["version"]


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path) -> ModelStore:
    url = str(tmp_path / "store") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"
    return ModelStore(url, tmp_path / "cache")


@pytest.fixture
def files(store):
    return fsspec.core.url_to_fs(store.url)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_put_is_fetched(store, tmp_path):
    first = model(tmp_path / "first", "1")
    version = store.put(first)
    fetched = store.fetch(version)
    assert contents(fetched) == contents(first)
    assert store.fetch(version, store.manifest(version)[1]) == fetched


def test_versions_are_listed_newest_first_and_an_empty_store_has_none(store, tmp_path):
    assert store.versions() == []
    put = [store.put(model(tmp_path / content, content)) for content in "abc"]
    created = [manifest.created for manifest in store.versions()]
    assert created == sorted(created, reverse=True)
    assert {manifest.version for manifest in store.versions()} == set(put)


def test_a_version_never_changes(store, tmp_path):
    first = model(tmp_path / "first", "1")
    version = store.put(first)
    before = store.manifest(version)
    manifest = json.loads((first / "model.json").read_text())
    (first / "model.json").write_text(json.dumps(manifest | {"metrics": {"mrr": 1.0}}))
    assert store.put(first) == version
    assert store.manifest(version) == before


def test_an_upload_that_was_cut_off_is_not_there_until_it_is_done_again(store, tmp_path, monkeypatch, files):
    first = model(tmp_path / "first", "1")
    filesystem, _ = files
    real = type(filesystem).put_file

    def until_the_manifest(self, source, target, **options):
        if source.endswith("model.json"):
            raise OSError("the line is down")
        real(self, source, target, **options)

    monkeypatch.setattr(type(filesystem), "put_file", until_the_manifest)
    with pytest.raises(StoreError, match="the line is down"):
        store.put(first)
    assert store.versions() == []
    with pytest.raises(StoreError, match=f"no version {version_of(first)}"):
        store.fetch(version_of(first))

    monkeypatch.undo()
    assert [manifest.version for manifest in store.versions()] == []
    store.put(first)
    assert contents(store.fetch(version_of(first))) == contents(first)


@pytest.mark.parametrize("change", [b"", b"1" * 999, b"2" * 1000, b"1" * 5000])
def test_a_damaged_version_is_not_fetched_and_leaves_nothing_in_the_cache(store, tmp_path, files, change):
    version = store.put(model(tmp_path / "first", "1"))
    filesystem, root = files
    filesystem.pipe_file(f"{root}/{version}/encoder/model.onnx", change)
    with pytest.raises(ArtefactError, match=r"encoder/model\.onnx"):
        store.fetch(version)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_that_is_missing_in_the_store_is_named(store, tmp_path, files):
    version = store.put(model(tmp_path / "first", "1"))
    filesystem, root = files
    filesystem.rm_file(f"{root}/{version}/encoder/model.onnx")
    with pytest.raises(ArtefactError, match=rf"{version}/encoder/model\.onnx is missing"):
        store.fetch(version)


def test_a_manifest_that_leads_out_of_the_folder_is_refused_before_anything_is_written(store, tmp_path, files):
    version = store.put(model(tmp_path / "first", "1"))
    filesystem, root = files
    path = f"{root}/{version}/model.json"
    manifest = json.loads(filesystem.cat_file(path))
    manifest["files"]["encoder/../../../evil.json"] = manifest["files"]["encoder/encoder.json"]
    filesystem.pipe_file(path, json.dumps(manifest).encode())
    with pytest.raises(ArtefactError, match="evil"):
        store.fetch(version)
    assert not (tmp_path / "cache").exists()
    assert store.versions() == []


def test_another_manifest_than_the_announced_one_is_refused(store, tmp_path):
    version = store.put(model(tmp_path / "first", "1"))
    store.fetch(version)
    with pytest.raises(ArtefactError, match="not the one that was announced"):
        store.fetch(version, "0" * 64)


@pytest.mark.parametrize("version", ["../x", "a/b", "", "0123456789abcdef"])
def test_versions_that_are_none_are_refused(store, version):
    with pytest.raises(StoreError, match="version"):
        store.fetch(version)


def test_a_damaged_cache_is_mended(store, tmp_path):
    first = model(tmp_path / "first", "1")
    version = store.put(first)
    (store.fetch(version) / "encoder/model.onnx").write_bytes(b"half")
    assert contents(store.fetch(version)) == contents(first)


def test_a_file_that_the_cache_has_already_is_not_fetched_again_unless_it_is_damaged(store, tmp_path, files):
    first, second, note = model(tmp_path / "first", "1"), tmp_path / "second", tmp_path / "note"
    note.mkdir()
    (note / "note.json").write_text("another model with the same encoder")
    write_model(second, name="tiny", base="bert", encoder=first / "encoder", weights=note)
    one, other = store.put(first), store.put(second)
    encoder = store.fetch(one) / "encoder/model.onnx"
    filesystem, root = files
    filesystem.rm_file(f"{root}/{other}/encoder/model.onnx")
    assert contents(store.fetch(other)) == contents(second)
    assert encoder.samefile(store.folder(other) / "encoder/model.onnx")

    encoder.write_bytes(b"half")  # of both, as it is one file
    with pytest.raises(ArtefactError, match=f"{other}/encoder/model.onnx is missing"):
        store.fetch(other)
    assert contents(store.fetch(one)) == contents(first)


def test_many_may_fetch_at_the_same_time(tmp_path):
    store = ModelStore(str(tmp_path / "store"), tmp_path / "cache")  # fsspec's memory is not one for threads
    first = model(tmp_path / "first", "1")
    version = store.put(first)
    found, start = [], threading.Barrier(8)

    def fetch():
        start.wait(30)
        found.append(contents(ModelStore(store.url, tmp_path / "cache").fetch(version)))

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [contents(first)] * 8
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [version]


def test_the_cache_keeps_the_versions_used_last(store, tmp_path):
    versions = [store.put(model(tmp_path / f"m{number}", str(number))) for number in range(CACHED_VERSIONS + 2)]
    for version in versions:
        store.fetch(version)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == set(versions[2:])


def test_the_newest_and_those_in_use_are_kept(store, tmp_path):
    for number in range(5):
        store.put(model(tmp_path / f"m{number}", str(number)))
    other = store.put(model(tmp_path / "other", "other", name="other"))
    mine = [manifest.version for manifest in store.versions() if manifest.name == "tiny"]
    assert store.prune("tiny", 2, in_use={mine[4]}) == mine[2:4]
    assert {manifest.version for manifest in store.versions()} == {mine[0], mine[1], mine[4], other}
    store.remove(mine[2])  # gone already: no error


def test_what_is_no_model_is_not_stored(store, tmp_path):
    first = model(tmp_path / "first", "1")
    shutil.rmtree(first / "encoder")
    with pytest.raises(ArtefactError, match=r"encoder/encoder\.json is missing"):
        store.put(first)
    assert store.versions() == []


def test_a_storage_that_is_not_installed_is_said():
    with pytest.raises(StoreError, match="zz://bucket"):
        ModelStore("zz://bucket")
