"""Rows are objects in memory and bytes in the table; the table changes with a flush only."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from memory_stage import Table

from streams.state import rows as rows_module
from streams.state.rows import Rows


class Count(msgspec.Struct, array_like=True):
    value: int = 0


def fresh() -> Rows[Count]:
    return Rows(Table(), Count, Count)


def raw(value: int) -> bytes:
    return msgspec.msgpack.encode(Count(value))


def test_a_changed_row_is_written_once_per_flush_to_the_partition_of_its_last_change():
    rows = fresh()
    rows.change(b"k", 3).value = 1
    rows.change(b"k", 3).value = 2
    assert list(rows.drain()) == [(3, b"k", raw(2))]
    assert list(rows.drain()) == []
    assert rows.table.data == {b"k": raw(2)}


def test_a_row_that_was_only_read_is_not_written():
    rows = fresh()
    assert rows.get(b"k") is None
    rows.table.data[b"k"] = raw(1)
    assert rows.get(b"k") == Count(1)
    assert list(rows.drain()) == []


def test_a_deleted_row_is_gone_at_once_and_gets_one_tombstone():
    rows = fresh()
    rows.table.data[b"k"] = raw(1)
    rows.delete(b"k", 0)
    assert rows.get(b"k") is None
    assert rows.table.data  # until the flush
    assert list(rows.drain()) == [(0, b"k", None)]
    assert rows.table.data == {}
    rows.delete(b"k", 0)
    rows.delete(b"never there", 0)
    assert list(rows.drain()) == []


def test_a_row_made_anew_after_its_deletion_starts_from_nothing():
    rows = fresh()
    rows.table.data[b"k"] = raw(1)
    rows.delete(b"k", 0)
    assert rows.change(b"k", 0) == Count(0)
    assert list(rows.drain()) == [(0, b"k", raw(0))]


def test_after_a_rebalance_what_was_not_flushed_never_happened():
    rows = fresh()
    rows.table.data |= {b"deleted": raw(1), b"changed": raw(1)}
    rows.delete(b"deleted", 0)
    rows.change(b"changed", 0).value = 2
    rows.put(b"new", 0, Count(3))
    rows.reset()
    assert dict(rows) == {b"deleted": Count(1), b"changed": Count(1)}
    assert list(rows.drain()) == []


operations = st.lists(
    st.tuples(st.sampled_from(["add", "put", "delete", "get", "flush", "reset"]), st.sampled_from([b"a", b"b"]))
)


@given(operations)
def test_rows_behave_like_a_dictionary_whose_changelog_can_be_replayed(steps):
    rows, expected, flushed, changelog = fresh(), {}, {}, {}
    for step, key in steps:
        if step == "add":
            rows.change(key, 0).value += 1
            expected[key] = expected.get(key, 0) + 1
        elif step == "put":
            rows.put(key, 0, Count(100))
            expected[key] = 100
        elif step == "delete":
            rows.delete(key, 0)
            expected.pop(key, None)
        elif step == "flush":
            changelog |= {key: value for _, key, value in rows.drain()}
            flushed = dict(expected)
        elif step == "reset":
            rows.reset()
            expected = dict(flushed)
        row = rows.get(key)
        assert (row and row.value) == expected.get(key)
    assert rows.table.data == {key: raw(value) for key, value in flushed.items()}
    assert {key: value for key, value in changelog.items() if value is not None} == rows.table.data


def test_decoded_rows_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(rows_module, "MAX_LIVE", 10)
    rows = fresh()
    for number in range(100):
        rows.change(b"%d" % number, 0)
    list(rows.drain())
    assert len(rows._live) == 0
    assert len(rows) == 100
    assert rows.get(b"5") == Count(0)
