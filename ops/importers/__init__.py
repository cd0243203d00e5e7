"""Importers of published data sets into neutral dataset directories. README.md beside this says what becomes what."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from models.dataset import Meta

from .amazon import import_amazon
from .foursquare import import_check_ins
from .movielens import import_movielens
from .source import Progress, SourceError
from .yelp import import_yelp

__all__ = ["FORMATS", "Format", "Progress", "SourceError"]


class Format(NamedTuple):
    """A format that can be imported. run: source, new directory, progress -> what was written."""

    run: Callable[[Path, Path, Progress], Meta]
    description: str
    example: str


FORMATS = {
    "foursquare": Format(
        import_check_ins,
        "check-ins: TSMC2014 text file, CSV with a header, or a directory of train, val and test CSV",
        "tablecast import foursquare dataset_TSMC2014_NYC.txt data/new-york",
    ),
    "yelp": Format(
        import_yelp,
        "the Yelp open dataset: directory of yelp_academic_dataset_*.json",
        "tablecast import yelp yelp_dataset data/yelp",
    ),
    "movielens": Format(
        import_movielens,
        "MovieLens: directory of ratings.csv and movies.csv, or of ratings.dat and movies.dat",
        "tablecast import movielens ml-latest-small data/movies",
    ),
    "amazon": Format(
        import_amazon,
        "Amazon reviews of 2014, 2018 or 2023: reviews file, or directory of it and a meta_* file",
        "tablecast import amazon reviews_Beauty_5.json.gz data/beauty",
    ),
}
