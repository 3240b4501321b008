"""Hooks of the optimizer step and of each iteration's random numbers."""

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
    """Iterations per optimizer step.

    MMEngine has no public attribute for this, so it is read from the config.
    """
    return runner.cfg.optim_wrapper.get("accumulative_counts", 1)


def optimizer_steps(runner: Runner) -> int:
    """K, optimizer steps of the whole run; the last may accumulate fewer iterations."""
    return -(-runner.max_iters // accumulation(runner))


@HOOKS.register_module()
class TargetUpdateHook(Hook):
    """Update the target network after each step of the optimizer.

    The optimizer itself calls the update. Iterations that only accumulate gradients
    and steps that a loss scaler skips therefore do not count. ``load_from`` restarts
    the averaging schedule; a resumed run continues it.
    """

    def before_train(self, runner: Runner) -> None:
        _check_checkpoint_interval(runner)
        total, model = optimizer_steps(runner), unwrap(runner.model)
        if runner.iter == 0:
            # Weights of another run, loaded by load_from, bring its step along.
            model.target.restart()

        def update(*_) -> None:
            model.update_target(total)

        runner.optim_wrapper.optimizer.register_step_post_hook(update)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Start the target from the online weights if the file has no target."""
        weights = checkpoint.get("state_dict", checkpoint)
        if any(name.startswith("target.") for name in weights):
            return
        for name in list(weights):
            if name.startswith(("backbone.", "neck.")):
                weights[f"target.{name}"] = weights[name].clone()


def _check_checkpoint_interval(runner: Runner) -> None:
    counts = accumulation(runner)
    checkpoint = runner.cfg.get("default_hooks", {}).get("checkpoint") or {}
    interval = checkpoint.get("interval", -1)
    if not checkpoint.get("by_epoch", True) and interval > 0 and interval % counts:
        raise InputError(
            f"default_hooks.checkpoint.interval={interval}: with "
            f"accumulative_counts={counts} a checkpoint would lose accumulated "
            f"gradients; give a multiple of {counts}"
        )


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seed the random generators of each iteration by (seed, iteration, rank).

    The runner saves no state of generators. With this hook a resumed run samples the
    same montages, and the same dropped paths of a backbone.
    """

    def before_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        preprocessor = unwrap(runner.model).data_preprocessor
        preprocessor.seed(runner.seed, runner.iter, get_rank())
        torch.manual_seed(preprocessor.generator.initial_seed())
