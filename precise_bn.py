"""Exact BatchNorm statistics for the weights that are evaluated.

BatchNorm layers keep a moving average over weights that have changed since. This hook
estimates mean and variance anew for the present weights, by the protocol of
Detectron2's ``TEST.PRECISE_BN``; why it matters: Wu and Johnson, Rethinking "Batch" in
BatchNorm, https://arxiv.org/abs/2105.07576. It needs MMEngine alone. In a config::

    custom_imports = dict(imports=["precise_bn"], allow_failed_imports=False)
    custom_hooks = [dict(type="PreciseBNHook", num_batches=200)]

MMPretrain's configs get a hook of their own by this name (``mmengine.PreciseBNHook``
is this one there); two-stage detectors would see the proposals of a test in it.
"""

from __future__ import annotations

import copy
import random
import time
from bisect import bisect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import count, islice

import numpy as np
import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader


class Moments:
    """Mean and variance per channel of all that entered one layer, in float64.

    A forward pre-hook. Calls are merged by their deviations (Chan et al., 1983), each
    by its number of elements; a mean far above the deviation cancels nothing.
    """

    def __init__(self, name: str, layer: _BatchNorm) -> None:
        self.name = name
        self.mean = torch.zeros_like(layer.running_mean, dtype=torch.float64)
        self.squares = torch.zeros_like(self.mean)  # summed, of deviations from mean
        self.count = self.mean.new_zeros(1)

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        """Take in an input, (N, C) or (N, C, ...); N may be 0.

        Raises:
            FloatingPointError: If it holds NaN or infinity.
        """
        values = inputs[0].double()
        if not values.numel():
            return
        others = [axis for axis in range(values.dim()) if axis != 1]
        variance, mean = torch.var_mean(values, others, correction=0)
        if not variance.isfinite().all():
            raise FloatingPointError(
                f"PreciseBNHook: the input of {self.name} is not finite, so no running "
                "statistics were changed; lower optim_wrapper.optimizer.lr (with "
                "float16, try bfloat16) and start from an earlier checkpoint"
            )
        number, shift = values.numel() // values.size(1), mean - self.mean
        weight = number / (self.count + number)
        self.mean += weight * shift
        self.squares += number * variance + weight * self.count * shift**2
        self.count += number

    def merge_processes(self) -> None:
        """Merge with what entered this layer in the other processes."""
        total = self.count.clone()
        all_reduce(total)
        mean = self.mean * (self.count / total.clamp(min=1))
        all_reduce(mean)
        self.squares += self.count * (self.mean - mean) ** 2
        all_reduce(self.squares)
        self.mean, self.count = mean, total

    def write(self, layer: _BatchNorm) -> None:
        """Set the running statistics; the variance is unbiased, as torch keeps it."""
        layer.running_mean.copy_(self.mean)
        layer.running_var.copy_(self.squares / (self.count - 1).clamp(min=1))


@HOOKS.register_module()
class PreciseBNHook(Hook):
    """Estimate BatchNorm statistics before each evaluation and at the end of training.

    The checkpoint of that iteration or epoch holds them. Layers in eval mode
    (``norm_eval``) stay as they are. A copy of the model sees the batches, and random
    generators are set back, so training goes on as without the hook.

    Args:
        num_batches: Batches of one estimate, per process.
        dataloader: A loader or its config; by default the run's ``train_dataloader``,
            built anew so that training keeps the order of its data.

    Raises:
        ValueError: If ``num_batches`` is not a positive integer.
    """

    # Before EMAHook copies the buffers and CheckpointHook writes them.
    priority = "ABOVE_NORMAL"

    def __init__(
        self, num_batches: int = 200, dataloader: DataLoader | dict | None = None
    ) -> None:
        if type(num_batches) is not int or num_batches < 1:
            raise ValueError(
                f"PreciseBNHook.num_batches={num_batches!r} is not a positive integer; "
                "give the number of batches of one estimate, such as 200"
            )
        self.num_batches = num_batches
        self.dataloader = dataloader
        self.batches: Iterator | None = None

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._estimate_if_due(runner, runner.iter + 1, runner.max_iters)

    def after_train_epoch(self, runner: Runner) -> None:
        # A loop of iterations calls this too, once, after its last evaluation.
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._estimate_if_due(runner, runner.epoch + 1, runner.max_epochs)

    def _estimate_if_due(self, runner: Runner, done: int, end: int) -> None:
        """``done`` counts the iterations or epochs, the present one included."""
        loop = runner.train_loop
        # The loop itself moves on to its next interval only after the hooks.
        stage = bisect(loop.dynamic_milestones, done + 1) - 1
        on_interval = done % loop.dynamic_intervals[stage] == 0
        evaluates = runner.val_loop and done >= loop.val_begin and on_interval
        if done == end or evaluates:
            self._estimate(runner)

    @torch.no_grad()
    def _estimate(self, runner: Runner) -> None:
        start = time.monotonic()
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        with _generators_kept():
            trained = _training_copy(model)
            moments = _attach_moments(trained)
            if not moments:
                # MMEngine's logger shows a repeated warning once.
                runner.logger.warning("PreciseBNHook: no BatchNorm layer is training")
                return
            for data in islice(self._own_batches(runner), self.num_batches):
                _forward(trained, data, runner.optim_wrapper)
        unseen = _write(moments, model)
        if unseen:
            runner.logger.warning(
                f"PreciseBNHook: no input reached {', '.join(unseen)}; their running "
                "statistics stay as they were"
            )
        runner.logger.info(
            f"PreciseBNHook: {len(moments) - len(unseen)} layers, "
            f"{self.num_batches} batches, {time.monotonic() - start:.1f} s"
        )

    def _own_batches(self, runner: Runner) -> Iterator:
        if self.batches is None:
            source = self.dataloader or runner.cfg.get("train_dataloader")
            if not isinstance(source, (dict, DataLoader)):
                raise ValueError(
                    "PreciseBNHook.dataloader is not given and the run has no config "
                    "of a train_dataloader; give the hook a dataloader"
                )
            # diff_rank_seed: the sampler draws a seed that the processes share.
            loader = runner.build_dataloader(source, runner.seed, diff_rank_seed=True)
            self.batches = _endless(loader)
        return self.batches


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Set torch's, NumPy's and Python's generators back afterwards."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def _training_copy(model: nn.Module) -> nn.Module:
    """Copy the model, so that no buffer or counter of the original can change."""
    trained = copy.deepcopy(model)
    # A method set on the instance, as torch.compile does, still is the original's.
    for name in [n for n in vars(trained) if callable(getattr(type(trained), n, None))]:
        delattr(trained, name)
    return trained.train()


def _attach_moments(model: nn.Module) -> dict[str, Moments]:
    """Hook Moments into every layer that trains and keeps running statistics."""
    moments = {}
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm) and layer.training:
            if layer.track_running_stats and layer.running_mean is not None:
                moments[name] = Moments(name, layer)
                layer.register_forward_pre_hook(moments[name])
    return moments


def _forward(model: nn.Module, data: object, optim_wrapper: OptimWrapper) -> None:
    """Run the forward pass of training, in training's precision."""
    context = nullcontext()
    # Several optimizers have no common context; that of one moves no step count.
    if not isinstance(optim_wrapper, OptimWrapperDict):
        context = optim_wrapper.optim_context(model)
    with context:
        data = model.data_preprocessor(data, True)
        if isinstance(data, dict):
            model(**data, mode="loss")
        else:
            model(*data, mode="loss")


def _write(moments: dict[str, Moments], model: nn.Module) -> list[str]:
    """Write what all processes saw; return the layers that nothing reached."""
    for name, found in moments.items():
        found.merge_processes()
        if found.count:
            found.write(model.get_submodule(name))
    return [name for name, found in moments.items() if not found.count]


def _endless(loader: DataLoader) -> Iterator:
    """Go through the loader again and again, in a new order each time."""
    for epoch in count():
        for sampler in (loader.sampler, getattr(loader.batch_sampler, "sampler", None)):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise ValueError(
                "PreciseBNHook.dataloader yields no batch; lower its batch_size"
            )
