"""LARS that never waits for the device, and which weights it adapts."""

import re
from collections.abc import Callable, Iterable

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm, _InstanceNorm
from mmpretrain.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import InputError
from ..export.released import released_name

NORM_LAYERS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)
# The released code's rule, applied to its own names. It misses BN weights called
# `downsample.1.weight` and `mlp.1.weight`.
RELEASED_RULE = re.compile(r"(bn|gn)(\d+)?.(weight|bias)|bias")


@OPTIMIZERS.register_module()
class MultiTensorLARS(Optimizer):
    """Layer-wise adaptive rates for SGD (arXiv 1708.03888), as MMPretrain's ``LARS``.

    For a weight w with gradient g and momentum buffer b::

        ratio = eta |w| / (|g| + weight_decay |w| + eps), 1 where |w| or |g| is 0
        b = momentum b + lr ratio (g + weight_decay w)
        w = w - b

    The ratio is 1 in groups with ``lars_exclude=True``. Trust ratios stay on the
    device, where MMPretrain's reads two numbers of each weight at each step. The state
    is that of MMPretrain's ``LARS`` without Nesterov momentum and dampening, so its
    checkpoints resume.

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
                self._update(weights, group)
        return loss

    def _update(self, weights: list[Tensor], group: dict) -> None:
        gradients = [w.grad for w in weights]
        buffers = [self._buffer(w) for w in weights]
        decay = group["weight_decay"]
        steps = gradients
        if decay:
            steps = torch._foreach_add(gradients, weights, alpha=decay)
        torch._foreach_mul_(buffers, group["momentum"])
        if group.get("lars_exclude", False):
            torch._foreach_add_(buffers, steps, alpha=group["lr"])
        else:
            rates = group["lr"] * self._trust_ratios(weights, gradients, group)
            torch._foreach_addcmul_(buffers, steps, rates.unbind())
        torch._foreach_sub_(weights, buffers)

    def _trust_ratios(
        self, weights: list[Tensor], gradients: list[Tensor], group: dict
    ) -> Tensor:
        """What the rate of each weight is multiplied by, (number of weights,)."""
        weight_norms, gradient_norms = (
            torch.stack(torch._foreach_norm(tensors))
            for tensors in (weights, gradients)
        )
        decayed = gradient_norms + group["weight_decay"] * weight_norms + self.eps
        adapted = (weight_norms != 0) & (gradient_norms != 0)
        return torch.where(adapted, group["eta"] * weight_norms / decayed, 1)

    def _buffer(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        return state["momentum_buffer"]


def _excluded_by_type(module: nn.Module, name: str) -> bool:
    return isinstance(module, NORM_LAYERS) or name.endswith("bias")


def _excluded_as_released(module: nn.Module, name: str) -> bool:
    return RELEASED_RULE.search(released_name(name)) is not None


RULES = dict(norm_and_bias=_excluded_by_type, released=_excluded_as_released)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LARSConstructor(DefaultOptimWrapperConstructor):
    """Two groups of weights: adapted and decayed, or neither.

    ``paramwise_cfg=dict(lars_exclude=...)`` says which are neither:
    ``'norm_and_bias'`` (default) all weights of norm layers and every bias;
    ``'released'`` what the authors' regex finds on their names.

    Raises:
        InputError: for another value of ``lars_exclude``, or another key.
    """

    def add_params(self, params: list, module: nn.Module, **kwargs) -> None:
        others = set(self.paramwise_cfg) - {"lars_exclude"}
        if others:
            raise InputError(
                f"paramwise_cfg has {sorted(others)}: it takes lars_exclude only"
            )
        rule = self.paramwise_cfg.get("lars_exclude", "norm_and_bias")
        if rule not in RULES:
            raise InputError(
                f"paramwise_cfg.lars_exclude={rule!r}: choose one of {list(RULES)}"
            )
        adapted, excluded = [], []
        for prefix, child in module.named_modules():
            for name, weight in child.named_parameters(prefix, recurse=False):
                if weight.requires_grad:
                    group = excluded if RULES[rule](child, name) else adapted
                    group.append(weight)
        params.append(dict(params=adapted))
        params.append(dict(params=excluded, weight_decay=0.0, lars_exclude=True))

    def __call__(self, model: nn.Module) -> OptimWrapper:
        # The host asks for groups only where something is set.
        self.paramwise_cfg.setdefault("lars_exclude", "norm_and_bias")
        return super().__call__(model)
