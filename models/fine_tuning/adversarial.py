"""Training against the perturbation of the input embeddings that hurts most.

*fgm* (Miyato et al., ICLR 2017): one pass on the clean text, one with a step of full length along the gradient.
*freelb* (Zhu et al., ICLR 2020): several passes, each with a perturbation a step further up the gradient of the one
before; the gradients of the parameters of all passes are averaged.

The length of a perturbation is relative to the length of the text's own embeddings, so that it means the same for
every base model.
"""

from collections.abc import Callable, Sequence

import torch

from .settings import Settings

Loss = Callable[[Sequence[torch.Tensor | None]], torch.Tensor]


def backward(
    loss_of: Loss, embeddings: Callable[[], Sequence[torch.Tensor]], settings: Settings, *, weight: float, seed: int
) -> float:
    """Add ``weight`` times the gradient to the parameters' gradients and return the loss of the first pass.

    ``loss_of`` takes a shift for each of ``embeddings()``, [n, length, width] and zero at padding. All passes have the
    same dropout, that of ``seed``.
    """
    if settings.adversary == "none":
        torch.manual_seed(seed)
        loss = loss_of([None, None])
        (loss * weight).backward()  # type: ignore[no-untyped-call]
        return loss.item()
    inputs = embeddings()
    radii = [settings.adversary_size * _length(tensor) for tensor in inputs]
    if settings.adversary == "fgm":
        passes, ascent = 2, 1.0
        shifts = [torch.zeros_like(tensor) for tensor in inputs]
    else:
        # Twice as far in all as needed to get from the centre to the edge.
        passes, ascent = settings.adversary_steps, 2 / settings.adversary_steps
        torch.manual_seed(seed)
        shifts = [_random(tensor, radius) for tensor, radius in zip(inputs, radii, strict=True)]
    first = 0.0
    for number in range(passes):
        for shift in shifts:
            shift.requires_grad_()
        torch.manual_seed(seed)
        loss = loss_of(shifts)
        (loss * (weight / passes)).backward()  # type: ignore[no-untyped-call]
        first = first if number else loss.item()
        shifts = [_climb(shift, radius, ascent) for shift, radius in zip(shifts, radii, strict=True)]
    return first


def _length(tensor: torch.Tensor) -> torch.Tensor:
    """Length of each text's numbers taken together: [n, length, width] to [n, 1, 1]."""
    length: torch.Tensor = tensor.norm(dim=(1, 2), keepdim=True)
    return length


def _random(embeddings: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    shift = (2 * torch.rand_like(embeddings) - 1) * (embeddings != 0)
    return shift * radius / _length(shift).clamp_min(1e-12) * 0.5


def _climb(shift: torch.Tensor, radius: torch.Tensor, ascent: float) -> torch.Tensor:
    """One step of ``ascent`` times the radius up the gradient, then back to the ball if it left it."""
    assert shift.grad is not None, "the loss has been taken backward"
    uphill = shift.grad / _length(shift.grad).clamp_min(1e-12)
    moved = shift.detach() + ascent * radius * uphill
    return moved * (radius / _length(moved).clamp_min(1e-12)).clamp_max(1.0)
