"""The ranker learns from what was chosen, forgets nothing of its base, and gives its reasons exactly."""

import dataclasses

import msgspec
import numpy as np
import pytest
from shown_examples import ITEMS, examples, joined_request

from models.feedback_training import Correction, NothingToLearnError, learn_correction
from models.ranker import Ranker
from models.ranking import PARTS
from models.recommender import Recommender
from models.shown_lists import Lists, ShownList
from schemas.records import JoinedRequest

QUICK = Correction(trees=30, smallest_leaf=20)


def lists(number, **more):
    made = Lists()
    for posted in examples(number, **more):
        made.add(posted.key.decode(), posted.example)
    return made.finished()


def recommender(ranker=None):
    made = Recommender(1, "tiny@1", ranker=ranker)
    made.put(list(ITEMS), list(ITEMS.values()), np.zeros((len(ITEMS), 1, 1), np.float32))
    return made


def no_text(texts):
    return np.zeros((len(texts), 1), np.float32)


def learned(given, champion=None, base_trees=None, correction=QUICK):
    return learn_correction(recommender(champion), given, no_text, correction, base_trees=base_trees)


def written(ranker, folder):
    folder.mkdir()
    ranker.save(folder)
    return Ranker.load(folder)


@pytest.fixture(scope="module")
def ranker():
    return learned(lists(300))


def mean_price(ranker):
    (shown,) = recommender(ranker).recommend([joined_request(1)], [None])
    return sum(ITEMS[item.item_id].price for item in shown) / len(shown)


def test_it_learns_what_is_chosen(ranker):
    assert mean_price(ranker) < 0.6 * mean_price(None)


def test_the_same_lists_give_the_same_bytes_and_other_lists_do_not(ranker, tmp_path):
    version = written(ranker, tmp_path / "one").version
    assert written(learned(lists(300)), tmp_path / "same").version == version
    assert written(learned(lists(300, seed=2)), tmp_path / "other").version != version


def test_a_correction_keeps_the_base_and_replaces_the_correction_before(ranker):
    base = ranker.trees.num_trees()
    once = learned(lists(100, seed=3), champion=ranker, base_trees=base)
    twice = learned(lists(100, seed=4), champion=once, base_trees=base)
    features = np.random.default_rng(0).normal(size=(50, ranker.trees.num_feature())).astype(np.float32)
    before = ranker.trees.predict(features, num_threads=1)
    for each in (once, twice):
        assert each.trees.num_trees() <= base + QUICK.trees
        kept = each.trees.predict(features, num_iteration=base, num_threads=1)
        np.testing.assert_array_equal(kept, before)
    assert not np.allclose(once.scores(features), twice.scores(features))


def test_after_a_champion_without_a_ranker_each_correction_is_the_whole_ranker():
    first = learned(lists(100, seed=3))
    second = learned(lists(100, seed=4), champion=first, base_trees=0)
    assert second.trees.num_trees() <= QUICK.trees
    features = np.random.default_rng(0).normal(size=(50, first.trees.num_feature())).astype(np.float32)
    alone = learned(lists(100, seed=4))
    np.testing.assert_array_equal(second.scores(features), alone.scores(features))


def test_what_the_base_ranks_rightly_is_not_learned_twice(ranker):
    """Boosting begins at the base's scores: lists that it orders well already move it little."""
    again = learned(lists(300), champion=ranker, base_trees=ranker.trees.num_trees())
    features = np.random.default_rng(0).normal(size=(200, ranker.trees.num_feature())).astype(np.float32)
    assert np.std(again.scores(features) - ranker.scores(features)) < 0.7 * np.std(ranker.scores(features))


def test_reasons_still_sum_to_the_score(ranker):
    corrected = learned(lists(100, seed=3), champion=ranker, base_trees=ranker.trees.num_trees())
    for item in recommender(corrected).recommend([joined_request(1)], [None])[0]:
        assert sum(item.reasons.values()) == pytest.approx(item.score, abs=1e-6)
        assert set(item.reasons) <= set(PARTS)


def test_what_was_unlikely_to_be_shown_weighs_more():
    """Two tastes, equally often acted on; the one that was shown with a small propensity wins."""

    def reweighed(each: ShownList, cheap: float, dear: float) -> ShownList:
        best = max(each.shown, key=lambda shown: shown.label)
        price = ITEMS[best.item_id].price
        propensity = cheap if price < 100 else dear
        shown = [
            msgspec.structs.replace(shown, propensity=propensity) if shown is best else shown for shown in each.shown
        ]
        return msgspec.structs.replace(each, shown=shown)

    def turned(each: ShownList) -> ShownList:
        """The dearest is what is chosen."""
        chosen = max(each.shown, key=lambda shown: ITEMS[shown.item_id].price or 0.0)
        shown = [msgspec.structs.replace(s, label=0.2 if s is chosen else 0.0) for s in each.shown]
        return msgspec.structs.replace(each, shown=shown)

    both = [each for each in lists(300) if each.acted] + [turned(each) for each in lists(300, seed=2) if each.acted]
    cheap_matters = learned([reweighed(each, cheap=0.1, dear=1.0) for each in both])
    dear_matters = learned([reweighed(each, cheap=1.0, dear=0.1) for each in both])
    assert mean_price(cheap_matters) < mean_price(dear_matters)


def test_items_that_are_gone_are_left_out(ranker):
    champion = recommender()
    for item_id in list(ITEMS)[::2]:
        champion.catalogue.remove(item_id)
    assert learn_correction(champion, lists(300), no_text, QUICK).trees.num_trees() > 0


def test_a_request_with_words_is_read_as_it_is_served():
    asked = []

    def encode(texts):
        asked.extend(texts)
        return no_text(texts)

    def with_words(each: ShownList) -> ShownList:
        joined = each.request()
        request = msgspec.structs.replace(joined.request, text="noodles")
        raw = msgspec.Raw(msgspec.msgpack.encode(msgspec.structs.replace(joined, request=request)))
        assert isinstance(msgspec.msgpack.decode(raw, type=JoinedRequest), JoinedRequest)
        return msgspec.structs.replace(each, joined=raw)

    learn_correction(recommender(), [with_words(each) for each in lists(60)], encode, QUICK)
    assert asked
    assert all("noodles" in text for text in asked)


def test_nothing_chosen_is_nothing_to_learn():
    unacted = [each for each in lists(60) if not each.acted]
    with pytest.raises(NothingToLearnError, match=f"none of {len(unacted)} lists"):
        learned(unacted)


def test_a_correction_of_a_champion_without_a_ranker_comes_on_top_of_the_weights_that_served(tmp_path):
    """Trees that say nearly nothing leave the lists, and what is written down says what the trees add to."""
    silent = learned(lists(300), correction=Correction(trees=1, learning_rate=1e-9, smallest_leaf=20))
    loaded = written(silent, tmp_path / "ranker")
    assert loaded.corrects_weights
    (weighed,), (corrected,) = (recommender(ranker).recommend([joined_request(1)], [None]) for ranker in (None, loaded))
    assert [item.item_id for item in corrected] == [item.item_id for item in weighed]
    for one, other in zip(weighed, corrected, strict=True):
        assert other.score == pytest.approx(one.score, abs=1e-5)
        assert other.reasons["near"] == pytest.approx(one.reasons["near"], abs=1e-5)


def test_a_correction_of_a_whole_ranker_comes_on_top_of_words_alone(ranker):
    whole = dataclasses.replace(ranker, corrects_weights=False)
    assert not learned(lists(100, seed=3), champion=whole, base_trees=whole.trees.num_trees()).corrects_weights
