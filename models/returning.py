"""What a user returns to now, and whether they do: attention over everything the user has chosen.

    chance(i) = sum of exp(s(e)) over the choices e of i / (exp(n) + sum of exp(s(e)) over all choices e)

s(e) is what a small network says of one choice of the past beside the moment: was it at this hour, on such a day, after
the same item, as long after it, as near; n is what another says of the moment alone: does the user choose something
new? Pointing at one's own history is Vinyals et al., "Pointer networks" (NIPS 2015), and to choose between it and what
is new Ren et al., "RepeatNet" (AAAI 2019). Counts need widths and half-lives that somebody has chosen, each alone; here
all that tells two moments apart is weighed at once.
"""

from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from models.catalogue import Catalogue
from models.history import DAY, HOUR_MS, NO_GAP, Array, History, last_two, moment_of
from models.places import EARTH_RADIUS_METRES
from schemas.domains import DomainPack
from schemas.records import JoinedRequest

Rows = NDArray[np.int64]
Numbers = NDArray[np.float32]

FILE = "returning.safetensors"
CHOICE_NUMBERS = 33
HOUR_WIDTHS = (0.5, 1.0, 2.0, 4.0)  # standard deviations
AGES = (0.5 * DAY, 3 * DAY, 14 * DAY, 45 * DAY)  # after which an old choice counts a third
CLOSE = 1 / 8  # of the domain's near distance: closer than that makes little difference
MOST = 20.0  # of a logarithm, so that no exponential overflows


class Described(NamedTuple):
    """A user's choices and a moment in numbers."""

    choices: Numbers  # [choices, CHOICE_NUMBERS]
    moment: Numbers  # [MOMENT_NUMBERS]
    item: Rows  # number of each choice's item in the id table [choices]


def describe(
    catalogue: Catalogue, pack: DomainPack, joined: JoinedRequest, history: History, mentioned: Rows
) -> Described:
    """Return a request's history in numbers; ``mentioned`` are the catalogue rows of its id table, -1 for none."""
    item, age, length = history.item, history.age, len(history.item)
    own, now = mentioned[item], joined.event_time / HOUR_MS
    hour, day = now % DAY, int(now // DAY + 3) % 7  # 1970 began on a Thursday
    latest, before_it = last_two(joined, history)
    last, before = (int(own[position]) if position >= 0 else -1 for position in (latest, before_it))
    previous = history.previous
    follows = previous >= 0
    came_after = np.where(follows, own[previous], -1)
    second = np.where(follows & (previous[previous] >= 0), own[previous[previous]], -1)
    gap = age[latest] if latest >= 0 else NO_GAP
    gaps = np.where(follows, np.maximum(age[previous] - age, 0.0), NO_GAP)
    in_session = np.zeros(length, bool)
    if joined.request.session_id is not None:
        in_session = history.session == joined.history.open_session
    so_far = np.count_nonzero(in_session)
    counts = np.bincount(item, history.worth, len(joined.items))
    newest = np.zeros(len(joined.items))
    newest[item] = age  # oldest first, so the last one stays
    away, intervals = newest[item], _intervals(item, age)
    category = np.append(catalogue.category[:, 0], 0)
    apart = np.abs(history.hour - hour)
    apart = np.minimum(apart, DAY - apart)
    days = np.abs(history.day - day)
    same_part = (history.day >= 5) == (day >= 5)
    bells = [np.exp(-0.5 * (apart / width) ** 2) for width in HOUR_WIDTHS]
    choices = (
        *bells,
        history.day == day,
        same_part,
        np.minimum(days, 7 - days) / 3,
        np.log1p(age) / 5,
        *(np.exp(-age / fade) for fade in AGES),
        (came_after == last) & (last >= 0),
        category[came_after] == category[last],
        _far(catalogue, pack, came_after, last),
        ~follows,
        (second == before) & (before >= 0),
        np.exp(-(np.log((gaps + 0.1) / (gap + 0.1)) ** 2)),
        np.log1p(gaps) / 3,
        own == last,
        own == before,
        in_session,
        _far(catalogue, pack, own, last),
        np.log(counts[item] + 0.1) / 3,
        np.log1p(away) / 5,
        np.where(intervals >= 0, np.abs(np.log((np.maximum(intervals, 0.0) + 1) / (away + 1))), 2.0),
        intervals < 0,
        np.exp(-np.abs(_places_in_session(history) - so_far)),
        history.last_of_session,
        history.worth,
        bells[1] * same_part,
        np.log((1 + gaps) / (1 + gap)) / 3,
        category[own] == category[last],
    )
    numbers = np.zeros((CHOICE_NUMBERS, length), np.float32)
    for column, values in enumerate(choices):
        numbers[column] = values
    return Described(np.ascontiguousarray(numbers.T), moment_of(joined, history).astype(np.float32), item)


class ReturnModel(msgspec.Struct, frozen=True):
    """The two networks' weights, [inputs, outputs] each; see ``returning_training`` for how they are learned."""

    choice: Numbers  # [CHOICE_NUMBERS, hidden]
    moment: Numbers  # [MOMENT_NUMBERS, hidden]
    first_bias: Numbers  # [hidden]
    second: Numbers  # [hidden, hidden]
    second_bias: Numbers  # [hidden]
    out: Numbers  # [hidden]
    direct: Numbers  # [CHOICE_NUMBERS]: from a choice's numbers past the network
    new_moment: Numbers  # [MOMENT_NUMBERS, new hidden]
    new_bias: Numbers  # [new hidden]
    new_out: Numbers  # [new hidden]
    constants: Numbers  # [2]: of s and of n

    def chances(self, described: Described, total: int) -> tuple[Array, float]:
        """Return how likely the user returns to each entry of the id table [total], and chooses something new."""
        numbers = described.choices
        hidden = np.maximum(numbers @ self.choice + (described.moment @ self.moment + self.first_bias), 0.0)
        hidden = np.maximum(hidden @ self.second + self.second_bias, 0.0)
        worth = np.clip(hidden @ self.out + numbers @ self.direct + self.constants[0], -MOST, MOST)
        of_item = np.bincount(described.item, np.exp(worth.astype(np.float64)), total)
        new = np.maximum(described.moment @ self.new_moment + self.new_bias, 0.0) @ self.new_out + self.constants[1]
        of_new = float(np.exp(np.clip(float(new), -MOST, MOST)))
        everything = float(of_item.sum()) + of_new
        return of_item / everything, of_new / everything

    def save(self, folder: Path) -> None:
        """Write the model into a folder."""
        save_file({name: getattr(self, name) for name in self.__struct_fields__}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> "ReturnModel":
        """Read what ``save`` wrote.

        Raises:
            OSError, ValueError: the file is missing or is not what it should be.

        """
        tables = load_file(folder / FILE)
        if set(tables) != set(cls.__struct_fields__) or len(tables["choice"]) != CHOICE_NUMBERS:
            raise ValueError(f"{folder / FILE} was written for other numbers than this version has")
        return cls(**tables)


def _intervals(item: Rows, age: Array) -> Array:
    """Return the hours until the user came back to the same item [choices], -1 where they have not."""
    intervals = np.full(len(item), -1.0)
    grouped = np.argsort(item, kind="stable")
    again = item[grouped][1:] == item[grouped][:-1]
    intervals[grouped[:-1][again]] = (age[grouped[:-1]] - age[grouped[1:]])[again]
    return intervals


def _places_in_session(history: History) -> Array:
    """Return how many choices of the same session came before each [choices]."""
    places = np.zeros(len(history.item))
    for position, before in enumerate(history.previous.tolist()):
        places[position] = places[before] + 1 if before >= 0 else 0
    return places


def _far(catalogue: Catalogue, pack: DomainPack, rows: Rows, row: int) -> Array:
    """Return logarithms of distances [rows] from one row; 0 where nobody knows."""
    metres = np.sqrt(((catalogue.point[rows] - catalogue.point[row]) ** 2).sum(axis=1)) * EARTH_RADIUS_METRES
    metres = np.where((rows >= 0) & (row >= 0), np.nan_to_num(metres, nan=0.0), 0.0)
    return np.asarray(np.log1p(metres / (CLOSE * pack.near_metres)) / 4, np.float64)
