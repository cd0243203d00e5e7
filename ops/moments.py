"""Moments as people write them on the command line."""

import re
import time
from datetime import UTC, datetime

from schemas.errors import BadInputError

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def moment(text: str) -> int:
    """Return the milliseconds since 1970 of ``2026-11-23T10:00`` (UTC unless it says otherwise) or of ``2h`` ago.

    Raises:
        BadInputError: it is neither.

    """
    if ago := re.fullmatch(r"(\d+)([smhd])", text):
        return int(time.time() * 1000) - int(ago[1]) * _UNITS_MS[ago[2]]
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInputError(
            f"{text!r} is not a moment: write 2026-11-23T10:00, or 30m, 2h, 7d for so long ago"
        ) from error
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)


def shown(milliseconds: int) -> str:
    """Return a moment for people, in UTC; a time that no calendar has, as the number it is."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms"
