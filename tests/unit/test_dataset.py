import gzip
import json
import time

import pytest

from models.dataset import (
    Dataset,
    DatasetError,
    Interaction,
    Item,
    Meta,
    Request,
    read_dataset,
    read_interactions,
    read_items,
    write_dataset,
)
from schemas.records import Location

ITEMS = [
    Item(item_id="a", name="Noodles 慢面", categories=("Noodles",), location=Location(lat=31.2, lon=121.5), price=40.0),
    Item(item_id="b", name="", categories=(), text="quiet", attributes={"wifi": True, "area": "north"}),
]
EVENTS = [
    Interaction(event_id="1", user_id="u", item_id="a", kind="visit", event_time=1000, split="train"),
    Interaction(
        event_id="2",
        user_id="u",
        item_id="b",
        kind="rating",
        event_time=1000,
        session_id="s",
        split="valid",
        rating=0.75,
    ),
]
REQUESTS = [
    Request(
        request_id="r",
        user_id="u",
        event_time=1000,
        split="valid",
        text="安静",
        relevant=("b", "gone"),
        label_event_id="2",
    )
]
META = Meta(domain="restaurant", language="zh")


@pytest.fixture
def directory(tmp_path):
    write_dataset(tmp_path / "data", ITEMS, EVENTS, REQUESTS, META)
    return tmp_path / "data"


def rewrite(directory, name, *records):
    with gzip.open(directory / name, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(record) + "\n" for record in records)


def records(directory, name):
    with gzip.open(directory / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_what_is_written_is_read(directory):
    meta = Meta(domain="restaurant", language="zh", items=2, interactions=2, requests=1)
    assert read_dataset(directory) == Dataset(ITEMS, EVENTS, REQUESTS, meta)


def test_optional_fields_that_are_absent_are_not_written(directory):
    assert records(directory, "items.jsonl.gz")[1].keys() == {"item_id", "name", "categories", "text", "attributes"}


def test_the_same_records_give_the_same_bytes_at_another_time(tmp_path, directory, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    reordered = [
        *ITEMS[:1],
        Item(item_id="b", name="", categories=(), text="quiet", attributes={"area": "north", "wifi": True}),
    ]
    write_dataset(tmp_path / "again", reordered, iter(EVENTS), iter(REQUESTS), META)
    for file in directory.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


def test_unknown_fields_are_tolerated(directory):
    rewrite(directory, "requests.jsonl.gz", records(directory, "requests.jsonl.gz")[0] | {"constraints_said": {"x": 1}})
    assert read_dataset(directory).requests == REQUESTS


@pytest.mark.parametrize("field", ["item_id", "name", "categories"])
def test_a_missing_required_field_names_file_line_and_field(directory, field):
    first, second = records(directory, "items.jsonl.gz")
    del second[field]
    rewrite(directory, "items.jsonl.gz", first, second)
    with pytest.raises(DatasetError, match=rf"items\.jsonl\.gz, line 2: .*{field}"):
        read_dataset(directory)


@pytest.mark.parametrize(
    "change",
    [{"event_time": -1}, {"event_time": "soon"}, {"split": "dev"}, {"user_id": ""}, {"rating": 4}],
)
def test_a_wrong_field_names_file_and_line(directory, change):
    first, second = records(directory, "interactions.jsonl.gz")
    rewrite(directory, "interactions.jsonl.gz", first, second | change)
    with pytest.raises(DatasetError, match=rf"interactions\.jsonl\.gz, line 2: .*{next(iter(change))}"):
        read_dataset(directory)


def test_a_place_off_the_globe_is_refused(directory):
    first, second = records(directory, "items.jsonl.gz")
    rewrite(directory, "items.jsonl.gz", first | {"location": {"lat": 91, "lon": 0}}, second)
    with pytest.raises(DatasetError, match=r"line 1: .*lat"):
        read_dataset(directory)


def test_a_line_that_is_not_json_is_named(directory):
    with gzip.open(directory / "items.jsonl.gz", "ab") as lines:
        lines.write(b'{"item_id": "\xff\xfe"}\n')
    with pytest.raises(DatasetError, match=r"items\.jsonl\.gz, line 3"):
        read_dataset(directory)


def test_a_line_of_brackets_without_end_is_named(directory):
    deep = "[" * 100_000 + "]" * 100_000
    with gzip.open(directory / "items.jsonl.gz", "at") as lines:
        lines.write(f'{{"item_id": "c", "name": "", "categories": [], "attributes": {{"a": {deep}}}}}\n')
    with pytest.raises(DatasetError, match=r"items\.jsonl\.gz, line 3: .*recursion"):
        read_dataset(directory)


def test_a_truncated_file_is_named(directory):
    path = directory / "interactions.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DatasetError, match=r"interactions\.jsonl\.gz, after line"):
        read_dataset(directory)


def test_a_file_that_is_not_gzip_is_named(directory):
    (directory / "items.jsonl.gz").write_bytes(b"plain")
    with pytest.raises(DatasetError, match=r"items\.jsonl\.gz: Not a gzipped file"):
        list(read_items(directory))


def test_a_missing_file_is_named(directory):
    (directory / "requests.jsonl.gz").unlink()
    with pytest.raises(DatasetError, match=r"requests\.jsonl\.gz: No such file"):
        read_dataset(directory)
    with pytest.raises(DatasetError, match=r"meta\.json"):
        read_dataset(directory / "nowhere")


def test_readers_stream(directory):
    with gzip.open(directory / "interactions.jsonl.gz", "ab") as lines:
        lines.write(b"broken\n")
    stream = read_interactions(directory)
    assert [next(stream), next(stream)] == EVENTS


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("items.jsonl.gz", {"item_id": "a"}, "line 2: id 'a' a second time"),
        ("interactions.jsonl.gz", {"item_id": "z"}, "line 2: item 'z' is not in items.jsonl.gz"),
        ("interactions.jsonl.gz", {"event_time": 1}, "line 2: not sorted by time"),
        ("interactions.jsonl.gz", {"event_id": "1"}, "line 2: id '1' a second time"),
        ("requests.jsonl.gz", {"label_event_id": "9"}, "line 1: label event '9' is not in interactions.jsonl.gz"),
        ("requests.jsonl.gz", {"relevant": []}, "line 1: .*relevant"),
    ],
)
def test_files_that_contradict_each_other_are_refused(directory, name, change, message):
    *others, last = records(directory, name)
    rewrite(directory, name, *others, last | change)
    with pytest.raises(DatasetError, match=message):
        read_dataset(directory)


def test_a_count_that_differs_from_meta_is_refused(directory):
    rewrite(directory, "requests.jsonl.gz")
    with pytest.raises(DatasetError, match=r"0 lines, but meta\.json says 1"):
        read_dataset(directory)


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    def interrupted():
        yield EVENTS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "data", ITEMS, interrupted(), REQUESTS, META)
    assert list(tmp_path.iterdir()) == []


def test_unsorted_interactions_are_not_written(tmp_path):
    late = Interaction(event_id="0", user_id="u", item_id="a", kind="visit", event_time=999, split="train")
    with pytest.raises(DatasetError, match="line 3: not sorted by time: 999 after 1000"):
        write_dataset(tmp_path / "data", ITEMS, [*EVENTS, late], REQUESTS, META)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_holds_something_is_left_as_it_is(directory):
    before = {file.name: file.read_bytes() for file in directory.iterdir()}
    with pytest.raises(DatasetError, match="exists already"):
        write_dataset(directory, [], [], [], META)
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == before


def test_an_empty_directory_is_filled(tmp_path):
    write_dataset(tmp_path, ITEMS, EVENTS, REQUESTS, META)
    assert len(read_dataset(tmp_path).items) == 2
