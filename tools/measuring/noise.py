"""Batches of noise, in the shapes that a model's preprocessor gives."""

import torch
from mmpretrain.structures import DataSample
from torch import nn

from mcl.datasets import Montage, View


def random_view(montage: Montage, batch: int, device: str) -> View:
    """Normal noise of the shapes that a montage makes of ``batch`` images."""
    canvases, index = [], []
    for n, r in zip(montage.num_canvases(batch), montage.ratios, strict=True):
        number, side = n, montage.size
        if not getattr(montage, "on_canvas", True):
            number, side = n * r * r, montage.size // r
        canvases.append(torch.randn(number, 3, side, side, device=device))
        index.append(torch.arange(n * r * r, device=device) % batch)
    return View(canvases, index)


def random_batch(model: nn.Module, batch: int, device: str) -> dict:
    """What the preprocessor of a model would give for ``batch`` images of noise."""
    preprocessor = model.data_preprocessor
    views = [
        random_view(preprocessor.montage, batch, device)
        for _ in range(preprocessor.num_views)
    ]
    samples = None
    classes = getattr(model.head, "num_classes", None)
    if classes:
        samples = [DataSample().set_gt_label(i % classes) for i in range(batch)]
    return dict(inputs=views, data_samples=samples)


def hand_on(data: dict, training: bool = False) -> dict:
    """In place of a preprocessor's ``forward``: the batch as it is."""
    return data
