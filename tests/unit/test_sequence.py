"""The model of what comes next: learns an order, knows new items by their text, serves what it trained."""

import msgspec
import numpy as np
import pytest

from models.catalogue import Catalogue
from models.item_tables import Choice
from models.join import GlobalState, join
from models.sequence import GRAPH, NAMES, TABLES, SequenceError, SequenceModel, steps
from models.sequence_training import SequenceSettings, train_sequence
from models.user_state import UserState, apply_feedback
from schemas.domains import pack_for
from schemas.records import Feedback, Item, JoinedRequest, Request, Source

PACK = pack_for("shop")
DAY = 24 * 3_600_000
WARES, KINDS = 40, 8
SMALL = SequenceSettings(dimensions=16, layers=1, epochs=10, batch_size=16, learning_rate=1e-2)


def text_of(ware: int) -> np.ndarray:
    """Return what the text says: the kind of ware, and a little of its own."""
    vector = np.zeros(KINDS + 4)
    vector[ware % KINDS] = 1.0
    vector[KINDS + ware % 4] = 0.2
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def filled(wares, *, reverse=False) -> Catalogue:
    catalogue = Catalogue(KINDS + 4)
    for ware in sorted(wares, reverse=reverse):
        catalogue.put(f"p{ware}", Item(domain="shop", name=f"ware {ware}"), text_of(ware))
    return catalogue


def bought() -> list[Choice]:
    """Return what 120 people buy: after each ware one of the next kind."""
    generator = np.random.default_rng(0)
    choices = []
    for user in range(120):
        kind = int(generator.integers(KINDS))
        for place in range(6):
            ware = (kind + place) % KINDS + KINDS * int(generator.integers(WARES // KINDS))
            choices.append(Choice(f"u{user}", f"p{ware}", place * DAY + user))
    return sorted(choices, key=lambda choice: choice.time)


def asking(*wares: int, at: int = 2 * DAY, dismissed: tuple[int, ...] = ()) -> JoinedRequest:
    state = UserState()
    for place, ware in enumerate(wares):
        apply_feedback(state, place * DAY, Feedback(item_id=f"p{ware}", domain="shop", kind="purchase"))
    for ware in dismissed:
        apply_feedback(state, DAY + 1, Feedback(item_id=f"p{ware}", domain="shop", kind="dismissal"))
    request = Request(request_id="r", domain="shop")
    return join(state, GlobalState(), PACK, request, event_time=at, source=Source(partition=0, offset=0))


def scored(model: SequenceModel, catalogue: Catalogue, joined: JoinedRequest) -> dict[str, float]:
    scores = model.scores(catalogue, joined, catalogue.rows(joined.items))
    return {item: float(scores[row]) for item, row in catalogue.row_of.items()}


def trained(settings=SMALL, seed=0, choices=None) -> SequenceModel:
    model = train_sequence(filled(range(WARES)), choices or bought(), settings, repeats=False, seed=seed)
    assert model is not None
    return model


@pytest.fixture(scope="module")
def model() -> SequenceModel:
    return trained()


def test_it_learns_what_kind_comes_next(model):
    catalogue = filled(range(WARES))
    hits = []
    for kind in range(KINDS):
        scores = scored(model, catalogue, asking(kind, (kind + 1) % KINDS))
        best = max(scores, key=scores.__getitem__)
        hits.append(int(best[1:]) % KINDS == (kind + 2) % KINDS)
    assert np.mean(hits) > 0.8


def test_a_new_item_is_found_by_its_text_at_once(model):
    catalogue = filled(range(WARES))
    new = WARES + 3  # of kind 3
    catalogue.put(f"p{new}", Item(domain="shop", name="new"), text_of(new))
    scores = scored(model, catalogue, asking(1, 2))
    by_kind = [np.mean([scores[f"p{ware}"] for ware in range(kind, WARES, KINDS)]) for kind in range(KINDS)]
    assert scores[f"p{new}"] > np.sort(by_kind)[-2]


def test_without_a_residual_text_alone_must_do_and_without_text_the_residual():
    by_text = trained(msgspec.structs.replace(SMALL, residual=False))
    assert not by_text.residual.any()
    by_number = trained(msgspec.structs.replace(SMALL, text=False, times=False))
    assert not by_number.projection.any()
    catalogue = filled(range(WARES))
    for each in (by_text, by_number):
        scores = scored(each, catalogue, asking(1, 2))
        assert int(max(scores, key=scores.__getitem__)[1:]) % KINDS == 3


def test_scores_do_not_depend_on_the_order_of_rows_or_on_other_items(model):
    forward, backward = filled(range(WARES)), filled(range(WARES), reverse=True)
    backward.put("other", Item(domain="shop", name="other"), text_of(5))
    scores, others = (scored(model, catalogue, asking(4, 5, 6)) for catalogue in (forward, backward))
    assert scores == {item: score for item, score in others.items() if item != "other"}


def test_an_item_that_changes_is_read_anew(model):
    catalogue = filled(range(WARES))
    before = scored(model, catalogue, asking(1, 2))
    catalogue.put("p3", Item(domain="shop", name="ware 3"), text_of(0))
    after = scored(model, catalogue, asking(1, 2))
    assert after["p3"] != before["p3"]
    assert {item for item in before if before[item] != after[item]} == {"p3"}


def test_dismissals_and_items_that_are_gone_are_passed_over(model):
    catalogue = filled(range(WARES))
    assert scored(model, catalogue, asking(1, 2, dismissed=(7,))) == scored(model, catalogue, asking(1, 2))
    catalogue.remove("p9")
    joined = asking(9, 1)
    gone = model.scores(catalogue, joined, catalogue.rows(joined.items))
    assert gone is not None
    only = asking(9)
    assert model.scores(catalogue, only, catalogue.rows(only.items)) is None
    nobody = asking()
    assert model.scores(catalogue, nobody, catalogue.rows(nobody.items)) is None


def test_same_choices_and_seed_make_the_same_model(model):
    again = trained()
    assert again.graph == model.graph
    assert np.array_equal(again.residual, model.residual)
    assert again.sharpness == model.sharpness


def test_it_is_the_same_after_a_round_trip(model, tmp_path):
    model.save(tmp_path)
    catalogue = filled(range(WARES))
    assert scored(SequenceModel.load(tmp_path), catalogue, asking(3, 4)) == scored(model, catalogue, asking(3, 4))


@pytest.mark.parametrize(
    ("file", "content"), [(GRAPH, b"nonsense"), (TABLES, b"nonsense"), (NAMES, b"{}"), (NAMES, None)]
)
def test_a_damaged_folder_is_refused(model, tmp_path, file, content):
    model.save(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(SequenceError):
        SequenceModel.load(tmp_path)


def test_a_large_catalogue_is_learned_from_by_samples(monkeypatch):
    monkeypatch.setattr("models.sequence_training.FULL", 10)
    told = []
    train_sequence(
        filled(range(WARES)), bought(), msgspec.structs.replace(SMALL, negatives=8), repeats=False, seed=0,
        tell=told.append,
    )  # fmt: skip
    assert told[-1].mrr > 0.15  # by chance it is about 0.11
    assert told[0].loss > 0


def test_nobody_chose_twice_so_there_is_no_model():
    choices = [Choice(f"u{user}", "p1", user) for user in range(9)]
    assert train_sequence(filled(range(WARES)), choices, SMALL, repeats=True, seed=0) is None


def test_steps_tell_gaps_hours_and_distances():
    hour = 3_600_000
    here, there = np.array([1.0, 0.0, 0.0]), np.array([np.cos(1e-3), np.sin(1e-3), 0.0])
    points = np.stack([here, there, there, np.full(3, np.nan)])
    times = np.array([0, hour, 2 * hour, 50 * hour])
    described = steps(times, np.append(times[1:], 51 * hour), points, [None] * 4)
    assert described.gap[0] == described.gap[1] < described.gap[2]
    assert described.hour.tolist() == [1, 2, 26, 27]  # the third day of 1970 was a Saturday
    assert described.distance[0] == described.distance[3] == 0
    assert described.distance[1] > described.distance[2] > 0
