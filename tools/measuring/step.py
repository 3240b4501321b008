"""The training step of a config: what it computes, part by part, and its time."""

import gc
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.model import convert_sync_batchnorm
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODEL_WRAPPERS
from torch import nn

from mcl.engine.compiling import compile_parts
from mcl.errors import InputError

from .count import Count, count_work
from .machine import matmul_peak, synchronize
from .meter import Meter, metered
from .noise import hand_on, random_batch
from .report import RATIO, Column, Report, ratio_to
from .variants import Variant, precision

PARTS = ("forward", "backward", "optimizer", "target_update")
COUNTED = ("forward", "target", "backward")
# Optimizer steps of the averaging's schedule where a config does not tell.
TOTAL_STEPS = 31200
# Steps before the clock starts: compilers, and cuDNN's choice of algorithms.
WARM_UP = dict(cpu=1, cuda=3)


class Step:
    """Training steps of a variant on one batch of noise, through ``train_step``.

    Model, optimizer, its wrapper and the target's update are the config's own;
    without gradient accumulation. The data preprocessor hands on what it gets.

    Args:
        variant: what to run.
        batch: images per process.
        distributed: whether to wrap the model for several processes.
    """

    def __init__(self, variant: Variant, batch: int, distributed: bool = False) -> None:
        if batch < 2:
            raise InputError(f"batch={batch}: batch norm needs at least 2 images")
        cfg = variant.load()
        self.variant, self.batch, self.device = variant, batch, variant.device
        self.dtype = precision(cfg)
        if self.device == "cuda":
            torch.backends.cudnn.benchmark = bool(
                (cfg.get("env_cfg") or {}).get("cudnn_benchmark")
            )
        self.model = variant.build_model(cfg).to(self.device)
        self.optim_wrapper = self._build_optimizer(cfg)
        self.data = random_batch(self.model, batch, self.device)
        if variant.compile:
            compile_parts(self.model)
        self.trained = self._wrap(cfg) if distributed else self.model

    def _build_optimizer(self, cfg: Config) -> OptimWrapper:
        settings = cfg.optim_wrapper.to_dict()
        settings.pop("accumulative_counts", None)
        wrapper = build_optim_wrapper(self.model, settings)
        total = (cfg.get("train_cfg") or {}).get("max_iters") or TOTAL_STEPS

        def update(*_) -> None:
            self.model.update_target(total)

        if hasattr(self.model, "update_target"):
            wrapper.optimizer.register_step_post_hook(update)
        return wrapper

    def _wrap(self, cfg: Config) -> nn.Module:
        if cfg.get("sync_bn"):
            self.model = convert_sync_batchnorm(self.model, cfg.sync_bn)
        default = dict(type="MMDistributedDataParallel", broadcast_buffers=False)
        settings = dict(cfg.get("model_wrapper_cfg") or default)
        if self.device == "cuda":
            settings["device_ids"] = [torch.cuda.current_device()]
        return MODEL_WRAPPERS.build(dict(settings, module=self.model))

    def train(self) -> None:
        """One step."""
        self.trained.train_step(self.data, self.optim_wrapper)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Inside, the preprocessor hands on the batch that it gets."""

        with mock.patch.object(self.model.data_preprocessor, "forward", hand_on):
            yield

    def warm_up(self) -> None:
        """Steps that do not count."""
        steps = WARM_UP["cuda" if self.variant.compile else self.device]
        with self.ready():
            for _ in range(steps):
                self.train()
        synchronize(self.device)

    def seconds(self) -> dict[str, float]:
        """Seconds of one step and of its parts.

        On an accelerator the parts are those of a second step that waits between
        them; ``total`` is of one that does not.
        """
        with self.ready():
            if self.device == "cpu":
                parts = self._parts()
                return dict(parts, total=sum(parts.values()))
            synchronize(self.device)
            start = time.perf_counter()
            self.train()
            synchronize(self.device)
            total = time.perf_counter() - start
            return dict(self._parts(), total=total)

    def _parts(self) -> dict[str, float]:
        def clock() -> float:
            synchronize(self.device)
            return time.perf_counter()

        meter = Meter(clock)
        with metered(meter, self.model, self.optim_wrapper), meter.part("forward"):
            self.train()
        return {name: meter.parts[name] for name in PARTS}


def compare_steps(variants: Sequence[Variant], batch: int, pairs: int) -> Report:
    """Time the variants' steps in turn, ``pairs`` times, against the first one's.

    Raises:
        InputError: for a batch or number of pairs that cannot be.
    """
    if pairs < 1:
        raise InputError(f"--pairs {pairs}: give 1 or more")
    counts = [count_work(v, batch) for v in variants]
    steps = [Step(v, batch) for v in variants]
    for step in steps:
        step.warm_up()
    seconds: list[list[dict]] = [[] for _ in steps]
    for _ in range(pairs):
        for found, step in zip(seconds, steps, strict=True):
            found.append(step.seconds())
            gc.collect()
    baseline = [s["total"] for s in seconds[0]]
    rows = [
        dict(
            _row(step, found, count), **ratio_to(baseline, [s["total"] for s in found])
        )
        for step, found, count in zip(steps, seconds, counts, strict=True)
    ]
    notes = [
        "seconds: of the step whose total is the median; Gmac: 1e9 multiply-adds per "
        "image, forward and backward; peak: of a large matrix product in that dtype; "
        "ratio: baseline's total by this one's, median of the pairs"
    ]
    if steps[0].device == "cuda":
        notes.append(
            "parts: of a second step that waits after each; together more than total"
        )
    return Report(rows, COLUMNS, notes, dict(batch=batch, pairs=pairs))


COLUMNS = (
    Column("name", "variant"),
    Column("dtype", "dtype"),
    *(Column(part, part.replace("_", " "), ".3f") for part in PARTS),
    Column("total", "total s", ".3f"),
    Column("images_per_second", "images/s", ".2f"),
    Column("giga_mac_per_image", "Gmac", ".2f"),
    Column("tera_flops", "TFLOP/s", ".3f"),
    Column("share_of_peak", "of peak", ".0%"),
    *RATIO,
)


def _row(step: Step, seconds: list[dict], count: Count) -> dict:
    """Figures of a variant; its seconds are those of the median step."""
    middle = statistics.median_low([s["total"] for s in seconds])
    chosen = next(s for s in seconds if s["total"] == middle)
    flops = 2 * count.total * step.batch / middle
    peak = matmul_peak(step.device, step.dtype)
    return dict(
        name=step.variant.name,
        dtype=step.dtype,
        compile=step.variant.compile,
        **chosen,
        images_per_second=step.batch / middle,
        giga_mac_per_image=count.total / 1e9,
        giga_mac_parts={p: getattr(count, p) / 1e9 for p in COUNTED},
        tera_flops=flops / 1e12,
        matmul_peak_tera_flops=peak / 1e12,
        share_of_peak=flops / peak,
        seconds=seconds,
    )
