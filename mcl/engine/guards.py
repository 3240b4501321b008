"""Hooks that stop a run in words, before it spoils anything."""

from collections.abc import Sequence

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..errors import InputError
from ..load_report import LoadReport
from .steps import unwrap


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stop at a loss that is not finite; name the iteration and its images.

    The losses stay on the device and are looked at together every ``interval``
    iterations, which costs one synchronisation, and before each checkpoint is
    written, so that none is overwritten with broken weights.

    Args:
        interval: iterations between looks.
    """

    priority = "HIGH"

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self.pending: list[tuple[int, torch.Tensor, Sequence[str]]] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: dict
    ) -> None:
        paths = [str(s.get("img_path")) for s in data_batch["data_samples"]]
        self.pending.append((runner.iter + 1, outputs["loss"].detach(), paths))
        on_cpu = outputs["loss"].device.type == "cpu"
        if on_cpu or self.every_n_train_iters(runner, self.interval):
            self._look()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._look()

    def _look(self) -> None:
        pending, self.pending = self.pending, []
        if not pending:
            return
        finite = torch.stack([loss for _, loss, _ in pending]).isfinite().tolist()
        if all(finite):
            return
        iteration, loss, paths = pending[finite.index(False)]
        raise InputError(
            f"the loss is {loss.item()} at iteration {iteration}: lower optim_wrapper"
            ".optimizer.lr or lengthen the warm-up (with float16, try bfloat16), then "
            f"--resume; checkpoints written so far are intact. Images: {paths}"
        )


@HOOKS.register_module()
class UnreadableImageHook(Hook):
    """Name each unreadable image once; stop when there are too many.

    Args:
        max_fraction: largest tolerated share of the data set, 0..1.
    """

    def __init__(self, max_fraction: float = 0.01) -> None:
        if not 0 <= max_fraction <= 1:
            raise InputError(f"max_fraction={max_fraction}: it lies between 0 and 1")
        self.max_fraction = max_fraction
        self.unreadable: dict[str, str] = {}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: dict
    ) -> None:
        for sample in data_batch["data_samples"]:
            for path, reason in sample.get("replaced", {}).items():
                if path not in self.unreadable:
                    self.unreadable[path] = reason
                    runner.logger.warning(f"unreadable image replaced: {reason}")
        total = len(runner.train_dataloader.dataset)
        if len(self.unreadable) > self.max_fraction * total:
            listed = "\n  ".join(self.unreadable.values())
            raise InputError(
                f"{len(self.unreadable)} of {total} images are unreadable, more than "
                f"max_fraction={self.max_fraction} of the data set: repair or remove "
                f"them, or raise UnreadableImageHook.max_fraction\n  {listed}"
            )


@HOOKS.register_module()
class LoadReportHook(Hook):
    """Say what a checkpoint fills, and refuse one of another architecture.

    The runner itself loads what fits and drops the rest without an error.

    Args:
        source: the path, for the message.
    """

    def __init__(self, source: str = "load_from") -> None:
        self.source = source

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        weights = checkpoint.get("state_dict", checkpoint)
        report = LoadReport.compare(weights, unwrap(runner.model).state_dict())
        runner.logger.info(f"{self.source}:\n{report}")
        problems = report.problems()
        if problems:
            raise InputError(
                f"{self.source}: this checkpoint is of another architecture than the "
                f"config's model ({'; '.join(problems)}); give the config that fits, "
                "or pass --allow-partial-load to load what does"
            )
