"""Figures of the step that stay on the device until they are logged."""

import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor

# Iterations, where a run has no logger.
DEFAULT_INTERVAL = 50


def store_figures(runner: Runner) -> None:
    """Have ``runner.message_hub`` hold the figures of every iteration so far."""
    for hook in runner.hooks:
        if isinstance(hook, DeferredInfoHook):
            hook.store(runner)


def logging_interval(runner: Runner) -> int:
    """Iterations between two lines of the run's log."""
    loggers = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]
    return loggers[0].interval if loggers else DEFAULT_INTERVAL


@HOOKS.register_module()
class DeferredInfoHook(RuntimeInfoHook):
    """Store the figures of every iteration, but read them once per line of the log.

    The host's hook reads each figure at each iteration, some twenty times, and the
    device waits each time. With this one an iteration's figures stay where they are
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
