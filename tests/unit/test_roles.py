"""Roles follow from the announcement of the highest generation alone; who is a canary's user, from user and version."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.roles import (
    MAX_FORMER,
    MAX_LISTED,
    RoleError,
    canary_rolled_back,
    holder,
    in_use,
    newer,
    on_canary,
    promoted,
    rolled_back,
    with_role,
)
from schemas.codec import decode, encode
from schemas.records import ModelAnnouncement, ModelVersion


def version(name, role="candidate", share=1.0):
    return ModelVersion(version=name, role=role, sha256="0" * 64, share=share)


def roles(announcement):
    return {version.version: version.role for version in announcement.versions}


def history():
    """A model's life, one announcement after the other."""
    first = with_role(None, version("a"), "published")
    yield first
    yield (second := promoted(first, "a", "the first"))
    yield (third := with_role(second, version("b", "canary", 0.1), "a canary"))
    yield (fourth := with_role(third, version("c", "shadow"), "a shadow"))
    yield (fifth := promoted(fourth, "b", "it is better"))
    yield rolled_back(fifth, "it was not")


def test_roles_through_a_models_life():
    told = [roles(announcement) for announcement in history()]
    assert told == [
        {"a": "candidate"},
        {"a": "champion"},
        {"a": "champion", "b": "canary"},
        {"a": "champion", "b": "canary", "c": "shadow"},
        {"a": "retired", "b": "champion", "c": "shadow"},
        {"a": "champion", "b": "retired", "c": "shadow"},
    ]
    assert [announcement.generation for announcement in history()] == [1, 2, 3, 4, 5, 6]


def test_in_whatever_order_announcements_arrive_the_last_generation_holds():
    life = list(history())
    for order in itertools.permutations(life):
        current = None
        for announcement in order:
            current = newer(current, announcement)
        assert current == life[-1]


def test_a_second_canary_retires_the_first_and_a_share_can_be_changed():
    first = with_role(None, version("a", "canary", 0.1), "")
    assert holder(with_role(first, version("a", "canary", 0.5), ""), "canary").share == 0.5
    assert roles(with_role(first, version("b", "canary", 0.1), "")) == {"b": "canary", "a": "retired"}


def test_rolling_back_goes_further_back_each_time_and_in_the_end_to_what_the_stages_came_with():
    current = None
    for name in "abc":
        current = promoted(with_role(current, version(name), ""), name, "")
    for champion in ("b", "a", None):
        current = rolled_back(current, "")
        now = holder(current, "champion")
        assert (now.version if now else None) == champion
    with pytest.raises(RoleError, match="no champion"):
        rolled_back(current, "")


def test_a_champion_is_not_made_something_else_and_an_unknown_version_not_promoted():
    current = with_role(None, version("a", "champion"), "")
    with pytest.raises(RoleError, match="is the champion"):
        with_role(current, version("a", "canary"), "")
    with pytest.raises(RoleError, match="already"):
        promoted(current, "a", "")
    with pytest.raises(RoleError, match="has not been announced"):
        promoted(current, "b", "")


def test_what_is_served_and_the_way_back_stay_in_use():
    *_, fifth, last = history()
    assert in_use(fifth) == {"a", "b", "c"}
    assert in_use(last) == {"a", "c"}
    assert in_use(None) == set()


def test_an_announcement_stays_small_and_valid_however_many_versions_there_were():
    current = with_role(None, version("shadow", "shadow"), "")
    for number in range(100):
        current = promoted(with_role(current, version(f"v{number}"), ""), f"v{number}", "")
        current = with_role(current, version(f"rejected{number}"), "")
    assert len(current.versions) == MAX_LISTED
    assert len(current.former) == MAX_FORMER
    assert set(current.former) < set(roles(current))
    assert {holder(current, "champion").version, holder(current, "shadow").version} == {"v99", "shadow"}
    assert decode(ModelAnnouncement, encode(current)) == current


def test_the_first_champion_listed_is_the_champion():
    current = ModelAnnouncement(generation=1, versions=[version("a", "champion"), version("b", "champion")])
    assert holder(current, "champion").version == "a"
    assert roles(with_role(current, version("c", "champion"), "")) == {"c": "champion", "a": "retired", "b": "retired"}


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_growing_share_only_adds_users(user, one, other):
    assert on_canary(user, "v", min(one, other)) <= on_canary(user, "v", max(one, other))
    assert on_canary(user, "v", 1.0)
    assert not on_canary(user, "v", 0.0)


def test_the_share_is_that_of_the_users_and_another_version_gets_others():
    users = [f"u{number:06d}" for number in range(20_000)]
    first = {user for user in users if on_canary(user, "one", 0.1)}
    second = {user for user in users if on_canary(user, "two", 0.1)}
    assert len(first) == pytest.approx(2_000, abs=170)  # four standard deviations
    assert len(first & second) == pytest.approx(200, abs=60)


def test_sides_are_the_same_on_every_machine():
    assert [on_canary(f"u{number}", "0123456789abcdef", 0.5) for number in range(8)] == [
        True, False, True, False, True, True, True, True,
    ]  # fmt: skip


def test_a_canary_that_was_rolled_back_is_none_again_unless_forced():
    champion = with_role(None, version("a", "champion"), "the first")
    back = canary_rolled_back(with_role(champion, version("b", "canary", 0.1), "a canary"), "fewer clicks", {"x": 1.0})
    assert (roles(back), back.rolled_back, back.figures) == ({"a": "champion", "b": "retired"}, ["b"], {"x": 1.0})
    later = with_role(back, version("c", "shadow"), "a shadow")
    with pytest.raises(RoleError, match=r"rolled back.*--force"):
        with_role(later, version("b", "canary"), "once more")
    assert roles(with_role(later, version("b", "canary"), "once more", force=True))["b"] == "canary"
    assert roles(with_role(later, version("b", "shadow"), "to look at"))["b"] == "shadow"
    with pytest.raises(RoleError, match="no canary"):
        canary_rolled_back(later, "again")
