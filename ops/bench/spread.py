"""How a series of measured times is spread."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Milliseconds."""

    p50: float
    p99: float
    longest: float


def spread(milliseconds: Sequence[float]) -> Spread:
    """Return the spread of at least one time; quantiles are times that were measured."""
    ordered = sorted(milliseconds)
    last = len(ordered) - 1
    return Spread(*(round(ordered[int(share * last + 0.5)], 1) for share in (0.5, 0.99, 1.0)))
