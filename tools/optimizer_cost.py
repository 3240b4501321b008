"""Measure LARS and the target's update against the hosts' own, without a model pass.

    python tools/optimizer_cost.py [--repeats 9] [--threads 2] [--channels-last]

Weights are those of the ResNet-50 FPN recipe, gradients are random. The hosts' side
is MMPretrain's `LARS` and MMEngine's `ExponentialMovingAverage` of backbone and neck.
Both sides run in turn; times are medians in milliseconds.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import nn

import mcl
from mcl.engine import LARSConstructor

CONFIG = "configs/mcl/mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"


def build(cfg: Config, device: str, memory_format: torch.memory_format) -> nn.Module:
    init_default_scope("mmpretrain")
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.reset_target()
    return model.to(device, memory_format=memory_format)


def optimizer_of(model: nn.Module, cfg: Config, name: str) -> torch.optim.Optimizer:
    settings = copy.deepcopy(dict(cfg.optim_wrapper))
    settings = dict(type="OptimWrapper", optimizer=dict(settings["optimizer"]))
    settings["optimizer"].update(type=name, lr=1e-3)
    optimizer = LARSConstructor(settings)(model).optimizer
    torch.manual_seed(1)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.grad = torch.randn_like(weight) * 1e-3
    return optimizer


def host_side(*build_arguments) -> dict[str, Callable]:
    model = build(*build_arguments)
    optimizer = optimizer_of(model, build_arguments[0], "LARS")
    online = nn.ModuleList([model.backbone, model.neck])
    average = ExponentialMovingAverage(online, momentum=0.01)
    return dict(lars=optimizer.step, target=lambda: average.update_parameters(online))


def our_side(*build_arguments) -> dict[str, Callable]:
    model = build(*build_arguments)
    optimizer = optimizer_of(model, build_arguments[0], "MultiTensorLARS")
    return dict(lars=optimizer.step, target=lambda: model.update_target(31200))


def milliseconds(work: Callable, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def measure(
    repeats: int = 9, channels_last: bool = False, device: str = "cpu"
) -> dict[str, float]:
    """Medians in ms of each part of both sides, and the ratio of the sums.

    Args:
        repeats: timed steps of each side, in turn, after one that is not counted.
        channels_last: memory format of 4-D weights, gradients and buffers.
        device: ``cpu`` or ``cuda``.
    """
    formats = torch.contiguous_format, torch.channels_last
    arguments = (
        Config.fromfile(Path(mcl.__file__).parents[1] / CONFIG),
        device,
        formats[channels_last],
    )
    sides = dict(host=host_side(*arguments), ours=our_side(*arguments))
    times = {f"{s}_{part}": [] for s, parts in sides.items() for part in parts}
    for counted in [False] + [True] * repeats:
        for side, parts in sides.items():
            for part, work in parts.items():
                passed = milliseconds(work, device)
                if counted:
                    times[f"{side}_{part}"].append(passed)
    pairs = zip(*(times[k] for k in times), strict=True)
    ratio = statistics.median((a + b) / (c + d) for a, b, c, d in pairs)
    medians = {name: round(statistics.median(ms), 1) for name, ms in times.items()}
    return dict(medians, ratio=round(ratio, 2))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(json.dumps(measure(args.repeats, args.channels_last, args.device)))


if __name__ == "__main__":
    main()
