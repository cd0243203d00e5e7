"""The state stage's own topics: the changelogs of its tables."""

from schemas.records import Record
from schemas.topics import MIB, Topic

APPLICATION = "state"  # also the name of the consumer group; Faust derives changelog names from it
TABLES = ("users", "items", "served")  # written in the opposite order, see StateApp
CHANGELOGS = tuple(
    Topic(
        f"{APPLICATION}-{name}-changelog", Record, f"rows of the state table {name}", "row key", "compact",
        max_bytes=4 * MIB,
    )
    for name in TABLES
)  # fmt: skip
ITEM_ROWS = CHANGELOGS[TABLES.index("items")]
