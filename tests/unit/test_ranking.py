"""The one function from a joined request to a list: reasons that sum to the score, an order that ids decide."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.catalogue import Catalogue
from models.join import GlobalState, join
from models.ranking import Weights, rank
from models.recommender import Recommender, request_text
from models.user_state import UserState, apply_context, apply_feedback
from schemas.codec import decode, encode
from schemas.domains import DomainPack, load_packs, pack_for
from schemas.records import (
    INTERACTION_KINDS,
    Constraints,
    Context,
    Feedback,
    FeedbackKind,
    Item,
    JoinedRequest,
    Location,
    RecommendedItem,
    Request,
    Source,
)

DIM = 16
NOON = 1_767_268_800_000
DAY = 24 * 3_600_000
EATING = pack_for("restaurant")
HERE = Location(lat=31.23, lon=121.47)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def item(number: int, domain: str = "restaurant") -> Item:
    """Return one of many items: some have no place, no price or no category; many are equal to others."""
    return Item(
        domain=domain,
        name=f"面馆 {number} 🍜",
        categories=[f"c{number % 5}", f"d{number % 3}"][: number % 3],
        location=Location(lat=31.2 + number % 7 / 100, lon=121.47) if number % 4 else None,
        price=float(number) if number % 5 else None,
    )


def catalogue_of(numbers, domain: str = "restaurant") -> Catalogue:
    catalogue = Catalogue(DIM)
    for number in numbers:
        catalogue.put(f"i{number}", item(number, domain), unit(number % 50))
    return catalogue


class Person:
    """A user, everybody else, and what they did."""

    def __init__(self, pack: DomainPack = EATING) -> None:
        self.pack, self.state, self.everybody, self.offset = pack, UserState(), GlobalState(), 0

    def did(self, kind: FeedbackKind, item_id: str, days_ago: float = 1, session: str | None = None) -> "Person":
        time = NOON - round(days_ago * DAY)
        rating = 0.5 if kind == "rating" else None
        feedback = Feedback(item_id=item_id, domain=self.pack.name, kind=kind, session_id=session, rating=rating)
        previous = apply_feedback(self.state, time, feedback)
        if kind != "dismissal":
            self.offset += 1
            list(self.everybody.signals.apply(0, self.offset, time, self.pack.name, item_id, previous))
        return self

    def at(self, location: Location | None) -> "Person":
        apply_context(self.state, NOON - 1000, Context(location=location))
        return self

    def asks(self, **fields: object) -> JoinedRequest:
        request = Request(**{"request_id": "r", "domain": self.pack.name, **fields})  # type: ignore[arg-type]
        source = Source(partition=0, offset=0)
        joined = join(self.state, self.everybody, self.pack, request, event_time=NOON, source=source)
        assert decode(JoinedRequest, encode(joined)) == joined
        return joined


def ranked(
    catalogue: Catalogue, joined: JoinedRequest, query: np.ndarray | None = None, weights: Weights | None = None
) -> list[RecommendedItem]:
    cosines = None if query is None else catalogue.cosines(query[None])[0]
    return rank(catalogue, pack_for(joined.request.domain), joined, cosines, weights or Weights())


def ids(items: list[RecommendedItem]) -> list[str]:
    return [entry.item_id for entry in items]


people = st.lists(
    st.tuples(
        st.sampled_from(INTERACTION_KINDS),
        st.integers(0, 70).map("i{}".format),
        st.sampled_from([0.0, 0.01, 1.0, 7.0, 5000.0]),
        st.sampled_from([None, "s1", "s2"]),
    ),
    max_size=30,
)
questions = st.fixed_dictionaries(
    {
        "text": st.sampled_from(["", "quiet noodles", "安静的面馆 🍜", "...", "a\u0000b"]),
        "k": st.integers(1, 1000),
        "session_id": st.sampled_from([None, "s1", "new"]),
        "constraints": st.sampled_from(
            [None, Constraints(price_max=30.0), Constraints(max_distance=5.0, open_at="now")]
        ),
        "context": st.sampled_from([None, Context(location=HERE), Context(fields={"language": "zh"})]),
    }
)


@given(people, questions, st.sampled_from([0, 1, 60]), st.sampled_from(sorted({p.name for p in load_packs().values()})))
def test_whatever_is_asked_scores_are_numbers_in_order_and_reasons_sum_to_them(history, question, size, domain):
    person = Person(pack_for(domain))
    for event in history:
        person.did(*event)
    joined = person.asks(**question)
    answer = ranked(catalogue_of(range(size), domain), joined, unit(3) if request_text(joined) else None)
    scores = [entry.score for entry in answer]
    assert all(map(math.isfinite, scores))
    assert scores == sorted(scores, reverse=True)
    assert len(set(ids(answer))) == len(answer) <= min(question["k"], size)
    for entry in answer:
        assert abs(sum(entry.reasons.values()) - entry.score) < 1e-9
        assert "nan" not in entry.why


@settings(max_examples=8)
@given(st.randoms(), people, st.booleans(), st.booleans())
def test_the_answer_does_not_depend_on_the_order_in_which_items_came_or_on_what_has_been_removed(
    random, history, with_text, somewhere
):
    person = Person().at(HERE if somewhere else None)
    for event in history:
        person.did(*event)
    joined = person.asks(k=30)
    query = unit(3) if with_text else None
    numbers = list(range(400))
    tidy = ranked(catalogue_of(numbers), joined, query)
    messy = catalogue_of(random.sample(numbers, 400))
    for number in random.sample(range(400, 700), 100):
        messy.put(f"i{number}", item(number), unit(number))
    for number in range(400, 700):
        messy.remove(f"i{number}")
    for number in random.sample(numbers, 50):
        messy.remove(f"i{number}")
        messy.put(f"i{number}", item(number), unit(number % 50))
    assert ranked(messy, joined, query) == tidy


def test_equal_scores_come_in_an_order_that_only_the_ids_decide():
    same = Item(domain="restaurant", name="n")
    answers = []
    for order in (range(300), range(299, -1, -1)):
        catalogue = Catalogue(DIM)
        for number in order:
            catalogue.put(f"i{number}", same, unit(0))
        answers.append(ids(ranked(catalogue, Person().asks(k=20))))
    assert answers[0] == answers[1]
    assert answers[0] != sorted(answers[0])


def test_without_a_catalogue_there_is_no_answer_and_the_first_request_ever_has_one():
    assert ranked(Catalogue(DIM), Person().asks()) == []
    emptied = catalogue_of([1])
    emptied.remove("i1")
    assert ranked(emptied, Person().asks()) == []
    nobody = Person().asks()
    assert nobody.items == []
    assert ids(ranked(catalogue_of([1]), nobody)) == ["i1"]


def test_a_place_someone_goes_to_every_week_comes_first():
    person = Person()
    for week in range(1, 9):
        person.did("visit", "i7", 7 * week)
    assert ranked(catalogue_of(range(60)), person.asks())[0].item_id == "i7"
    first = ranked(catalogue_of(range(60)), person.asks(), weights=Weights(visited=5.0))[0]
    assert max(first.reasons, key=lambda part: first.reasons[part]) == "visited"
    assert "8 times" in first.why


def test_the_item_that_fits_the_words_comes_first():
    assert ranked(catalogue_of(range(50)), Person().asks(text="noodles"), unit(17))[0].item_id == "i17"


def test_what_people_choose_next_moves_up_after_their_last_choice():
    person = Person()
    for day in range(9, 1, -1):
        person.did("visit", "i1", day, f"s{day}").did("visit", "i2", day - 0.01, f"s{day}")
    person.did("visit", "i1", 0.01, "now")
    first = ranked(catalogue_of(range(60)), person.asks(session_id="now"))[0]
    assert first.item_id == "i2"
    assert {"sequence", "followed"} <= set(first.reasons)


def test_a_dismissed_item_sinks_below_its_equals_and_says_nothing_in_its_favour():
    names = ids(ranked(catalogue_of(range(8)), Person().asks()))
    person = Person().did("dismissal", names[0])
    answer = ranked(catalogue_of(range(8)), person.asks())
    assert answer[-1].item_id == names[0]
    assert answer[-1].reasons["dismissed"] < 0


def test_where_people_do_not_choose_twice_what_was_chosen_is_out_and_what_was_looked_at_or_dismissed_is_not():
    pack = pack_for("shop")
    person = Person(pack).did("purchase", "i1").did("click", "i2").did("dismissal", "i3").did("booking", "i4")
    answer = ids(ranked(catalogue_of(range(6), "shop"), person.asks()))
    assert set(answer) == {"i0", "i2", "i3", "i5"}
    assert answer[-1] == "i3"


def test_more_is_asked_for_than_there_is():
    assert len(ranked(catalogue_of(range(5)), Person().asks(k=1000))) == 5


def test_reasons_are_left_out_on_request_and_the_order_stays():
    person = Person().at(HERE).did("visit", "i3")
    long, short = (ranked(catalogue_of(range(60)), person.asks(explain=explain)) for explain in (True, False))
    assert [(entry.item_id, entry.score) for entry in short] == [(entry.item_id, entry.score) for entry in long]
    assert all(entry.reasons == {} and entry.why == "" for entry in short)


def test_the_words_are_in_the_language_of_the_request():
    person = Person().at(HERE)
    assert "away" in ranked(catalogue_of(range(5)), person.asks(text="noodles"), unit(1))[0].why
    assert "距您" in "".join(e.why for e in ranked(catalogue_of(range(5)), person.asks(text="面"), unit(1)))
    assert any(
        "您" in e.why for e in ranked(catalogue_of(range(5)), person.asks(context=Context(fields={"language": "zh"})))
    )


def test_a_distance_is_only_told_to_a_user_who_is_known_to_be_somewhere():
    person = Person().did("visit", "i1", 0.01)
    for day in range(1, 5):
        person.did("visit", "i5", day)
    answer = ranked(catalogue_of(range(8)), person.asks())
    assert any(entry.reasons.get("near", 0) > 0.02 for entry in answer)
    assert not any("away" in entry.why or "nan" in entry.why for entry in answer)


def test_clicks_and_dismissals_are_not_told_as_visits():
    person = Person().did("click", "i1").did("click", "i1").did("dismissal", "i1").did("visit", "i2")
    answer = ranked(catalogue_of(range(4)), person.asks(), weights=Weights(visited=5.0))
    why = {entry.item_id: entry.why for entry in answer}
    assert "been here" not in why["i1"]
    assert "been here 1 times" in why["i2"]


@pytest.mark.parametrize("pack", sorted({pack.name for pack in load_packs().values()}))
def test_every_domain_pack_runs_through_join_and_rank_with_its_own_words(pack):
    person = Person(pack_for(pack)).at(HERE).did("click", "i1").did("visit", "i2").did("visit", "i4", 0.02)
    for text in ("something quiet", "安静"):
        joined = person.asks(text=text, constraints=Constraints(price_max=50.0, max_distance=5000.0))
        answer = ranked(catalogue_of(range(60), pack), joined, unit(3))
        assert answer
        assert all(entry.why for entry in answer)


def test_a_batch_of_requests_gets_the_answers_that_each_would_get_alone():
    recommender = Recommender(DIM, "m@1")
    recommender.put([f"i{n}" for n in range(60)], [item(n) for n in range(60)], np.stack([unit(n) for n in range(60)]))
    batch = [Person().did("visit", "i1").asks(text="a"), Person().asks(), Person().at(HERE).asks(text="b")]
    vectors = [unit(1), None, unit(2)]
    alone = [recommender.recommend([joined], [vector])[0] for joined, vector in zip(batch, vectors, strict=True)]
    assert recommender.recommend(batch, vectors) == alone
    assert recommender.recommend([], []) == []
