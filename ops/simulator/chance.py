"""Chance that depends on nothing but its key: the same key gives the same draws in every process and on every run."""

import hashlib
import random

import numpy as np


def stable_seed(*key: object) -> int:
    """Return 64 bits that are a function of the key's text (Python's own ``hash`` differs from run to run)."""
    text = "\x1f".join(map(str, key))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def chance(*key: object) -> random.Random:
    """Return the generator of a key for single draws: cheap to make, one for every request."""
    return random.Random(stable_seed(*key))


def chances(*key: object) -> np.random.Generator:
    """Return the generator of a key for whole arrays."""
    return np.random.default_rng(stable_seed(*key))
