"""Long texts in chunks: an encoder reads 512 tokens and averages over them, and a page has no average meaning."""

import re

from models.texts import item_text
from schemas.domains import DomainPack
from schemas.records import Item

CHUNK_SIZE = 500  # about 115 tokens of English or 105 of Chinese
MAX_CHUNKS = 20  # of one text; a longer text is represented by chunks from all over it
_WIDE_SIZE = 3  # what a Chinese, Japanese or Korean character or an emoji counts, when a letter counts 1
_PIECE = 160  # characters; a sentence longer than a chunk is cut into pieces of at most this length

_WIDE = re.compile(r"[\u1100-\u11ff\u2e80-\ud7ff\uf900-\ufaff\ufe30-\uffef\U0001f000-\U0003ffff]")
_SENTENCE_END = re.compile(
    r"[.!?…]+[\"'”’)\]]*(?:\s+|(?=[A-Z]))"  # reviews glued together have no space between them
    r"|[。！？；]+[”’」』）]*\s*"
    r"|\n\s*"
)
_PIECES = re.compile(rf".{{1,{_PIECE - 1}}}[\s,;:，、；：]+|.{{1,{_PIECE}}}", re.DOTALL)


def item_chunks(pack: DomainPack, item: Item) -> list[str]:
    """Return what the text encoder reads about an item, beginning with its name: one text, or chunks of a long one."""
    return chunks(item_text(pack, item))


def chunks(text: str) -> list[str]:
    """Return a text in chunks of about ``CHUNK_SIZE`` that end where a sentence ends, at most ``MAX_CHUNKS``.

    The first is always the text's beginning. A text up to half as long again as a chunk is returned as it is.
    """
    total = _size(text)
    number = round(total / CHUNK_SIZE)
    if number <= 1:
        return [text]
    parts = [""] * number
    before = 0
    for sentence in sentences(text):
        size = _size(sentence)
        # Cut by the middle of a sentence, all chunks get about the same size, the last one too.
        parts[min((before + size // 2) * number // total, number - 1)] += sentence
        before += size
    found = [part.strip() for part in parts if not part.isspace() and part]
    if len(found) <= MAX_CHUNKS:
        return found or [text]
    return [found[place * (len(found) - 1) // (MAX_CHUNKS - 1)] for place in range(MAX_CHUNKS)]


def _size(text: str) -> int:
    return len(text) + (_WIDE_SIZE - 1) * len(_WIDE.findall(text))


def sentences(text: str) -> list[str]:
    """Return the sentences with what separates them; joined they are the text. None is longer than a chunk."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    found: list[str] = []
    for start, end in zip([0, *ends], [*ends, len(text)], strict=True):
        sentence = text[start:end]
        found += [sentence] if _size(sentence) <= CHUNK_SIZE else _PIECES.findall(sentence)
    return found
