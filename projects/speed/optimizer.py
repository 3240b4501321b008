"""The config's LARS and moving average against the hosts' own."""

import copy
from collections.abc import Callable, Sequence

import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import build_optim_wrapper
from mmpretrain.engine.optimizers.lars import LARS
from torch import nn
from torch.optim import Optimizer
from torch.utils.benchmark import Timer

from mcl.errors import InputError

from .report import RATIO, Report, compare
from .step import TOTAL_STEPS
from .variants import Variant

# Of the random gradients: small, so that the weights stay what they are.
GRADIENT = 1e-3
# What a group of LARS says.
SETTINGS = ("lr", "momentum", "weight_decay", "eta", "lars_exclude")


def compare_optimizers(variants: Sequence[Variant], pairs: int) -> Report:
    """LARS and target update in turn with those of MMPretrain and MMEngine.

    Raises:
        InputError: when the config's optimizer is not LARS.
    """
    (variant,) = variants
    cfg = variant.load()
    kind = str(cfg.optim_wrapper.optimizer.type)
    if "LARS" not in kind or cfg.model.type != "MCL":
        raise InputError(
            f"config {variant.config}: {cfg.model.type} with {kind}; give MCL with LARS"
        )
    model = variant.build_model(cfg).to(variant.device)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    twin = copy.deepcopy(model)
    weights = zip(model.parameters(), twin.parameters(), strict=True)
    copies = {w: same for w, same in weights if w.requires_grad}
    for weight, same in copies.items():
        weight.grad = torch.randn_like(weight) * GRADIENT
        same.grad = weight.grad.clone()
    config = (optimizer.step, lambda: model.update_target(TOTAL_STEPS))
    hosts = _hosts(twin, optimizer, copies)
    # The first step makes the momenta, and MMEngine's first update is a copy.
    for part in (*hosts, *config):
        part()
    with torch.no_grad():
        gaps = [
            (w - s).abs().max() / w.abs().max() for w, s in copies.items() if w.any()
        ]
    sides = dict(hosts=lambda: _seconds(*hosts), config=lambda: _seconds(*config))
    rows = compare(sides, pairs)
    for row in rows:
        row.update({f"{p}_ms": 1000 * row[p] for p in ("lars", "average", "total")})
    facts = dict(pairs=pairs, optimizer=kind, difference=float(max(gaps)))
    return Report(rows, COLUMNS, NOTE, facts)


def _hosts(model: nn.Module, ours: Optimizer, copies: dict) -> tuple[Callable, ...]:
    """A step of MMPretrain's LARS, set as ``ours``, and one of MMEngine's average."""
    groups = []
    for group in ours.param_groups:
        settings = {k: group[k] for k in SETTINGS if k in group}
        groups.append(dict(settings, params=[copies[w] for w in group["params"]]))
    lars = LARS(groups, lr=ours.defaults["lr"])
    online = nn.ModuleList([model.backbone, model.neck])
    average = ExponentialMovingAverage(online, momentum=0.01)
    return lars.step, lambda: average.update_parameters(online)


def _seconds(step: Callable, update: Callable) -> dict[str, float]:
    threads = torch.get_num_threads()
    return {
        name: Timer("f()", globals=dict(f=part), num_threads=threads).timeit(1).mean
        for name, part in dict(lars=step, average=update).items()
    }


COLUMNS = dict(name="", lars_ms=".2f", average_ms=".2f", total_ms=".2f", **RATIO)
NOTE = """hosts: MMPretrain's LARS and MMEngine's ExponentialMovingAverage; difference:
of the weights after one step, relative; ratio: hosts' total by this one's, median"""
