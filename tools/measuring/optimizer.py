"""The config's LARS and moving average against the hosts' own."""

import copy
import statistics
import time
from collections.abc import Callable

import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import build_optim_wrapper
from mmpretrain.engine.optimizers.lars import LARS
from torch import nn

from mcl.errors import InputError

from .machine import synchronize
from .report import RATIO, Column, Report, ratio_to
from .step import TOTAL_STEPS
from .variants import Variant

# Of the random gradients: small, so that the weights stay what they are.
GRADIENT = 1e-3


class Ours:
    """The config's optimizer and target update, on the model's own tensors."""

    name = "config"

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer

    def update(self) -> None:
        if hasattr(self.model, "update_target"):
            self.model.update_target(TOTAL_STEPS)


class Hosts:
    """MMPretrain's LARS and MMEngine's average on copies of the same tensors."""

    name = "hosts"

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model = copy.deepcopy(model)
        copies = dict(zip(model.parameters(), self.model.parameters(), strict=True))
        groups = []
        for group in optimizer.param_groups:
            settings = {k: v for k, v in group.items() if k in KEPT}
            groups.append(dict(settings, params=[copies[p] for p in group["params"]]))
        for weight, twin in copies.items():
            twin.grad = None if weight.grad is None else weight.grad.clone()
        self.optimizer = LARS(groups, lr=optimizer.defaults["lr"])
        self.average = None
        if hasattr(model, "target"):
            self.online = nn.ModuleList([self.model.backbone, self.model.neck])
            self.average = ExponentialMovingAverage(self.online, momentum=0.01)

    def update(self) -> None:
        if self.average is not None:
            self.average.update_parameters(self.online)


# What a group of LARS says, and the hosts' class understands.
KEPT = (
    "lr",
    "momentum",
    "weight_decay",
    "dampening",
    "nesterov",
    "eta",
    "lars_exclude",
)


def compare_optimizers(variant: Variant, pairs: int) -> Report:
    """Time one optimizer step and one target update of both, in turn.

    Raises:
        InputError: when the config's optimizer is not LARS.
    """
    if pairs < 1:
        raise InputError(f"--pairs {pairs}: give 1 or more")
    cfg = variant.load()
    kind = str(cfg.optim_wrapper.optimizer.type)
    if "LARS" not in kind:
        raise InputError(
            f"config {variant.config}: its optimizer is {kind}; give one with LARS"
        )
    model = variant.build_model(cfg).to(variant.device)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    for weight in model.parameters():
        if weight.requires_grad:
            weight.grad = torch.randn_like(weight) * GRADIENT
    both = [Hosts(model, optimizer), Ours(model, optimizer)]
    # The first step makes the momenta, and MMEngine's first update is a copy.
    for side in both:
        _seconds(side, variant.device)
    difference = _difference(*(side.model for side in both))
    seconds = [[_seconds(side, variant.device) for side in both] for _ in range(pairs)]
    columns = list(zip(*seconds, strict=True))
    baseline = [s["total"] for s in columns[0]]
    rows = [
        dict(_row(side.name, found), **ratio_to(baseline, [s["total"] for s in found]))
        for side, found in zip(both, columns, strict=True)
    ]
    notes = [
        "hosts: MMPretrain's LARS and MMEngine's ExponentialMovingAverage; after one "
        f"step the weights differ by {difference:.1e} of a tensor's largest, at most"
    ]
    facts = dict(pairs=pairs, optimizer=kind, difference=difference)
    return Report(rows, COLUMNS, notes, facts)


COLUMNS = (
    Column("name", "whose"),
    Column("optimizer_ms", "LARS ms", ".2f"),
    Column("average_ms", "average ms", ".2f"),
    Column("total_ms", "total ms", ".2f"),
    *RATIO,
)


def _seconds(side: Ours | Hosts, device: str) -> dict[str, float]:
    steps: list[Callable] = [side.optimizer.step, side.update]
    times = []
    for step in steps:
        synchronize(device)
        start = time.perf_counter()
        step()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return dict(optimizer=times[0], average=times[1], total=sum(times))


def _difference(one: nn.Module, other: nn.Module) -> float:
    """Largest difference of trained weights, by the largest of each tensor."""
    most = 0.0
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        if a.requires_grad:
            gap, scale = (a - b).abs().max(), a.abs().max().clamp(min=1e-12)
            most = max(most, float((gap / scale).detach()))
    return most


def _row(name: str, seconds: tuple[dict, ...]) -> dict:
    middle = statistics.median_low([s["total"] for s in seconds])
    chosen = next(s for s in seconds if s["total"] == middle)
    return dict(
        name=name,
        **{f"{k}_ms": 1000 * v for k, v in chosen.items()},
        seconds=list(seconds),
    )
