"""What may change in a record, and what happens to bytes written before or after the change."""

import msgpack
import pytest

from schemas import codec
from schemas.codec import DecodeError, decode, encode, upgrade, version_of
from schemas.records import Context, Erasure, Record, Request


class Order(Record, frozen=True):
    """The first release of a record."""

    price: float  # yuan
    note: str = ""


class OrderWithTable(Record, frozen=True):
    """A later release of version 1: a field was added, with a default."""

    price: float
    note: str = ""
    table: int | None = None


class OrderInCents(Record, frozen=True, tag=2):
    """Version 2: the price has another unit and another name."""

    cents: int
    note: str = ""


class OrderWithTip(Record, frozen=True, tag=3):
    """Version 3: the tip became required."""

    cents: int
    tip: int
    note: str = ""


class Bill(Record, frozen=True, tag=2):
    """A record that contains a record takes a new version with it."""

    order: OrderInCents


@pytest.fixture(autouse=True)
def _upgrades(monkeypatch):
    to_cents = lambda old: {"cents": round(old["price"] * 100), "note": old.get("note", "")}  # noqa: E731
    monkeypatch.setitem(codec.UPGRADES, (OrderInCents, 1), to_cents)
    monkeypatch.setitem(codec.UPGRADES, (OrderWithTip, 1), to_cents)
    monkeypatch.setitem(codec.UPGRADES, (OrderWithTip, 2), lambda old: {**old, "tip": 0})
    monkeypatch.setitem(codec.UPGRADES, (Bill, 1), lambda old: {"order": upgrade(OrderInCents, old["order"])})


def test_a_field_the_reader_does_not_know_is_ignored():
    newer = encode(OrderWithTable(price=80.0, note="靠窗", table=7))
    assert decode(Order, newer) == Order(price=80.0, note="靠窗")


def test_a_field_added_with_a_default_is_read_from_old_bytes():
    assert decode(OrderWithTable, encode(Order(price=80.0))) == OrderWithTable(price=80.0, table=None)


def test_a_new_version_reads_the_bytes_of_the_old_one():
    assert decode(OrderInCents, encode(Order(price=80.5, note="加辣"))) == OrderInCents(cents=8050, note="加辣")


def test_bytes_without_v_are_of_version_1_even_when_they_would_fit_the_current_one():
    assert decode(OrderInCents, msgpack.packb({"price": 80.0})) == OrderInCents(cents=8000)
    with pytest.raises(DecodeError, match=r"not a valid OrderInCents of version 1: KeyError\('price'\)"):
        decode(OrderInCents, msgpack.packb({"cents": 80}))


def test_upgrades_are_applied_one_after_another():
    assert decode(OrderWithTip, encode(Order(price=1.0))) == OrderWithTip(cents=100, tip=0)
    assert decode(OrderWithTip, encode(OrderInCents(cents=100))) == OrderWithTip(cents=100, tip=0)
    assert decode(OrderWithTip, encode(OrderWithTip(cents=100, tip=9))) == OrderWithTip(cents=100, tip=9)


def test_a_record_inside_a_record_is_upgraded_with_it():
    old = msgpack.packb({"v": 1, "order": {"v": 1, "price": 80.0}})
    assert decode(Bill, old) == Bill(order=OrderInCents(cents=8000))


def test_a_record_written_by_us_says_its_version():
    assert version_of(Order) == 1
    assert version_of(OrderInCents) == 2
    assert msgpack.unpackb(encode(OrderInCents(cents=1)))["v"] == 2


def test_a_newer_version_is_refused_and_the_reader_told_to_upgrade():
    with pytest.raises(DecodeError, match="Order has schema version 3; this reader knows up to 1: upgrade it"):
        decode(Order, encode(OrderWithTip(cents=1, tip=2)))


def test_a_version_nobody_can_upgrade_any_more_is_refused(monkeypatch):
    monkeypatch.delitem(codec.UPGRADES, (OrderWithTip, 1))
    with pytest.raises(DecodeError, match="OrderWithTip has schema version 1, which is no longer readable"):
        decode(OrderWithTip, encode(Order(price=1.0)))


def test_an_upgraded_record_is_still_validated():
    with pytest.raises(DecodeError, match=r"not a valid OrderInCents: Expected `str`, got `int` - at `\$.note`"):
        decode(OrderInCents, msgpack.packb({"v": 1, "price": 1.0, "note": 5}))


@pytest.mark.parametrize("version", [0, -1, "1", 1.5, None, True, 2**64 - 1, []])
def test_a_version_that_makes_no_sense_is_refused(version):
    for kind in (Order, OrderInCents):
        with pytest.raises(DecodeError):
            decode(kind, msgpack.packb({"v": version, "price": 1.0, "cents": 1}))


def test_encoding_leaves_defaults_out_and_does_not_depend_on_how_the_record_was_made():
    assert msgpack.unpackb(encode(Request(request_id="r", domain="shop", k=10))) == {
        "v": 1,
        "request_id": "r",
        "domain": "shop",
    }
    assert encode(Context(weather="rain", device="phone")) == encode(Context(device="phone", weather="rain"))
    assert encode(Erasure(request_id="r", reason="")) == encode(Erasure(request_id="r"))
