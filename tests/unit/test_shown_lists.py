"""Examples become lists again: each list once, with all that came of it."""

import random

import msgspec
from shown_examples import examples

from models.shown_lists import Lists


def put_together(given, limit=None):
    lists = Lists(limit)
    for each in given:
        lists.add("somebody", each)
    return lists.finished()


def some(lists, **more):
    return [posted.example for posted in examples(lists, **more)]


def acted(examples):
    return [example for example in examples if example.action == "click"]


def test_an_example_written_twice_counts_once():
    given = some(20)
    assert put_together([*given, *given[5:]]) == put_together(given)


def test_what_is_written_later_for_the_same_action_holds():
    (first, *_) = acted(some(20))
    corrected = msgspec.structs.replace(
        first, shown=[msgspec.structs.replace(each, label=each.label / 2) for each in first.shown]
    )
    (found,) = put_together([first, corrected])
    assert {each.item_id: each.label for each in found.shown} == {each.item_id: each.label for each in corrected.shown}


def test_several_actions_on_a_list_are_one_list_and_the_greatest_worth_counts():
    (click, *_) = acted(some(20))
    booking = msgspec.structs.replace(
        click, example_id="booking", shown=[msgspec.structs.replace(each, label=4 * each.label) for each in click.shown]
    )
    for order in ([click, booking], [booking, click]):
        (found,) = put_together(order)
        assert max(each.label for each in found.shown) == 0.8
        assert [each.position for each in found.shown] == sorted(each.position for each in click.shown)


def test_lists_come_by_the_time_of_their_requests_whatever_order_partitions_were_read_in():
    given = some(30, partitions=3)
    mixed = given[:]
    random.Random(1).shuffle(mixed)
    found = put_together(mixed)
    assert found == put_together(given)
    assert [each.event_time for each in found] == sorted(each.event_time for each in found)


def test_a_bounded_sample_does_not_depend_on_the_order_and_keeps_lists_whole():
    given = some(50, partitions=2)
    mixed = given[:]
    random.Random(1).shuffle(mixed)
    sample = put_together(given, limit=10)
    assert sample == put_together(mixed, limit=10)
    assert len(sample) == 10
    everything = {each.key: each for each in put_together(given)}
    assert all(everything[each.key] == each for each in sample)


def test_a_sample_changes_little_as_more_comes():
    fewer, more = ({each.key for each in put_together(some(lists), limit=20)} for lists in (100, 110))
    assert len(fewer & more) >= 15


def test_a_limit_of_nothing_keeps_nothing():
    assert put_together(some(5), limit=0) == []
