"""How long a run is and what its schedule is, without arithmetic by the user."""

import math
from collections.abc import Mapping

from mmengine.hooks import ParamSchedulerHook
from mmengine.optim import CosineAnnealingParamScheduler, LinearParamScheduler
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmpretrain.registry import HOOKS

from ..config import share_batch_size
from ..errors import InputError
from .steps import accumulation, optimizer_steps

EPOCH_LOOP = (
    "train_cfg.type='EpochBasedTrainLoop': the schedule counts optimizer steps and the "
    "sampler never ends; take train_cfg=dict(_delete_=True, type='MCLTrainLoop', "
    "max_epochs=...)"
)


@LOOPS.register_module()
class MCLTrainLoop(IterBasedTrainLoop):
    """The host's loop of iterations, as long as so many epochs of the data set.

    An epoch is N // (batch size * processes) iterations: short batches are dropped.

    Args:
        runner: of the run.
        dataloader: built, or its config, whose sampler gets its ``batch_size``.
        max_iters: iterations of the run; or
        max_epochs: how often it sees each image.
        **kwargs: of the host's ``IterBasedTrainLoop``, such as ``val_interval``.

    Raises:
        InputError: unless exactly one of both is given, above 0.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader,
        max_iters: int | None = None,
        max_epochs: float | None = None,
        **kwargs,
    ) -> None:
        if (max_iters is None) == (max_epochs is None):
            raise InputError(
                f"train_cfg: max_epochs={max_epochs}, max_iters={max_iters}: give "
                "exactly one of them, and None for the other"
            )
        if not (max_iters or max_epochs) > 0:
            raise InputError(
                f"train_cfg: max_epochs={max_epochs}, max_iters={max_iters}: give a "
                "number above 0"
            )
        if isinstance(dataloader, Mapping):
            dataloader = share_batch_size(dataloader)
        super().__init__(runner, dataloader, max_iters or 1, **kwargs)
        if max_epochs is not None:
            self._max_iters = int(max_epochs * len(self.dataloader))


@HOOKS.register_module()
class OptimStepParamSchedulerHook(ParamSchedulerHook):
    """Count schedules in optimizer steps, and set the ends that a config leaves open.

    The host's hook counts iterations, which are more under gradient accumulation.
    Before a run is resumed, ``LinearLR`` without ``end`` becomes the warm-up, and
    ``CosineAnnealingLR`` without ``end`` lasts until the run's last step.

    Args:
        warmup_epochs: the warm-up is floor(warmup_epochs * N / images per step) steps
            for N images; or
        warmup_steps: its length in optimizer steps. Both: at least 1 step.

    Raises:
        InputError: when both are given; before the run, when none is and the warm-up's
            end is open, or the run counts epochs with a loop of the host.
    """

    def __init__(
        self, warmup_epochs: float | None = None, warmup_steps: int | None = None
    ) -> None:
        if warmup_epochs is not None and warmup_steps is not None:
            raise InputError(
                f"default_hooks.param_scheduler: warmup_epochs={warmup_epochs} and "
                f"warmup_steps={warmup_steps}: give one of them"
            )
        self.warmup_epochs = warmup_epochs
        self.warmup_steps = warmup_steps
        self.ends: list[int] = []

    def before_run(self, runner: Runner) -> None:
        built = _schedulers(runner)
        configs = runner.cfg.get("param_scheduler")
        configs = configs if isinstance(configs, list) else [configs]
        for scheduler, config in zip(built, configs, strict=False):
            if "end" not in config:
                self._close(scheduler, config, runner)
        self.ends = [scheduler.end for scheduler in built]

    def _close(
        self, scheduler: _ParamScheduler, config: Mapping, runner: Runner
    ) -> None:
        """Set the end that the host took for the run's last iteration."""
        scheduler.end = optimizer_steps(runner)
        if isinstance(scheduler, LinearParamScheduler):
            scheduler.total_iters = self._warmup(runner)
            scheduler.end = scheduler.begin + scheduler.total_iters + 1
        elif isinstance(scheduler, CosineAnnealingParamScheduler):
            if config.get("T_max") is None:
                scheduler.T_max = scheduler.end - scheduler.begin

    def before_train(self, runner: Runner) -> None:
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise InputError(EPOCH_LOOP)
        steps = optimizer_steps(runner)
        runner.logger.info(
            f"{len(runner.train_dataloader.dataset)} images, {runner.max_iters} "
            f"iterations, {steps} optimizer steps of {images_per_step(runner)} images"
        )
        # A checkpoint brings its own ends along.
        built = _schedulers(runner)
        ends = [scheduler.end for scheduler in built]
        if ends != self.ends:
            runner.logger.warning(
                f"the resumed schedules end at steps {ends}, those of this config at "
                f"{self.ends}; the learning rate follows the checkpoint. To train "
                "longer, begin a new run with load_from instead of --resume"
            )
        elif any(isinstance(s, LinearParamScheduler) and s.end > steps for s in built):
            runner.logger.warning(
                f"the warm-up is longer than the run of {steps} steps; shorten "
                "default_hooks.param_scheduler.warmup_epochs or warmup_steps"
            )

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        if runner.optim_wrapper.should_update():
            super().after_train_iter(runner, *args, **kwargs)

    def _warmup(self, runner: Runner) -> int:
        """Optimizer steps of the warm-up."""
        steps = self.warmup_steps
        if self.warmup_epochs is not None:
            images = self.warmup_epochs * len(runner.train_dataloader.dataset)
            steps = math.floor(images / images_per_step(runner))
        if steps is None:
            raise InputError(
                "param_scheduler: a LinearLR has no end; give it one, or "
                "default_hooks.param_scheduler.warmup_epochs"
            )
        # With none the host's scheduler would stay at its first factor for ever.
        return max(1, steps)


def _schedulers(runner: Runner) -> list[_ParamScheduler]:
    """The built ones of a single optimizer; none before a test."""
    found = runner.param_schedulers
    found = found if isinstance(found, list) else []
    return [s for s in found if isinstance(s, _ParamScheduler)]


def images_per_step(runner: Runner) -> int:
    """Images of all processes and accumulated iterations."""
    loader = runner.train_dataloader
    return loader.batch_size * runner.world_size * accumulation(runner)
