"""What can be set about fine-tuning, and what each setting may be."""

from typing import Literal, get_args, get_origin, get_type_hints

import msgspec

from schemas.errors import BadInputError

Strategy = Literal["full", "top", "lora", "adalora", "ia3", "prefix"]
Optimiser = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "linear"]
Precision = Literal["fp32", "bf16"]
Adversary = Literal["none", "fgm", "freelb"]
Device = Literal["auto", "cpu", "cuda"]

# Fewer trained numbers need larger steps. For AdamW; nothing as general can be said of SGD.
_LEARNING_RATES: dict[Strategy, float] = {
    "full": 2e-5,
    "top": 1e-4,
    "lora": 2e-4,
    "adalora": 1e-3,
    "ia3": 3e-3,
    "prefix": 5e-3,
}
_RANGES: dict[str, tuple[float, float]] = {  # least and greatest value
    "top_layers": (1, 1000),
    "rank": (1, 1024),
    "prefix_tokens": (1, 128),
    "learning_rate": (1e-9, 100),
    "warm_up": (0, 1),
    "weight_decay": (0, 1),
    "dropout": (0, 0.9),
    "max_gradient": (1e-6, 1e6),
    "epochs": (1, 100_000),
    "most_steps": (1, 100_000_000),
    "batch_size": (1, 65_536),
    "accumulation": (1, 65_536),
    "max_tokens": (8, 8192),
    "negatives": (0, 65_536),
    "temperature": (1e-3, 10),
    "label_smoothing": (0, 0.9),
    "paraphrase": (0, 1),
    "mask_spans": (0, 1),
    "back_translate": (0, 1),
    "adversary_size": (0, 10),
    "adversary_steps": (1, 20),
    "evaluate_every": (1, 100_000_000),
    "patience": (1, 100_000),
    "average": (1, 100),
    "seed": (0, 2**32 - 1),
}


class FineTuningError(BadInputError):
    """Fine-tuning can't go on with what it was given; the message says what to change."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one run. Everything here, the data and the base model together decide the weights.

    Raises:
        FineTuningError: a value is out of its range.

    """

    strategy: Strategy = "lora"
    top_layers: int = 1  # strategy top: how many layers, counted from the output
    rank: int = 8  # lora: of every update; adalora: of the average one at the end
    prefix_tokens: int = 16  # prefix: learned tokens before a query, and as many before an item

    optimiser: Optimiser = "adamw"
    learning_rate: float | None = None  # None: one that suits the strategy
    schedule: Schedule = "cosine"  # from the learning rate down to 0
    warm_up: float = 0.1  # share of the steps in which the learning rate rises from 0
    weight_decay: float = 0.01  # not on biases, normalisations and other vectors
    dropout: float = 0.1
    max_gradient: float = 1.0  # longer gradients are cut to this length

    epochs: int = 3
    most_steps: int | None = None  # stop there, even in the first epoch
    batch_size: int = 32  # pairs in a forward pass; each pair's negatives are the other items of the same pass
    accumulation: int = 1  # forward passes per step
    precision: Precision = "fp32"
    device: Device = "auto"  # auto: CUDA where there is a GPU
    max_tokens: int = 128  # longer texts are cut

    negatives: int = 32  # drawn from the catalogue for every forward pass, besides the pass's own items
    temperature: float = 0.05  # cosines are divided by it; ranking weighs them by the same number
    label_smoothing: float = 0.0

    # How likely a query is changed in each way, anew every time it is seen.
    paraphrase: float = 0.0
    mask_spans: float = 0.0
    back_translate: float = 0.0
    adversary: Adversary = "none"
    adversary_size: float = 0.1  # length of the perturbation relative to the text's own embeddings
    adversary_steps: int = 3  # of freelb

    evaluate_every: int = 100  # steps; a checkpoint is written each time
    patience: int = 5  # evaluations without a better one, after which training stops
    average: int = 3  # so many of the best checkpoints are averaged
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(allowed) is Literal and value not in get_args(allowed):
                raise FineTuningError(
                    f"fine-tuning: {name} is {value!r}, it must be one of {', '.join(get_args(allowed))}"
                )
            try:
                msgspec.convert(value, allowed)
            except msgspec.ValidationError as error:
                raise FineTuningError(f"fine-tuning: {name} is {value!r}: {error}") from error
            least, greatest = _RANGES.get(name, (0, 0))
            if name in _RANGES and value is not None and not least <= value <= greatest:
                raise FineTuningError(f"fine-tuning: {name} is {value}, it must lie between {least} and {greatest}")
        if self.optimiser == "sgd" and self.learning_rate is None:
            raise FineTuningError("fine-tuning: sgd has no usual learning rate: set learning_rate, 0.05 for a start")
        if self.strategy == "prefix" and self.prefix_tokens > self.max_tokens // 2:
            raise FineTuningError(
                f"fine-tuning: {self.prefix_tokens} prefix_tokens leave less than half of {self.max_tokens} max_tokens "
                "for the text: lower the one or raise the other"
            )

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate at the end of the warm-up."""
        return _LEARNING_RATES[self.strategy] if self.learning_rate is None else self.learning_rate
