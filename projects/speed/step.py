"""Time of a training step, part by part."""

import time
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import torch
from mmengine.config import Config
from mmengine.model import convert_sync_batchnorm
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODEL_WRAPPERS
from torch import nn
from torch.utils.benchmark import Timer

from mcl.engine.acceleration import compile_parts

from .count import count_work
from .report import RATIO, Report, compare, synchronize
from .variants import Variant, precision, random_batch

# Optimizer steps K of the averaging's schedule; no figure depends on it.
TOTAL_STEPS = 31200
# Steps before the clock starts: compilers, and cuDNN's choice of algorithms.
WARM_UP = dict(cpu=1, cuda=3)
# Sides of the square matrices whose product stands for the peak.
MATMUL_SIDE = dict(cpu=2048, cuda=8192)


class Clock:
    """Seconds between marks; on a GPU by its own events, so that nothing waits."""

    def __init__(self, device: str) -> None:
        self.device, self.marks = device, []
        synchronize(device)
        self.mark("start")

    def mark(self, name: str) -> None:
        """The part called ``name`` is done."""
        if self.device == "cuda":
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.perf_counter()
        self.marks.append((name, now))

    def seconds(self) -> dict[str, float]:
        """Seconds of each part."""
        synchronize(self.device)
        gpu = self.device == "cuda"
        return {
            name: a.elapsed_time(b) / 1000 if gpu else b - a
            for (_, a), (name, b) in pairwise(self.marks)
        }


class Step:
    """Training steps of a variant, again and again on one batch of noise.

    Model, optimizer, its wrapper and the target's update are the config's own. There
    is no gradient accumulation.

    Args:
        variant: what to run.
        batch: images per process.
        distributed: whether to wrap the model for several processes.
    """

    def __init__(self, variant: Variant, batch: int, distributed: bool = False) -> None:
        cfg = variant.load()
        self.variant, self.batch, self.device = variant, batch, variant.device
        self.dtype = precision(cfg)
        torch.backends.cudnn.benchmark = bool(cfg.env_cfg.get("cudnn_benchmark"))
        self.model = variant.build_model(cfg).to(self.device)
        settings = cfg.optim_wrapper.to_dict()
        settings.pop("accumulative_counts", None)
        self.optim_wrapper: OptimWrapper = build_optim_wrapper(self.model, settings)
        self.data = random_batch(self.model, batch, self.device)
        if variant.compile:
            compile_parts(self.model)
        self.trained = self._wrap(cfg) if distributed else self.model

    def _wrap(self, cfg: Config) -> nn.Module:
        if cfg.get("sync_bn"):
            self.model = convert_sync_batchnorm(self.model, cfg.sync_bn)
        default = dict(type="MMDistributedDataParallel", broadcast_buffers=False)
        settings = dict(cfg.get("model_wrapper_cfg") or default)
        if self.device == "cuda":
            settings["device_ids"] = [torch.cuda.current_device()]
        return MODEL_WRAPPERS.build(dict(settings, module=self.model))

    def run(self) -> dict[str, float]:
        """One step, as ``train_step`` and ``TargetUpdateHook`` do it; its seconds."""
        clock = Clock(self.device)
        with self.optim_wrapper.optim_context(self.trained):
            losses = self.trained(**self.data, mode="loss")
        loss, _ = self.model.parse_losses(losses)
        clock.mark("forward")
        self.optim_wrapper.backward(loss)
        clock.mark("backward")
        self.optim_wrapper.step()
        self.optim_wrapper.zero_grad()
        clock.mark("optimizer")
        if hasattr(self.model, "update_target"):
            self.model.update_target(TOTAL_STEPS)
        clock.mark("target_update")
        return clock.seconds()

    def warm_up(self) -> None:
        """Steps that do not count."""
        for _ in range(WARM_UP["cuda" if self.variant.compile else self.device]):
            self.run()


@cache
def matmul_peak(device: str, dtype: str) -> float:
    """FLOP/s, a multiply-add being two, of a large matrix product.

    Args:
        device: ``cpu`` or ``cuda``.
        dtype: name of a torch dtype, such as ``bfloat16``.
    """
    side = MATMUL_SIDE[device]
    a, b = torch.randn(2, side, side, device=device, dtype=getattr(torch, dtype))
    threads = torch.get_num_threads()
    timer = Timer("a @ b", globals=dict(a=a, b=b), num_threads=threads)
    return 2 * side**3 / timer.blocked_autorange(min_run_time=1).median


def compare_steps(variants: Sequence[Variant], batch: int, pairs: int) -> Report:
    """Time of the variants' training steps, in turn, part by part."""
    counts = [count_work(v, batch) for v in variants]
    steps = [Step(v, batch) for v in variants]
    for step in steps:
        step.warm_up()
    rows = compare({step.variant.name: step.run for step in steps}, pairs)
    for row, step, count in zip(rows, steps, counts, strict=True):
        speed = batch / row["total"]
        tera_flops = 2 * count["total"] * speed / 1e3
        peak = matmul_peak(step.device, step.dtype) / 1e12
        row.update(
            dtype=step.dtype,
            images_per_second=speed,
            Gmac=count["total"],
            tera_flops=tera_flops,
            matmul_tera_flops=peak,
            of_matmul=tera_flops / peak,
        )
    return Report(rows, COLUMNS, NOTE, dict(batch=batch, pairs=pairs))


COLUMNS = {
    "name": "",
    "dtype": "",
    **dict.fromkeys(
        ("forward", "backward", "optimizer", "target_update", "total"), ".3f"
    ),
    "images_per_second": ".2f",
    "Gmac": ".2f",
    "tera_flops": ".3f",
    "of_matmul": ".0%",
    **RATIO,
}
NOTE = """seconds, of the median step; with early_backward the gradient of view 1 is in
forward; Gmac: 1e9 multiply-adds per image; of matmul: share of a large product's speed;
ratio: first row's total by this one's, median of the pairs"""
