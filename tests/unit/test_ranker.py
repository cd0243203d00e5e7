"""The trained ranker: learns the habits put in, explains its scores exactly, depends on nothing it should not."""

from collections.abc import Collection

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from models import dataset
from models.catalogue import Catalogue
from models.dataset import Dataset
from models.evaluation import bare_catalogue, catalogue_item, joined_requests
from models.features import FAMILY, FEATURES, NAMES, candidate_features
from models.item_tables import TERMS, Choice, ItemTables, build_tables, starting_weights
from models.model_training import RankerSettings
from models.ranker import Groups, Ranker, RankerError, fit_trees
from models.ranker_training import train_ranker
from models.ranking import PARTS, Weights, question, rank, ranking_scene
from models.recommender import Recommender
from models.returning import describe
from models.sequence_training import SequenceSettings
from ops.bench.ablations import FAMILIES, ablate
from schemas.codec import decode, encode
from schemas.domains import pack_for
from schemas.errors import BadInputError
from schemas.records import Context, History, Item, JoinedRequest, Location, Request, Source
from streams.kafka import partition_of

EATING = pack_for("restaurant")
MONDAY = 1_767_571_200_000  # 2026-01-05 00:00 UTC
HOUR = 3_600_000
USERS, PLACES, DAYS = 30, 40, 30


def habit(user: int, hour: int) -> str:
    """Where a user goes at an hour: every user has a place for the morning and one for the evening."""
    return f"p{(7 * user + (13 if hour > 12 else 0)) % PLACES}"


def city() -> Dataset:
    """Return everybody's month: a visit each morning and evening, each its own session after an errand at noon."""
    items = [
        dataset.Item(
            item_id=f"p{number}",
            name=f"place {number}",
            categories=(f"kind {number % 4}",),
            location=Location(lat=31.2 + number % 8 / 200, lon=121.4 + number // 8 / 200),
        )
        for number in range(PLACES)
    ]
    events, requests = [], []
    for day in range(DAYS):
        for user in range(USERS):
            for hour in (8, 19):
                time = MONDAY + (24 * day + hour) * HOUR + user * 1000
                split = "valid" if day >= DAYS - 3 else "train"
                session = f"{user}-{day}-{hour}"
                errand = f"p{(user + day) % PLACES}"
                for item, minutes in ((errand, -30), (habit(user, hour), 0)):
                    events.append(
                        dataset.Interaction(
                            event_id=f"{session}-{minutes}",
                            user_id=f"u{user}",
                            item_id=item,
                            kind="visit",
                            event_time=time + minutes * 60_000,
                            session_id=session,
                            split=split,
                        )
                    )
                if split == "valid":
                    requests.append(
                        dataset.Request(
                            request_id=f"r-{session}",
                            user_id=f"u{user}",
                            event_time=time,
                            split="valid",
                            session_id=session,
                            relevant=(habit(user, hour),),
                            label_event_id=f"{session}-0",
                        )
                    )
    events.sort(key=lambda event: event.event_time)
    return Dataset(items, events, requests, dataset.Meta(domain="restaurant"))


def fitted(data: Dataset, without: Collection[str] = ()) -> Ranker:
    return train_ranker(
        data,
        EATING,
        requests=600,
        lists=600,
        rounds=20,
        leaves=8,
        learning_rate=0.2,
        dimensions=8,
        seed=0,
        without=without,
    )


@pytest.fixture(scope="module")
def data():
    return city()


@pytest.fixture(scope="module")
def ranker(data):
    return fitted(data)


@pytest.fixture(scope="module")
def joined(data):
    return [(request, joined) for request, joined in joined_requests(data, EATING, "streaming", "valid")]


def first(catalogue: Catalogue, joined: JoinedRequest, ranker: Ranker | None) -> str:
    return rank(catalogue, EATING, joined, None, Weights(), ranker=ranker)[0].item_id


def test_it_learns_where_people_go_at_which_hour(data, ranker, joined):
    catalogue = bare_catalogue(data, EATING)
    hits = np.mean([first(catalogue, entry, ranker) in request.relevant for request, entry in joined])
    assert hits > 0.95


def test_reasons_sum_to_the_score_and_are_named(data, ranker, joined):
    catalogue = bare_catalogue(data, EATING)
    for _, entry in joined[:20]:
        explained = replace(entry, request=replace(entry.request, k=10, explain=True))
        for item in rank(catalogue, EATING, explained, None, Weights(), ranker=ranker):
            assert sum(item.reasons.values()) == pytest.approx(item.score, abs=1e-6)
            assert set(item.reasons) <= set(PARTS)


def test_it_sees_what_is_open():
    from_nine = [[(9 * 60, 22 * 60)] for _ in range(7)]
    hours = {"open": from_nine, "closed": [[(0, 60)] for _ in range(7)], "nobody knows": None}
    catalogue = Catalogue(1)
    for name, week in hours.items():
        catalogue.put(name, Item(domain="restaurant", name=name, hours=week), np.zeros((1, 1), np.float32))
    asked = JoinedRequest(
        request=Request(request_id="r", domain="restaurant"),
        event_time=MONDAY + 10 * HOUR,
        source=Source(partition=0, offset=0),
        context=Context(),
    )
    scene = ranking_scene(question(catalogue, EATING, asked, Weights()), Weights(), ItemTables(), k=3)
    seen = dict(zip(scene.rows.tolist(), candidate_features(scene)[:, NAMES.index("open")].tolist(), strict=True))
    assert {name: seen[catalogue.row_of[name]] for name in hours} == {"open": 1, "closed": 0, "nobody knows": -1}


def test_a_feature_made_for_itself_is_the_same_as_among_all(data, ranker, joined):
    catalogue = bare_catalogue(data, EATING)
    for _, entry in joined[:3]:
        scene = ranking_scene(question(catalogue, EATING, entry, Weights()), Weights(), ranker.tables, k=10)
        everything = candidate_features(scene)
        for column, name in enumerate(NAMES):
            assert np.array_equal(candidate_features(scene, {name})[:, column], everything[:, column]), name


def test_a_ranker_knows_which_features_it_looks_at(data, ranker, joined):
    catalogue = bare_catalogue(data, EATING)
    _, entry = joined[0]
    scene = ranking_scene(question(catalogue, EATING, entry, Weights()), Weights(), ranker.tables, k=10)
    everything = candidate_features(scene)
    unseen = [name not in ranker.looks_at for name in NAMES]
    assert any(unseen)
    changed = everything.copy()
    changed[:, unseen] = 7.0
    assert np.array_equal(ranker.scores(changed), ranker.scores(everything))
    assert np.array_equal(ranker.parts(changed, PARTS), ranker.parts(everything, PARTS))


def test_every_feature_belongs_to_a_part_of_the_score():
    assert set(FEATURES.values()) <= set(PARTS)


def test_asking_for_no_reasons_changes_no_score(data, ranker, joined):
    catalogue = bare_catalogue(data, EATING)
    for _, entry in joined[:5]:
        lists = [
            rank(catalogue, EATING, replace(entry, request=replace(entry.request, k=10, explain=explain)), None,
                 Weights(), ranker=ranker)
            for explain in (True, False)
        ]  # fmt: skip
        assert [(i.item_id, i.score) for i in lists[0]] == [(i.item_id, i.score) for i in lists[1]]


def test_same_data_and_seed_same_trees_and_tables(data, ranker, tmp_path):
    for name, each in (("one", ranker), ("other", fitted(data))):
        (tmp_path / name).mkdir()
        each.save(tmp_path / name)
    assert Ranker.load(tmp_path / "one").version == Ranker.load(tmp_path / "other").version


def test_the_order_of_the_catalogue_s_rows_changes_nothing(data, ranker, joined):
    forwards = bare_catalogue(data, EATING)
    backwards = bare_catalogue(data._replace(items=data.items[::-1]), EATING)
    backwards.remove("p3")
    backwards.put("p3", catalogue_item(data.items[3], EATING), np.zeros((1, 1), np.float32))
    for _, entry in joined[:20]:
        explained = replace(entry, request=replace(entry.request, k=20, explain=True))
        assert rank(forwards, EATING, explained, None, Weights(), ranker=ranker) == rank(
            backwards, EATING, explained, None, Weights(), ranker=ranker
        )


def test_evaluation_serving_and_replay_give_the_same_bytes(data, ranker, joined, tmp_path):
    ranker.save(tmp_path)
    sent = [encode(entry) for _, entry in joined[:20]]
    answers = []
    for each in (ranker, Ranker.load(tmp_path)):
        recommender = Recommender(1, "m@1", ranker=each)
        items = [catalogue_item(item, EATING) for item in data.items]
        recommender.put([item.item_id for item in data.items], items, np.zeros((len(items), 1, 1), np.float32))
        together = recommender.recommend([decode(JoinedRequest, raw) for raw in sent], [None] * len(sent))
        alone = [recommender.recommend([decode(JoinedRequest, raw)], [None])[0] for raw in sent]
        assert msgspec.msgpack.encode(together) == msgspec.msgpack.encode(alone)
        answers.append(msgspec.msgpack.encode(together))
    assert answers[0] == answers[1]


def test_a_new_item_can_be_recommended_at_once(data, ranker, joined):
    catalogue = bare_catalogue(data, EATING)
    for item in data.items:
        catalogue.remove(item.item_id)
    catalogue.put("new", Item(domain="restaurant", name="new place"), np.zeros((1, 1), np.float32))
    assert first(catalogue, joined[0][1], ranker) == "new"


def test_nothing_is_recommended_from_an_empty_catalogue(ranker, joined):
    assert rank(Catalogue(1), EATING, joined[0][1], None, Weights(), ranker=ranker) == []


def test_a_user_without_a_history_gets_a_list(data, ranker, joined):
    entry = joined[0][1]
    bare = JoinedRequest(
        request=replace(entry.request, k=10), event_time=entry.event_time, source=entry.source, context=entry.context
    )
    answer = rank(bare_catalogue(data, EATING), EATING, bare, None, Weights(), ranker=ranker)
    assert len(answer) == 10
    assert all(np.isfinite(item.score) for item in answer)


@pytest.mark.parametrize("harm", ["missing", "truncated", "other features"])
def test_a_folder_that_is_no_ranker_is_refused_with_its_name(ranker, tmp_path, harm):
    ranker.save(tmp_path)
    if harm == "missing":
        (tmp_path / "item_tables.safetensors").unlink()
    elif harm == "truncated":
        whole = (tmp_path / "item_tables.safetensors").read_bytes()
        (tmp_path / "item_tables.safetensors").write_bytes(whole[: len(whole) // 2])
    else:
        (tmp_path / "ranker.json").write_bytes(msgspec.json.encode({"features": NAMES[1:]}))
    with pytest.raises(RankerError, match=str(tmp_path)):
        Ranker.load(tmp_path)


def test_a_family_that_is_left_out_is_used_by_no_tree(data):
    bare = fitted(data, without=["habit"])
    gains = dict(zip(NAMES, bare.trees.feature_importance("gain"), strict=True))
    assert all(gains[name] == 0 for name, family in FAMILY.items() if family == "habit")
    with pytest.raises(BadInputError, match="habit"):
        fitted(data, without=["weather"])


def test_an_ablation_says_what_each_family_is_worth_and_leaves_the_others_alone(data):
    settings = RankerSettings(requests=600, lists=600, rounds=20, leaves=8, learning_rate=0.2, dimensions=8)
    found = list(
        ablate(data, EATING, bare_catalogue(data, EATING), settings, split="valid", seed=0, progress=lambda *_: None)
    )
    assert [(each.hidden, each.mode) for each in found] == [
        (family, mode) for family in (None, *FAMILIES) for mode in ("static", "streaming")
    ]
    assert found[0].figures["acc@1"] > 0.95  # as the ranker that is trained by itself
    assert not found[0].gains
    unused = next(each for each in found if each.hidden == "dismissed")  # nobody dismisses anything here
    assert unused.gains["gain_mrr"] == 0
    assert unused.figures == found[0].figures


def shop() -> Dataset:
    """Return what people buy in a shop where one ware leads to the next; of time only the order is known."""
    items = [dataset.Item(item_id=f"p{number}", name=f"ware {number}", categories=()) for number in range(60)]
    events, requests = [], []
    for user in range(300):
        basket = [f"p{(17 * user + place) % 60}" for place in range(6)]
        for place, item in enumerate(basket):
            split = "valid" if place == len(basket) - 1 else "train"
            name = f"{user}-{place}"
            events.append(
                dataset.Interaction(
                    event_id=name, user_id=f"u{user}", item_id=item, kind="purchase", split=split,
                    event_time=MONDAY + 24 * HOUR * place,
                )
            )  # fmt: skip
        requests.append(
            dataset.Request(
                request_id=f"r{user}", user_id=f"u{user}", event_time=events[-1].event_time, split="valid",
                relevant=(basket[-1],), label_event_id=name,
            )
        )  # fmt: skip
    events.sort(key=lambda event: event.event_time)
    return Dataset(items, events, requests, dataset.Meta(domain="shop", protocol="leave-one-out"))


def test_it_learns_what_goes_together_from_the_order_of_purchases_and_repeats_none():
    data, pack = shop(), pack_for("shop")
    ranker = train_ranker(
        data, pack, requests=150, lists=150, rounds=20, leaves=8, learning_rate=0.2, dimensions=8, seed=0
    )
    assert not np.allclose(ranker.tables.first, ItemTables().first)  # it has weighed what leads to a first choice
    catalogue = bare_catalogue(data, pack)
    hits = []
    for request, entry in joined_requests(data, pack, "static", "valid"):
        answer = [item.item_id for item in rank(catalogue, pack, entry, None, Weights(), ranker=ranker)]
        assert not set(answer) & {entry.items[number] for number in entry.history.item}
        hits.append(answer[0] in request.relevant)
    assert np.mean(hits) > 0.9


def test_chances_of_first_choices_add_up_and_are_of_what_the_user_has_not_chosen(data, ranker, joined):
    catalogue = bare_catalogue(data, EATING)
    for _, entry in joined[:5]:
        asking = question(catalogue, EATING, entry, Weights())
        scene = ranking_scene(asking, Weights(), ranker.tables, PLACES)
        assert scene.first.sum() == pytest.approx(1.0)  # the catalogue is so small that all of it are candidates
        chosen = {entry.items[number] for number in entry.history.item}
        assert {catalogue.item_ids[row] for row in scene.rows[scene.first == 0]} == chosen


def test_chances_of_returning_and_of_something_new_add_up_and_follow_the_habit(data, ranker, joined):
    catalogue = bare_catalogue(data, EATING)
    hits = []
    for request, entry in joined:
        asking = question(catalogue, EATING, entry, Weights())
        described = describe(catalogue, EATING, entry, asking.history, asking.mentioned)
        chances, new = ranker.tables.returning.chances(described, len(entry.items))
        assert chances.sum() + new == pytest.approx(1.0)
        hits.append(entry.items[int(chances.argmax())] in request.relevant)
    assert np.mean(hits) > 0.9


def test_who_has_chosen_nothing_can_only_choose_something_new(data, ranker, joined):
    catalogue = bare_catalogue(data, EATING)
    stranger = replace(joined[0][1], history=History())
    asking = question(catalogue, EATING, stranger, Weights())
    described = describe(catalogue, EATING, stranger, asking.history, asking.mentioned)
    chances, new = ranker.tables.returning.chances(described, len(stranger.items))
    assert (chances.sum(), new) == (0.0, 1.0)


def test_what_users_return_to_is_not_learned_where_nobody_returns():
    ranker = train_ranker(
        shop(), pack_for("shop"), requests=100, lists=100, rounds=5, leaves=4, learning_rate=0.2, dimensions=4, seed=0
    )
    assert ranker.tables.returning is None


def test_what_comes_next_is_a_source_and_a_part_of_the_score_and_is_kept_with_the_ranker(tmp_path):
    data, pack = shop(), pack_for("shop")
    settings = SequenceSettings(dimensions=16, layers=1, epochs=4)
    options = {
        "requests": 100,
        "lists": 100,
        "rounds": 10,
        "leaves": 8,
        "learning_rate": 0.2,
        "dimensions": 8,
        "seed": 0,
    }
    others = sorted(set(FAMILY.values()) - {"next"})
    ranker = train_ranker(data, pack, sequence=settings, without=others, **options)
    ranker.save(tmp_path)
    loaded, catalogue = Ranker.load(tmp_path), bare_catalogue(data, pack)
    hits = []
    for request, entry in list(joined_requests(data, pack, "static", "valid"))[:30]:
        entry = replace(entry, request=replace(entry.request, k=5, explain=True))  # noqa: PLW2901
        items = rank(catalogue, pack, entry, None, Weights(), ranker=loaded)
        assert items == rank(catalogue, pack, entry, None, Weights(), ranker=ranker)
        assert sum(items[0].reasons.values()) == pytest.approx(items[0].score, abs=1e-5)
        assert items[0].reasons["sequence"]
        hits.append(items[0].item_id in request.relevant)
    assert np.mean(hits) > 0.5
    without = train_ranker(data, pack, sequence=settings, without=["next"], **options)
    assert without.tables.sequence is None


def test_an_item_that_changes_is_found_anew(data, ranker, joined):
    catalogue = bare_catalogue(data, EATING)
    before = ranker.tables.placed(catalogue).item[catalogue.row_of["p5"]]
    catalogue.remove("p5")
    catalogue.put("brand new", Item(domain="restaurant", name="new"), np.zeros((1, 1), np.float32))
    catalogue.put("p5", catalogue_item(data.items[5], EATING), np.zeros((1, 1), np.float32))
    placed = ranker.tables.placed(catalogue).item
    assert placed[catalogue.row_of["brand new"]] == 0
    assert placed[catalogue.row_of["p5"]] == before > 0


def test_nearness_can_count_more_soon_after_the_last_choice(data, ranker, joined):
    catalogue = bare_catalogue(data, EATING)
    _, entry = joined[0]
    asking = question(catalogue, EATING, entry, Weights())
    weights = starting_weights()
    weights[1, list(TERMS).index("near")] = -weights[
        0, list(TERMS).index("near")
    ]  # 1: the moment's first number, the gap
    tables = ranker.tables.with_first(weights.astype(np.float32))
    origin = catalogue.point[asking.mentioned[asking.history.item[-1]]]

    def expected_distance(hours_later: int) -> float:
        later = replace(entry, event_time=entry.event_time + 24 * hours_later * HOUR)  # at the same hour of the day
        scene = ranking_scene(question(catalogue, EATING, later, Weights()), Weights(), tables, PLACES)
        apart = np.sqrt(((catalogue.point[scene.rows] - origin) ** 2).sum(axis=1))
        return float(scene.first @ apart)

    assert expected_distance(0) < expected_distance(1) < expected_distance(7)


def test_the_first_forest_says_how_likely_a_choice_is_whatever_share_of_the_others_it_learned_from():
    rng = np.random.default_rng(0)
    lists, length, share = 2000, 30, 0.5
    liked = rng.random((lists, length)) < 0.5
    worth = np.where(liked, np.log(4.0), 0.0)  # what is liked is chosen four times as often
    relevant = np.arange(length) == (worth + rng.gumbel(size=worth.shape)).argmax(axis=1)[:, None]
    kept = relevant | liked | (rng.random((lists, length)) < share)
    features = np.zeros((lists, length, len(NAMES)), np.float32)
    features[:, :, NAMES.index("popular_7d")] = liked
    stands_for = np.where(relevant | liked, 1.0, 1 / share).astype(np.float32)
    groups = Groups(features[kept], relevant[kept], stands_for[kept], kept.sum(axis=1))
    rounds = 60
    trees = fit_trees(groups, rounds=rounds, leaves=2, learning_rate=0.3, seed=0)
    told = np.zeros((2, len(NAMES)), np.float32)
    told[1, NAMES.index("popular_7d")] = 1.0
    disliked, liking = trees.predict(told, num_iteration=rounds, num_threads=1)
    assert np.exp(liking - disliked) == pytest.approx(4.0, rel=0.15)


def test_too_little_to_learn_from_is_said(data):
    with pytest.raises(BadInputError, match="too few interactions"):
        fitted(data._replace(interactions=[], requests=[]))


def test_tables_know_when_items_are_chosen_and_by_whom(data):
    catalogue = bare_catalogue(data, EATING)
    choices = [Choice(user, "p1", MONDAY + 9 * HOUR) for user in ("u1", "u2")]
    tables = build_tables(catalogue, choices, dimensions=2, seed=0)
    row = catalogue.rows(["p1", "p0"])
    placed = tables.placed(catalogue)
    item, category = placed.item[row], placed.category[row]
    assert item.tolist() == [1, 0]
    at_nine, at_three = (tables.item_hour(item, category, np.array([hour, hour])) for hour in (9, 3))
    assert at_nine[0] > at_three[0]
    assert tables.item_users[1] == 2


def test_empty_tables_save_and_load(tmp_path):
    ItemTables().save(tmp_path)
    assert len(ItemTables.load(tmp_path).item_count) == 1


def test_partitions_do_not_matter(data, ranker, joined):
    spread = joined_requests(data, EATING, "streaming", "valid", lambda user: partition_of(user, 4))
    catalogue = bare_catalogue(data, EATING)
    for (_, one), (_, other) in zip(joined[:10], spread, strict=False):
        assert first(catalogue, one, ranker) == first(catalogue, other, ranker)
