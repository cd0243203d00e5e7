"""Pseudonyms: what logs, dead letters and training data call a user.

A pseudonym is a keyed hash (HMAC-SHA256, RFC 2104, cut to 128 bits). It is the same everywhere, so a user's records can
be counted, joined and erased, and without the key nobody can tell whose it is, not even by trying all user ids.
"""

import hmac
from dataclasses import dataclass

DIGEST_BYTES = 16
MIN_KEY_BYTES = 16


@dataclass(frozen=True)
class Pseudonyms:
    """Names users by the newest of ``keys``; knows the names they had under the others."""

    keys: tuple[bytes, ...]  # newest first
    keep_raw: bool = False  # users are called by their ids after all

    def __repr__(self) -> str:
        return f"Pseudonyms({len(self.keys)} keys)"  # keys are secrets

    def of(self, user: bytes) -> bytes:
        """Return the name of a user id, 32 hexadecimal digits."""
        return user if self.keep_raw else _pseudonym(self.keys[0], user)

    def names(self, user: bytes) -> frozenset[bytes]:
        """Return every name that stored records may call a user by: under any key, and the id itself.

        An erasure must find all of them, also those from before a change of key or of settings.
        """
        return frozenset({user, *(_pseudonym(key, user) for key in self.keys)})


def _pseudonym(key: bytes, user: bytes) -> bytes:
    return hmac.digest(key, user, "sha256")[:DIGEST_BYTES].hex().encode()
