"""The gradient of view 1 before the forward pass of view 2, to hold less in memory.

The recipe of 8 x 512 images needs it; ``configs/mcl/README.md`` says when to take it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..errors import InputError


class _Differentiated(torch.autograd.Function):
    """A loss whose gradient is known, so that its graph need not live on.

    Backward hands the gradients on, times that of the loss. Loss scaling,
    accumulation and the distributed wrapper therefore work as on any other loss.
    """

    @staticmethod
    def forward(
        ctx, loss: Tensor, gradients: Sequence[Tensor | None], *weights: Tensor
    ) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, scale: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        # Not in place: two weights may have been given one tensor.
        given = [None if g is None else g * scale for g in gradients]
        return None, None, *given


def _autocast_dtype(device: str) -> torch.dtype | None:
    available = torch.amp.is_autocast_available(device)
    if not available or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def differentiate_early(
    losses: dict[str, Tensor], model: nn.Module
) -> dict[str, Tensor]:
    """Compute the losses' gradient now; free what it needed.

    Args:
        losses: those named ``loss*`` are differentiated, summed as the host will.
        model: the gradient is that of its trained weights.

    Returns:
        ``losses`` of the same values. The first one carries the gradient of their
        sum, so they serve only where they are added with one common factor. The same
        ones where gradients are off.

    Raises:
        InputError: under autocast to float16, whose small gradients need the loss
            scale, or when a module of the model checkpoints activations.
    """
    if not torch.is_grad_enabled():
        return losses
    if _autocast_dtype(next(iter(losses.values())).device.type) == torch.float16:
        raise InputError(
            "model.early_backward=True: float16 scales the loss after both views; "
            "train in bfloat16 (optim_wrapper.type='BFloat16OptimWrapper') or switch "
            "it off"
        )
    if any(getattr(module, "with_cp", False) for module in model.modules()):
        raise InputError(
            "early_backward=True and backbone.with_cp=True: MMPretrain's activation "
            "checkpoints cannot be differentiated early; choose one of them"
        )
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    names = [name for name in losses if name.startswith("loss")]
    total = sum(losses[name] for name in names)
    # A backward pass runs outside autocast, as the host's does.
    with torch.autocast(total.device.type, enabled=False):
        gradients = torch.autograd.grad(total, weights, allow_unused=True)
    known = {name: value.detach() for name, value in losses.items()}
    known[names[0]] = _Differentiated.apply(known[names[0]], gradients, *weights)
    return known
