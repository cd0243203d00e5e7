"""Every strategy learns, changes only what it says, ends with the same bytes after a crash, and leaves a base model."""

import json
import shutil
import sys
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_decoder, tiny_encoder

from models.base_model import BaseModelError, load_base, save_base
from models.encoder import Encoder, file_sha256
from models.export import LEAST_COSINE, export_encoder, reference_vectors
from models.fine_tuning import adversarial, augmentation, checkpoints, tracking
from models.fine_tuning.augmentation import Paraphrases, back_translate, exchange, hide_span, paraphrases_of, reorder
from models.fine_tuning.loss import log_inclusion, sampled_softmax
from models.fine_tuning.optimisation import learning_rate_factor, make_optimiser
from models.fine_tuning.pairs import Dealer, Pair, Query, TrainingData, Validation, rows_by_step
from models.fine_tuning.result import load_fine_tuned, read_manifest, weights_sha256
from models.fine_tuning.settings import FineTuningError, Settings
from models.fine_tuning.strategies import adapt
from models.fine_tuning.tower import Tower, encode, tokenise
from models.fine_tuning.training import fine_tune
from models.fine_tuning.validation import mean_reciprocal_rank
from schemas.domains import pack_for

CPU = torch.device("cpu")
STRATEGIES = ["full", "top", "lora", "adalora", "ia3", "prefix"]
CODES = {
    "noodles": "kzkzkz",
    "sushi": "wqwqwq",
    "curry": "jvjvjv",
    "bread": "xbxbxb",
    "tapas": "fpfpfp",
    "soup": "dydydy",
}
ITEMS = {code: f"{code} house" for code in CODES.values()}  # nothing in an item's letters says what it serves
PAIRS = [Pair(query.format(dish), code, ITEMS[code]) for dish, code in CODES.items() for query in ("{}", "some {}")]
VALIDATION = Validation([Query(f"{dish} please", [code]) for dish, code in CODES.items()], ITEMS)
DATA = TrainingData(PAIRS, ITEMS, VALIDATION)
RATES = {"full": 3e-3, "top": 3e-3, "lora": 3e-3, "adalora": 3e-2, "ia3": 1e-1, "prefix": 1e-1}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Tiny models with weights large enough that layers matter, which those of new models are not."""
    folders = {}
    for family, make in (("encoder", tiny_encoder), ("decoder", tiny_decoder)):
        folder = tmp_path_factory.mktemp(family)
        base = load_base(str(make(folder / "new")))
        with torch.no_grad():
            for parameter in base.model.parameters():
                parameter.mul_(5 if parameter.ndim == 2 else 1)
        save_base(base, folder / "base")
        folders[family] = str(folder / "base")
    return folders


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def quick(strategy="lora", **changes):
    fields = {"batch_size": 12, "negatives": 2, "temperature": 0.1, "epochs": 10, "evaluate_every": 5, "dropout": 0.0}
    fields |= {"learning_rate": RATES[strategy], "max_tokens": 40, "prefix_tokens": 8, "weight_decay": 0.0}
    return Settings(strategy=strategy, **fields | changes)


def losses(folder):
    lines = [json.loads(line) for line in (folder / tracking.METRICS).read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def weights(base):
    return {name: tensor.clone() for name, tensor in base.model.state_dict().items()}


def changed(before, after):
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name][: len(tensor)])}


@pytest.mark.parametrize("family", ["encoder", "decoder"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_learns_in_both_families_and_changes_only_what_it_says(bases, tmp_path, strategy, family):
    before = weights(load_base(bases[family]))
    manifest = fine_tune(
        bases[family],
        DATA,
        tmp_path / "run",
        quick(strategy, epochs=40 if strategy == "prefix" else 20, evaluate_every=20),
    )
    course = losses(tmp_path / "run")
    assert np.mean(course[-5:]) < 0.9 * np.mean(course[:5])
    after = weights(load_base(str(tmp_path / "run" / "model")))
    assert before.keys() == after.keys()
    different = changed(before, after)
    layer = "encoder.layer." if family == "encoder" else "h."
    if strategy == "full":
        assert different >= before.keys() - {"embeddings.token_type_embeddings.weight"}
    elif strategy == "top":
        assert different
        assert all(name.startswith((f"{layer}1.", "ln_f.")) for name in different)
    elif strategy == "prefix":
        assert different == set()
        (grown,) = (name for name in before if after[name].shape != before[name].shape)
        assert len(after[grown]) == len(before[grown]) + 2 * 8
    else:
        assert different
        assert all(name.startswith(layer) for name in different)
    assert manifest.parameters == sum(tensor.numel() for tensor in before.values())
    assert (manifest.trained_parameters == manifest.parameters) == (strategy == "full")


@pytest.mark.parametrize("family", ["encoder", "decoder"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_that_crashed_ends_with_the_bytes_of_one_that_did_not(bases, tmp_path, strategy, family):
    settings = quick(strategy, dropout=0.1, mask_spans=0.5)
    straight = fine_tune(bases[family], DATA, tmp_path / "straight", settings)

    def crash(done, of):
        if done == 7:
            raise ConnectionError("the power is gone")

    with pytest.raises(ConnectionError):
        fine_tune(bases[family], DATA, tmp_path / "crashed", settings, progress=crash)
    steps = []
    resumed = fine_tune(
        bases[family], DATA, tmp_path / "crashed", settings, progress=lambda done, _: steps.append(done)
    )
    assert steps == [6, 7, 8, 9, 10]
    assert same_files(tmp_path / "straight", tmp_path / "crashed")
    assert losses(tmp_path / "crashed") == losses(tmp_path / "straight")
    assert straight.weights_sha256 == resumed.weights_sha256
    assert straight.evaluations == resumed.evaluations


def same_files(one, other):
    names = [path.relative_to(one) for path in (one / "model").iterdir()]
    assert "model/model.safetensors" in map(str, names)
    return all(file_sha256(one / name) == file_sha256(other / name) for name in names)


@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_the_same_seed_and_data_give_the_same_bytes(bases, tmp_path, family):
    settings = quick(dropout=0.2, paraphrase=0.5, mask_spans=0.5, adversary="freelb", label_smoothing=0.1)
    words = Paraphrases([["some", "any"]], {})
    for name in ("one", "other"):
        fine_tune(bases[family], DATA, tmp_path / name, settings, paraphrases=words)
    assert same_files(tmp_path / "one", tmp_path / "other")


def test_a_crash_before_the_first_checkpoint_or_while_the_result_is_written_does_no_harm(bases, tmp_path, monkeypatch):
    straight = fine_tune(bases["encoder"], DATA, tmp_path / "straight", quick())

    def crash(done, of):
        if done == 3:
            raise ConnectionError

    with pytest.raises(ConnectionError):
        fine_tune(bases["encoder"], DATA, tmp_path / "run", quick(), progress=crash)
    with monkeypatch.context() as patch:
        patch.setattr("models.fine_tuning.result.weights_sha256", crash_when_called)
        with pytest.raises(ConnectionError):
            fine_tune(bases["encoder"], DATA, tmp_path / "run", quick())
    (tmp_path / "run" / "model" / "model.safetensors").write_bytes(b"of another run")
    assert fine_tune(bases["encoder"], DATA, tmp_path / "run", quick()).weights_sha256 == straight.weights_sha256
    assert same_files(tmp_path / "straight", tmp_path / "run")
    metrics = [(tmp_path / run / tracking.METRICS).read_text() for run in ("straight", "run")]
    assert metrics[0] == metrics[1]


def crash_when_called(_):
    raise ConnectionError


def test_another_seed_gives_other_weights(bases, tmp_path):
    runs = [fine_tune(bases["encoder"], DATA, tmp_path / str(seed), quick(seed=seed, epochs=2)) for seed in (1, 2)]
    assert runs[0].weights_sha256 != runs[1].weights_sha256


def test_training_leaves_torchs_own_random_numbers_alone(bases, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fine_tune(bases["encoder"], DATA, tmp_path / "run", quick(epochs=1))
    assert torch.equal(torch.rand(3), expected)


def vectors_of(base, texts, kind="query"):
    return encode(Tower(base.model, base.pooling, "fp32"), base, texts, kind, base.max_tokens, CPU)


@pytest.mark.parametrize("family", ["encoder", "decoder"])
@pytest.mark.parametrize("strategy", ["top", "lora", "adalora", "ia3", "prefix"])
def test_the_trained_parameters_alone_make_the_same_model_over_the_base(bases, tmp_path, strategy, family):
    manifest = fine_tune(bases[family], DATA, tmp_path / "run", quick(strategy, evaluate_every=10))
    whole = load_fine_tuned(tmp_path / "run")
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    for name in ("fine_tuning.json", "trained.safetensors"):
        shutil.copy(tmp_path / "run" / name, shipped / name)
    merged = load_fine_tuned(shipped)
    assert weights_sha256(merged) == weights_sha256(whole) == manifest.weights_sha256
    assert merged.name == whole.name == f"{bases[family]}+{strategy}-{manifest.weights_sha256[:12]}"
    assert merged.prefixes == whole.prefixes
    assert vectors_of(merged, ["noodles"]).tobytes() == vectors_of(whole, ["noodles"]).tobytes()
    assert vectors_of(merged, ["noodles"]).tobytes() != vectors_of(load_base(bases[family]), ["noodles"]).tobytes()


@pytest.mark.parametrize("family", ["encoder", "decoder"])
@pytest.mark.parametrize("strategy", ["lora", "prefix"])
def test_the_result_is_exported_and_served(bases, tmp_path, strategy, family):
    fine_tune(bases[family], DATA, tmp_path / "run", quick(strategy))
    base = load_fine_tuned(tmp_path / "run")
    encoder = Encoder.load(export_encoder(base, tmp_path / "artefact", "fp32"))
    served = encoder.encode(encoder.tokenize(["noodles", "安静"], "query"))
    assert (served * reference_vectors(base, encoder, ["noodles", "安静"])).sum(axis=1).min() >= LEAST_COSINE["fp32"]
    np.testing.assert_allclose(served, vectors_of(base, ["noodles", "安静"]), atol=1e-5)
    encoder.close()


def test_a_fine_tuned_model_can_be_fine_tuned_again(bases, tmp_path):
    fine_tune(bases["encoder"], DATA, tmp_path / "first", quick("prefix", epochs=1))
    fine_tune(str(tmp_path / "first" / "model"), DATA, tmp_path / "second", quick("prefix", epochs=1))
    once, twice = (load_fine_tuned(tmp_path / name) for name in ("first", "second"))
    assert twice.prefixes["query"].endswith(once.prefixes["query"])
    assert len(twice.tokenizer) == len(once.tokenizer) + 16


# The loss


def test_the_probability_to_be_in_a_batch_counts_both_ways_in():
    share, evenly = np.array([0.5, 0.1, 0.0, 1.0]), np.array([0.0, 0.25, 0.25, 0.0])
    expected = [1 - 0.5**3, 1 - 0.9**3 * 0.75, 0.25, 1.0]
    np.testing.assert_allclose(np.exp(log_inclusion(share, 3, evenly)), expected, rtol=1e-6)


def test_corrected_scores_learn_how_popular_items_are_and_uncorrected_ones_do_not():
    counts = [40, 20, 10, 5, 3, 2]
    ids = [str(item) for item, count in enumerate(counts) for _ in range(count)]
    dealer = Dealer(TrainingData([Pair(f"query {row}", item, item) for row, item in enumerate(ids)], {"7": "7"}), 0)
    learned = {}
    for corrected in (0.0, 1.0):
        generator = np.random.default_rng(0)
        scores = torch.zeros(len(counts), requires_grad=True)
        optimiser = torch.optim.SGD([scores], lr=0.2)
        for _ in range(600):
            batch = dealer.deal(generator.integers(len(ids), size=6), generator)
            cosines = scores[[int(item) for item in batch.items]].expand(6, -1)
            q = torch.from_numpy(batch.log_inclusion) * corrected
            target, allowed = torch.from_numpy(batch.target), torch.from_numpy(batch.allowed)
            optimiser.zero_grad()
            sampled_softmax(cosines, target, allowed, q, temperature=1.0, label_smoothing=0.0).backward()
            optimiser.step()
        learned[corrected] = torch.softmax(scores, 0).tolist()
    popularity = np.array(counts) / sum(counts)
    assert np.abs(learned[1.0] - popularity).max() < 0.06
    assert np.abs(learned[0.0] - popularity).max() > 0.2


def test_the_loss_is_cross_entropy_over_the_corrected_logits_of_the_items_that_count():
    cosines = torch.tensor([[0.5, 0.2, 0.9], [0.1, 0.4, 0.3]])
    q = torch.log(torch.tensor([0.5, 0.25, 0.125]))
    allowed = torch.tensor([[True, True, False], [True, True, True]])
    loss = sampled_softmax(cosines, torch.tensor([0, 2]), allowed, q, temperature=0.5, label_smoothing=0.1)
    total = 0.0
    for row, target, count in ((cosines[0, :2], 0, 2), (cosines[1], 2, 3)):
        weights = np.exp(row.numpy() / 0.5) / np.array([0.5, 0.25, 0.125])[:count]
        logs = np.log(weights / weights.sum())
        total -= 0.9 * logs[target] + 0.1 * logs.mean()
    assert loss.item() == pytest.approx(total / 2, rel=1e-5)


def test_an_item_that_is_right_for_a_query_is_never_its_negative_and_every_item_is_there_once():
    pairs = [Pair("soup", "1", "one"), Pair("soup", "2", "two"), Pair("tea", "3", "three"), Pair("tea", "1", "one")]
    catalogue = {"1": "one", "2": "two", "3": "three", "4": "four"}
    batch = Dealer(TrainingData(pairs, catalogue), 4).deal(np.arange(4), np.random.default_rng(0))
    assert sorted(batch.items) == ["four", "one", "three", "two"]
    allowed = [{batch.items[place] for place in np.flatnonzero(row)} for row in batch.allowed]
    assert allowed == [
        {"one", "three", "four"},
        {"two", "three", "four"},
        {"three", "two", "four"},
        {"one", "two", "four"},
    ]
    assert [batch.items[place] for place in batch.target] == ["one", "two", "three", "one"]


def test_another_chunk_of_the_same_item_is_never_a_negative():
    pairs = [Pair("one", "a", "two"), Pair("three", "a", "one"), Pair("x", "b", "y")]
    batch = Dealer(TrainingData(pairs, {}), 0).deal(np.arange(3), np.random.default_rng(0))
    allowed = [{batch.items[place] for place in np.flatnonzero(row)} for row in batch.allowed]
    assert allowed == [{"two", "y"}, {"one", "y"}, {"y", "two", "one"}]


def test_every_pair_comes_once_an_epoch_in_an_order_of_its_own_also_after_a_resume():
    steps = list(rows_by_step(10, 4, 9, 0, 0))
    epochs = [np.concatenate(steps[start : start + 3]).tolist() for start in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [rows.tolist() for rows in rows_by_step(10, 4, 9, 0, 4)] == [rows.tolist() for rows in steps[4:]]


# Optimisation


def test_the_learning_rate_rises_then_falls():
    for schedule in ("cosine", "linear"):
        factors = [learning_rate_factor(step, 100, 0.1, schedule) for step in range(1, 101)]
        assert factors[:10] == pytest.approx([step / 10 for step in range(1, 11)])
        assert factors[9:] == sorted(factors[9:], reverse=True)
        assert 0 < factors[-1] < 0.02
    assert learning_rate_factor(1, 5, 0.0, "linear") == pytest.approx(5 / 6)


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_norms_biases_and_scales_do_not_decay(bases, optimiser):
    settings = quick("full", optimiser=optimiser, weight_decay=0.5)
    adapted = adapt(load_base(bases["encoder"]), settings, 10)
    groups = make_optimiser(adapted.trained, settings).param_groups
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    for name, parameter in adapted.trained.items():
        assert decay[id(parameter)] == (0.0 if "LayerNorm" in name or "bias" in name else 0.5), name
    scales = adapt(load_base(bases["encoder"]), quick("ia3"), 10).trained
    assert [group["weight_decay"] for group in make_optimiser(scales, settings).param_groups] == [0.0]


def test_sgd_and_accumulation_and_bf16_learn(bases, tmp_path):
    settings = quick(
        "full", optimiser="sgd", learning_rate=0.1, batch_size=4, accumulation=3, precision="bf16", epochs=12
    )
    fine_tune(bases["encoder"], DATA, tmp_path / "run", settings)
    course = losses(tmp_path / "run")
    assert len(course) == 12
    assert course[-1] < 0.9 * course[0]


def test_the_dropout_that_is_set_is_the_dropout_in_use(bases):
    base = load_base(bases["encoder"])
    adapt(base, quick("lora", dropout=0.37), 10)
    rates = {module.p for module in base.model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.37}


# Adversarial training


def gradients(base, settings, monkeypatch=None):
    tower = Tower(base.model, base.pooling, "fp32").train()
    tokens = tokenise(base, ["noodles", "sushi now"], "query", 40, CPU)
    others = tokenise(base, ["kz", "wq house"], "passage", 40, CPU)
    seen = []

    def loss_of(shifts):
        seen.append([None if shift is None else shift.detach().clone() for shift in shifts])
        cosines = tower(*tokens, shifts[0]) @ tower(*others, shifts[1]).T
        return torch.nn.functional.cross_entropy(cosines / 0.1, torch.arange(2))

    def embeddings():
        return [tower.embeddings(ids) * mask[:, :, None] for ids, mask in (tokens, others)]

    base.model.zero_grad()
    adversarial.backward(loss_of, embeddings, settings, weight=1.0, seed=1)
    length = torch.cat([p.grad.flatten() for p in base.model.parameters() if p.grad is not None])
    return length, seen, embeddings()


@pytest.mark.parametrize("family", ["encoder", "decoder"])
@pytest.mark.parametrize(("adversary", "passes"), [("fgm", 2), ("freelb", 3)])
def test_adversarial_training_changes_the_gradient_within_its_ball_and_not_the_padding(
    bases, family, adversary, passes
):
    base = load_base(bases[family])
    clean, [nothing], _ = gradients(base, quick("full"))
    assert nothing == [None, None]
    attacked, seen, inputs = gradients(base, quick("full", adversary=adversary, adversary_size=0.3))
    assert not torch.allclose(clean, attacked, rtol=1e-3)
    assert len(seen) == passes
    for shifts in seen:
        for shift, embedded in zip(shifts, inputs, strict=True):
            assert (shift.norm(dim=(1, 2)) <= 0.3 * embedded.norm(dim=(1, 2)) * 1.0001).all()
            assert (shift[embedded == 0] == 0).all()
    assert seen[-1][0].abs().sum() > 0
    nearly, _, _ = gradients(base, quick("full", adversary=adversary, adversary_size=0.0))
    torch.testing.assert_close(nearly, clean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("adversary", ["fgm", "freelb"])
def test_the_perturbation_makes_the_loss_worse(bases, adversary):
    base = load_base(bases["encoder"])
    tower = Tower(base.model, base.pooling, "fp32")
    tokens, target = tokenise(base, ["noodles", "sushi"], "query", 40, CPU), torch.tensor([0, 1])
    items = torch.nn.functional.normalize(torch.randn(2, 32, generator=torch.Generator().manual_seed(1)), dim=1)
    seen = []

    def loss_of(shifts):
        loss = torch.nn.functional.cross_entropy(tower(*tokens, shifts[0]) @ items.T / 0.1, target)
        seen.append(loss.item())
        return loss

    settings = quick("full", adversary=adversary, adversary_size=0.2, adversary_steps=4)
    adversarial.backward(loss_of, lambda: [tower.embeddings(tokens[0])], settings, weight=1, seed=1)
    assert seen[-1] > 1.01 * seen[0]


# Validation, early stopping, averaging


def test_a_model_to_which_all_texts_are_the_same_is_worth_nothing(bases):
    base = load_base(bases["encoder"])

    class Same(torch.nn.Module):
        def forward(self, ids, mask, shift=None):
            return torch.ones(len(ids), 4) / 2

    assert mean_reciprocal_rank(Same(), base, VALIDATION, 40, CPU) == pytest.approx(1 / len(ITEMS))


def test_the_mean_reciprocal_rank_looks_at_the_best_right_item(bases):
    base = load_base(bases["encoder"])
    places = {"q": [1.0, 0.0], "near": [0.9, 0.1], "middle": [0.5, 0.5], "far": [0.0, 1.0]}

    class Placed(torch.nn.Module):
        def forward(self, ids, mask, shift=None):
            texts = base.tokenizer.batch_decode(ids, skip_special_tokens=True)
            return torch.tensor([places[text] for text in texts])

    validation = Validation(
        [Query("q", ["far", "middle"]), Query("q", ["near"])], {name: name for name in list(places)[1:]}
    )
    assert mean_reciprocal_rank(Placed(), base, validation, 40, CPU) == pytest.approx((1 / 2 + 1) / 2)


def test_training_stops_when_validation_gets_no_better(bases, tmp_path):
    settings = quick(learning_rate=1e-9, epochs=40, evaluate_every=2, patience=3)
    manifest = fine_tune(bases["encoder"], DATA, tmp_path / "run", settings)
    assert manifest.stopped_early
    assert manifest.steps == 8  # the first evaluation and three that are no better
    assert not fine_tune(bases["encoder"], DATA, tmp_path / "patient", quick(epochs=4, patience=50)).stopped_early


def test_the_result_is_the_mean_of_the_best_checkpoints_unless_the_best_alone_validates_better(
    bases, tmp_path, monkeypatch
):
    kept = {}
    write = checkpoints.write

    def spy(folder, state, trained, memory, count):
        kept[state.step] = {name: tensor.detach().clone() for name, tensor in trained.items()}
        write(folder, state, trained, memory, count)

    monkeypatch.setattr(checkpoints, "write", spy)
    course = [0.1, 0.2, 0.6, 0.5, 0.3, 0.25]  # before and five checkpoints; then the mean
    figures = iter([*course, 0.7, *course, 0.4])
    monkeypatch.setattr("models.fine_tuning.training.mean_reciprocal_rank", lambda *_: next(figures))
    settings = quick(epochs=10, evaluate_every=2, average=2)
    for name, steps, mrr in (("better", [4, 6], 0.7), ("worse", [4], 0.6)):
        manifest = fine_tune(bases["encoder"], DATA, tmp_path / name, settings)
        assert manifest.averaged_steps == steps
        assert (manifest.mrr_before, manifest.mrr_after) == (0.1, mrr)
        result = load_file(tmp_path / name / "trained.safetensors")
        for parameter, value in result.items():
            torch.testing.assert_close(value, sum(kept[step][parameter] for step in steps) / len(steps))


def test_of_old_checkpoints_only_the_best_stay_and_only_their_weights(tmp_path):
    for step, mrr in ((1, 0.5), (2, 0.9), (3, 0.4), (4, 0.8)):
        evaluations = [checkpoints.Evaluation(1, 0.5), checkpoints.Evaluation(2, 0.9)][: step - 1]
        state = checkpoints.State(run="r", step=step, evaluations=[*evaluations, checkpoints.Evaluation(step, mrr)])
        checkpoints.write(tmp_path, state, {"w": torch.full((2,), float(step))}, {"m": torch.zeros(1)}, 1)
    assert {path.name: len(list(path.iterdir())) for path in tmp_path.iterdir()} == {
        "step-000000002": 2,
        "step-000000004": 3,
    }
    state, trained, memory = checkpoints.read_newest(tmp_path, "r")
    assert (state.step, trained["w"].tolist(), memory["m"].tolist()) == (4, [4.0, 4.0], [0.0])


def test_without_validation_the_last_checkpoints_are_averaged(bases, tmp_path):
    manifest = fine_tune(bases["encoder"], TrainingData(PAIRS, {}), tmp_path / "run", quick(average=2))
    assert manifest.averaged_steps == [5, 10]
    assert manifest.mrr_before is manifest.mrr_after is None


# Augmentation


def test_phrases_of_one_meaning_are_exchanged_as_whole_words():
    groups = [["for a date", "约会"], ["cheap eats", "便宜实惠"]]
    seen = {exchange("cheap eats for a date", groups, np.random.default_rng(seed)) for seed in range(20)}
    assert seen == {"cheap eats for a date", "便宜实惠 for a date", "cheap eats 约会", "便宜实惠 约会"}
    assert exchange("outdated eats", [["date", "约会"]], np.random.default_rng(0)) == "outdated eats"


def test_clauses_change_their_order_and_nothing_is_lost():
    paraphrases = paraphrases_of(pack_for("restaurant"))
    seen = {reorder("ramen. on a rainy day", paraphrases, np.random.default_rng(seed)) for seed in range(20)}
    assert seen == {"ramen. on a rainy day", "on a rainy day. ramen"}
    assert {reorder("拉面。下雨天", paraphrases, np.random.default_rng(seed)) for seed in range(20)} == {
        "拉面。下雨天",
        "下雨天。拉面",
    }


def test_a_packs_words_for_one_context_are_exchangeable_between_languages():
    groups = paraphrases_of(pack_for("restaurant")).synonyms
    assert ["for a date", "约会"] in [list(group) for group in groups]


def test_a_span_of_words_is_hidden_but_never_all_of_them():
    for seed in range(50):
        generator = np.random.default_rng(seed)
        hidden = hide_span("a quiet place near the water", "<mask>", generator)
        assert hidden.count("<mask>") == 1
        assert hidden != "<mask>"
        assert "<mask>" in hide_span("安静的川菜馆", "<mask>", generator) != "<mask>"
    assert hide_span("ramen", "<mask>", np.random.default_rng(0)) == "ramen"
    assert hide_span("", "<mask>", np.random.default_rng(0)) == ""


def test_texts_are_translated_there_and_back_by_their_language():
    calls = []

    def translator(texts, source, target):
        calls.append((list(texts), source, target))
        return [f"{text}>{target}" for text in texts]

    result = back_translate(["soup", "汤", "soup"], translator)
    assert result == {"soup": "soup>zh>en", "汤": "汤>en>zh"}
    assert calls[0] == (["soup"], "en", "zh")


def test_each_change_happens_as_often_as_set(bases, tmp_path):
    settings = quick(paraphrase=0.25, mask_spans=0.5, back_translate=0.0)
    pieces = augmentation.Augmentation(Paraphrases([["a b", "c d"]], {}), {}, "#")
    seen = [pieces.change("a b e f", settings, np.random.default_rng(seed)) for seed in range(2000)]
    assert np.mean(["#" in text for text in seen]) == pytest.approx(0.5, abs=0.05)
    with pytest.raises(FineTuningError, match="needs a translator: give one, or set it to 0"):
        fine_tune(bases["encoder"], DATA, tmp_path / "run", quick(back_translate=0.5))
    with pytest.raises(FineTuningError, match="give a domain pack, or set it to 0"):
        fine_tune(bases["encoder"], DATA, tmp_path / "run", quick(paraphrase=0.5))


# Bad input


def test_a_base_model_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(BaseModelError, match="can't load the base model '/no/such/model'"):
        fine_tune("/no/such/model", DATA, tmp_path / "run")


@pytest.mark.parametrize(
    ("pairs", "catalogue", "message"),
    [
        ([], {}, "0 pairs and 0 items .* give pairs of two items at least"),
        ([], ITEMS, "not a single pair; .* item texts"),
        (PAIRS[:1], {}, "1 pairs and 0 items .* too little"),
    ],
)
def test_data_too_small_to_learn_from_are_refused(pairs, catalogue, message):
    with pytest.raises(FineTuningError, match=message):
        TrainingData(pairs, catalogue)


def test_validation_without_an_answer_is_refused():
    with pytest.raises(FineTuningError, match=r"validation query 0 \('soup'\) is among"):
        Validation([Query("soup", ["9"])], {"1": "one"})
    with pytest.raises(FineTuningError, match="needs queries and items"):
        Validation([], {})


@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_hostile_texts_are_learned_from_all_the_same(bases, tmp_path, family):
    texts = ["", "辣" * 100_000, "🍜" * 500, "soup \ud83d", "<pad></s>\x00", "رامن 라면"]
    pairs = [Pair(text, str(number), text[::-1]) for number, text in enumerate(texts)]
    base = load_base(bases[family])
    ids, mask = tokenise(base, texts, "query", 40, CPU)
    assert ids.shape == mask.shape == (6, 40)
    if family == "decoder":
        assert ids[1, mask[1].sum() - 1] == base.tokenizer.eos_token_id
    fine_tune(bases[family], TrainingData(pairs, {}), tmp_path / "run", quick(batch_size=6, epochs=2))
    assert np.isfinite(losses(tmp_path / "run")).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0}, "temperature is 0, it must lie between 0.001 and 10"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"strategy": "magic"}, "strategy is 'magic', it must be one of full, top, lora"),
        ({"optimiser": "sgd"}, "set learning_rate, 0.05"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": 2.5}, "epochs is 2.5: Expected `int"),
        ({"rank": "eight"}, "rank is 'eight': Expected `int"),
        ({"strategy": "prefix", "prefix_tokens": 128}, "128 prefix_tokens leave less than half of 128 max_tokens"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(FineTuningError, match=message):
        Settings(**changes)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(changes, Settings)


def test_strategies_that_do_not_fit_say_so(bases):
    with pytest.raises(FineTuningError, match="has no 3 layers to train alone"):
        adapt(load_base(bases["encoder"]), quick("top", top_layers=3), 10)
    with pytest.raises(FineTuningError, match="adalora needs 10 steps, these data and settings give 9"):
        adapt(load_base(bases["encoder"]), quick("adalora"), 9)
    unknown = load_base(bases["encoder"])
    unknown.model.config.model_type = "unheard-of"
    with pytest.raises(FineTuningError, match=r"ia3 does not know the layers .* use the strategy lora"):
        adapt(unknown, quick("ia3"), 10)


def crashed_run(base, folder):
    def crash(done, of):
        if done == 6:
            raise ConnectionError

    with pytest.raises(ConnectionError):
        fine_tune(base, DATA, folder, quick(), progress=crash)
    return folder / "checkpoints" / "step-000000005"


@pytest.mark.parametrize("name", [checkpoints.TRAINED, checkpoints.MEMORY, checkpoints.STATE])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_checkpoint_is_named(bases, tmp_path, name, damage):
    path = crashed_run(bases["encoder"], tmp_path / "run") / name
    path.write_bytes(path.read_bytes()[:-10]) if damage == "cut" else path.unlink()
    with pytest.raises(FineTuningError, match=rf"{name} is damaged .* remove .*checkpoints to begin anew"):
        fine_tune(bases["encoder"], DATA, tmp_path / "run", quick())


def test_the_checkpoints_of_another_run_are_not_taken_up(bases, tmp_path):
    crashed_run(bases["encoder"], tmp_path / "run")
    with pytest.raises(FineTuningError, match="other settings, data or base model"):
        fine_tune(bases["encoder"], DATA, tmp_path / "run", quick(seed=9))
    with pytest.raises(FineTuningError, match="other settings, data or base model"):
        fine_tune(bases["encoder"], TrainingData(PAIRS[1:], ITEMS, VALIDATION), tmp_path / "run", quick())
    with pytest.raises(FineTuningError, match="other settings, data or base model"):
        fine_tune(bases["decoder"], DATA, tmp_path / "run", quick())


@pytest.fixture(scope="module")
def finished(bases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    fine_tune(bases["encoder"], DATA, folder, quick(epochs=1))
    return folder


def test_a_finished_folder_is_not_trained_over(bases, finished):
    with pytest.raises(FineTuningError, match="holds a finished model"):
        fine_tune(bases["encoder"], DATA, finished, quick())


def test_the_manifest_says_how_the_model_was_made(finished):
    manifest = read_manifest(finished)
    assert manifest.settings == quick(epochs=1)
    assert (manifest.pairs, manifest.catalogue, manifest.validation_queries, manifest.steps) == (12, 6, 6, 1)
    assert manifest.seconds > 0
    assert (
        manifest.versions["torch"] == torch.__version__.split("+")[0] or manifest.versions["torch"] == torch.__version__
    )
    assert not (finished / "checkpoints").exists()


@pytest.mark.parametrize("name", ["model/model.safetensors", "model/tokenizer.json", "trained.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_result_is_named(finished, tmp_path, name, damage):
    copy = shutil.copytree(finished, tmp_path / "copy")
    if name == "trained.safetensors":
        shutil.rmtree(copy / "model")
    path = copy / name
    path.write_bytes(path.read_bytes()[:-10]) if damage == "cut" else path.unlink()
    with pytest.raises(FineTuningError, match=rf"{path.name} is (damaged|missing)"):
        load_fine_tuned(copy)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 7}'])
def test_a_damaged_manifest_is_named(finished, tmp_path, text):
    copy = shutil.copytree(finished, tmp_path / "copy")
    (copy / "fine_tuning.json").write_text(text)
    with pytest.raises(FineTuningError, match=r"fine_tuning\.json is damaged"):
        load_fine_tuned(copy)


def test_a_manifest_of_another_format_or_none_is_refused(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    path = copy / "fine_tuning.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(FineTuningError, match="has format 2, this version reads 1"):
        load_fine_tuned(copy)
    with pytest.raises(FineTuningError, match="is missing: no fine-tuning has been finished there"):
        load_fine_tuned(tmp_path)


def test_trained_parameters_are_not_merged_over_another_base(bases, tmp_path):
    base = shutil.copytree(bases["encoder"], tmp_path / "base")
    fine_tune(str(base), DATA, tmp_path / "run", quick(epochs=1))
    shutil.rmtree(tmp_path / "run" / "model")
    model = load_base(str(base)).model
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(base)
    with pytest.raises(FineTuningError, match="get the same version of it, or fine-tune again"):
        load_fine_tuned(tmp_path / "run")


def test_a_gpu_that_is_not_there_is_said(bases, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(FineTuningError, match="torch finds no GPU here"):
        fine_tune(bases["encoder"], DATA, tmp_path / "run", quick(device="cuda"))


def test_a_gradient_that_is_not_finite_stops_the_run(bases, tmp_path, monkeypatch):
    def broken(*args, **options):
        return sampled_softmax(*args, **options) * float("nan")

    monkeypatch.setattr("models.fine_tuning.training.sampled_softmax", broken)
    with pytest.raises(FineTuningError, match="gradient of step 1 is not finite: lower the learning rate"):
        fine_tune(bases["encoder"], DATA, tmp_path / "run", quick())


# Tracking


def test_figures_after_the_last_checkpoint_are_forgotten(tmp_path):
    with tracking.tracked(tmp_path) as record:
        for step in (1, 2, 3):
            record(step, {"train/loss": step / 10})
    with (tmp_path / tracking.METRICS).open("a") as file:
        file.write('{"step": 4, "train/lo')
    with tracking.tracked(tmp_path, done=2) as record:
        record(3, {"train/loss": 0.5})
    lines = [json.loads(line) for line in (tmp_path / tracking.METRICS).read_text().splitlines()]
    assert [(line["step"], line["train/loss"]) for line in lines] == [(1, 0.1), (2, 0.2), (3, 0.5)]


def test_tensorboard_shows_the_figures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tracking.tracked(tmp_path) as record:
        record(1, {"train/loss": 0.5})
        record(2, {"train/loss": 0.25})
    events = EventAccumulator(str(tmp_path / tracking.TENSORBOARD)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 0.5), (2, 0.25)]


def test_weights_and_biases_is_used_when_a_project_is_named(tmp_path, monkeypatch):
    logged = []

    class Run:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            logged.append("finished")

        def log(self, figures, step):
            logged.append((step, figures))

    monkeypatch.setitem(
        sys.modules, "wandb", SimpleNamespace(init=lambda project, **_: logged.append(project) or Run())
    )
    with tracking.tracked(tmp_path, wandb_project="tables") as record:
        record(1, {"train/loss": 0.5})
    assert logged == ["tables", (1, {"train/loss": 0.5}), "finished"]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(FineTuningError, match="pip install wandb"), tracking.tracked(tmp_path, wandb_project="tables"):
        pass
