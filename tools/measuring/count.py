"""Multiply-adds of a step, counted on tensors without numbers."""

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from unittest import mock

import torch
from mmengine.optim import OptimWrapper
from torch.utils.flop_counter import FlopCounterMode

from mcl.errors import InputError

from .meter import Meter, metered
from .noise import hand_on, random_batch
from .report import Column, Report
from .variants import Variant


def count_multiply_adds(variant: Variant, batch: int) -> dict[str, float]:
    """Multiply-adds per image of one step: convolutions and matrix products.

    Args:
        variant: what to count; precision and compilation make no difference.
        batch: images.

    Returns:
        ``forward`` of the online network, ``target``, the forward of the target
        network, 0 where there is none, ``backward`` and their sum, ``total``.
    """
    model = variant.build_model(variant.load()).to("meta")
    weights = [p for p in model.parameters() if p.requires_grad]
    wrapper = OptimWrapper(torch.optim.SGD(weights, lr=0.0))
    data = random_batch(model, batch, "meta")
    with ExitStack() as stack:
        # Autocast does not know the device `meta`.
        for patch in (
            mock.patch("torch.autocast", lambda *_, **__: nullcontext()),
            mock.patch.object(model.data_preprocessor, "forward", hand_on),
        ):
            stack.enter_context(patch)
        counter = stack.enter_context(FlopCounterMode(display=False))
        meter = Meter(counter.get_total_flops)
        stack.enter_context(metered(meter, model, wrapper))
        if hasattr(model, "target"):
            forward = meter.wrap("target", model.target.forward)
            stack.enter_context(mock.patch.object(model.target, "forward", forward))
        stack.enter_context(meter.part("forward"))
        model.train_step(data, wrapper)
    parts = {p: meter.parts[p] / 2 / batch for p in ("forward", "target", "backward")}
    return dict(parts, total=sum(parts.values()))


def compare_counts(variants: Sequence[Variant], batch: int) -> Report:
    """Multiply-adds of the variants' steps, against the first one's."""
    if batch < 2:
        raise InputError(f"--batch {batch}: batch norm needs at least 2 images")
    rows = []
    for variant in variants:
        found = count_multiply_adds(variant, batch)
        row = dict(name=variant.name, **{k: v / 1e9 for k, v in found.items()})
        rows.append(dict(row, ratio=(rows or [row])[0]["total"] / row["total"]))
    columns = (
        Column("name", "variant"),
        Column("forward", "forward", ".3f"),
        Column("target", "target", ".3f"),
        Column("backward", "backward", ".3f"),
        Column("total", "total", ".3f"),
        Column("ratio", "ratio", ".2f"),
    )
    notes = ["1e9 multiply-adds per image; ratio: baseline's total by this one's"]
    return Report(rows, columns, notes, dict(batch=batch))
