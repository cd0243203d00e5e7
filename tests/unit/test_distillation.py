"""A student has fewer layers, learns to read as its teacher does, and is written down as what sets it apart."""

import json
import random

import msgspec
import numpy as np
import pytest
import torch
from tiny_models import tiny_decoder, tiny_encoder
from typer.testing import CliRunner

from models.base_model import load_base
from models.distillation import MODEL, Agreement, Settings, agreement, distil
from models.encoder import ArtefactError, Encoder
from models.export import export_encoder, load_shipped_encoder, reference_vectors
from models.fine_tuning.settings import FineTuningError
from models.pruning import PruningError, kept_layers, prune
from models.student_weights import restore_student, save_student
from ops.cli import app

FAMILIES = [tiny_encoder, tiny_decoder]
SETTINGS = Settings(layers=2, steps=60, batch_tokens=512, warm_up=5, evaluate_every=20, learning_rate=3e-3)


def some_texts(count=200, seed=5):
    rng = random.Random(seed)
    words = ["lantern", "river", "quiet", "noodles", "late", "music", "安静", "河边", "面条", "深夜"]
    return [" ".join(rng.choices(words, k=rng.randint(1, 6))) for _ in range(count)]


@pytest.fixture(params=FAMILIES, ids=["encoder", "decoder"])
def taught(request, tmp_path):
    folder = request.param(tmp_path / "base", layers=4)
    teacher = Encoder.load(export_encoder(load_base(str(folder)), tmp_path / "teacher", "fp32"))
    yield folder, teacher
    teacher.close()


def weights(base):
    return {name: tensor.clone() for name, tensor in base.model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(other[name].equal(tensor) for name, tensor in one.items())


@pytest.mark.parametrize(
    ("total", "kept", "layers"),
    [
        (12, 4, [0, 4, 7, 11]),
        (12, 6, [0, 2, 4, 7, 9, 11]),
        (2, 1, [1]),
        (3, 2, [0, 2]),
        (12, 11, [*range(5), *range(6, 12)]),
    ],
)
def test_a_student_keeps_the_first_the_last_and_layers_between(total, kept, layers):
    assert kept_layers(total, kept) == layers


@pytest.mark.parametrize("kept", [0, 4, 5])
def test_a_student_has_fewer_layers_than_its_teacher(kept):
    with pytest.raises(PruningError, match=f"a student of {kept} layers"):
        kept_layers(4, kept)


def test_a_student_learns_to_read_as_its_teacher_does(taught, tmp_path):
    folder, teacher = taught
    student, manifest = distil(load_base(str(folder)), teacher, some_texts(), tmp_path / "run", SETTINGS)
    assert manifest.kept_layers == [0, 3]
    assert student.model.config.num_hidden_layers == 2
    assert 1 - manifest.after.cosine < 0.6 * (1 - manifest.before.cosine)
    assert not {"targets.f16", "targets.json", "checkpoints"} & {path.name for path in (tmp_path / "run").iterdir()}

    reloaded = load_base(str(tmp_path / "run" / MODEL))
    assert same(weights(student), weights(reloaded))
    base = load_base(str(folder))
    assert student.model.get_input_embeddings().weight.equal(base.model.get_input_embeddings().weight)
    encoder = Encoder.load(export_encoder(student, tmp_path / "student", "fp32"))
    unseen = some_texts(30, seed=6)
    served = encoder.encode(encoder.tokenize(unseen, "query"))
    assert (served * teacher.encode(teacher.tokenize(unseen, "query"))).sum(axis=1).mean() > manifest.before.cosine
    encoder.close()


def test_the_same_seed_and_texts_give_the_same_weights_and_another_seed_others(taught, tmp_path):
    folder, teacher = taught
    few = msgspec.structs.replace(SETTINGS, steps=8)
    students = []
    for number, settings in enumerate([few, few, msgspec.structs.replace(few, seed=1)]):
        student, _ = distil(load_base(str(folder)), teacher, some_texts(), tmp_path / str(number), settings)
        students.append(weights(student))
    assert same(students[0], students[1])
    assert not same(students[0], students[2])


def test_a_run_that_was_cut_off_ends_as_if_nothing_had_happened(taught, tmp_path):
    folder, teacher = taught
    whole, manifest = distil(load_base(str(folder)), teacher, some_texts(), tmp_path / "whole", SETTINGS)

    def crash(done, total):
        if done == 31:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(load_base(str(folder)), teacher, some_texts(), tmp_path / "cut", SETTINGS, progress=crash)
    steps = []
    resumed, after = distil(
        load_base(str(folder)),
        teacher,
        some_texts(),
        tmp_path / "cut",
        SETTINGS,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps[0] == (21, 60)
    assert steps[-1] == (60, 60)
    assert same(weights(whole), weights(resumed))
    assert (after.before, after.after, after.name) == (manifest.before, manifest.after, manifest.name)


def test_what_the_teacher_has_read_is_not_read_again(taught, tmp_path, monkeypatch):
    folder, teacher = taught

    def crash(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(load_base(str(folder)), teacher, some_texts(), tmp_path / "run", SETTINGS, progress=crash)
    monkeypatch.setattr(teacher, "hidden_states", None)
    distil(load_base(str(folder)), teacher, some_texts(), tmp_path / "run", msgspec.structs.replace(SETTINGS, steps=3))


def test_a_finished_student_is_returned_and_another_is_refused(taught, tmp_path):
    folder, teacher = taught
    few = msgspec.structs.replace(SETTINGS, steps=3)
    first, _ = distil(load_base(str(folder)), teacher, some_texts(), tmp_path / "run", few)
    never = pytest.fail
    again, _ = distil(load_base(str(folder)), teacher, some_texts(), tmp_path / "run", few, progress=never)
    assert same(weights(first), weights(again))
    with pytest.raises(FineTuningError, match="holds another student"):
        distil(load_base(str(folder)), teacher, some_texts(seed=9), tmp_path / "run", few)


def test_few_texts_and_impossible_settings_are_refused(taught, tmp_path):
    folder, teacher = taught
    with pytest.raises(FineTuningError, match="99 texts are too few"):
        distil(load_base(str(folder)), teacher, some_texts(99), tmp_path / "run", SETTINGS)
    with pytest.raises(FineTuningError, match="steps is 0"):
        Settings(steps=0)
    with pytest.raises(FineTuningError, match="batch_tokens must be at least"):
        Settings(batch_tokens=16)


def test_agreement_is_perfect_with_oneself_and_low_with_noise():
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(200, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    noise = rng.normal(size=(200, 16)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    assert agreement(vectors, vectors) == Agreement(1.0, 1.0, 1.0)
    apart = agreement(noise, vectors)
    assert abs(apart.cosine) < 0.1
    assert apart.mrr < 0.2
    assert apart.top10 < 0.2


def moved(base, layers, size):
    """Return a student whose weights have moved."""
    prune(base, layers)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in base.model.named_parameters():
            if "embeddings" not in name and "wte" not in name and "wpe" not in name:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return base


@pytest.mark.parametrize("make", FAMILIES, ids=["encoder", "decoder"])
def test_a_student_is_restored_from_its_differences(tmp_path, make):
    folder = str(make(tmp_path / "base", layers=4))
    student = moved(load_base(folder), [0, 3], 0.02)
    path = tmp_path / "student.safetensors"
    save_student(student, load_base(folder), [0, 3], path)
    restored = restore_student(load_base(folder), path)
    assert restored.model.config.num_hidden_layers == 2
    kept = weights(student)
    for name, tensor in weights(restored).items():
        assert (tensor - kept[name]).square().mean().sqrt() < 0.12 * 0.02
    bits = 8 * path.stat().st_size
    assert bits < 6 * sum(parameter.numel() for parameter in student.model.parameters())


def test_a_students_file_is_refused_when_damaged_or_of_another_base(tmp_path):
    folder = str(tiny_encoder(tmp_path / "base", layers=4))
    path = tmp_path / "student.safetensors"
    save_student(moved(load_base(folder), [0, 3], 0.02), load_base(folder), [0, 3], path)
    other = str(tiny_encoder(tmp_path / "other", layers=4))
    with pytest.raises(ArtefactError, match="not of"):
        restore_student(load_base(other), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ArtefactError, match="is damaged"):
        restore_student(load_base(folder), path)
    with pytest.raises(ArtefactError, match="is missing"):
        restore_student(load_base(folder), tmp_path / "nothing")


def test_queries_are_read_by_the_student_and_passages_by_its_teacher(tmp_path):
    folder = str(tiny_encoder(tmp_path / "base", layers=4))
    teacher = Encoder.load(export_encoder(load_base(folder), tmp_path / "teacher"))
    student = moved(load_base(folder), [0, 3], 0.02)
    both = Encoder.load(export_encoder(student, tmp_path / "student", passages=tmp_path / "teacher"))
    texts = some_texts(9)
    passages = teacher.encode(teacher.tokenize(texts, "passage"), "passage")
    assert both.encode(both.tokenize(texts, "passage"), "passage").tobytes() == passages.tobytes()
    queries = both.encode(both.tokenize(texts, "query"), "query")
    assert (queries * reference_vectors(student, both, texts)).sum(axis=1).min() > 0.995
    assert queries.tobytes() != teacher.encode(teacher.tokenize(texts, "query")).tobytes()
    assert both.passage_version == teacher.passage_version == teacher.version != both.version
    teacher.close()
    both.close()


def test_the_shipped_encoder_is_small_and_reads_both_languages_nearly_as_its_teacher_does():
    from models.export import SHIPPED_STUDENT, load_default_encoder

    assert SHIPPED_STUDENT.stat().st_size <= 5_000_000
    shipped, teacher = load_shipped_encoder(), load_default_encoder()
    for texts in (
        ["a quiet place by the river", "cheap noodles near me", "somewhere for a date with live music"],
        ["安静一点的，离水边近", "附近便宜的面馆", "适合约会，有现场音乐"],
    ):
        near = shipped.encode(shipped.tokenize(texts, "query")) * teacher.encode(teacher.tokenize(texts, "query"))
        assert near.sum(axis=1).min() > 0.93
    assert shipped.passage_version == teacher.version
    shipped.close()
    teacher.close()


def exported(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_a_base_model_is_exported_by_the_command_line(tmp_path):
    base = tiny_encoder(tmp_path / "base")
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(some_texts(80)), encoding="utf-8")
    done = exported(base, tmp_path / "out", "--precision", "fp32", "--texts", texts, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["precision"] == "fp32"
    Encoder.load(tmp_path / "out").close()
    again = exported(base, tmp_path / "out")
    assert again.exit_code == 2
    assert "already" in again.output


def test_a_student_is_exported_by_the_command_line(tmp_path):
    base = tiny_encoder(tmp_path / "base", layers=3)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(some_texts(300)), encoding="utf-8")
    done = exported(base, tmp_path / "out", "--layers", 2, "--steps", 5, "--texts", texts)
    assert done.exit_code == 0, done.output
    encoder = Encoder.load(tmp_path / "out")
    assert "student of 2 layers" in encoder.manifest.base
    encoder.close()
    assert load_base(str(tmp_path / "out" / "weights")).model.config.num_hidden_layers == 2
    assert {path.name for path in tmp_path.iterdir()} == {"base", "out", "texts.txt"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing/here", "out"], "can't load the base model"),
        (["base", "out", "--layers", "1"], "a student learns from texts"),
        (["base", "out", "--layers", "2", "--texts", "texts.txt"], "needs a teacher of more"),
        (["base", "out", "--layers", "1", "--texts", "few.txt"], "too few"),
        (["base", "out", "--texts", "missing.txt"], "neither a text file"),
    ],
)
def test_what_can_not_be_exported_is_said_in_a_sentence(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tiny_encoder(tmp_path / "base")
    (tmp_path / "texts.txt").write_text("\n".join(some_texts(300)), encoding="utf-8")
    (tmp_path / "few.txt").write_text("a\nb\n", encoding="utf-8")
    refused = exported(*arguments)
    assert refused.exit_code == 2, refused.output
    assert said in refused.output
    assert not (tmp_path / "out").exists()
