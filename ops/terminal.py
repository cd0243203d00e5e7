"""The terminal that commands print to. What users and merchants wrote is shown as it is and can do nothing else."""

import unicodedata
from typing import Any

from rich.console import Console
from rich.text import Text

_LAYOUT = {"\n", "\t"}


class Terminal(Console):
    """A console for which square brackets are no style and colons no picture, and that no text can steer."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as it is printed, in a table too."""
        return super().render_str(harmless(text), **options)


def harmless(text: str) -> str:
    """Return a text with a mark in place of each character that would steer a terminal or turn its line around."""
    if text.isprintable():
        return text
    return "".join(character if character in _LAYOUT or not _steers(character) else "\ufffd" for character in text)


def _steers(character: str) -> bool:
    # Embeddings, overrides and isolates of the bidirectional algorithm reach beyond the text they are in.
    bidirectional = "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"
    return bidirectional or unicodedata.category(character) == "Cc"
