"""A model as one folder: the unit that is stored, announced, served and fine-tuned from.

    model.json   what it is and what it was made from, with the size and sha256 of every other file; written last
    encoder/     an exported encoder, as ``models.encoder`` reads it
    ranker/      a trained ranker, as ``models.ranker`` reads it; without one the starting weights alone rank
    weights/     safetensors of what was trained, for the next fine-tuning; serving does not need them

A folder may come from anywhere. It is believed once ``read_model`` has seen that it holds exactly the files that its
manifest names, with their sha256; nothing in it is ever unpickled or run.
"""

import hashlib
import math
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from schemas.records import Id, Label, Milliseconds, Text

from .base_model import written_at_once
from .encoder import ArtefactError, Encoder, file_sha256
from .export import load_default_encoder, load_shipped_encoder
from .ranker import Ranker
from .recommender import Recommender

MANIFEST = "model.json"
ENCODER, RANKER, WEIGHTS = "encoder", "ranker", "weights"
SUFFIXES = (".json", ".onnx", ".safetensors", ".txt")  # formats that hold data and no code
SHIPPED, BASE = "shipped", "base"
SHIPPED_RANKER = Path(__file__).parent / "shipped" / "ranker"

MAX_MANIFEST_BYTES = 4 * 1024 * 1024
_FORMAT: Literal[1] = 1
_NAME = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,99}")  # of a file or folder, and of a model

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", max_length=64)]
Version = Annotated[str, Meta(pattern="^[0-9a-f]{16}$", max_length=16)]


class File(msgspec.Struct, frozen=True):
    """One file of a model."""

    size: Annotated[int, Meta(ge=0)]
    sha256: Sha256


class ModelManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What model.json says."""

    format: Literal[1] = _FORMAT
    name: Annotated[str, Meta(pattern=f"^{_NAME.pattern}$", max_length=100)]
    version: Version  # content hash: equal files, equal version, whatever else the manifest says
    created: Milliseconds
    base: Id  # the language model that it grew out of
    parent: Version | None = None  # the version that it was fine-tuned from
    metrics: dict[Label, float] = {}
    training: dict[Text, Any] = {}  # how it was trained, as the trainer put it
    files: dict[str, File]  # by path in the folder


def write_model(
    folder: Path,
    *,
    name: str,
    base: str,
    encoder: Path,
    ranker: Path | None = None,
    weights: Path | None = None,
    parent: str | None = None,
    metrics: Mapping[str, float] | None = None,
    training: Mapping[str, Any] | None = None,
) -> ModelManifest:
    """Make a model of copies of its parts, each a folder, in ``folder``, which must be new or empty.

    Raises:
        ArtefactError: ``folder`` is not, or a part holds what a model may not hold. Nothing is left behind.

    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtefactError(f"{folder} exists already: give another folder or remove it")
    with written_at_once(folder) as draft:
        for part, source in ((ENCODER, encoder), (RANKER, ranker), (WEIGHTS, weights)):
            if source is not None:
                shutil.copytree(source, draft / part)
        paths = _files(draft)
        files = {path: File((draft / path).stat().st_size, file_sha256(draft / path)) for path in paths}
        fields: dict[str, Any] = {
            "format": _FORMAT,
            "name": name,
            "version": _version(files),
            "created": time.time_ns() // 1_000_000,
            "base": base,
            "parent": parent,
            "metrics": dict(metrics or {}),
            "training": dict(training or {}),
            "files": files,
        }
        path = draft / MANIFEST
        path.write_bytes(msgspec.json.format(msgspec.json.encode(fields), indent=2) + b"\n")
        return parse_manifest(path.read_bytes(), str(path))


def parse_manifest(data: bytes, path: str) -> ModelManifest:
    """Return what the bytes of a model.json say; ``path`` is where they came from, for the error.

    Raises:
        ArtefactError: they are not a manifest, or name files that a model may not hold.

    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ArtefactError(f"{path} has more than {MAX_MANIFEST_BYTES} bytes: it is not a model's manifest")
    try:
        manifest = msgspec.json.decode(data, type=ModelManifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtefactError(f"{path} is damaged: {error}") from error
    for file in manifest.files:
        _check_path(file, path)
    if not any(file.startswith(f"{ENCODER}/") for file in manifest.files):
        raise ArtefactError(f"{path} names no file of an encoder")
    if not all(map(math.isfinite, manifest.metrics.values())):
        raise ArtefactError(f"{path}: a metric is not a finite number")
    if manifest.version != _version(manifest.files):
        raise ArtefactError(f"{path}: version {manifest.version} is not that of its files")
    return manifest


def read_model(folder: Path) -> ModelManifest:
    """Return a model's manifest after reading every file of the folder.

    Raises:
        ArtefactError: a file is missing, damaged or one too many, or the manifest is none; names the file.

    """
    path = folder / MANIFEST
    try:
        if path.is_symlink() or path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ArtefactError(f"{path} is not a model's manifest")
        manifest = parse_manifest(path.read_bytes(), str(path))
        present = set(_files(folder)) - {MANIFEST}
        for name, expected in sorted(manifest.files.items()):
            file = folder / name
            if name not in present:
                raise ArtefactError(f"{file} is missing")
            if (size := file.stat().st_size) != expected.size:
                raise ArtefactError(f"{file} has {size} bytes, expected {expected.size}")
            if (actual := file_sha256(file)) != expected.sha256:
                raise ArtefactError(f"{file} is damaged: sha256 {actual}, expected {expected.sha256}")
        if extra := sorted(present - manifest.files.keys()):
            raise ArtefactError(f"{folder / extra[0]} is not in {MANIFEST}: a model holds what its manifest names")
    except FileNotFoundError as error:
        raise ArtefactError(f"{error.filename} is missing: {folder} is not a model") from error
    except OSError as error:
        raise ArtefactError(f"{folder} can't be read: {error}") from error
    return manifest


def load_recommender(
    model: str | Path, *, threads: int = 2, name: str | None = None, cache: Path | None = None
) -> tuple[Encoder, Recommender]:
    """Return a model ready to serve: "shipped", "base", or that of a folder, after checking the folder.

    "shipped" is what comes with Tablecast, a student of the packaged language model that reads requests and a ranker;
    "base" is that language model alone, with the starting weights. ``name`` goes before the version in every answer; by
    default the manifest's. ``cache`` replaces ``cache_folder()``.

    Raises:
        ArtefactError: the folder is not a model, or its parts are not what they should be.

    """
    if model == BASE:
        encoder = load_default_encoder(cache, threads=threads)
        return encoder, Recommender(encoder.dim, f"{name or 'tablecast'}@{encoder.version}")
    if model == SHIPPED:
        encoder, shipped = load_shipped_encoder(cache, threads=threads), Ranker.load(SHIPPED_RANKER)
        version = hashlib.sha256(f"{encoder.version} {shipped.version}".encode()).hexdigest()[:16]
        return encoder, Recommender(encoder.dim, f"{name or 'tablecast'}@{version}", ranker=shipped)
    folder = Path(model)
    manifest = read_model(folder)
    with _explained(folder):
        encoder = Encoder.load(folder / ENCODER, threads=threads)
    return encoder, Recommender(encoder.dim, f"{name or manifest.name}@{manifest.version}", ranker=load_ranker(folder))


def load_ranker(folder: Path) -> Ranker | None:
    """Return the ranker of a model that has been checked, None if it has none.

    Raises:
        ArtefactError: it is not what it should be.

    """
    with _explained(folder):
        return Ranker.load(folder / RANKER) if (folder / RANKER).is_dir() else None


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn whatever ONNX Runtime, tokenizers or LightGBM say of a file that is not theirs into a sentence."""
    try:
        yield
    except ArtefactError:
        raise
    except Exception as error:
        raise ArtefactError(f"{folder} can't be loaded: {error}") from error


def _version(files: Mapping[str, File]) -> str:
    digest = hashlib.sha256()
    for path, file in sorted(files.items()):
        digest.update(f"{path} {file.sha256}\n".encode())
    return digest.hexdigest()[:16]


def _files(folder: Path) -> list[str]:
    """Return the paths of all files in a folder; a link, which may lead out of it, is none."""
    paths = []
    for entry in sorted(folder.rglob("*")):
        path = entry.relative_to(folder).as_posix()
        if entry.is_dir() and not entry.is_symlink():
            continue
        if entry.is_symlink() or not entry.is_file():
            raise ArtefactError(f"{entry} is not a plain file")
        if path != MANIFEST:
            _check_path(path, str(folder))
        paths.append(path)
    return paths


def _check_path(path: str, where: str) -> None:
    """Raise ArtefactError unless a path is that of a file in one of a model's parts."""
    parts = path.split("/")
    if (
        len(parts) < 2
        or parts[0] not in {ENCODER, RANKER, WEIGHTS}
        or not all(_NAME.fullmatch(part) for part in parts)
        or PurePosixPath(path).suffix not in SUFFIXES
    ):
        raise ArtefactError(
            f"{where}: {path!r} is not a file of a model: they lie in {ENCODER}/, {RANKER}/ or {WEIGHTS}/ and end in "
            + ", ".join(SUFFIXES)
        )
