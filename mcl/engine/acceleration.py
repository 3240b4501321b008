"""What spares an accelerator work and waits: bfloat16, compiling, a deferred log."""

from contextlib import contextmanager

import torch
from mmengine.hooks import Hook, LoggerHook, RuntimeInfoHook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.runner.amp import autocast
from mmpretrain.registry import HOOKS, OPTIM_WRAPPERS
from torch import Tensor, nn

from ..errors import InputError
from .steps import unwrap

# Backbone, and neck: FPN, shared convs and projector.
PARTS = ("backbone", "neck", "target.backbone", "target.neck")


# Iterations, where a run has no logger.
DEFAULT_INTERVAL = 50


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


def store_metrics(runner: Runner) -> None:
    """Have ``runner.message_hub`` hold the metrics of every iteration so far."""
    for hook in runner.hooks:
        if isinstance(hook, DeferredInfoHook):
            hook.store(runner)


def logging_interval(runner: Runner) -> int:
    """Iterations between two lines of the run's log."""
    loggers = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]
    return loggers[0].interval if loggers else DEFAULT_INTERVAL


@HOOKS.register_module()
class DeferredInfoHook(RuntimeInfoHook):
    """Store the metrics of every iteration, but read them once per line of the log.

    The host's hook reads each metric at each iteration, some twenty times, and the
    device waits each time. With this one an iteration's metrics stay where they are
    and are read together; what is stored and logged is the same. On a CPU, where
    reading costs nothing, they are stored at once.

    Use it as ``default_hooks.runtime_info``.
    """

    def __init__(self) -> None:
        self.pending: list[dict] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        outputs = {
            name: value.detach() if isinstance(value, Tensor) else value
            for name, value in (outputs or {}).items()
        }
        norm = getattr(runner.optim_wrapper, "take_grad_norm", lambda: None)()
        if norm is not None:
            outputs["grad_norm"] = norm
        self.pending.append(outputs)
        waits = any(
            isinstance(value, Tensor) and value.device.type != "cpu"
            for value in outputs.values()
        )
        if not waits or self._is_logged(runner, batch_idx):
            self.store(runner)

    @staticmethod
    def _is_logged(runner: Runner, batch_idx: int) -> bool:
        """Whether a line of the log follows this iteration, or might."""
        return any(
            hook.every_n_inner_iters(batch_idx, hook.interval)
            or hook.end_of_epoch(runner.train_dataloader, batch_idx)
            for hook in runner.hooks
            if isinstance(hook, LoggerHook)
        )

    def after_train(self, runner: Runner) -> None:
        self.store(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """The file holds the log's history up to this iteration."""
        self.store(runner)
        if "message_hub" in checkpoint:
            checkpoint["message_hub"] = runner.message_hub.state_dict()

    def store(self, runner: Runner) -> None:
        """Read what is pending, with one synchronization, in its order."""
        pending, self.pending = self.pending, []
        tensors = [v for out in pending for v in out.values() if isinstance(v, Tensor)]
        numbers = []
        if tensors:
            numbers = torch.stack([t.float() for t in tensors]).tolist()
        read = iter(numbers)
        for outputs in pending:
            for name, value in outputs.items():
                number = next(read) if isinstance(value, Tensor) else value
                runner.message_hub.update_scalar(f"train/{name}", number)
