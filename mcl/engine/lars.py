"""LARS in one pass over the weights, its trust ratios left where they are computed."""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from mmpretrain.registry import OPTIMIZERS
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.sgd import sgd

from ..errors import InputError

# PyTorch's kernel is told a rate r as 1 - r and takes it from 1 again: rates below
# this would lose more than 1e-7 of themselves.
SMALLEST_FUSED_RATE = 1e-9
# A power of two that divides the weights of most layers.
MOST_ROWS = 64
# Values that one float32 sum adds up to 1e-6.
SHORT_SUM = 2**14


@OPTIMIZERS.register_module()
class MultiTensorLARS(Optimizer):
    """Layer-wise adaptive rates for SGD (arXiv 1708.03888), as MMPretrain's ``LARS``.

    For a weight w with gradient g and momentum buffer b::

        ratio = eta |w| / (|g| + weight_decay |w| + eps), 1 where |w| or |g| is 0
        b = momentum b + lr ratio (g + weight_decay w)
        w = w - b

    The ratio is 1 in groups with ``lars_exclude=True``. On a CPU each weight is
    updated in one pass over memory; elsewhere nothing waits for the device, and all
    but one of the operations run over all weights together. The state is that of
    MMPretrain's ``LARS`` without Nesterov momentum and dampening: its checkpoints
    resume.

    Args:
        params: weights, or dicts of groups.
        lr, momentum, weight_decay, eta: as above, each 0 or more.
        eps: keeps the ratio finite.

    Raises:
        InputError: for a negative value.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        eta: float = 0.001,
        eps: float = 1e-8,
    ) -> None:
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay, eta=eta)
        for name, value in dict(defaults, eps=eps).items():
            if value < 0:
                raise InputError(f"optimizer.{name}={value}: give 0 or more")
        # Not in the groups: loading a file of the host's LARS replaces them.
        self.eps = eps
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Tensor | None:
        """Update every weight that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            if weights:
                on_cpu = weights[0].device.type == "cpu"
                update = update_in_one_pass if on_cpu else update_together
                gradients = [w.grad for w in weights]
                buffers = [self._buffer(w) for w in weights]
                update(weights, gradients, buffers, group, self.eps)
        return loss

    def _buffer(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        return state["momentum_buffer"]


def update_together(
    weights: list[Tensor],
    gradients: list[Tensor],
    buffers: list[Tensor],
    group: dict,
    eps: float,
) -> None:
    """The step of one group where each launch costs and each wait costs more.

    Args:
        weights, gradients, buffers: of the same shapes; weights and buffers are
            changed in place.
        group: ``lr``, ``momentum``, ``weight_decay``, ``eta``, ``lars_exclude``.
        eps: as in :class:`MultiTensorLARS`.
    """
    decay = group["weight_decay"]
    steps = torch._foreach_add(gradients, weights, alpha=decay) if decay else gradients
    torch._foreach_mul_(buffers, group["momentum"])
    if group.get("lars_exclude", False):
        torch._foreach_add_(buffers, steps, alpha=group["lr"])
    else:
        weight_norms = torch.stack(torch._foreach_norm(weights))
        gradient_norms = torch.stack(torch._foreach_norm(gradients))
        ratios = group["eta"] * weight_norms
        ratios /= gradient_norms + decay * weight_norms + eps
        adapted = (weight_norms != 0) & (gradient_norms != 0)
        rates = torch.where(adapted, ratios, 1) * group["lr"]
        torch._foreach_addcmul_(buffers, steps, rates.unbind())
    torch._foreach_sub_(weights, buffers)


def update_in_one_pass(
    weights: list[Tensor],
    gradients: list[Tensor],
    buffers: list[Tensor],
    group: dict,
    eps: float,
) -> None:
    """The step of one group where memory is slow; arguments as above.

    PyTorch's fused SGD, with dampening 1 - rate and a learning rate of 1, computes
    LARS' formula. It takes the memory as it lies, hence flat tensors, and those
    that lie differently go through :func:`_update_one`.
    """
    momentum, decay = group["momentum"], group["weight_decay"]
    if group.get("lars_exclude", False):
        rates = [group["lr"]] * len(weights)
    else:
        norms = _norms([*weights, *gradients])
        rates = [
            group["lr"] * trust_ratio(weight, gradient, group, eps)
            for weight, gradient in zip(
                norms[: len(weights)], norms[len(weights) :], strict=True
            )
        ]
    together: dict[float, list] = {}
    for rate, *tensors in zip(rates, weights, gradients, buffers, strict=True):
        exact = rate == 0 or rate >= SMALLEST_FUSED_RATE
        if momentum and exact and _can_be_fused(tensors):
            together.setdefault(rate, []).append([_flat(t) for t in tensors])
        else:
            _update_one(*tensors, rate, momentum, decay)
    for rate, flat in together.items():
        sgd(
            *map(list, zip(*flat, strict=True)),
            foreach=False,
            fused=True,
            weight_decay=decay,
            momentum=momentum,
            lr=1.0,
            dampening=1.0 - rate,
            nesterov=False,
            maximize=False,
        )


def trust_ratio(
    weight_norm: float, gradient_norm: float, group: dict, eps: float
) -> float:
    """What one weight's learning rate is multiplied by (:class:`MultiTensorLARS`)."""
    if weight_norm == 0 or gradient_norm == 0:
        return 1.0
    decayed = gradient_norm + group["weight_decay"] * weight_norm + eps
    return group["eta"] * weight_norm / decayed


def _norms(tensors: Sequence[Tensor]) -> list[float]:
    """Euclidean norm of each, tensors shared out by size.

    PyTorch computes a norm on one core, which does not use the memory's full speed.
    """
    threads = torch.get_num_threads()
    by_size = sorted(range(len(tensors)), key=lambda i: tensors[i].numel())
    shares = [by_size[first::threads] for first in range(threads)]
    norms = [0.0] * len(tensors)

    def work(share: list[int]) -> None:
        for i in share:
            norms[i] = euclidean_norm(tensors[i])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, shares))
    return norms


@torch.no_grad()
def euclidean_norm(tensor: Tensor) -> float:
    """Norm of a tensor on the CPU.

    In rows: summed in one go in float32, 2e6 squares come out 8e-5 too small.
    """
    flat = _flat(tensor) if _is_dense(tensor) else tensor.reshape(-1)
    if flat.numel() <= SHORT_SUM:
        return torch.linalg.vector_norm(flat).item()
    rows = flat.view(math.gcd(flat.numel(), MOST_ROWS), -1)
    return torch.linalg.vector_norm(torch.linalg.vector_norm(rows, dim=1)).item()


def _is_dense(tensor: Tensor) -> bool:
    """Whether a tensor fills its memory without gaps, in whatever order."""
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    return sum((side - 1) * step for side, step in sides) + 1 == tensor.numel()


def _flat(tensor: Tensor) -> Tensor:
    """A dense tensor as it lies in memory, of shape (n,)."""
    return tensor.as_strided((tensor.numel(),), (1,))


def _can_be_fused(tensors: Sequence[Tensor]) -> bool:
    """Whether all are dense, in the same order and of a precision that is kept."""
    strides = [
        [step for side, step in zip(t.shape, t.stride(), strict=True) if side > 1]
        for t in tensors
    ]
    kept = {t.dtype for t in tensors} in ({torch.float32}, {torch.float64})
    alike = all(other == strides[0] for other in strides)
    return kept and alike and _is_dense(tensors[0])


def _update_one(
    weight: Tensor,
    gradient: Tensor,
    buffer: Tensor,
    rate: float,
    momentum: float,
    decay: float,
) -> None:
    buffer.mul_(momentum).add_(gradient, alpha=rate).add_(weight, alpha=rate * decay)
    weight.sub_(buffer)
