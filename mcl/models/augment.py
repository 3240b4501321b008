"""Color augmentation of a batch on the training device (paper, section 3).

:mod:`mcl.datasets.colors` samples the parameters and does the same for one crop on the
CPU. Here all crops of a level are processed at once, each with its own parameters. The
parameters are on the CPU, so choosing the crops of a step never waits for the device.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..datasets.colors import (
    CONTRAST,
    GRAY_WEIGHTS,
    HUE,
    SATURATION,
    Colors,
    blur_radius,
)

# Smaller than any difference between two values of an image.
MIN_CHROMA = 1e-12
# Pixels that a CPU processes at once. They fit into its cache.
CPU_CHUNK = 2**16


def paint_levels(crops: Sequence[Tensor], table: Tensor) -> list[Tensor]:
    """Change the colors of crops as the loader's workers have sampled it.

    Args:
        crops: C tensors of uint8 RGB (B, 3, h, w), on the device.
        table: (B, C, 11), :meth:`Colors.to_table` of each image, on the CPU.

    Returns:
        C tensors of uint8 RGB (B, 3, h, w).
    """
    return [
        paint_batch(crop, Colors.from_table(rows))
        for crop, rows in zip(crops, table.unbind(1), strict=True)
    ]


def paint_batch(crops: Tensor, colors: Colors) -> Tensor:
    """Apply its own row of ``colors`` to each of n uint8 RGB crops (n, 3, h, w)."""
    # The preprocessor runs inside autocast, whose 16-bit floats are too coarse here.
    with torch.autocast(crops.device.type, enabled=False):
        if crops.device.type != "cpu":
            return _round(apply(crops.float() / 255, colors))
        size = max(1, CPU_CHUNK // crops[0, 0].numel())
        chunks = [slice(i, i + size) for i in range(0, len(crops), size)]
        painted = [_round(apply(crops[c] / 255, colors.take(c))) for c in chunks]
        return torch.cat(painted)  # (n, 3, h, w)


def _round(pixels: Tensor) -> Tensor:
    return pixels.mul_(255).round_().byte()


def apply(pixels: Tensor, colors: Colors) -> Tensor:
    """Jitter, gray, blur and solarize.

    Args:
        pixels: float32 RGB (n, 3, h, w), 0..1. It may be overwritten.
        colors: of the n crops, on the CPU.

    Returns:
        float32 (n, 3, h, w), 0..1.
    """
    pixels = _jitter(pixels, colors)
    pixels = _on_rows(pixels, colors.gray, _gray_image)
    pixels = _on_rows(pixels, colors.sigma > 0, blur, colors.sigma)
    return _on_rows(pixels, colors.solarize <= 255, _solarize, colors.solarize / 255)


def _send(values: Tensor, device: torch.device) -> Tensor:
    if values.is_floating_point():
        values = values.float()
    return values.to(device, non_blocking=True)


def _on_rows(
    pixels: Tensor, rows: Tensor, step: Callable, values: Tensor | None = None
) -> Tensor:
    """Apply ``step`` to some of the crops.

    Args:
        pixels: (n, 3, h, w).
        rows: (n,) bool, on the CPU: the crops to change.
        step: a function of these crops and, if given, of their ``values``.
        values: (n,), on the CPU.
    """
    arguments = () if values is None else (values[rows],)
    if rows.all():
        return step(pixels, *arguments)
    if not rows.any():
        return pixels
    index = _send(rows.nonzero()[:, 0], pixels.device)  # (k,)
    return pixels.index_copy_(0, index, step(pixels[index], *arguments))


def _jitter(pixels: Tensor, colors: Colors) -> Tensor:
    """The four steps of color jitter, in each crop's own order.

    Brightness, contrast and saturation are blends ``a x pixel + b x gray + c x mean
    gray`` with different weights. Each of the four turns is therefore one blend of all
    crops and one hue shift of some.
    """
    weights, shifts = _jitter_turns(colors)
    for turn in range(4):
        if (weights[turn, :, 0] != 1).any():
            pixels = _blend(pixels, _send(weights[turn], pixels.device))
        pixels = _on_rows(pixels, shifts[turn] != 0, shift_hue, shifts[turn])
    return pixels


def _jitter_turns(colors: Colors) -> tuple[Tensor, Tensor]:
    """Blend weights (4, n, 3) and hue shifts (4, n) of the four turns."""
    step = colors.order.t()  # (4, n)
    factor = colors.factors.gather(1, colors.order).t()  # (4, n)
    own = torch.where(step == HUE, 1.0, factor)
    gray = torch.where(step == SATURATION, 1 - factor, 0.0)
    mean = torch.where(step == CONTRAST, 1 - factor, 0.0)
    shift = torch.where(step == HUE, factor, 0.0)
    return torch.stack([own, gray, mean], 2), shift  # (4, n, 3), (4, n)


def _gray(pixels: Tensor) -> Tensor:
    """Gray (n, 1, h, w) of RGB (n, 3, h, w)."""
    red, green, blue = GRAY_WEIGHTS
    gray = pixels[:, :1] * red  # (n, 1, h, w)
    return gray.add_(pixels[:, 1:2], alpha=green).add_(pixels[:, 2:], alpha=blue)


def _gray_image(pixels: Tensor) -> Tensor:
    return _gray(pixels).repeat(1, 3, 1, 1)  # (n, 3, h, w)


def _blend(pixels: Tensor, weights: Tensor) -> Tensor:
    """Blend (n, 3, h, w) with its gray and mean gray by weights (n, 3)."""
    own, gray_weight, mean_weight = weights.view(-1, 3, 1, 1, 1).unbind(1)
    gray = _gray(pixels)  # (n, 1, h, w)
    mean = gray.mean((1, 2, 3), keepdim=True)  # (n, 1, 1, 1)
    gray = gray.mul_(gray_weight).add_(mean * mean_weight)
    return pixels.mul_(own).add_(gray).clamp_(0, 1)  # (n, 3, h, w)


def shift_hue(pixels: Tensor, shifts: Tensor) -> Tensor:
    """Shift the hue of RGB (n, 3, h, w), 0..1, by ``shifts`` (n,), in turns.

    Value and chroma stay. With the hue in 0..6, a channel is largest within 1 of its
    own hue (0, 2, 4), smallest beyond 2 and linear in between.
    """
    shifts = _send(6 * shifts, pixels.device).view(-1, 1, 1)  # (n, 1, 1)
    red, green, blue = pixels.unbind(1)  # (n, h, w)
    most = torch.maximum(torch.maximum(red, green), blue)
    least = torch.minimum(torch.minimum(red, green), blue)
    chroma = most - least
    by_green = (blue - red).add_(chroma, alpha=2)
    by_blue = (red - green).add_(chroma, alpha=4)
    hue = torch.where(most == green, by_green, by_blue)
    hue = torch.where(most == red, green - blue, hue)
    # The hue of a gray pixel is 0 / MIN_CHROMA, and has no effect.
    hue.div_(chroma.clamp_min(MIN_CHROMA)).add_(shifts)
    hue.sub_((hue / 6).floor_(), alpha=6)
    own = torch.arange(0.0, 6.0, 2.0, device=pixels.device).view(3, 1, 1)
    ramp = (hue.unsqueeze(1) - own).abs_().sub_(3).abs_().clamp_(1, 2)  # (n, 3, h, w)
    return ramp.mul_(chroma.unsqueeze(1)).add_((least - chroma).unsqueeze(1))


def blur(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of (n, 3, h, w); sigma (n,) in pixels, on the CPU.

    The image is mirrored at its edges. All kernels have the width of the widest; the
    ends of a narrower one are almost 0. A blur along one side is a product with a band
    matrix, which is faster than a convolution with a kernel for each image.
    """
    radius = blur_radius(float(sigma.max()))
    offset = torch.arange(-radius, radius + 1)
    kernels = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)  # (n, 2 radius + 1)
    kernels = _send(kernels / kernels.sum(1, keepdim=True), pixels.device)
    height, width = pixels.shape[2:]
    down = across = _band_matrices(kernels, height)  # (n, h, h)
    if width != height:
        across = _band_matrices(kernels, width)  # (n, w, w)
    return down[:, None] @ pixels @ across[:, None].transpose(2, 3)  # (n, 3, h, w)


def _band_matrices(kernels: Tensor, side: int) -> Tensor:
    """Kernels (n, 2 radius + 1) as matrices (n, side, side) that mirror at the ends."""
    radius = kernels.shape[1] // 2
    position = torch.arange(-radius, side + radius, device=kernels.device)
    # Mirror positions outside the image, as often as needed to come inside.
    period = max(1, 2 * (side - 1))
    position = (position % period - (side - 1)).abs_().neg_().add_(side - 1)
    source = position.unfold(0, kernels.shape[1], 1)  # (side, 2 radius + 1)
    source = source.expand(len(kernels), -1, -1)  # (n, side, 2 radius + 1)
    matrices = kernels.new_zeros(len(kernels), side, side)
    return matrices.scatter_add_(2, source, kernels[:, None].expand_as(source))


def _solarize(pixels: Tensor, threshold: Tensor) -> Tensor:
    threshold = _send(threshold, pixels.device).view(-1, 1, 1, 1)  # (n, 1, 1, 1)
    return torch.where(pixels >= threshold, 1 - pixels, pixels)
