"""Montage: crops of a batch to canvases (paper, section 3; figure 2)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS
from torch import Tensor

from ..errors import InputError
from ..levels import check_ratios, check_size


class View(NamedTuple):
    """One view of a batch of B images, level after level.

    Attributes:
        canvases: (n_l, 3, S, S) for each level; level 0 is every image alone. Tiles
            that are not laid on canvases: (n_l * r_l**2, 3, S / r_l, S / r_l).
        image_index: (n_l * r_l**2,) for each level: the image, 0..B-1, on each
            tile, row by row, canvas after canvas.
    """

    canvases: list[Tensor]
    image_index: list[Tensor]


@TRANSFORMS.register_module()
class Montage(BaseTransform):
    """Lay the crops of each level, shuffled over the batch, on canvases.

    Level l has n_l canvases of r_l x r_l tiles. By default n_l = B // r_l**2, and
    the last level twice as many, each at least 1. Where the slots n_l * r_l**2
    suffice for all images, a random permutation of the slots modulo B says which
    image each tile shows; where they do not, a random subset of the images.

    Unlike most transforms it works on a batch, on the device the crops are on.

    Required Keys:
        - crops: (B, 3, S / r_l, S / r_l) for each level
        - generator (optional): a CPU ``torch.Generator`` to draw from

    Added Keys:
        - view (:class:`View`)

    Args:
        size: canvas side S in pixels, a multiple of 32.
        ratios: tiles along a canvas side, per level.
        canvases: number of canvases for each level; ``None``, for all or for one
            level, means the default. Level 0 takes the default only: the targets
            are its images.
        shuffle: whether tiles are drawn; otherwise the images lie in the order of
            the batch, over and over (a control: fixed places).
        on_canvas: whether tiles are laid on canvases; otherwise each stays an image
            of its own, stacked along the batch (a control: MultiCrop).

    Raises:
        InputError: for a size, ratio, count or switch that cannot work, or crops of
            another size.

    Example:
        >>> import torch
        >>> montage = Montage(size=64, ratios=(1, 2))
        >>> crops = [torch.zeros(8, 3, 64, 64), torch.zeros(8, 3, 32, 32)]
        >>> view = montage(dict(crops=crops))['view']
        >>> [tuple(c.shape) for c in view.canvases]
        [(8, 3, 64, 64), (4, 3, 64, 64)]
        >>> [len(i) for i in view.image_index]
        [8, 16]
    """

    def __init__(
        self,
        size: int = 224,
        ratios: Sequence[int] = (1, 2, 4, 8),
        canvases: Sequence[int | None] | None = None,
        shuffle: bool = True,
        on_canvas: bool = True,
    ) -> None:
        self.size = check_size(size)
        self.ratios = check_ratios(ratios)
        for name, switch in dict(shuffle=shuffle, on_canvas=on_canvas).items():
            if not isinstance(switch, bool):
                raise InputError(f"{name}={switch!r}: say True or False")
        self.shuffle = shuffle
        self.on_canvas = on_canvas
        if canvases is None:
            canvases = [None] * len(self.ratios)
        self.canvases = tuple(canvases)
        if len(self.canvases) != len(self.ratios) or self.canvases[0] is not None:
            raise InputError(
                f"canvases={canvases}: give one count for each of the ratios "
                f"{self.ratios}, the first of them None (every image alone)"
            )
        counts = [n for n in self.canvases if n is not None]
        if not all(isinstance(n, int) and n >= 1 for n in counts):
            raise InputError(
                f"canvases={canvases}: a count is None or a whole number from 1 on"
            )

    def num_canvases(self, batch_size: int) -> tuple[int, ...]:
        """Number of canvases of each level for a batch of B images."""
        counts = []
        for ratio, count in zip(self.ratios, self.canvases, strict=True):
            twice = 2 if ratio == self.ratios[-1] and ratio > 1 else 1
            counts.append(count or max(1, twice * batch_size // ratio**2))
        return tuple(counts)

    def transform(self, results: dict) -> dict:
        crops, generator = results["crops"], results.get("generator")
        self._check(crops)
        batch_size, device = len(crops[0]), crops[0].device
        index = [torch.arange(batch_size)]
        for ratio, count in zip(
            self.ratios[1:], self.num_canvases(batch_size)[1:], strict=True
        ):
            slots = count * ratio**2
            if self.shuffle:
                index.append(sample_image_index(batch_size, slots, generator))
            else:
                index.append(torch.arange(slots) % batch_size)
        index = [i.to(device, non_blocking=True) for i in index]
        canvases = [crops[0]]
        for crop, i, ratio in zip(crops[1:], index[1:], self.ratios[1:], strict=True):
            canvases.append(lay_tiles(crop[i], ratio) if self.on_canvas else crop[i])
        results["view"] = View(canvases, index)
        return results

    def _check(self, crops: Sequence[Tensor]) -> None:
        expected = [self.size // r for r in self.ratios]
        sides = [tuple(c.shape[-2:]) for c in crops]
        if sides != [(s, s) for s in expected]:
            raise InputError(
                f"crops have sides {sides}, but size={self.size} and ratios="
                f"{self.ratios} ask for {expected}: give the model and MultiLevelViews "
                "(train_dataloader.dataset.dataset.pipeline.1) the same size and ratios"
            )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(size={self.size}, ratios={self.ratios}, "
            f"canvases={self.canvases}, shuffle={self.shuffle}, "
            f"on_canvas={self.on_canvas})"
        )


def sample_image_index(
    batch_size: int, slots: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draw the image, 0..B-1, of each slot: (slots,)."""
    if slots >= batch_size:
        return torch.randperm(slots, generator=generator) % batch_size
    return torch.randperm(batch_size, generator=generator)[:slots]


def lay_tiles(tiles: Tensor, ratio: int) -> Tensor:
    """Lay (n * r * r, C, h, w) tiles row by row on (n, C, r * h, r * w) canvases."""
    if ratio == 1:
        return tiles
    channels, height, width = tiles.shape[1:]
    grid = tiles.view(-1, ratio, ratio, channels, height, width)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(
        -1, channels, ratio * height, ratio * width
    )


def cut_tiles(canvases: Tensor, ratio: int) -> Tensor:
    """Cut (n, C, r * h, r * w) maps into (n * r * r, C, h, w): undoes `lay_tiles`.

    The tiles lie in memory as the maps do, channels first or last.
    """
    if ratio == 1:
        return canvases
    channels, height, width = canvases.shape[1:]
    first = canvases.is_contiguous()
    if first:
        canvases = _ContiguousGradient.apply(canvases)
    grid = canvases.view(-1, channels, ratio, height // ratio, ratio, width // ratio)
    if first:
        tiles = grid.permute(0, 2, 4, 1, 3, 5)
        return tiles.reshape(-1, channels, height // ratio, width // ratio)
    tiles = grid.permute(0, 2, 4, 3, 5, 1)
    tiles = tiles.reshape(-1, height // ratio, width // ratio, channels)
    return tiles.permute(0, 3, 1, 2)


class _ContiguousGradient(torch.autograd.Function):
    """Identity that lays out its gradient as its tensor is, channels first.

    Of a single canvas with tiles of one cell it comes back with permuted strides,
    for which torch's batch norm on the CPU (seen in 2.4 and 2.15) computes a wrong
    gradient. Already contiguous ones, the usual case, are not copied.
    """

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient.contiguous()
