"""Which numbers of a base model are trained: all, those of the top layers, or few new ones beside them.

- *full*: every parameter.
- *top*: the layers next to the output, and what follows them.
- *lora*: a low-rank update of every linear layer (Hu et al., ICLR 2022).
- *adalora*: the same, whose ranks move to where they are needed (Zhang et al., ICLR 2023).
- *ia3*: a scale for every key, value and inner feed-forward channel (Liu et al., NeurIPS 2022).
- *prefix*: the embeddings of new tokens before every text, others for queries than for items (prompt tuning, Lester et
  al., EMNLP 2021). Prefixes of keys and values in every layer would not do: no ordinary model folder can hold them.

Whatever the strategy, ``merge`` gives an ordinary model of the base model's own architecture.
"""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch

from models.base_model import BaseModel, Kind

from .settings import FineTuningError, Settings

FEWEST_ADALORA_STEPS = 10  # a phase each before, while and after ranks are taken away

_EVERY_LINEAR_LAYER = "all-linear"
_ADAPTER = "default"
_KINDS: tuple[Kind, ...] = ("query", "passage")


@dataclass(frozen=True, slots=True)
class Adapted:
    """A base model prepared for training.

    ``base.model`` is the model to call. ``peft`` wraps it where the strategy adds parameters. ``trained`` are the
    parameters to train, by names that do not depend on the run.
    """

    base: BaseModel
    peft: Any | None
    trained: dict[str, torch.nn.Parameter]


def adapt(base: BaseModel, settings: Settings, steps: int) -> Adapted:
    """Prepare ``base``, which is changed, for training in so many steps. New numbers come from torch's generator.

    Raises:
        FineTuningError: the strategy does not know this architecture, or needs more steps.

    """
    if settings.strategy == "prefix":
        base, tokens = _with_prefix_tokens(base, settings.prefix_tokens)
    else:
        tokens = []
    for module in base.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = settings.dropout
    if settings.strategy == "full":
        return Adapted(base, None, dict(base.model.named_parameters()))
    if settings.strategy == "top":
        return Adapted(base, None, _top(base, settings.top_layers))
    from peft import get_peft_model

    configuration = _configuration(base, settings, steps, tokens)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")  # GPT-2's layers are transposed; it is noticed
        wrapped = get_peft_model(base.model, configuration)
    trained = {name: parameter for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    return Adapted(replace(base, model=wrapped.get_base_model()), wrapped, trained)


def merge(adapted: Adapted) -> BaseModel:
    """Return the trained model as an ordinary one, on the CPU, in evaluation mode. ``adapted`` is used up."""
    model = adapted.base.model if adapted.peft is None else adapted.peft.merge_and_unload()
    return replace(adapted.base, model=model.cpu().eval().requires_grad_())


def _configuration(base: BaseModel, settings: Settings, steps: int, tokens: list[int]) -> Any:
    import peft
    from peft.utils import constants

    task = peft.TaskType.FEATURE_EXTRACTION
    if settings.strategy == "lora":
        return peft.LoraConfig(
            task_type=task,
            r=settings.rank,
            lora_alpha=2 * settings.rank,
            lora_dropout=settings.dropout,
            target_modules=_EVERY_LINEAR_LAYER,
        )
    if settings.strategy == "adalora":
        if steps < FEWEST_ADALORA_STEPS:
            raise FineTuningError(
                f"fine-tuning: adalora needs {FEWEST_ADALORA_STEPS} steps, these data and settings give {steps}: raise "
                "epochs or most_steps, or use lora"
            )
        starting_rank = settings.rank + -(-settings.rank // 2)
        return peft.AdaLoraConfig(
            task_type=task,
            init_r=starting_rank,
            target_r=settings.rank,
            tinit=steps // 10,
            tfinal=3 * steps // 10,
            total_step=steps,
            lora_alpha=2 * starting_rank,
            lora_dropout=settings.dropout,
            target_modules=_EVERY_LINEAR_LAYER,
        )
    if settings.strategy == "ia3":
        architecture = base.model.config.model_type.removeprefix("xlm-")  # XLM-RoBERTa names its layers as RoBERTa does
        scaled = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.get(architecture)
        if scaled is None:
            raise FineTuningError(
                f"fine-tuning: ia3 does not know the layers of {base.name!r} ({architecture}): use the strategy lora"
            )
        inner = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING[architecture]
        return peft.IA3Config(task_type=task, target_modules=scaled, feedforward_modules=inner)
    return peft.TrainableTokensConfig(token_indices=tokens)


def _top(base: BaseModel, count: int) -> dict[str, torch.nn.Parameter]:
    """Freeze what comes before the last ``count`` layers; parameters are registered from the input to the output."""
    layers = base.model.config.num_hidden_layers
    stack = next(
        (
            name
            for name, module in base.model.named_modules()
            if isinstance(module, torch.nn.ModuleList) and len(module) == layers
        ),
        None,
    )
    if stack is None or count > layers:
        raise FineTuningError(
            f"fine-tuning: {base.name!r} has no {count} layers to train alone: lower top_layers or use another strategy"
        )
    trained: dict[str, torch.nn.Parameter] = {}
    for name, parameter in base.model.named_parameters():
        if trained or name.startswith(f"{stack}.{layers - count}."):
            trained[name] = parameter
        else:
            parameter.requires_grad_(False)
    return trained


def _with_prefix_tokens(base: BaseModel, count: int) -> tuple[BaseModel, list[int]]:
    """Add tokens to the vocabulary and to the prefixes of both kinds; each starts as a copy of some other token."""
    from tokenizers import AddedToken

    first = len(base.tokenizer)
    names = {kind: [f"<{kind}-{first + number}>" for number in range(count)] for kind in _KINDS}
    added = [AddedToken(name, special=True, normalized=False) for kind in _KINDS for name in names[kind]]
    base.tokenizer.add_tokens(added, special_tokens=True)
    ids = [base.tokenizer.convert_tokens_to_ids(name) for kind in _KINDS for name in names[kind]]
    rows = len(base.model.get_input_embeddings().weight)
    if len(base.tokenizer) > rows:
        base.model.resize_token_embeddings(len(base.tokenizer), mean_resizing=False)
    table = base.model.get_input_embeddings().weight
    with torch.no_grad():
        table[ids] = table[torch.randint(first, (len(ids),))]
    prefixes = {kind: "".join(names[kind]) + base.prefixes[kind] for kind in _KINDS}
    return replace(base, prefixes=prefixes), ids
