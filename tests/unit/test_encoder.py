"""A text's vector is a function of the text alone, close to the torch model's, and the artefact is checked."""

import json
import shutil
import sqlite3

import numpy as np
import pytest
from tiny_models import tiny_decoder, tiny_encoder

from models import export
from models.base_model import load_base
from models.embedding_cache import EmbeddingCache
from models.encoder import ArtefactError, Encoder
from models.export import ExportError, export_encoder, load_default_encoder, reference_vectors

TRIPLETS = [  # query, the passage it means, another of the same kind
    (
        "a quiet place for spicy Sichuan food",
        "川菜馆，环境安静，水煮鱼和麻婆豆腐",
        "热闹的运动酒吧，大屏幕看球，炸鸡和啤酒",
    ),
    ("cheap noodles near the station", "火车站旁的兰州拉面，人均二十元", "米其林法餐厅，需要提前预订，人均一千"),
    ("a romantic dinner with wine", "烛光法式晚餐，红酒丰富，适合约会", "快餐店，汉堡和薯条，适合赶时间"),
    ("fresh sushi and sashimi", "日本料理，新鲜刺身与手握寿司", "东北饺子馆，猪肉白菜馅水饺"),
    (
        "coffee and a place to work with a laptop",
        "咖啡馆，有插座和无线网络，适合办公",
        "夜市大排档，露天烧烤，人声鼎沸",
    ),
    ("late night barbecue with friends", "深夜烧烤摊，营业到凌晨四点", "早餐店，豆浆油条，上午十点关门"),
    ("想喝热汤", "Slow-cooked broths and hot soup dumplings", "Ice cream parlour with twenty flavours"),
    ("带孩子吃饭", "Family restaurant with a play area and a children's menu", "Whisky bar, adults only"),
    ("三十分钟内送到的披萨", "Pizza delivered to your door in half an hour", "Sunday roast, served at the table"),
]
QUERIES = [query for query, _, _ in TRIPLETS]
NEIGHBOURS = [
    "hi",
    "我",
    "The chef cooks over an open fire, the bread is baked in the house, and on Sundays there is one long table. " * 3,
    "这家店的招牌是北京烤鸭，皮脆肉嫩，配上薄饼、葱丝和甜面酱，适合家庭聚餐，周末经常排队，需要提前一天预订。",
]


@pytest.fixture(scope="module")
def encoder():
    loaded = load_default_encoder()
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return export_encoder(load_base(str(tiny_encoder(folder / "bert"))), folder / "artefact")


def vectors(encoder, texts, kind="query"):
    return encoder.encode(encoder.tokenize(texts, kind), kind)


def test_a_text_alone_has_the_same_bytes_as_among_shorter_and_longer_ones_at_any_position(encoder):
    alone = [vectors(encoder, [text])[0].tobytes() for text in QUERIES]
    for position in range(len(NEIGHBOURS) + 1):
        for text, expected in zip(QUERIES, alone, strict=True):
            batch = [*NEIGHBOURS[:position], text, *NEIGHBOURS[position:]]
            assert vectors(encoder, batch)[position].tobytes() == expected


def test_a_text_has_the_same_bytes_in_a_batch_of_its_own_length_and_in_a_large_one(encoder):
    alone = [vectors(encoder, [text])[0].tobytes() for text in QUERIES]
    assert [row.tobytes() for row in vectors(encoder, QUERIES[:1] * 8)] == alone[:1] * 8
    assert [row.tobytes() for row in vectors(encoder, QUERIES * 10)] == alone * 10


def test_the_number_of_threads_changes_no_byte(artefact):
    outputs = []
    for threads in (1, 3):
        encoder = Encoder.load(artefact, threads=threads)
        outputs.append(vectors(encoder, QUERIES + NEIGHBOURS).tobytes())
        encoder.close()
    assert outputs[0] == outputs[1]


def test_a_query_ranks_what_it_means_first_across_languages(encoder):
    queries = vectors(encoder, QUERIES)
    right = vectors(encoder, [passage for _, passage, _ in TRIPLETS], "passage")
    wrong = vectors(encoder, [passage for _, _, passage in TRIPLETS], "passage")
    margins = (queries * (right - wrong)).sum(axis=1)
    assert [query for query, margin in zip(QUERIES, margins, strict=True) if margin <= 0] == []


def test_int8_stays_close_to_the_torch_model_on_texts_the_export_did_not_check(encoder):
    expected = reference_vectors(load_base(), encoder, QUERIES)
    assert (vectors(encoder, QUERIES) * expected).sum(axis=1).min() > 0.995


def test_vectors_are_float32_of_length_one(encoder):
    result = vectors(encoder, QUERIES)
    assert result.dtype == np.float32
    assert result.shape == (len(QUERIES), encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(result, axis=1), 1, atol=1e-6)


def test_a_query_and_a_passage_of_the_same_words_differ_by_their_prefix(encoder):
    assert vectors(encoder, ["ramen"], "query").tobytes() != vectors(encoder, ["ramen"], "passage").tobytes()


def test_no_texts_give_no_rows(encoder):
    assert vectors(encoder, []).shape == (0, encoder.dim)


HOSTILE = {
    "empty": "",
    "spaces": " \t\n" * 100,
    "emoji": "🍜🍣👨‍👩‍👧‍👦🏳️‍🌈" * 20,
    "mixed scripts": "ramen ラーメン 라면 拉面 рамен رامن ראמן ราเม็ง",
    "control characters": "\x00\x01\x1b[31m\u202e\ufeff",
    "a lone surrogate": "soup \ud83d",
    "one endless word": "a" * 100_000,
    "100,000 Chinese characters": "辣" * 100_000,
    "special tokens": "</s><s><pad><unk>",
    "combining marks": "e" + "\u0301" * 5_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_text_has_a_finite_vector_and_leaves_its_neighbours_alone(encoder, text):
    plain = vectors(encoder, ["noodles"])[0]
    (tokens,) = encoder.tokenize([text], "query")
    assert 1 <= len(tokens) <= encoder.manifest.max_tokens
    both = vectors(encoder, [text, "noodles"])
    assert np.isfinite(both).all()
    assert both[1].tobytes() == plain.tobytes()


@pytest.mark.parametrize("make", [tiny_encoder, tiny_decoder])
@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_each_family_serves_what_torch_computes(tmp_path, make, precision):
    base = load_base(str(make(tmp_path / "base")))
    encoder = Encoder.load(export_encoder(base, tmp_path / "artefact", precision))
    texts = ["", "noodles", "安静的川菜", "x" * 1_000]
    served = vectors(encoder, texts)
    assert (served * reference_vectors(base, encoder, texts)).sum(axis=1).min() >= export.LEAST_COSINE[precision]
    assert [row.tobytes() for row in served] == [vectors(encoder, [text])[0].tobytes() for text in texts]
    encoder.close()


def test_exporting_leaves_the_torch_model_as_it_was(tmp_path):
    base = load_base(str(tiny_encoder(tmp_path / "base")))
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    attention = base.model.config._attn_implementation
    export_encoder(base, tmp_path / "artefact")
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(after[name].equal(tensor) for name, tensor in before.items())
    assert base.model.config._attn_implementation == attention


def test_an_export_that_is_not_the_same_model_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(export.LEAST_COSINE, "int8", 1.5)
    base = load_base(str(tiny_encoder(tmp_path / "base")))
    with pytest.raises(ExportError, match="is not the same model: cosine"):
        export_encoder(base, tmp_path / "artefact")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_an_existing_folder_is_not_overwritten(artefact, tmp_path):
    base = load_base(str(tiny_encoder(tmp_path / "base")))
    with pytest.raises(ExportError, match="exists already"):
        export_encoder(base, artefact)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def _flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_truncate, _flip_a_bit, lambda path: path.unlink()], ids=["cut", "bit", "gone"])
@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_damaged_file_is_named(artefact, tmp_path, name, damage):
    shutil.copytree(artefact, tmp_path / "copy")
    damage(tmp_path / "copy" / name)
    with pytest.raises(ArtefactError, match=rf"{name} is (damaged|missing)"):
        Encoder.load(tmp_path / "copy")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 99}'])
def test_a_damaged_manifest_is_named(artefact, tmp_path, text):
    shutil.copytree(artefact, tmp_path / "copy")
    (tmp_path / "copy" / "encoder.json").write_text(text)
    with pytest.raises(ArtefactError, match=r"encoder\.json"):
        Encoder.load(tmp_path / "copy")


def test_an_artefact_of_another_format_is_refused(artefact, tmp_path):
    shutil.copytree(artefact, tmp_path / "copy")
    manifest = tmp_path / "copy" / "encoder.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 2}))
    with pytest.raises(ArtefactError, match="has format 2, expected 1"):
        Encoder.load(tmp_path / "copy")


def test_a_damaged_default_artefact_is_exported_again(tmp_path, monkeypatch):
    folder = tiny_encoder(tmp_path / "base")
    monkeypatch.setattr(export, "load_base", lambda name, cache: load_base(str(folder)))
    first = load_default_encoder(tmp_path / "cache")
    (model,) = (tmp_path / "cache").rglob("model.onnx")
    _truncate(model)
    again = load_default_encoder(tmp_path / "cache")
    assert vectors(again, QUERIES).tobytes() == vectors(first, QUERIES).tobytes()


class CountingEncoder:
    """Counts the texts that the real encoder is asked for."""

    def __init__(self, encoder, version="v1"):
        self._encoder, self.passage_version, self.dim, self.encoded = encoder, version, encoder.dim, 0

    def tokenize(self, texts, kind):
        return self._encoder.tokenize(texts, kind)

    def encode(self, tokens, kind):
        self.encoded += len(tokens)
        return self._encoder.encode(tokens, kind)


@pytest.fixture
def counting(artefact):
    encoder = Encoder.load(artefact)
    yield CountingEncoder(encoder)
    encoder.close()


def test_the_cache_encodes_every_text_once_and_returns_the_encoders_own_bytes(counting, tmp_path):
    texts = [f"item {number % 150}" for number in range(200)]
    steps = []
    first = EmbeddingCache(tmp_path / "cache.sqlite").encode(counting, texts, lambda done, of: steps.append((done, of)))
    assert counting.encoded == 150
    assert steps == [(64, 150), (128, 150), (150, 150)]
    assert first.tobytes() == vectors(counting, texts, "passage").tobytes()
    counting.encoded = 0
    again = EmbeddingCache(tmp_path / "cache.sqlite").encode(counting, ["new", *texts])
    assert counting.encoded == 1
    assert again[1:].tobytes() == first.tobytes()


def test_another_encoder_does_not_see_the_vectors_of_the_first(counting, tmp_path):
    cache = EmbeddingCache(tmp_path / "cache.sqlite")
    cache.encode(counting, ["item"])
    counting.passage_version = "v2"
    cache.encode(counting, ["item"])
    assert counting.encoded == 2


def test_the_cache_of_nothing_is_empty(counting, tmp_path):
    assert EmbeddingCache(tmp_path / "cache.sqlite").encode(counting, []).shape == (0, counting.dim)


def test_a_damaged_cache_is_replaced(counting, tmp_path):
    path = tmp_path / "cache.sqlite"
    texts = [f"item {number}" for number in range(100)]
    cache = EmbeddingCache(path)
    expected = cache.encode(counting, texts)
    cache.close()
    for damaged in (
        b"not a database at all" * 100,
        path.read_bytes()[:5000],
        path.read_bytes()[:4096] + b"\xff" * 20000,
    ):
        path.write_bytes(damaged)
        counting.encoded = 0
        cache = EmbeddingCache(path)
        assert cache.encode(counting, texts).tobytes() == expected.tobytes()
        cache.close()
        assert counting.encoded == 100


def test_a_cache_that_another_process_is_writing_is_not_replaced(counting, tmp_path, monkeypatch):
    path = tmp_path / "cache.sqlite"
    cache = EmbeddingCache(path)
    cache.encode(counting, ["item"])
    writer = sqlite3.connect(path)
    writer.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(sqlite3, "connect", lambda path, connect=sqlite3.connect, **_: connect(path, timeout=0))
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        EmbeddingCache(path)
    writer.rollback()
    counting.encoded = 0
    EmbeddingCache(path).encode(counting, ["item"])
    assert counting.encoded == 0
