"""Where model versions are kept: a folder, S3-compatible storage, or whatever else fsspec reaches by a URL.

    <url>/<version>/model.json, encoder/..., ranker/..., weights/...

A version never changes. Its model.json is written last and removed first, and whoever reads believes what it names and
nothing else: an upload that was cut off is not there.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
import structlog

from schemas.errors import ExplainedError

from .artefact import MANIFEST, MAX_MANIFEST_BYTES, File, ModelManifest, parse_manifest, read_model
from .base_model import cache_folder, written_at_once
from .encoder import ArtefactError, file_sha256

CACHED_VERSIONS = 8  # kept in the local cache; the one not used for longest goes
_CHUNK = 1024 * 1024
_log = structlog.get_logger(__name__)


class StoreError(ExplainedError):
    """The store can't be reached, or doesn't hold what was asked for."""


class ModelStore:
    """All versions of all models at one URL. Any process may use it at the same time; calls block."""

    def __init__(self, url: str, cache: Path | None = None) -> None:
        """Open the store; ``cache`` replaces the folder ``models`` in ``cache_folder()``.

        Raises:
            StoreError: the URL's kind of storage is unknown or its package is not installed.

        """
        self.url = url
        self._cache = cache or cache_folder() / "models"
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            hint = ": pip install 'tablecast[s3]'" if url.startswith("s3:") else ""
            raise StoreError(f"the model store {url} can't be opened: {error}{hint}") from error

    def put(self, folder: Path) -> str:
        """Upload a model and return its version. One that is there already is left as it is.

        Raises:
            ArtefactError: the folder is not a model.
            StoreError: the store can't be written.

        """
        manifest = read_model(folder)
        with self._explained(f"{manifest.version} can't be written"):
            if self._files.exists(self._path(manifest.version, MANIFEST)):
                return manifest.version
            for path in manifest.files:
                target = self._path(manifest.version, path)
                self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(folder / path), target)
            # Under its own name only when it is whole: renaming is one step, writing is not everywhere.
            draft = self._path(manifest.version, f".{uuid.uuid4().hex}")
            self._files.put_file(str(folder / MANIFEST), draft)
            self._files.mv(draft, self._path(manifest.version, MANIFEST))
        _log.info("model stored", version=manifest.version, store=self.url)
        return manifest.version

    def manifest(self, version: str) -> tuple[ModelManifest, str]:
        """Return a version's manifest and the sha256 of its model.json, which stands for the whole version.

        Raises:
            ArtefactError: the manifest is damaged.
            StoreError: there is no such version.

        """
        data = self._read_manifest(version)
        manifest = parse_manifest(data, self._path(version, MANIFEST))
        if manifest.version != version:
            raise ArtefactError(f"{self._path(version, MANIFEST)} is that of version {manifest.version}")
        return manifest, hashlib.sha256(data).hexdigest()

    def versions(self) -> list[ModelManifest]:
        """Return the manifests of all versions, newest first; damaged ones are logged and left out."""
        manifests = []
        with self._explained("the versions can't be read"):
            self._files.invalidate_cache()
            folders = self._files.ls(self._root, detail=False) if self._files.exists(self._root) else []
            for folder in folders:
                version = folder.rstrip("/").rpartition("/")[2]
                if not self._files.exists(self._path(version, MANIFEST)):
                    continue  # an upload that goes on, or was cut off
                try:
                    manifests.append(self.manifest(version)[0])
                except (ArtefactError, StoreError) as error:
                    _log.warning("unreadable model in the store", version=version, reason=str(error))
        return sorted(manifests, key=lambda manifest: (-manifest.created, manifest.version))

    def fetch(self, version: str, sha256: str | None = None) -> Path:
        """Return a local folder with a version, every file checked; from the cache where it is there and sound.

        ``sha256`` is that of model.json, where it is known from elsewhere. Two processes may fetch at the same time.

        Raises:
            ArtefactError: what the store holds is damaged, or not what ``sha256`` says.
            StoreError: there is no such version, or the store can't be read.

        """
        folder = self.folder(version)
        if folder.is_dir():
            try:
                _check(folder, version, sha256)
            except ArtefactError as error:
                _log.warning("fetching the model again", version=version, reason=str(error))
                _remove(folder)
        if not folder.is_dir():
            data = self._read_manifest(version)
            manifest = parse_manifest(data, self._path(version, MANIFEST))
            with written_at_once(folder) as draft:
                (draft / MANIFEST).write_bytes(data)
                known = self._cached_files()
                for path, file in manifest.files.items():
                    if not _linked(known.get(file.sha256), file, draft / path):
                        self._download(self._path(version, path), draft / path, file.size)
                _check(draft, version, sha256)
            self._forget_old()
        os.utime(folder)
        return folder

    def folder(self, version: str) -> Path:
        """Return the local folder of a version that has been fetched."""
        return self._cache / version

    def remove(self, version: str) -> None:
        """Remove a version; its manifest goes first, so that nobody begins to fetch the rest. Unknown ones are none."""
        with self._explained(f"{version} can't be removed"):
            folder = self._path(version)
            if self._files.exists(path := self._path(version, MANIFEST)):
                self._files.rm_file(path)
            if self._files.exists(folder):
                self._files.rm(folder, recursive=True)

    def prune(self, name: str, keep: int, in_use: Collection[str]) -> list[str]:
        """Remove a model's versions but the newest ``keep`` and those in use; return those removed."""
        mine = [manifest.version for manifest in self.versions() if manifest.name == name]
        old = [version for version in mine[keep:] if version not in in_use]
        for version in old:
            self.remove(version)
        return old

    def _path(self, version: str, path: str = "") -> str:
        if not version.isalnum():
            raise StoreError(f"{version!r} is not a version: they are 16 hexadecimal digits")
        return "/".join(filter(None, (self._root.rstrip("/"), version, path)))

    def _read_manifest(self, version: str) -> bytes:
        path = self._path(version, MANIFEST)
        with self._explained(f"{path} can't be read"):
            try:
                with self._files.open(path, "rb") as stream:
                    data: bytes = stream.read(MAX_MANIFEST_BYTES + 1)
            except FileNotFoundError as error:
                raise StoreError(f"the model store {self.url} has no version {version}") from error
        return data

    def _download(self, path: str, target: Path, size: int) -> None:
        """Copy a file of so many bytes; one that is longer is cut, and the check afterwards says so."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._explained(f"{path} can't be read"):
            try:
                with self._files.open(path, "rb") as source, target.open("wb") as copy:
                    left = size + 1
                    while left > 0 and (chunk := source.read(min(left, _CHUNK))):
                        copy.write(chunk)
                        left -= len(chunk)
            except FileNotFoundError as error:
                raise ArtefactError(f"{path} is missing in the model store {self.url}") from error

    def _cached_files(self) -> dict[str, Path]:
        """Return which files the versions in the cache say that they have, by sha256."""
        found: dict[str, Path] = {}
        for manifest in self._cache.glob(f"[0-9a-f]*/{MANIFEST}"):
            with suppress(OSError, ArtefactError):
                files = parse_manifest(manifest.read_bytes(), str(manifest)).files
                found.update({file.sha256: manifest.parent / path for path, file in files.items()})
        return found

    def _forget_old(self) -> None:
        with suppress(FileNotFoundError):  # another process forgets too
            cached = [(folder.stat().st_mtime, folder) for folder in self._cache.iterdir() if folder.name.isalnum()]
            for _, folder in sorted(cached)[:-CACHED_VERSIONS]:
                _remove(folder)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn what a kind of storage raises, each has its own errors, into a sentence."""
        try:
            yield
        except (ArtefactError, StoreError):
            raise
        except Exception as error:
            raise StoreError(f"model store {self.url}: {what}: {error}") from error


def _linked(known: Path | None, file: File, target: Path) -> bool:
    """Return whether a file could be had from another version: a trained ranker leaves the encoder as it was."""
    with suppress(OSError):  # it may be gone by now, and not every file system has links
        if known is not None and file_sha256(known) == file.sha256:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(known, target)
            return True
    return False


def _check(folder: Path, version: str, sha256: str | None) -> None:
    manifest = read_model(folder)
    if manifest.version != version:
        raise ArtefactError(f"{folder / MANIFEST} is that of version {manifest.version}, not {version}")
    if sha256 is not None and hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest() != sha256:
        raise ArtefactError(f"{folder / MANIFEST} is not the one that was announced")


def _remove(folder: Path) -> None:
    """Remove a folder of the cache in one step, as others see it."""
    doomed = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return  # another process did
    shutil.rmtree(doomed, ignore_errors=True)
