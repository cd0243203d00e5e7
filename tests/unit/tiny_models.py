"""Randomly initialised models of a few kilobytes, as Hugging Face folders, one of each family."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, PreTrainedTokenizerFast

_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
_SPECIAL = ["<pad>", "<start>", "<end>"]


def _byte_tokenizer(folder: Path) -> int:
    """One token for every byte, so that any text can be written; returns the size of the vocabulary."""
    vocabulary = {token: number for number, token in enumerate(_SPECIAL + _BYTES)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>",
        special_tokens=[("<start>", 1), ("<end>", 2)],
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        model_max_length=64,
    )
    wrapped.save_pretrained(folder)
    return len(vocabulary)


def tiny_encoder(folder: Path, layers: int = 2, *, seed: int = 1, hidden: int = 32) -> Path:
    folder.mkdir()
    size = _byte_tokenizer(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=size,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def tiny_decoder(folder: Path, layers: int = 2) -> Path:
    folder.mkdir()
    size = _byte_tokenizer(folder)
    torch.manual_seed(2)
    config = GPT2Config(
        vocab_size=size, n_embd=32, n_layer=layers, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    )
    GPT2Model(config).save_pretrained(folder)
    return folder
