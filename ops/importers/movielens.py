"""MovieLens: the CSV files of ml-latest, ml-25m and ml-32m, and the '::' files of ml-1m and ml-10m.

Item: a movie, its genres as categories, its most given tags as text. Interaction: a rating.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from models.dataset import Item, Meta

from .events import TRAIN, Events, leave_one_out, save
from .source import (
    LABEL_LENGTH,
    NAME_LENGTH,
    BadRowError,
    Progress,
    Row,
    SourceError,
    Tally,
    csv_rows,
    event_time,
    find_file,
    identifier,
    number,
    rating,
    rows,
    utf8,
    utf8_or_latin1,
)

TAGS_PER_MOVIE = 10
WORST_RATING = 0.5
_YEAR = re.compile(r"\s*\((\d{4})\)\s*$")


class _Rating(NamedTuple):
    user_id: str
    movie_id: str
    rating: float
    time: int


class _Tag(NamedTuple):
    user_id: str
    movie_id: str
    tag: str


def import_movielens(source: Path, destination: Path, progress: Progress) -> Meta:
    """Import an unpacked MovieLens directory.

    Raises:
        SourceError: a file is missing, can't be read or is not of the format.
        DatasetError: the destination can't be written.

    """
    movie_file = find_file(source, "movies.csv", "movies.dat")
    rating_file = find_file(source, "ratings.csv", "ratings.dat")
    if movie_file is None or rating_file is None:
        raise SourceError(f"{source} has no movies.csv with a ratings.csv, and no movies.dat with a ratings.dat")
    tag_file = find_file(source, "tags.csv", "tags.dat")

    tallies = [Tally(path) for path in (movie_file, rating_file, tag_file) if path]
    movies = {movie.item_id: movie for movie in _read(movie_file, _MOVIE_COLUMNS, _movie, tallies[0], progress)}

    def known(row: dict[str, str]) -> _Rating:
        if row["movie"].strip() not in movies:
            raise BadRowError(f"movie is not in {movie_file.name}")
        return _rating(row)

    events = Events()
    for given in _read(rating_file, _RATING_COLUMNS, known, tallies[1], progress):
        events.add(given.user_id, given.movie_id, given.time, "rating", rating=given.rating)
    plan = leave_one_out(events)
    if tag_file is not None:
        held_out = {
            (events.users.names[user], events.items.names[item])
            for user, item in zip(events.user[plan.split != TRAIN], events.item[plan.split != TRAIN], strict=True)
        }
        tags: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for tagged in _read(tag_file, _TAG_COLUMNS, _tag, tallies[2], progress):
            # A tag on the movie that is to be predicted would give the answer away.
            if (tagged.user_id, tagged.movie_id) not in held_out:
                tags[tagged.movie_id][tagged.tag] += 1
        movies = {
            movie_id: msgspec.structs.replace(movie, text=_most_given(tags[movie_id])) if movie_id in tags else movie
            for movie_id, movie in movies.items()
        }
    # No pack is about films; a shop's, where people rarely choose the same thing twice, fits.
    return save(
        destination,
        movies.values(),
        events,
        plan,
        tallies=tallies,
        progress=progress,
        domain="shop",
        source="movielens",
    )


# Our names in the order of the '::' files -> the names in the header of the CSV files.
_MOVIE_COLUMNS = {"movie": ("movieid",), "title": ("title",), "genres": ("genres",)}
_RATING_COLUMNS = {"user": ("userid",), "movie": ("movieid",), "rating": ("rating",), "timestamp": ("timestamp",)}
_TAG_COLUMNS = {"user": ("userid",), "movie": ("movieid",), "tag": ("tag",), "timestamp": ("timestamp",)}


def _read(
    path: Path,
    columns: Mapping[str, tuple[str, ...]],
    parse: Callable[[dict[str, str]], Row],
    tally: Tally,
    progress: Progress,
) -> Iterator[Row]:
    if ".csv" in path.suffixes:
        return csv_rows(path, columns, parse, decode=utf8, tally=tally, progress=progress)

    def parse_line(line: bytes) -> Row:
        cells = utf8_or_latin1(line).split("::")
        if len(cells) != len(columns):
            raise BadRowError(f"not {len(columns)} columns")
        return parse(dict(zip(columns, cells, strict=True)))

    return rows(path, parse_line, tally, progress)


def _movie(row: dict[str, str]) -> Item:
    title = row["title"].strip()
    year = _YEAR.search(title)
    genres = [genre.strip() for genre in row["genres"].split("|")]
    return Item(
        item_id=identifier(row["movie"], "movie"),
        name=_YEAR.sub("", title)[:NAME_LENGTH],
        categories=tuple(genre[:LABEL_LENGTH] for genre in genres if genre and genre != "(no genres listed)"),
        attributes={"year": year[1]} if year else {},
    )


def _rating(row: dict[str, str]) -> _Rating:
    return _Rating(
        identifier(row["user"], "user"),
        identifier(row["movie"], "movie"),
        rating(row["rating"], WORST_RATING),
        event_time(number(row["timestamp"], "timestamp") * 1000),
    )


def _tag(row: dict[str, str]) -> _Tag:
    return _Tag(
        identifier(row["user"], "user"),
        identifier(row["movie"], "movie"),
        identifier(row["tag"], "tag").lower(),
    )


def _most_given(tags: Counter[str]) -> str:
    ranked = sorted(tags, key=lambda tag: (-tags[tag], tag))
    return ", ".join(ranked[:TAGS_PER_MOVIE])
