"""Turn a base model into the artefact that `models.encoder` serves: ONNX, tokenizer and manifest in one folder."""

import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from schemas.errors import ExplainedError

from .base_model import PACKAGED, BaseModel, cache_folder, load_base, written_at_once
from .encoder import (
    MANIFEST,
    MODEL,
    PASSAGES,
    PASSAGES_MANIFEST,
    TOKENIZER,
    ArtefactError,
    Encoder,
    Manifest,
    Precision,
    file_sha256,
    has_cuda,
    write_manifest,
)
from .quantisation import quantise_rows

EXPORT_VERSION = 3  # part of the cache key: raise it when the same base exports to something else
SERVED_TOKENS = 256  # longer texts are cut: the cost of a text grows faster than its length
SHIPPED_STUDENT = Path(__file__).parent / "shipped" / "student.safetensors"
LEAST_COSINE: dict[Precision, float] = {"fp32": 0.99999, "fp16": 0.999, "int8": 0.995}

PARITY_TEXTS = (
    "",
    "lanterns",
    "a quiet place by the water, about 80 a head",
    "somewhere to take the kids on a rainy Sunday, not too far from the station",
    "安静一点的，离水边近，人均80",
    "下雨天想待在室内，离地铁站近一点",
    "Late night music 🎻 with friends / 深夜音乐会，开到凌晨四点",
    (
        "A small house on the river with a short programme that changes every week. The terrace is heated, dogs are "
        "welcome, and the owner is happy to open earlier for groups if she is told a day before."
    ),
    "这里的招牌是老式木船，手工打造，配上灯笼、长椅和热毛毯，适合全家一起来，周末经常排队，需要提前一天预订。",
)

_OPSET = 17
_TRACED_WORDS = 16
_log = structlog.get_logger(__name__)


class ExportError(ExplainedError):
    """A model can't be exported, or what came out does not do what the original does."""


def load_default_encoder(cache: Path | None = None, *, threads: int = 2) -> Encoder:
    """Load the packaged base model, exported for this machine, ready to serve with that many threads.

    The first call unpacks and exports, which takes about half a minute; later ones find the artefact in the cache. A
    damaged one is made again.
    """

    def export(folder: Path) -> None:
        export_encoder(load_base(PACKAGED, cache), folder, _default_precision())

    return _load_or_export(default_encoder_folder(cache), export, threads)


def load_shipped_encoder(cache: Path | None = None, *, threads: int = 2) -> Encoder:
    """Load the encoder that comes with Tablecast, ready to serve with that many threads.

    The student in models/shipped reads queries, the packaged base model, its teacher, reads passages: see
    models/DISTILLATION.md. The first call unpacks and exports both; later ones find the artefact in the cache.

    Raises:
        ArtefactError: the student's file is missing or damaged.

    """

    def export(folder: Path) -> None:
        from .student_weights import restore_student  # brings torch, which serving does without

        load_default_encoder(cache, threads=1).close()
        student = restore_student(load_base(PACKAGED, cache), SHIPPED_STUDENT)
        export_encoder(student, folder, _default_precision(), passages=default_encoder_folder(cache))

    return _load_or_export(shipped_encoder_folder(cache), export, threads)


def default_encoder_folder(cache: Path | None = None) -> Path:
    """Return where ``load_default_encoder`` keeps its artefact."""
    return _artefact_folder(cache, "multilingual-e5-small")


def shipped_encoder_folder(cache: Path | None = None) -> Path:
    """Return where ``load_shipped_encoder`` keeps its artefact.

    Raises:
        ArtefactError: the student's file is missing.

    """
    if not SHIPPED_STUDENT.is_file():
        raise ArtefactError(f"{SHIPPED_STUDENT} is missing: install Tablecast again")
    return _artefact_folder(cache, f"student-{file_sha256(SHIPPED_STUDENT)[:12]}")


def _artefact_folder(cache: Path | None, name: str) -> Path:
    return (cache or cache_folder()) / "encoders" / f"{name}-{_default_precision()}-{EXPORT_VERSION}"


def _default_precision() -> Precision:
    return "fp16" if has_cuda() else "int8"


def _load_or_export(folder: Path, export: Callable[[Path], None], threads: int) -> Encoder:
    if folder.is_dir():
        try:
            return Encoder.load(folder, threads=threads)
        except ArtefactError as error:
            _log.warning("exporting the encoder again", reason=str(error))
            shutil.rmtree(folder)
    export(folder)
    return Encoder.load(folder, threads=threads)


def export_encoder(
    base: BaseModel,
    folder: Path,
    precision: Precision = "int8",
    *,
    passages: Path | None = None,
    texts: Sequence[str] = (),
) -> Path:
    """Write `base` as an artefact into `folder`, which must not exist, and return `folder`.

    `passages` is the artefact of the model that reads passages, where `base` is a student that learned to read queries
    alone. `texts` are compared besides `PARITY_TEXTS`.

    Raises:
        ExportError: `folder` exists, the model can't be traced, or the artefact's vectors differ too much from the
            torch model's. Nothing is left behind.

    """
    if folder.exists():
        raise ExportError(f"{folder} exists already: give another folder or remove it")
    started = time.monotonic()
    with written_at_once(folder) as draft:
        _write_onnx(base, draft / MODEL, precision)
        base.tokenizer.backend_tokenizer.save(str(draft / TOKENIZER))
        files = [MODEL, TOKENIZER]
        if passages:
            shutil.copyfile(passages / MODEL, draft / PASSAGES)
            shutil.copyfile(passages / MANIFEST, draft / PASSAGES_MANIFEST)
            files += [PASSAGES, PASSAGES_MANIFEST]
        write_manifest(
            draft,
            Manifest(
                base=base.name,
                precision=precision,
                pooling=base.pooling,
                prefixes=dict(base.prefixes),
                max_tokens=min(SERVED_TOKENS, base.max_tokens),
                padding_id=base.model.config.pad_token_id or 0,
                dim=base.model.config.hidden_size,
                sha256={name: file_sha256(draft / name) for name in files},
            ),
        )
        compared = [*PARITY_TEXTS, *texts]
        cosine = _parity(base, draft, compared)
        if not cosine >= LEAST_COSINE[precision]:
            raise ExportError(
                f"{base.name!r} as {precision} is not the same model: cosine {cosine:.4f} to the original on the worst "
                f"of {len(compared)} texts, needed {LEAST_COSINE[precision]}. Try the precision fp32.",
            )
    _log.info("exported", folder=str(folder), cosine=round(cosine, 4), seconds=round(time.monotonic() - started, 1))
    return folder


def reference_vectors(base: BaseModel, encoder: Encoder, texts: list[str]) -> NDArray[np.float32]:
    """Return unit vectors of `texts` as queries by the torch model, one text at a time: float32 [len(texts), dim]."""
    import torch

    vectors = []
    with torch.inference_mode():
        for ids in encoder.tokenize(texts, "query"):
            hidden = base.model(input_ids=torch.from_numpy(ids)[None], **_forward_options(base)).last_hidden_state[0]
            vector = hidden.mean(dim=0) if base.pooling == "mean" else hidden[-1]
            vectors.append(torch.nn.functional.normalize(vector, dim=0).numpy())
    return np.stack(vectors)


def _parity(base: BaseModel, folder: Path, texts: list[str]) -> float:
    """Cosine between the artefact's and the torch model's vector, on the worst text."""
    encoder = Encoder.load(folder)
    served = encoder.encode(encoder.tokenize(texts, "query"))
    encoder.close()
    return float((served * reference_vectors(base, encoder, texts)).sum(axis=1).min())


def _forward_options(base: BaseModel) -> dict[str, Any]:
    return {"use_cache": False} if base.pooling == "last" else {}


def _write_onnx(base: BaseModel, path: Path, precision: Precision) -> None:
    """Trace, fuse and convert the model.

    The graph is made with a few words of the vocabulary and gets the whole table at the end: the table is most of a
    multilingual model, and moving it through every step takes ten times as long as the work itself.
    """
    import onnx
    import torch
    from onnx import numpy_helper

    embedding = base.model.get_input_embeddings()
    table = embedding.weight
    few = table.detach()[:_TRACED_WORDS]
    embedding.weight = torch.nn.Parameter(few)
    try:
        _log.info("tracing the model", base=base.name)
        _trace(base, path)
    finally:
        embedding.weight = table
    _log.info("fusing the graph", precision=precision)
    graph = _fuse(base, path, precision)
    path.unlink()
    (placeholder,) = (
        tensor
        for tensor in graph.model.graph.initializer
        if list(tensor.dims) == list(few.shape) and np.array_equal(numpy_helper.to_array(tensor), few.numpy())
    )
    placeholder.CopyFrom(numpy_helper.from_array(table.detach().numpy(), placeholder.name))
    if precision == "int8":
        quantise_rows(graph.model)
    elif precision == "fp16":
        graph.convert_float_to_float16(keep_io_types=True)
    onnx.save(graph.model, path)


def _fuse(base: BaseModel, path: Path, precision: Precision) -> Any:
    """Merge attention, GELU and layer normalisation into ONNX Runtime's own operators."""
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    family = "bert" if base.pooling == "mean" else "gpt2"
    options = FusionOptions(family)
    options.use_multi_head_attention = True  # the other fused attention hides its matrices from quantisation
    options.enable_embed_layer_norm = False  # likewise the embedding table
    if precision != "fp16":  # on a CPU additions and normalisation take a fifth of the time of all in one
        options.enable_skip_layer_norm = options.enable_bias_skip_layer_norm = False
    config = base.model.config
    return optimize_model(
        str(path),
        model_type=family,
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        opt_level=0,
        optimization_options=options,
    )


def _trace(base: BaseModel, path: Path) -> None:
    """Write the torch model as plain ONNX: input_ids and attention_mask [batch, length] to hidden [batch, length, dim].

    Eager attention and the TorchScript exporter, because the fusions recognise their patterns alone.
    """
    import torch

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = base.model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            output = self.model(input_ids=input_ids, attention_mask=attention_mask, **_forward_options(base))
            hidden: torch.Tensor = output.last_hidden_state
            return hidden

    example = torch.arange(_TRACED_WORDS).reshape(2, -1)
    axes = {0: "batch", 1: "length"}
    attention = base.model.config._attn_implementation  # noqa: SLF001 - transformers has a setter but no getter
    base.model.set_attn_implementation("eager")
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the exporter is the old one, and that shapes are traced
            torch.onnx.export(
                Hidden().eval(),
                (example, torch.ones_like(example)),
                str(path),
                input_names=["input_ids", "attention_mask"],
                output_names=["hidden"],
                dynamic_axes={"input_ids": axes, "attention_mask": axes, "hidden": axes},
                opset_version=_OPSET,
                dynamo=False,
            )
    except Exception as error:
        raise ExportError(f"{base.name!r} can't be traced to ONNX: {error}") from error
    finally:
        base.model.set_attn_implementation(attention)
