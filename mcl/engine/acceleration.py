"""Less work and waiting for an accelerator: bfloat16, compiling, a deferred log."""

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

PARTS = ("backbone", "neck", "target.backbone", "target.neck")
# Iterations between lines of the log, for a run without a logger.
DEFAULT_INTERVAL = 50


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Autocast to bfloat16 on any device, without waiting for the device.

    bfloat16 has the range of float32, so no loss scaler is needed. The host's
    ``AmpOptimWrapper`` has one and does not run on a CPU. The norm of clipped gradients
    stays on the device until the log reads it.
    """

    grad_norm: Tensor | None = None

    @contextmanager
    def optim_context(self, model: nn.Module):
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield

    def take_grad_norm(self) -> Tensor | None:
        """Return the norm before the last clipping, a scalar, and forget it."""
        norm, self.grad_norm = self.grad_norm, None
        return norm

    def _clip_grad(self) -> None:
        # The host's method reads the norm immediately.
        groups = self.optimizer.param_groups
        weights = [w for g in groups for w in g["params"] if w.grad is not None]
        if weights:
            self.grad_norm = self.clip_func(weights, **self.clip_grad_kwargs)


def compile_parts(model: nn.Module, parts: tuple[str, ...] = PARTS, **options) -> None:
    """Compile ``forward`` of some modules. Names of weights do not change.

    The modules' calls are not compiled, so hooks that are registered later still run.
    Default parts that the model does not have are skipped, such as the target of
    supervised pre-training.

    Args:
        model: one of this project's pre-training models.
        parts: names of its modules.
        **options: of ``torch.compile``.

    Raises:
        InputError: for another module that the model does not have.
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
    """Compile backbone and neck, online and target, before training.

    All batches have the same shapes, so only the first iteration compiles. This needs
    a C++ compiler, or Triton on a GPU.

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
    """Store the metrics of all iterations so far in ``runner.message_hub``."""
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

    The host's hook reads some twenty metrics one by one at each iteration, and the
    device waits each time. This hook keeps them on the device and reads them together.
    The log is the same. On a CPU metrics are stored immediately.

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
        """Whether a line of the log may follow this iteration."""
        return any(
            hook.every_n_inner_iters(batch_idx, hook.interval)
            or hook.end_of_epoch(runner.train_dataloader, batch_idx)
            for hook in runner.hooks
            if isinstance(hook, LoggerHook)
        )

    def after_train(self, runner: Runner) -> None:
        self.store(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the log's history up to this iteration into the file."""
        self.store(runner)
        if "message_hub" in checkpoint:
            checkpoint["message_hub"] = runner.message_hub.state_dict()

    def store(self, runner: Runner) -> None:
        """Store the pending metrics in their order, with one synchronization."""
        metrics = [item for outputs in self.pending for item in outputs.items()]
        self.pending = []
        tensors = [v.float() for _, v in metrics if isinstance(v, Tensor)]
        numbers = iter(torch.stack(tensors).tolist() if tensors else ())
        for name, value in metrics:
            number = next(numbers) if isinstance(value, Tensor) else value
            runner.message_hub.update_scalar(f"train/{name}", number)
