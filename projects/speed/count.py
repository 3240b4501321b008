"""Work of a step, counted on tensors without numbers."""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from unittest import mock

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from mcl.datasets import View

from .report import Report
from .variants import Variant, random_batch


def count_work(variant: Variant, batch: int) -> dict[str, float]:
    """Count the work of one step; precision and compilation make no difference.

    Returns:
        1e9 multiply-adds per image of convolutions and matrix products: ``forward`` of
        the online network, ``target``, ``backward`` with what is computed again for it,
        ``total``. With ``early_backward`` view 1's gradient is in ``forward``.
        ``norm_passes``, exchanges of synchronized batch norm: one for each call of a
        layer, one more for its gradient. ``mega_weights``: 1e6 trained weights.
    """
    model = variant.build_model(variant.load())
    data = random_batch(model, batch, "cpu")
    views = [View(*map(_without_numbers, view)) for view in data["inputs"]]
    model.to("meta")

    targets = getattr(model, "embed_targets", lambda view: None)
    with (
        # Autocast does not know the device `meta`, nor does the checkpointing of torch
        # 2.4, which looks for a module of that name.
        mock.patch("torch.autocast", lambda *_, **__: nullcontext()),
        mock.patch.object(torch, "meta", torch.cpu, create=True),
        FlopCounterMode(display=False) as counter,
    ):
        flops = [counter.get_total_flops()]
        for view in views:
            targets(view)
        flops.append(counter.get_total_flops())
        passes = _note_norm_passes(model)
        loss, _ = model.parse_losses(model.loss(views, data["data_samples"]))
        flops.append(counter.get_total_flops())
        loss.backward()
        flops.append(counter.get_total_flops())
    target, forward, backward = ((b - a) / 2e9 / batch for a, b in pairwise(flops))
    trained = sum(w.numel() for w in model.parameters() if w.requires_grad)
    return dict(
        forward=forward - target,
        target=target,
        backward=backward,
        total=forward + backward,
        norm_passes=sum(passes),
        mega_weights=trained / 1e6,
    )


def _without_numbers(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.to("meta") for tensor in tensors]


def _note_norm_passes(model: nn.Module) -> list[int]:
    """A list to which each call of a batch norm appends its exchanges."""
    found: list[int] = []

    def note(module: nn.Module, _) -> None:
        if module.training:
            found.append(2 if torch.is_grad_enabled() else 1)

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(note)
    return found


def compare_counts(variants: Sequence[Variant], batch: int) -> Report:
    """Multiply-adds of the variants' steps, which are not computed."""
    rows = [dict(name=v.name, **count_work(v, batch)) for v in variants]
    for row in rows:
        row["ratio"] = rows[0]["total"] / row["total"]
    return Report(rows, COLUMNS, NOTE, dict(batch=batch))


COLUMNS = dict(name="", forward=".3f", target=".3f", backward=".3f", total=".3f")
COLUMNS |= dict(ratio=".2f", norm_passes="", mega_weights=".3f")
NOTE = """1e9 multiply-adds per image; ratio: first row's total by this one's; norm
passes: exchanges of synchronized batch norm in a step; mega weights: 1e6 trained"""
