"""What happens once per optimizer step, or is drawn anew for each iteration."""

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import nn

from ..errors import InputError


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside MMEngine's distributed wrapper, if there is one."""
    return model.module if is_model_wrapper(model) else model


def accumulation(runner: Runner) -> int:
    """Iterations whose gradients one optimizer step adds up.

    MMEngine keeps the number to itself, so it is read from the config.
    """
    return runner.cfg.optim_wrapper.get("accumulative_counts", 1)


def optimizer_steps(runner: Runner) -> int:
    """K, the optimizer steps of the whole run; the last one may be of fewer images."""
    return -(-runner.max_iters // accumulation(runner))


@HOOKS.register_module()
class TargetUpdateHook(Hook):
    """Move the target network after each step that the optimizer really takes.

    Forward passes that only accumulate gradients do not count, nor do steps that
    a loss scaler skips: the optimizer itself calls back. A run that starts from
    the weights of another (``load_from``) begins the averaging schedule anew, one
    that is resumed goes on with it.

    Args:
        total_steps: K of the averaging schedule, optimizer steps of the whole
            run; by default the run's iterations over the accumulation.
    """

    def __init__(self, total_steps: int | None = None) -> None:
        self.total_steps = total_steps

    def before_train(self, runner: Runner) -> None:
        counts = accumulation(runner)
        total = self.total_steps or -(-runner.max_iters // counts)
        _check_checkpoint_interval(runner, counts)
        model = unwrap(runner.model)
        if runner.iter == 0:
            # Weights that load_from took of a finished run bring its step along.
            model.target.restart()

        def update(*_) -> None:
            model.update_target(total)

        runner.optim_wrapper.optimizer.register_step_post_hook(update)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Start the target from the online weights where a file has no target."""
        weights = checkpoint.get("state_dict", checkpoint)
        if any(name.startswith("target.") for name in weights):
            return
        for name in list(weights):
            if name.startswith(("backbone.", "neck.")):
                weights[f"target.{name}"] = weights[name].clone()


def _check_checkpoint_interval(runner: Runner, counts: int) -> None:
    checkpoint = runner.cfg.get("default_hooks", {}).get("checkpoint") or {}
    interval = checkpoint.get("interval", -1)
    if not checkpoint.get("by_epoch", True) and interval > 0 and interval % counts:
        raise InputError(
            f"default_hooks.checkpoint.interval={interval}: with "
            f"accumulative_counts={counts} a checkpoint would lose half-gathered "
            f"gradients; take a multiple of {counts}"
        )


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Make each iteration's draws depend on (seed, iteration, rank) alone.

    The runner saves no generator's state; with this a resumed run draws the same
    montages, and the same dropped paths where a backbone has them.
    """

    def before_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        preprocessor = unwrap(runner.model).data_preprocessor
        preprocessor.seed(runner.seed, runner.iter, get_rank())
        torch.manual_seed(preprocessor.generator.initial_seed())
