"""Which weights LARS adapts, and mixed precision without a loss scaler."""

import re
from contextlib import contextmanager

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.runner.amp import autocast
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm, _InstanceNorm
from mmpretrain.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from torch import Tensor, nn

from ..errors import InputError
from ..export.released import released_name

NORM_LAYERS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)

# The released code's rule, applied to its own names. It misses BN weights called
# `downsample.1.weight` and `mlp.1.weight`.
RELEASED_RULE = re.compile(r"(bn|gn)(\d+)?.(weight|bias)|bias")


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
        InputError: for another value of ``lars_exclude``.
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


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Autocast to bfloat16, on any device, without waiting for it.

    The range of bfloat16 is that of float32, so there is no loss scaler. The
    host's ``AmpOptimWrapper`` has one, and refuses to run on a CPU. The norm of
    clipped gradients stays on the device until the log asks for it.
    """

    grad_norm: Tensor | None = None

    @contextmanager
    def optim_context(self, model: nn.Module):
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield

    def take_grad_norm(self) -> Tensor | None:
        """The norm before the last clipping, scalar, once."""
        norm, self.grad_norm = self.grad_norm, None
        return norm

    def _clip_grad(self) -> None:
        # The host's reads the norm at once.
        weights = [
            weight
            for group in self.optimizer.param_groups
            for weight in group["params"]
            if weight.grad is not None
        ]
        if weights:
            self.grad_norm = self.clip_func(weights, **self.clip_grad_kwargs)
