"""A model that joins has every item, also those that came meanwhile; one that is gone leaves nothing behind."""

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from tiny_models import tiny_encoder

from models.artefact import read_model, write_model
from models.base_model import load_base
from models.embedding_cache import EmbeddingCache
from models.export import export_encoder
from models.load_ahead import STORE_FAILED
from models.store import ModelStore
from schemas.codec import encode
from schemas.records import Context, Item, JoinedRequest, Request, Source
from streams.inference.catalogue_feed import CatalogueFeed
from streams.inference.rollout import Serving
from streams.inference.served_model import ServedModel
from streams.inference.shadow import compare


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    made = []
    for seed in (1, 2):
        base = load_base(str(tiny_encoder(root / f"base{seed}", seed=seed)))
        encoder = export_encoder(base, root / f"encoder{seed}", "fp32")
        write_model(root / f"model{seed}", name="tiny", base="tiny", encoder=encoder)
        made.append(root / f"model{seed}")
    return made


def load(folder, announced=None):
    return ServedModel.load(folder, name="tiny", threads=1, announced=announced)


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path / "embeddings.sqlite")


def record(offset, item_id, name):
    value = None if name is None else encode(Item(domain="restaurant", name=name))
    return SimpleNamespace(topic="catalog.items", partition=0, offset=offset, key=item_id.encode(), value=value)


def items(model):
    catalogue = model.recommender.catalogue
    return {item_id: catalogue.items[row].name for item_id, row in catalogue.row_of.items()}


def asked(text="noodles"):
    return JoinedRequest(
        request=Request(request_id="r", domain="restaurant", text=text),
        event_time=0,
        source=Source(partition=0, offset=0),
        context=Context(),
    )


async def test_what_changes_while_a_model_joins_is_in_both(folders, cache):
    reported = []
    feed = CatalogueFeed(cache, lambda record, error: reported.append(record.offset))
    old, new = load(folders[0]), load(folders[1])
    await feed.join(old)
    await feed.on_records([record(number, f"i{number}", f"house {number}") for number in range(100)])

    joining = asyncio.create_task(feed.join(new))
    while len(items(new)) < 30:  # in the midst of it
        await asyncio.sleep(0)
    assert not joining.done()
    await feed.on_records([record(100, "i5", None), record(101, "i99", "renamed"), record(102, "new", "new house")])
    await feed.on_records([record(103, "i6", None), record(104, "new", "newer house"), record(105, "bad", "x")])
    await joining
    await feed.on_records([record(106, "last", "the last")])

    assert items(old) == items(new) == {name: item.name for name, item in feed.items.items()}
    assert items(new).keys() >= {"new", "last", "i99"}
    assert not {"i5", "i6"} & items(new).keys()
    assert items(new)["new"] == "newer house"
    assert reported == []

    feed.leave(old)
    await feed.on_records([record(107, "later", "later")])
    assert "later" in items(new)
    assert "later" not in items(old)
    feed.close()


async def test_a_model_with_the_same_encoder_shares_catalogue_and_embeddings(folders, cache, monkeypatch):
    feed, old = CatalogueFeed(cache, lambda record, error: None), load(folders[0], "old")
    await feed.join(old)
    await feed.on_records([record(number, f"i{number}", f"house {number}") for number in range(20)])
    monkeypatch.setattr(cache, "encode", lambda *_: pytest.fail("they have been embedded"))
    new = old.with_ranker_of(folders[0], name="tiny", announced="new")
    await feed.join(new)
    monkeypatch.undo()
    assert (new.version, new.announced) == ("tiny@new", "new")
    put = []
    taking = old.recommender.catalogue.put
    monkeypatch.setattr(old.recommender.catalogue, "put", lambda *item: (put.append(item[0]), taking(*item)))
    await feed.on_records([record(20, "later", "later")])
    assert put == ["later"], "once for both"
    assert items(new) == items(old) == {name: item.name for name, item in feed.items.items()}
    one, other = await old.in_thread(lambda: (old.answer_alone(asked())[0], new.answer_alone(asked())[0]))
    assert one == other
    new.seconds_per_list = 0.0
    here = threading.get_ident()
    assert await new.ranking(1, threading.get_ident) == here
    with old._catalogue_in_use:
        elsewhere = asyncio.create_task(new.ranking(1, threading.get_ident))
        await asyncio.sleep(0)
        assert not elsewhere.done(), "the catalogue is in use by the other model"
    assert await asyncio.wait_for(elsewhere, 10) != here

    feed.leave(old)
    await feed.on_records([record(21, "i3", None)])
    assert "i3" not in items(new)
    feed.close()


async def test_an_item_posted_again_as_it_was_is_not_put_again(folders, cache, monkeypatch):
    feed, model = CatalogueFeed(cache, lambda record, error: None), load(folders[0])
    put = []
    taking = model.recommender.put
    monkeypatch.setattr(model.recommender, "put", lambda ids, *rest: (put.extend(ids), taking(ids, *rest)))
    await feed.join(model)
    for offset in (0, 2, 4):
        await feed.on_records([record(offset, "a", "house"), record(offset + 1, "b", "inn")])
    assert put == ["a", "b"]
    await feed.on_records([record(6, "a", "hut"), record(7, "a", "house"), record(8, "b", None), record(9, "b", "inn")])
    assert put == ["a", "b", "a", "a", "b"]
    assert items(model) == {"a": "house", "b": "inn"}
    feed.close()


async def test_a_model_that_was_replaced_is_freed_with_its_last_request(folders, cache):
    feed = CatalogueFeed(cache, lambda record, error: None)
    model = load(folders[0])
    await feed.join(model)
    await feed.on_records([record(0, "a", "house")])
    gone, threads = weakref.ref(model), model._thread
    serving = Serving(model)
    feed.leave(model)
    serving = Serving(load(folders[1]))
    assert serving.model_for("anybody").announced is None
    del model
    gc.collect()
    assert gone() is None
    del threads
    feed.close()


async def test_users_of_the_share_get_the_canary_and_the_others_the_champion(folders):
    champion, canary = load(folders[0]), load(folders[1], "0123456789abcdef")
    serving = Serving(champion, canary, share=0.5)
    assert [serving.model_for(f"u{number}") is canary for number in range(8)] == [
        True, False, True, False, True, True, True, True,
    ]  # fmt: skip
    assert Serving(champion, canary, share=0.0).model_for("u0") is champion
    assert Serving(champion, shadow=canary).model_for("u0") is champion


async def test_a_shadow_that_fails_says_nothing_and_one_that_works_compares(folders, cache, monkeypatch):
    feed = CatalogueFeed(cache, lambda record, error: None)
    shadow = load(folders[0])
    await feed.join(shadow)
    await feed.on_records([record(number, f"i{number}", f"house {number}") for number in range(5)])
    answer, seconds = await shadow.in_thread(lambda: shadow.answer_alone(asked()))
    assert seconds > 0
    (comparison,) = compare(shadow, [(asked(), "tiny@old", answer.items)])
    assert comparison.answered == comparison.would_have
    assert (comparison.model, comparison.shadow) == ("tiny@old", shadow.version)
    monkeypatch.setattr(shadow.encoder, "encode", lambda tokens: 1 / 0)
    assert compare(shadow, [(asked(), "tiny@old", answer.items)]) == []
    feed.close()


async def test_a_model_whose_scores_are_not_finite_is_found_out(folders, cache, monkeypatch):
    feed = CatalogueFeed(cache, lambda record, error: None)
    model = load(folders[0])
    await feed.join(model)
    monkeypatch.setattr(model.encoder, "encode", lambda tokens: np.full((len(tokens), model.encoder.dim), np.nan))
    with pytest.raises(ValueError, match="not finite"):
        model.answer_alone(asked())
    feed.close()


def test_texts_are_embedded_ahead_by_another_process(folders, tmp_path, monkeypatch):
    path = tmp_path / "embeddings.sqlite"
    texts = ["noodles", "a quiet place"]
    command = [sys.executable, "-m", "models.load_ahead", str(folders[0]), str(path)]
    subprocess.run(command, input=msgspec.msgpack.encode(texts), check=True)
    model = load(folders[0])
    expected = model.encoder.encode(model.encoder.tokenize(texts, "passage"))
    monkeypatch.setattr(model.encoder, "encode", lambda *_: pytest.fail("it was not in the cache"))
    assert EmbeddingCache(path).encode(model.encoder, texts).tobytes() == expected.tobytes()

    failed = subprocess.run([*command[:3], str(tmp_path), str(path)], input=b"\x90", capture_output=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.decode().splitlines() == [f"{tmp_path / 'model.json'} is missing: {tmp_path} is not a model"]


def test_of_a_model_whose_encoder_is_known_the_ranker_alone_is_loaded_ahead(folders, tmp_path):
    command = [sys.executable, "-m", "models.load_ahead"]
    subprocess.run([*command, str(folders[0])], stdin=subprocess.DEVNULL, check=True)
    (tmp_path / "ranker").mkdir()
    (tmp_path / "ranker" / "trees.txt").write_text("no trees")
    failed = subprocess.run([*command, str(tmp_path)], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert failed.returncode == 1
    assert str(tmp_path) in failed.stderr.decode().splitlines()[-1]


def test_a_model_is_fetched_ahead_and_a_store_that_fails_is_told_from_a_model_that_does(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = ModelStore(str(tmp_path / "store"))
    version = store.put(folders[0])
    command = [sys.executable, "-m", "models.load_ahead", "--fetch", store.url]
    subprocess.run([*command, version, store.manifest(version)[1]], check=True)
    assert read_model(store.folder(version)).version == version

    refused = subprocess.run([*command, version, "0" * 64], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "not the one that was announced" in refused.stderr
    unknown = subprocess.run([*command, "0" * 16, "0" * 64], capture_output=True, text=True, check=False)
    assert unknown.returncode == STORE_FAILED
    assert f"has no version {'0' * 16}" in unknown.stderr


def test_models_with_the_same_tokenizer_share_it(folders):
    first, second = load(folders[0]).encoder, load(folders[1]).encoder
    assert first.version != second.version
    assert first._tokenizer is second._tokenizer


def test_what_has_the_same_content_is_in_memory_once_while_it_is_used(folders):
    first, second = load(folders[0]).encoder, load(folders[0]).encoder
    assert first._sessions["query"] is second._sessions["query"]
    assert first._sessions["query"] is not load(folders[1]).encoder._sessions["query"]
    used = weakref.ref(first._sessions["query"])
    first.close()
    second.close()
    del first, second
    gc.collect()
    assert used() is None
