"""What the language model learns from: training requests worded as served, or texts; never a label kept back."""

import pytest

from models import dataset
from models.chunks import item_chunks
from models.dataset import Dataset, Meta
from models.evaluation import catalogue_item
from models.fine_tuning.settings import Settings
from models.ranking import Weights
from models.training_data import FEWEST_REQUESTS, training_data
from schemas.domains import pack_for

PACK = pack_for("restaurant")
STORY = " ".join(f"Sentence number {number} tells of dish {number} and of nothing else." for number in range(60))


def item(number, text):
    return dataset.Item(item_id=f"p{number}", name=f"Place {number}", categories=("noodles",), text=text)


def request(number, split="train", text="somewhere quiet", relevant=None):
    return dataset.Request(
        request_id=f"r{number}",
        user_id="ann",
        event_time=number,
        split=split,
        text=text,
        context={"weather": "rain"},
        relevant=(relevant or f"p{number % 5}",),
    )


def asked(requests, texts=("short",) * 5):
    return Dataset([item(n, text) for n, text in enumerate(texts)], [], list(requests), Meta(domain="restaurant"))


def everything(data):
    queries = [(query.text, tuple(query.relevant)) for query in data.validation.queries] if data.validation else []
    return [*data.pairs, *queries, *data.catalogue.items()]


class TestRequests:
    def test_a_query_is_worded_as_when_serving_and_means_the_text_of_what_was_chosen(self):
        data = asked(request(n) for n in range(FEWEST_REQUESTS))
        (pair, *_) = training_data(data, PACK, 0).pairs
        assert pair.query == "somewhere quiet. on a rainy day"
        assert pair.item_text in item_chunks(PACK, catalogue_item(data.items[0], PACK))

    def test_the_last_tenth_is_measured_with_and_not_learned_from(self):
        learnt = training_data(asked(request(n, text=f"wish {n}") for n in range(300)), PACK, 0)
        assert len(learnt.pairs) == 270
        assert {query.text.split(".")[0] for query in learnt.validation.queries} == {
            f"wish {n}" for n in range(270, 300)
        }

    def test_labels_of_other_splits_change_nothing(self):
        train = [request(n) for n in range(300)]
        kept_back = [request(1000 + n, split) for n, split in enumerate(["valid", "test"] * 20)]
        other = [dataset.Request(**{**as_dict(each), "relevant": ("p4",)}) for each in kept_back]
        first, second = (training_data(asked(train + more), PACK, 0) for more in (kept_back, other))
        assert everything(first) == everything(second) == everything(training_data(asked(train), PACK, 0))

    def test_requests_without_words_and_answers_that_are_unknown_teach_nothing(self):
        requests = [request(n, text=None) for n in range(300)] + [request(n + 300, relevant="gone") for n in range(300)]
        assert training_data(asked(requests), PACK, 0) is None


class TestTexts:
    def test_a_sentence_means_another_chunk_of_the_same_text(self):
        learnt = training_data(asked([], [STORY, STORY.replace("dish", "dance")]), PACK, 0)
        assert learnt.pairs
        for pair in learnt.pairs:
            assert ("dance" in pair.query) == ("dance" in pair.item_text) == (pair.item_id == "p1")
            assert pair.query not in pair.item_text

    def test_a_sentence_of_a_short_text_means_the_rest_of_it(self):
        texts = ["The soup is very hot. The chairs are of red wood.", "Old songs every night. The beer is cheap here."]
        learnt = training_data(asked([], texts), PACK, 0)
        assert all(pair.query not in pair.item_text for pair in learnt.pairs)

    def test_what_is_measured_with_is_read_nowhere_else(self):
        learnt = training_data(asked([], [STORY, STORY.replace("dish", "dance")]), PACK, 0)
        for query in learnt.validation.queries:
            assert all(query.text not in pair.query + pair.item_text for pair in learnt.pairs)
            assert all(query.text not in text for text in learnt.catalogue.values())

    def test_no_request_is_looked_at_where_there_are_few(self):
        few = [request(n) for n in range(FEWEST_REQUESTS - 1)]
        texts = [STORY, STORY.replace("dish", "dance")]
        assert everything(training_data(asked(few, texts), PACK, 0)) == everything(
            training_data(asked([], texts), PACK, 0)
        )

    @pytest.mark.parametrize("texts", [[], [""], ["", ""], [STORY]])
    def test_without_texts_to_tell_apart_there_is_nothing_to_learn(self, texts):
        assert training_data(asked([], texts), PACK, 0) is None


def test_the_same_seed_draws_the_same():
    data = asked([], [STORY, STORY.replace("dish", "dance")])
    assert everything(training_data(data, PACK, 1)) == everything(training_data(data, PACK, 1))
    assert everything(training_data(data, PACK, 1)) != everything(training_data(data, PACK, 2))


def test_cosines_are_trained_on_the_scale_that_ranking_weighs_them_by():
    assert Settings().temperature == Weights().text_spread / Weights().text


def as_dict(request):
    return {name: getattr(request, name) for name in request.__struct_fields__}
