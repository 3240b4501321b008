"""torch.compile of the parts that take the time."""

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import nn

from ..errors import InputError
from .steps import unwrap

# Backbone, and neck: FPN, shared convs and projector.
PARTS = ("backbone", "neck", "target.backbone", "target.neck")


def compile_parts(model: nn.Module, parts: tuple[str, ...] = PARTS, **options) -> None:
    """Compile the forward of some modules; names of weights stay.

    Forward alone, and not the call, so that hooks put on a module later still run.
    Parts that the model has not, such as the target of a supervised one, are passed
    over when they are among the default ones.

    Args:
        model: one of this project's pre-training models.
        parts: names of its modules.
        **options: of ``torch.compile``.

    Raises:
        InputError: for a module that the model does not have.
    """
    modules = dict(model.named_modules())
    for name in parts:
        if name in modules:
            module = modules[name]
            module.forward = torch.compile(module.forward, **options)
        elif name not in PARTS:
            raise InputError(
                f"parts={parts}: the model has no module {name!r}; it has "
                f"{[n for n, _ in model.named_children()]}"
            )


@HOOKS.register_module()
class CompileHook(Hook):
    """Compile backbone and neck, online and target, before training starts.

    Every batch has the same shapes, so compiling happens in the first iteration
    only; it needs a C++ compiler, or Triton on a GPU.

    Args:
        parts: names of the modules to compile.
        **options: of ``torch.compile``, such as ``mode="max-autotune"``.
    """

    def __init__(self, parts: tuple[str, ...] = PARTS, **options) -> None:
        self.parts = tuple(parts)
        self.options = options

    def before_train(self, runner: Runner) -> None:
        compile_parts(unwrap(runner.model), self.parts, **self.options)

    def after_train(self, runner: Runner) -> None:
        for name, module in unwrap(runner.model).named_modules():
            if name in self.parts:
                vars(module).pop("forward", None)
