"""Where the catalogue's items are, for finding what is near."""

import math

import numpy as np

from schemas.records import Location

EARTH_RADIUS_METRES = 6_371_000.0


def unit_vector(location: Location) -> np.ndarray:
    """Return the point on the unit sphere [3]; chords between such points give distances without trigonometry."""
    lat, lon = math.radians(location.lat), math.radians(location.lon)
    return np.array([math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)])


def distances(points: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Return great-circle distances in metres [n] from unit vectors [n, 3] to one [3]; NaN gives NaN."""
    squared = (points[:, 0] - origin[0]) ** 2 + (points[:, 1] - origin[1]) ** 2 + (points[:, 2] - origin[2]) ** 2
    metres: np.ndarray = 2 * EARTH_RADIUS_METRES * np.arcsin(np.minimum(np.sqrt(squared) / 2, 1.0))
    return metres


class Places:
    """Item locations by domain."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[str, Location]] = {}
        self._arrays: dict[str, tuple[list[str], np.ndarray]] | None = None

    def put(self, item_id: str, domain: str, location: Location | None) -> None:
        """Add or move an item; without a location it is taken out."""
        if location is None:
            self.remove(item_id)
        elif self._rows.get(item_id) != (domain, location):
            self._rows[item_id] = (domain, location)
            self._arrays = None

    def remove(self, item_id: str) -> None:
        """Take an item out."""
        if self._rows.pop(item_id, None) is not None:
            self._arrays = None

    def location(self, item_id: str) -> Location | None:
        """Return where an item is, if that is known."""
        row = self._rows.get(item_id)
        return row[1] if row else None

    def of(self, domain: str) -> tuple[list[str], np.ndarray]:
        """Return a domain's ids, in order of id, and their unit vectors [n, 3]."""
        if self._arrays is None:
            self._arrays = {}
        if domain not in self._arrays:
            ids = sorted(item_id for item_id, (name, _) in self._rows.items() if name == domain)
            points = np.array([unit_vector(self._rows[item_id][1]) for item_id in ids], np.float64).reshape(-1, 3)
            self._arrays[domain] = (ids, points)
        return self._arrays[domain]
