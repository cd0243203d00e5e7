"""What a request of a dataset may see, in a history small enough to follow by hand."""

import pytest

from models.counting import counted_list
from models.dataset import Dataset, Interaction, Item, Meta, Request
from models.evaluation import (
    bare_catalogue,
    catalogue_item,
    evaluate,
    first_choices,
    joined_requests,
    posted_feedback,
    timeline,
)
from schemas.codec import decode, encode
from schemas.domains import pack_for
from schemas.records import Feedback, JoinedRequest
from schemas.records import Item as CatalogueItem

PACK = pack_for("travel")


def event(
    number: int, user: str, item: str, split: str, session: str | None = None, kind: str = "visit"
) -> Interaction:
    return Interaction(
        event_id=f"e{number}", user_id=user, item_id=item, kind=kind, event_time=number * 1000, session_id=session,
        split=split,
    )  # fmt: skip


def request(label: int, user: str, split: str, session: str | None = None, **fields: object) -> Request:
    return Request(
        **{
            "request_id": f"r{label}", "user_id": user, "event_time": label * 1000 - 1, "split": split,
            "session_id": session, "relevant": ("x",), "label_event_id": f"e{label}", **fields,
        }
    )  # fmt: skip


EVENTS = [
    event(1, "ann", "a", "train", "s1"),
    event(2, "bob", "b", "train", "s2"),
    event(3, "ann", "c", "valid", "s3"),
    event(4, "ann", "d", "valid", "s4"),
    event(5, "bob", "e", "valid", "s5"),
    event(6, "ann", "f", "valid", "s4"),  # what r6 asks for
    event(7, "ann", "g", "valid", "s4"),
    event(8, "ann", "h", "test", "s6"),
]
DATA = Dataset(
    [Item(item_id=name, name=name, categories=()) for name in "abcdefgh"],
    EVENTS,
    [request(6, "ann", "valid", "s4"), request(8, "ann", "test", "s6")],
    Meta(domain="travel"),
)


def seen(mode, split, data=DATA) -> dict[str, tuple[list[str], dict[str, int]]]:
    """Return per request the user's history and how often everybody chose what."""
    found = {}
    for asked, joined in joined_requests(data, PACK, mode, split):
        assert decode(JoinedRequest, encode(joined)) == joined
        counts = {item: row[-1] for item, row in zip(joined.items, joined.signals.popularity, strict=True) if row[-1]}
        found[asked.request_id] = [joined.items[number] for number in joined.history.item], counts
    return found


def test_streaming_sees_every_event_before_the_request_and_not_the_one_it_is_labelled_with():
    assert seen("streaming", "valid") == {"r6": (["a", "c", "d"], dict.fromkeys("abcde", 1))}
    assert seen("streaming", "test") == {"r8": (["a", "c", "d", "f", "g"], dict.fromkeys("abcdefg", 1))}


def test_static_sees_the_training_events_and_of_the_evaluated_splits_the_requests_own_session_so_far():
    assert seen("static", "valid") == {"r6": (["a", "d"], {"a": 1, "b": 1})}
    assert seen("static", "test") == {"r8": (["a"], {"a": 1, "b": 1})}


def test_a_training_event_after_the_request_is_not_in_the_users_history():
    later = DATA._replace(interactions=[*EVENTS, event(9, "ann", "a", "train")])
    assert seen("static", "valid", later)["r6"][0] == ["a", "d"]


def test_a_request_without_a_label_event_comes_when_its_time_has_come_before_what_happens_then():
    loose = request(0, "ann", "valid", event_time=4500, label_event_id=None, request_id="loose")
    together = request(0, "ann", "valid", event_time=7000, label_event_id=None, request_id="together")
    last = request(0, "ann", "valid", event_time=99_000, label_event_id=None, request_id="last")
    order = [
        entry.event_id if isinstance(entry, Interaction) else entry.request_id
        for entry in timeline(DATA._replace(requests=[last, together, loose, *DATA.requests]), "valid")
    ]
    assert order == ["e1", "e2", "e3", "e4", "loose", "e5", "r6", "e6", "together", "e7", "e8", "last"]


@pytest.mark.parametrize("partition_of", [lambda _: 0, lambda user: {"ann": 1, "bob": 2}[user]])
def test_the_split_over_partitions_does_not_change_what_is_seen(partition_of):
    joined = [entry for _, entry in joined_requests(DATA, PACK, "streaming", "valid", partition_of)]
    assert joined == [entry for _, entry in joined_requests(DATA, PACK, "streaming", "valid")]


@pytest.mark.parametrize(("kind", "posted"), [("click", "click"), ("check-in", "visit"), ("rating", "visit")])
def test_a_kind_of_event_that_the_contract_has_no_word_for_is_a_visit(kind, posted):
    feedback = posted_feedback(event(1, "ann", "a", "train", kind=kind), PACK)
    assert feedback.kind == posted
    assert decode(Feedback, encode(feedback)) == feedback


def test_an_item_of_a_dataset_is_cut_to_what_the_contract_carries():
    attributes = {"": 1, "long": "x" * 9999, "words": ["y" * 999], "mixed": [1, "a"], "nested": {"a": 1}, "yes": True}
    item = Item(item_id="a", name="n" * 999, categories=("c" * 999, ""), text="t" * 99_999, attributes=attributes)
    posted = catalogue_item(item, PACK)
    assert decode(CatalogueItem, encode(posted)) == posted
    assert set(posted.attributes) == {"long", "words", "yes"}


def asking(*relevant: str) -> Dataset:
    """Return the data with one request of ann's for each of these items, all before her visit to f."""
    requests = [request(6, "ann", "valid", "s4", relevant=(item,), request_id=f"r-{item}") for item in relevant]
    return DATA._replace(requests=requests)


@pytest.mark.parametrize(("mode", "new"), [("streaming", ["r-b", "r-f"]), ("static", ["r-c", "r-b", "r-f"])])
def test_a_choice_is_a_first_one_if_the_mode_lets_see_none_of_it_before(mode, new):
    data = asking("a", "c", "d", "b", "f")
    assert list(first_choices(data, mode, "valid")) == new


def test_first_choices_are_measured_beside_all_where_there_are_both():
    best = ["a", "b", "c", "d", "e", "f", "g", "h"]
    figures = evaluate(asking("a", "b"), PACK, "streaming", "valid", lambda _: best)
    assert (figures["n"], figures["acc@1"], figures["new_n"], figures["new_acc@1"]) == (2, 0.5, 1, 0.0)
    assert "new_n" not in evaluate(asking("a"), PACK, "streaming", "valid", lambda _: best)


def test_what_is_gained_over_another_list_is_tested_request_by_request():
    data = asking("a", "b", "c", "d", "e", "f")
    figures = evaluate(data, PACK, "streaming", "valid", lambda _: list("abcdef"), against=lambda _: ["x", *"fedcba"])
    assert figures["gain_acc@1"] == pytest.approx(1 / 6, abs=1e-4)
    assert 0 < figures["gain_mrr_p"] <= 1


def test_counting_prefers_what_the_user_did_and_leaves_out_what_is_not_chosen_again():
    (_, joined), *_ = joined_requests(DATA, PACK, "streaming", "valid")
    again = counted_list(bare_catalogue(DATA, PACK), PACK, joined)
    assert set(again[:3]) == {"a", "c", "d"}
    once = pack_for("shop")
    (_, joined), *_ = joined_requests(DATA, once, "streaming", "valid")
    assert set(counted_list(bare_catalogue(DATA, once), once, joined)) == {"b", "e"}
