"""People who ask in one process see, next time, what they did with the lists before, and nothing that comes later."""

from itertools import chain

import pytest

from ops.simulator.choice import attractions, click_probabilities, react
from ops.simulator.events import events, history
from ops.simulator.in_process import lived
from ops.simulator.world import DAY_MS, build_world
from schemas.records import Feedback

START_MS = 1_788_220_800_000


@pytest.fixture(scope="module")
def world():
    return build_world(3, users=8, restaurants=40)


def life(world):
    return chain(history(world, START_MS, days=3), events(world, START_MS, 80 / 86_400, until_ms=START_MS + DAY_MS))


def nearest(joined):
    """A list of what the request mentions, longer than is shown."""
    return sorted(joined.items)[:12]


@pytest.fixture(scope="module")
def asked(world):
    return list(lived(world, nearest, life(world)))


def test_a_request_sees_what_was_done_before_it(world, asked):
    done = [
        (event.time_ms, event.key, event.record.item_id) for event in life(world) if isinstance(event.record, Feedback)
    ]
    for each in asked:
        user = world.people.ids[each.moment.user]
        before = [entry for entry in done if entry[1] == user and entry[0] <= each.joined.event_time]
        history = each.joined.history
        assert sorted(
            (time, each.joined.items[item]) for time, item in zip(history.time, history.item, strict=True)
        ) == sorted((time, item) for time, _, item in before)
        done += [
            (each.joined.event_time + action.delay_ms, user, action.feedback.item_id)
            for action in react(world, each.joined.request.request_id, each.items[:10])
            if action.feedback.kind != "impression"
        ]
    assert sum(len(each.joined.history.item) for each in asked) > len(asked)


def test_a_list_is_put_together_with_what_was_looked_at_and_what_it_was_worth(asked):
    for each in asked:
        shown = each.shown.shown
        assert [entry.item_id for entry in shown] == each.items[: len(shown)]
        assert len(shown) <= 10
        assert each.shown.request() == each.joined
    assert any(each.shown.acted for each in asked)
    assert not all(each.shown.acted for each in asked)


def test_the_same_life_is_lived_the_same(world, asked):
    assert [each.shown for each in lived(world, nearest, life(world))] == [each.shown for each in asked]


def test_what_is_looked_at_first_is_clicked_as_often_as_it_attracts(world, asked):
    moment, items = asked[0].moment, asked[0].items
    assert attractions(world, moment, items)[0] == click_probabilities(world, moment, items)[0]
