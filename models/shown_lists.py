"""Training examples put together again: one list as it was shown, and what each item on it was worth to the user.

A list gives an example for every action, and one when nothing was done. Pure functions, so that whoever reads the same
examples, in the same order, gets the same lists.
"""

import hashlib
import heapq
from collections.abc import Iterable

import msgspec

from schemas.codec import decode
from schemas.records import JoinedRequest, Shown, Source, TrainingExample

Key = tuple[int, int]  # of a list: partition and offset of its request in `users.requests`


class _Where(msgspec.Struct):
    """What is needed of a joined request to tell lists apart; the rest is skipped."""

    source: Source
    event_time: int


_where = msgspec.msgpack.Decoder(_Where)


class ShownList(msgspec.Struct, frozen=True, array_like=True):
    """A list, by position. ``Shown.label`` is the greatest worth of all that was done with the item."""

    key: Key
    user: str  # the user's name on `retraining`
    event_time: int  # of the request, milliseconds
    model: str  # that made it, name@version
    joined: msgspec.Raw  # a JoinedRequest
    shown: list[Shown]

    @property
    def acted(self) -> bool:
        """Whether anything on it was worth something."""
        return any(shown.label > 0 for shown in self.shown)

    def request(self) -> JoinedRequest:
        """Return the joined request as it was served."""
        return decode(JoinedRequest, bytes(self.joined))


def list_key(example: TrainingExample) -> tuple[Key, int]:
    """Return which list an example is about, and the event time of its request.

    Raises:
        msgspec.DecodeError: its joined request is none.

    """
    where = _where.decode(example.joined)
    return (where.source.partition, where.source.offset), where.event_time


class Lists:
    """Lists, put together from their examples as these are read; at most ``limit`` of them if one is given.

    An example that is written again, as after a crash or because more of its list has been seen since, replaces the
    earlier one. With a limit the lists kept are those of the smallest hash, a sample that depends neither on chance nor
    on the order of partitions; a list is in it with all its examples or not at all.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._lists: dict[Key, dict[str, TrainingExample]] = {}
        self._of: dict[Key, tuple[str, int]] = {}  # user and event time
        self._order: list[tuple[int, Key]] = []  # heap; the greatest hash first
        self._beyond = 1 << 64  # hashes from here on are out for good

    def __len__(self) -> int:
        return len(self._lists)

    def add(self, user: str, example: TrainingExample) -> None:
        """Take an example of a user in.

        Raises:
            msgspec.DecodeError: its joined request is none.

        """
        key, event_time = list_key(example)
        if key not in self._lists:
            if self._limit is not None and not self._admit(key):
                return
            self._lists[key] = {}
            self._of[key] = user, event_time
        self._lists[key][example.example_id] = example

    def _admit(self, key: Key) -> bool:
        rank = _hash(key)
        if rank >= self._beyond or not self._limit:
            return False
        heapq.heappush(self._order, (-rank, key))
        if len(self._order) > self._limit:
            greatest, out = heapq.heappop(self._order)
            self._beyond = -greatest
            self._lists.pop(out, None)
            self._of.pop(out, None)
            return out != key
        return True

    def finished(self) -> list[ShownList]:
        """Return the lists in the order of their requests' event times."""
        return [
            _put_together(key, *self._of[key], self._lists[key].values())
            for key in sorted(self._lists, key=lambda key: (self._of[key][1], key))
        ]


def _put_together(key: Key, user: str, event_time: int, examples: Iterable[TrainingExample]) -> ShownList:
    shown: dict[str, Shown] = {}
    for example in examples:
        for each in example.shown:
            known = shown.get(each.item_id)
            if known is None or each.label > known.label:
                shown[each.item_id] = each
    return ShownList(
        key, user, event_time, example.model, example.joined, sorted(shown.values(), key=lambda each: each.position)
    )


def _hash(key: Key) -> int:
    return int.from_bytes(hashlib.blake2b(b"%d/%d" % key, digest_size=8).digest())
