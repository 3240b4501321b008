"""Measure a training step: `selected` against `full` computation.

    python tools/benchmark.py time   [--batch 16] [--pairs 5]
    python tools/benchmark.py memory [--batch 16]
    python tools/benchmark.py count  [--batch 128]

`time` runs both in turn, on this machine's device, and gives the median of the
pairs' ratios. `memory` takes the peak resident memory of a fresh process less
that before its first step. `count` counts multiply-adds without computing.
A step is forward of both views, backward, SGD and the target's update.
"""

import argparse
import gc
import json
import logging
import resource
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch.utils.flop_counter import FlopCounterMode

import mcl
from mcl.datasets import View

CONFIG = "configs/mcl/mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"
COMPUTATIONS = ("full", "selected")


class Step:
    """One training step of a config's model on random canvases."""

    def __init__(self, computation: str, batch: int, device: str) -> None:
        cfg = Config.fromfile(Path(mcl.__file__).parents[1] / CONFIG)
        init_default_scope("mmpretrain")
        cfg.model.neck.computation = computation
        self.model = MODELS.build(cfg.model).to(device).train()
        weights = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(weights, lr=1e-3, momentum=0.9)
        self.device = device
        self.views = [self.random_view(batch) for _ in range(2)]

    def random_view(self, batch: int) -> View:
        montage = self.model.data_preprocessor.montage
        counts = montage.num_canvases(batch)
        side = montage.size
        canvases = [torch.randn(n, 3, side, side, device=self.device) for n in counts]
        index = [
            torch.arange(n * r * r, device=self.device) % batch
            for n, r in zip(counts, montage.ratios, strict=True)
        ]
        return View(canvases, index)

    def forward_backward(self) -> None:
        losses = self.model.loss(self.views)
        sum(v for k, v in losses.items() if k.startswith("loss")).backward()

    def __call__(self) -> float:
        """Seconds of one step."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        self.forward_backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.model.update_target(100)
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def measure_time(args: argparse.Namespace) -> dict:
    steps = {c: Step(c, args.batch, args.device) for c in COMPUTATIONS}
    for step in steps.values():
        step()
    seconds = {c: [] for c in COMPUTATIONS}
    for _ in range(args.pairs):
        for computation, step in steps.items():
            seconds[computation].append(step())
            gc.collect()
    ratios = [f / s for f, s in zip(seconds["full"], seconds["selected"], strict=True)]
    return dict(
        seconds={c: [round(t, 2) for t in ts] for c, ts in seconds.items()},
        ratio=round(statistics.median(ratios), 2),
        ratios=[round(r, 2) for r in ratios],
    )


def measure_memory(args: argparse.Namespace) -> dict:
    """Peak memory of a step in MiB, each in a process of its own."""
    peak = {}
    for computation in COMPUTATIONS:
        command = [sys.executable, __file__, "_peak", "--batch", str(args.batch)]
        command += ["--device", args.device, "--computation", computation]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak[computation] = json.loads(done.stdout.splitlines()[-1])["mib"]
    ratio = round(peak["selected"] / peak["full"], 2)
    return dict(mib=peak, ratio=ratio)


def measure_peak(args: argparse.Namespace) -> dict:
    step = Step(args.computation, args.batch, args.device)
    if args.device == "cuda":
        before = torch.cuda.memory_allocated()
        step()
        return dict(mib=round((torch.cuda.max_memory_allocated() - before) / 2**20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return dict(mib=round((after - before) / 1024))


def measure_count(args: argparse.Namespace) -> dict:
    """Multiply-adds per image of forward and backward, in units of 1e9."""
    counts = {}
    for computation in COMPUTATIONS:
        # Tensors on `meta` have shapes and no numbers; autocast does not know it.
        step = Step(computation, args.batch, "meta")
        no_autocast = mock.patch("torch.autocast", lambda *_, **__: nullcontext())
        with no_autocast, FlopCounterMode(display=False) as counter:
            step.forward_backward()
        counts[computation] = counter.get_total_flops() / 2 / args.batch / 1e9
    ratio = counts["full"] / counts["selected"]
    return dict(
        giga_mac_per_image={c: round(n, 1) for c, n in counts.items()},
        ratio=round(ratio, 2),
    )


MEASURES = dict(
    time=measure_time, memory=measure_memory, count=measure_count, _peak=measure_peak
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measure", choices=MEASURES, metavar="time|memory|count")
    parser.add_argument("--batch", type=int, help="images; 16, for count 128")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--computation", choices=COMPUTATIONS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.batch = args.batch or (128 if args.measure == "count" else 16)
    logging.disable(logging.WARNING)
    result = MEASURES[args.measure](args)
    print(json.dumps(dict(batch=args.batch, device=args.device, **result)))


if __name__ == "__main__":
    main()
