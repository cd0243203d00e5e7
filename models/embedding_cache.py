"""Vectors of item texts kept on disk, so that a restart encodes only what is new."""

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import Counter

from .encoder import Encoder

_TEXTS_PER_STEP = 64  # encoded, stored and reported together
_KEYS_PER_QUERY = 500  # SQLite takes at most 999 parameters in its older builds
_log = structlog.get_logger(__name__)
_texts = Counter("tablecast_item_texts", "Texts of items whose vectors were wanted: cached, or encoded.", ["vector"])
_cached, _encoded = _texts.labels("cached"), _texts.labels("encoded")


class EmbeddingCache:
    """A SQLite file of vectors by encoder version and text. A damaged file is replaced by an empty one.

    Any thread may use it, one at a time.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = _open(path)

    def encode(
        self,
        encoder: Encoder,
        texts: Sequence[str],
        progress: Callable[[int, int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Return the unit vectors of `texts` as passages, one row each: float32 [len(texts), encoder.dim].

        Texts that occur twice or are in the cache are not encoded. `progress` is told how many of the missing texts
        are done, and how many there are.
        """
        keys = [hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in texts]
        wanted = dict(zip(keys, texts, strict=True))
        vectors = self._stored(encoder, list(wanted))
        missing = [key for key in wanted if key not in vectors]
        _cached.inc(len(vectors))
        _encoded.inc(len(missing))
        for start in range(0, len(missing), _TEXTS_PER_STEP):
            step = missing[start : start + _TEXTS_PER_STEP]
            encoded = encoder.encode(encoder.tokenize([wanted[key] for key in step], "passage"), "passage")
            rows = [(encoder.passage_version, key, vector.tobytes()) for key, vector in zip(step, encoded, strict=True)]
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)
            vectors.update(zip(step, encoded, strict=True))
            if progress:
                progress(start + len(step), len(missing))
        return np.stack([vectors[key] for key in keys]) if keys else np.empty((0, encoder.dim), np.float32)

    def close(self) -> None:
        self._database.close()

    def _stored(self, encoder: Encoder, keys: list[bytes]) -> dict[bytes, NDArray[np.float32]]:
        vectors = {}
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            some = keys[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(some))
            query = f"SELECT text, vector FROM vectors WHERE encoder = ? AND text IN ({marks})"  # noqa: S608 - only marks
            for text, vector in self._database.execute(query, (encoder.passage_version, *some)):
                vectors[text] = np.frombuffer(vector, np.float32)
        return vectors


def _open(path: Path) -> sqlite3.Connection:
    try:
        return _connect(path)
    except sqlite3.OperationalError:
        raise  # locked, or not writable: the file itself may be sound
    except sqlite3.DatabaseError as error:
        _log.warning("replacing a damaged embedding cache", path=str(path), reason=str(error))
        path.unlink()
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=30, check_same_thread=False)  # another process may be writing
    try:
        database.execute(
            "CREATE TABLE IF NOT EXISTS vectors"
            " (encoder TEXT, text BLOB, vector BLOB, PRIMARY KEY (encoder, text)) WITHOUT ROWID",
        )
        _check(database)
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database


def _check(database: sqlite3.Connection) -> None:
    ((state,),) = database.execute("PRAGMA quick_check(1)")
    if state != "ok":
        raise sqlite3.DatabaseError(state)
