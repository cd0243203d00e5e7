"""Fetch a model, load it, and embed texts with it into the cache, in a process of its own.

    python -m models.load_ahead --fetch STORE VERSION SHA256
    python -m models.load_ahead MODEL CACHE < texts     (MODEL as for load_recommender; texts: a msgpack list)
    python -m models.load_ahead FOLDER                  (the ranker alone, of a model whose encoder is known)

A running stage has this done before it takes over a new model: at the lowest priority and outside its interpreter, so
that no request waits for it; and a model that brings a process down does not bring down the stage.
"""

import contextlib
import os
import sys
from pathlib import Path

import msgspec

from schemas.errors import ExplainedError

STORE_FAILED = 75  # exit code: another try may bring it


def fetch(store: str, version: str, sha256: str) -> None:
    """See that a version is in the local cache, whole and as it was announced."""
    _give_way()
    from models.store import ModelStore, StoreError

    try:
        ModelStore(store).fetch(version, sha256)
    except StoreError as error:
        print(error, file=sys.stderr)
        sys.exit(STORE_FAILED)


def main(model: str, cache: str | None = None) -> None:
    """Read texts from standard input and see that the cache has the vector of each; without a cache, only load."""
    _give_way()
    from models.artefact import load_ranker, load_recommender
    from models.embedding_cache import EmbeddingCache

    if cache is None:
        load_ranker(Path(model))
        return
    texts = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=list[str])
    encoder, _ = load_recommender(model, threads=1)
    EmbeddingCache(Path(cache)).encode(encoder, texts)


def _give_way() -> None:
    """Take processor time only where nobody else wants it: neither the stage nor the broker beside it."""
    os.nice(19)
    # Where Linux groups processes by session, niceness counts within a session, and between them that of the group.
    with contextlib.suppress(OSError):
        os.setsid()
        Path("/proc/self/autogroup").write_text("19", encoding="ascii")


if __name__ == "__main__":
    try:
        if sys.argv[1] == "--fetch":
            fetch(*sys.argv[2:])
        else:
            main(*sys.argv[1:])
    except ExplainedError as error:
        sys.exit(str(error))
