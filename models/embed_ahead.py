"""Embed texts with a model into the cache, in a process of its own.

    python -m models.embed_ahead MODEL CACHE < texts     (MODEL as for load_recommender; texts: a msgpack list)

A running stage has this done before it takes over a new model: at the lowest priority and outside its interpreter, so
that no request waits for it; and a model that brings a process down does not bring down the stage.
"""

import os
import sys
from pathlib import Path

import msgspec

from schemas.errors import ExplainedError


def main(model: str, cache: str) -> None:
    """Read texts from standard input and see that the cache has the vector of each."""
    os.nice(19)
    from models.artefact import load_recommender
    from models.embedding_cache import EmbeddingCache

    texts = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=list[str])
    encoder, _ = load_recommender(model, threads=1)
    EmbeddingCache(Path(cache)).encode(encoder, texts)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ExplainedError as error:
        sys.exit(str(error))
