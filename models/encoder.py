"""Serve an exported text encoder: texts to token ids, token ids to unit vectors, with ONNX Runtime.

A vector depends on its text alone, byte for byte, never on what else is encoded with it; models/SERVING.md says what
that costs and how it was measured.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from schemas.errors import BadInputError

from .base_model import Kind, Pooling

MANIFEST = "encoder.json"
MODEL = "model.onnx"
# Where the model is a student that learned to read queries alone, its teacher reads passages: model and manifest.
PASSAGES, PASSAGES_MANIFEST = "passages.onnx", "passages.json"
TOKENIZER = "tokenizer.json"

Precision = Literal["fp32", "int8", "fp16"]
TokenIds = NDArray[np.int64]

_FORMAT = 1
_VERSION_DIGITS = 16
# Of one thread. A larger run is no faster on a CPU; fewer tokens are not shared out, because on busy cores a second
# thread is waited for longer than it saves, and with nothing else to do it would have the next batch.
_TOKENS_PER_RUN = 512
_CHARACTERS_PER_TOKEN = 32  # twice the longest piece of any vocabulary seen; more text than this is never looked at


class ArtefactError(BadInputError):
    """An exported encoder is missing, incomplete or damaged; the text names the file."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What encoder.json says about the other files of an artefact."""

    base: str
    precision: Precision
    pooling: Pooling
    prefixes: dict[Kind, str]
    max_tokens: int
    padding_id: int
    dim: int
    sha256: dict[str, str]  # by file name


def encoder_version(folder: Path) -> str:
    """Return the version of the artefact in a folder, whose other files are not looked at.

    Raises:
        ArtefactError: there is none.

    """
    return _read_manifest(folder)[1]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    fields = {"format": _FORMAT} | {name: getattr(manifest, name) for name in Manifest.__slots__}
    (folder / MANIFEST).write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Encoder:
    """A loaded artefact. Tokenising and encoding may run in different threads at the same time.

    Attributes:
        version: content hash of the artefact, 16 hexadecimal digits; equal versions give equal vectors on one machine.
        passage_version: likewise, of what reads passages alone: a student's is its teacher's version.
        provider: the ONNX Runtime execution provider in use, such as "CPUExecutionProvider".
        threads: how many runs go on at the same time.

    """

    def __init__(
        self,
        manifest: Manifest,
        version: str,
        passage_version: str,
        tokenizer: Any,
        sessions: Mapping[Kind, Any],
        threads: int,
    ) -> None:
        self.manifest = manifest
        self.version = version
        self.passage_version = passage_version
        self.provider: str = sessions["query"].get_providers()[0]
        self._tokenizer = tokenizer
        self._sessions = sessions
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encode")

    @classmethod
    def load(cls, folder: Path, *, threads: int = 2, providers: Sequence[str] | None = None) -> "Encoder":
        """Load an artefact after checking the sha256 of its files.

        `threads` runs go on at the same time, each on one core. `providers` are ONNX Runtime's names; by default CUDA
        where it works, except for int8, which is made for CPUs.

        Raises:
            ArtefactError: a file is missing, damaged, or not what this version of Tablecast reads.

        """
        manifest, version = _read_manifest(folder)
        for name in (MODEL, TOKENIZER):
            if name not in manifest.sha256:
                raise ArtefactError(f"{folder / MANIFEST} is damaged: it has no sha256 of {name}: export it again")
        for name, expected in manifest.sha256.items():
            path = folder / name
            if not path.is_file():
                raise ArtefactError(f"{path} is missing: export the encoder again")
            if (actual := file_sha256(path)) != expected:
                raise ArtefactError(f"{path} is damaged (sha256 {actual}, expected {expected}): export it again")
        tokenizer = _load_tokenizer(_Content(manifest.sha256[TOKENIZER], folder / TOKENIZER), manifest.max_tokens)
        wanted = list(providers or _default_providers(manifest.precision))
        queries = _load_session(_Content(manifest.sha256[MODEL], folder / MODEL), wanted)
        if PASSAGES not in manifest.sha256:
            return cls(manifest, version, version, tokenizer, {"query": queries, "passage": queries}, threads)
        passages = _load_session(_Content(manifest.sha256[PASSAGES], folder / PASSAGES), wanted)
        passage_version = file_sha256(folder / PASSAGES_MANIFEST)[:_VERSION_DIGITS]
        return cls(manifest, version, passage_version, tokenizer, {"query": queries, "passage": passages}, threads)

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.manifest.dim

    def tokenize(self, texts: Sequence[str], kind: Kind) -> list[TokenIds]:
        """Return the token ids of each text after the prefix of its kind: at least one, at most `max_tokens`."""
        prefix = self.manifest.prefixes[kind]
        limit = self.manifest.max_tokens * _CHARACTERS_PER_TOKEN
        # A lone surrogate, which no UTF-8 text holds but a Python string may, becomes a question mark.
        inputs = [(prefix + text[:limit]).encode("utf-8", "replace").decode("utf-8") for text in texts]
        # Not as a batch: its threads cost more than the work, and on busy cores a request waits for each of them.
        return [np.asarray(self._tokenizer.encode(text).ids, np.int64) for text in inputs]

    def encode(self, tokens: Sequence[TokenIds], kind: Kind = "query") -> NDArray[np.float32]:
        """Return unit vectors, one row for each text's token ids: float32 [len(tokens), dim].

        ``kind`` is what the texts were tokenized as.
        """
        vectors = np.empty((len(tokens), self.dim), np.float32)

        def run(rows: list[int]) -> None:
            for row, vector in zip(rows, self._run([tokens[row] for row in rows], kind), strict=True):
                vectors[row] = vector

        runs = _plan_runs([len(ids) for ids in tokens])
        if len(runs) == 1:
            run(runs[0])  # here: another thread would cost a single request two switches
        else:
            list(self._pool.map(run, runs))  # list() waits for every run and raises the first error of any
        return vectors

    def hidden_states(self, tokens: Sequence[TokenIds], kind: Kind = "query") -> list[NDArray[np.float32]]:
        """Return the last hidden states of each text's tokens: float32 [tokens, dim] each."""
        states = [np.empty((0, self.dim), np.float32)] * len(tokens)

        def run(rows: list[int]) -> None:
            for row, hidden in zip(rows, self._states([tokens[row] for row in rows], kind), strict=True):
                states[row] = hidden

        list(self._pool.map(run, _plan_runs([len(ids) for ids in tokens])))
        return states

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()

    def _run(self, tokens: list[TokenIds], kind: Kind) -> list[NDArray[np.float32]]:
        return [_pool(states, self.manifest.pooling) for states in self._states(tokens, kind)]

    def _states(self, tokens: list[TokenIds], kind: Kind) -> list[NDArray[np.float32]]:
        length = max(len(ids) for ids in tokens)
        input_ids = np.full((len(tokens), length), self.manifest.padding_id, np.int64)
        attention_mask = np.zeros_like(input_ids)
        for row, ids in enumerate(tokens):
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
        (hidden,) = self._sessions[kind].run(None, {"input_ids": input_ids, "attention_mask": attention_mask})
        return [hidden[row, : len(ids)].astype(np.float32, copy=False) for row, ids in enumerate(tokens)]


def _plan_runs(lengths: Sequence[int]) -> list[list[int]]:
    """Split rows into runs of the model: rows of similar length within so many padded tokens, the longest first."""
    runs: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not runs or (len(runs[-1]) + 1) * lengths[runs[-1][0]] > _TOKENS_PER_RUN:
            runs.append([])
        runs[-1].append(row)
    return runs


def _pool(states: NDArray[np.float32], pooling: Pooling) -> NDArray[np.float32]:
    """One unit vector from the hidden states [tokens, dim] of one text.

    Outside the graph because ONNX Runtime adds up a batch of one in another order than a batch of several.
    """
    vector = states.mean(axis=0) if pooling == "mean" else states[-1]
    norm = np.sqrt(np.sum(vector * vector))
    return np.asarray(vector / max(norm, np.float32(1e-12)), np.float32)


def _read_manifest(folder: Path) -> tuple[Manifest, str]:
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
        fields = json.loads(data)
        found = fields.pop("format")
        manifest = Manifest(**fields)
    except FileNotFoundError as error:
        raise ArtefactError(f"{path} is missing: {folder} is not an exported encoder") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(f"{path} is damaged ({error}): export the encoder again") from error
    if found != _FORMAT:
        raise ArtefactError(f"{path} has format {found}, expected {_FORMAT}: export the encoder again")
    return manifest, hashlib.sha256(data).hexdigest()[:_VERSION_DIGITS]


@dataclass(frozen=True, slots=True)
class _Content:
    sha256: str
    path: Path = field(compare=False)


@lru_cache(maxsize=2)  # a model and its successor, which have the same as a rule
def _load_tokenizer(content: _Content, max_tokens: int) -> Any:
    """Load a tokenizer, or share the one loaded last: reading one holds the interpreter for a second."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(content.path))
    tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()
    return tokenizer


_sessions: WeakValueDictionary[tuple[str, ...], Any] = WeakValueDictionary()  # in use, by content and providers


def _load_session(content: _Content, providers: list[str]) -> Any:
    """Load a model, or share one in use: what the trainer makes has the text encoder of the model before it."""
    import onnxruntime

    session = _sessions.get(key := (content.sha256, *providers))
    if session is None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(content.path), options, providers=providers)
        _sessions[key] = session
    return session


def _default_providers(precision: Precision) -> list[str]:
    return (
        ["CUDAExecutionProvider", "CPUExecutionProvider"]
        if precision != "int8" and has_cuda()
        else (["CPUExecutionProvider"])
    )


def has_cuda() -> bool:
    """Whether this machine has an NVIDIA driver and ONNX Runtime can use it."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers() or not Path("/dev/nvidiactl").exists():
        return False
    onnxruntime.preload_dlls()  # CUDA and cuDNN come with torch's own packages
    return True
