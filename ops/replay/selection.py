"""What is replayed. No Kafka in here."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import msgspec

From = Literal["joined", "raw"]


class _AnyRequest(msgspec.Struct):
    request_id: str = ""


class _AnyJoined(msgspec.Struct):
    request: _AnyRequest = msgspec.field(default_factory=_AnyRequest)


@dataclass(frozen=True)
class Selection:
    """Which requests; None: whichever."""

    since: int | None = None  # event time, milliseconds
    until: int | None = None  # event time, not included
    offsets: tuple[int, int] | None = None  # of the topic replayed, in each partition; the end not included
    users: Collection[str] | None = None
    request_ids: Collection[str] | None = None

    def takes(self, source: From, offset: int, time: int, key: bytes | None, value: bytes | None) -> bool:
        """Tell whether a record of `users.requests` (raw) or `requests.joined` (joined) is selected."""
        return (
            (self.since is None or time >= self.since)
            and (self.until is None or time < self.until)
            and (self.offsets is None or self.offsets[0] <= offset < self.offsets[1])
            and (self.users is None or (key or b"").decode(errors="replace") in self.users)
            and (self.request_ids is None or _request_id(source, value) in self.request_ids)
        )


def _request_id(source: From, value: bytes | None) -> str | None:
    """Return the request's id, however faulty the rest is."""
    try:
        if source == "raw":
            return msgspec.msgpack.decode(value or b"", type=_AnyRequest).request_id
        return msgspec.msgpack.decode(value or b"", type=_AnyJoined).request.request_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
