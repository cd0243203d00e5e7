"""The keys of this installation's pseudonyms, and what a training example may say about its user."""

import os
import re
import secrets
import stat
from pathlib import Path

import msgspec
import structlog

from models.pseudonyms import MIN_KEY_BYTES, Pseudonyms
from schemas.codec import decode, encode
from schemas.records import JoinedRequest
from streams.settings import Settings, SettingsError

log = structlog.get_logger(__name__)

KEY_FILE = "pseudonyms.key"  # within data_dir


def load_pseudonyms(settings: Settings) -> Pseudonyms:
    """Return the pseudonyms of this installation; without a configured key, one is made in ``data_dir`` and kept.

    Raises:
        SettingsError: the key file is missing, readable by others, or holds no key.

    """
    privacy = settings.privacy
    if privacy.key is not None:
        return Pseudonyms((privacy.key.get_secret_value().encode(),), privacy.keep_raw)
    file = privacy.key_file
    if file is None:
        file = settings.data_dir / KEY_FILE
        _make_key(file)
    try:
        mode, lines = file.stat().st_mode, file.read_bytes().split()
    except OSError as error:
        raise SettingsError(
            f"the key of pseudonyms can't be read ({error}): set privacy.key_file to a file with one key a line, or "
            "TABLECAST_PRIVACY__KEY"
        ) from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise SettingsError(f"{file}: everybody on this machine can read the key of pseudonyms: chmod 600 {file}")
    if not lines or any(len(line) < MIN_KEY_BYTES for line in lines):
        raise SettingsError(
            f"{file}: the keys of pseudonyms are one a line, each of at least {MIN_KEY_BYTES} characters: "
            "openssl rand -hex 32"
        )
    return Pseudonyms(tuple(lines), privacy.keep_raw)


def _make_key(file: Path) -> None:
    """Make a key unless there is one. Of two processes at once, both use the one that was there first."""
    if file.exists():
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        made = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
        made.touch(mode=0o600)
        try:
            made.write_text(secrets.token_hex(32) + "\n")
            os.link(made, file)  # whole or not at all
        finally:
            made.unlink()
    except FileExistsError:
        return
    except OSError as error:
        raise SettingsError(
            f"a key of pseudonyms can't be made in {file.parent} ({error}): set TABLECAST_PRIVACY__KEY, or "
            "privacy.key_file, to the same key for every stage"
        ) from error
    log.warning(
        "made a key of pseudonyms; stages on other machines need the same one (privacy.key_file)", file=str(file)
    )


def for_training(joined: bytes, user: bytes, pseudonyms: Pseudonyms, *, text: bool) -> bytes:
    """Return a joined request's bytes without what names its user; the model's input stays as it was served.

    ``text`` says whether the words of the request are kept; they have been redacted when it was joined.
    """
    if pseudonyms.keep_raw:
        return joined
    whole = decode(JoinedRequest, joined)
    asked = whole.request
    named = msgspec.structs.replace(
        asked,
        request_id=without_id(asked.request_id, user, pseudonyms),
        session_id=asked.session_id and pseudonyms.of(asked.session_id.encode()).decode(),
        text=without_id(asked.text, user, pseudonyms) if text else "",
    )
    return joined if named == asked else encode(msgspec.structs.replace(whole, request=named))


def without_id(words: str, user: bytes, pseudonyms: Pseudonyms) -> str:
    """Return text with the user's pseudonym where it has the user's id, as ids that apps make up often do."""
    raw = user.decode(errors="replace")
    if pseudonyms.keep_raw or raw not in words:  # a pattern for each user takes longer to compile than all the rest
        return words
    pattern = f"(?<![A-Za-z0-9]){re.escape(raw)}(?![A-Za-z0-9])"
    return re.sub(pattern, pseudonyms.of(user).decode(), words)[: max(200, len(words))]
