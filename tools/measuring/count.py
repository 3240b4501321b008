"""Work of a step, counted on tensors without numbers."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import NamedTuple
from unittest import mock

import torch
from mmengine.optim import OptimWrapper
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from mcl.errors import InputError

from .meter import Meter, metered
from .noise import hand_on, random_batch
from .report import Column, Report
from .variants import Variant


class Count(NamedTuple):
    """Work of a step.

    Attributes:
        forward: multiply-adds per image of the online network's forward passes, in
            convolutions and matrix products.
        target: of the target network's, 0 where there is none.
        backward: of the gradients, and of what is computed again for them.
        norm_passes: exchanges between processes that synchronized batch norm needs:
            one for each call of a layer, one more for its gradient.
        trained: number of weights that get a gradient.
    """

    forward: float
    target: float
    backward: float
    norm_passes: int
    trained: int

    @property
    def total(self) -> float:
        return self.forward + self.target + self.backward


def count_work(variant: Variant, batch: int) -> Count:
    """Count the work of one step; precision and compilation make no difference.

    Raises:
        InputError: for a batch of less than 2 images.
    """
    if batch < 2:
        raise InputError(f"--batch {batch}: batch norm needs at least 2 images")
    model = variant.build_model(variant.load()).to("meta")
    weights = [p for p in model.parameters() if p.requires_grad]
    wrapper = OptimWrapper(torch.optim.SGD(weights, lr=0.0))
    data = random_batch(model, batch, "meta")
    with ExitStack() as stack:
        # Autocast does not know the device `meta`, nor does the checkpointing of torch
        # 2.4, which looks for a module of that name.
        for patch in (
            mock.patch("torch.autocast", lambda *_, **__: nullcontext()),
            mock.patch.object(torch, "meta", torch.cpu, create=True),
            mock.patch.object(model.data_preprocessor, "forward", hand_on),
        ):
            stack.enter_context(patch)
        passes = stack.enter_context(norm_passes(model))
        counter = stack.enter_context(FlopCounterMode(display=False))
        meter = Meter(counter.get_total_flops)
        stack.enter_context(metered(meter, model, wrapper))
        if hasattr(model, "target"):
            forward = meter.wrap("target", model.target.forward)
            stack.enter_context(mock.patch.object(model.target, "forward", forward))
        stack.enter_context(meter.part("forward"))
        model.train_step(data, wrapper)
    parts = [meter.parts[p] / 2 / batch for p in ("forward", "target", "backward")]
    return Count(*parts, sum(passes), sum(w.numel() for w in weights))


@contextmanager
def norm_passes(model: nn.Module) -> Iterator[list[int]]:
    """Inside, each call of a batch norm in training appends its exchanges."""
    found: list[int] = []

    def note(module: nn.Module, _) -> None:
        if module.training:
            found.append(2 if torch.is_grad_enabled() else 1)

    layers = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def compare_counts(variants: Sequence[Variant], batch: int) -> Report:
    """Work of the variants' steps, against the first one's."""
    counts = [count_work(variant, batch) for variant in variants]
    giga = ("forward", "target", "backward", "total")
    rows = [
        dict(
            name=variant.name,
            **{part: getattr(count, part) / 1e9 for part in giga},
            norm_passes=count.norm_passes,
            mega_trained=count.trained / 1e6,
            ratio=counts[0].total / count.total,
        )
        for variant, count in zip(variants, counts, strict=True)
    ]
    columns = (
        Column("name", "variant"),
        *(Column(part, part, ".3f") for part in giga),
        Column("ratio", "ratio", ".2f"),
        Column("norm_passes", "norm passes"),
        Column("mega_trained", "M weights", ".3f"),
    )
    notes = [
        "1e9 multiply-adds per image; ratio: baseline's total by this one's; norm "
        "passes: exchanges of synchronized batch norm in a step; M weights: trained"
    ]
    return Report(rows, columns, notes, dict(batch=batch))
