"""Color augmentation of a batch on the training device (paper, section 3).

What is drawn for each crop, and the same for one crop on the CPU:
:mod:`mcl.datasets.colors`. Here all crops of a level are done at once, each with its
own draws, and nothing on the device is waited for: the draws are on the CPU, so which
crops a step takes is known there.
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

# Below any difference between two values of a picture.
LEAST_CHROMA = 1e-12
# Pixels that a CPU works on at once, so that they stay in its cache.
CPU_CHUNK = 2**16


def paint_levels(crops: Sequence[Tensor], table: Tensor) -> list[Tensor]:
    """Apply the draws that the loader's workers made to their crops.

    Args:
        crops: C tensors of uint8 RGB (B, 3, h, w), on the device.
        table: (B, C, 11), :meth:`Colors.to_table` of each image, on the CPU.

    Returns:
        As ``crops``; rounded once, at the end.
    """
    return [
        paint_batch(crop, Colors.from_table(rows))
        for crop, rows in zip(crops, table.unbind(1), strict=True)
    ]


def paint_batch(crops: Tensor, colors: Colors) -> Tensor:
    """Apply to each of n uint8 crops (n, 3, h, w), RGB, its own row of ``colors``."""
    # The preprocessor runs inside autocast, whose half-width floats have fewer
    # digits than a color.
    with torch.autocast(crops.device.type, enabled=False):
        if crops.device.type != "cpu":
            return _round(apply(crops.float() / 255, colors))
        size = max(1, CPU_CHUNK // crops[0, 0].numel())
        chunks = [slice(i, i + size) for i in range(0, len(crops), size)]
        return torch.cat(
            [_round(apply(crops[chunk] / 255, colors.take(chunk))) for chunk in chunks]
        )


def _round(pixels: Tensor) -> Tensor:
    return pixels.mul_(255).round_().byte()


def apply(pixels: Tensor, colors: Colors) -> Tensor:
    """Jitter, gray, blur and solarize.

    Args:
        pixels: float32 RGB (n, 3, h, w), 0..1; it may be overwritten.
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
    """Replace the crops chosen by ``rows`` (bool, on the CPU) by ``step`` of them.

    ``step`` is given those crops and, where there are ``values`` (n,), theirs, which
    are still on the CPU.
    """
    arguments = () if values is None else (values[rows],)
    if rows.all():
        return step(pixels, *arguments)
    if not rows.any():
        return pixels
    index = _send(rows.nonzero()[:, 0], pixels.device)
    return pixels.index_copy_(0, index, step(pixels[index], *arguments))


def _jitter(pixels: Tensor, colors: Colors) -> Tensor:
    """The four steps of color jitter, in each crop's own order.

    Three of them are one blend, ``own x + gray_share x gray + mean_share x mean gray``
    with other shares, so each place in the order takes one blend of all crops and one
    turn of the hue of some.
    """
    shares, turns = _shares(colors)
    turning = turns != 0
    for place in range(4):
        if (shares[place, :, 0] != 1).any():
            pixels = _blend(pixels, _send(shares[place], pixels.device))
        pixels = _on_rows(pixels, turning[place], turn_hue, turns[place])
    return pixels


def _shares(colors: Colors) -> tuple[Tensor, Tensor]:
    """For each place in the order the shares (4, n, 3) and turns of hue (4, n)."""
    step = colors.order.t()
    factor = colors.factors.gather(1, colors.order).t()
    hue = step == HUE
    own = torch.where(hue, 1.0, factor)
    nothing = torch.zeros_like(own)
    gray = torch.where(step == SATURATION, 1 - factor, nothing)
    mean = torch.where(step == CONTRAST, 1 - factor, nothing)
    return torch.stack([own, gray, mean], 2), torch.where(hue, factor, nothing)


def _gray(pixels: Tensor) -> Tensor:
    """Gray (n, 1, h, w) of RGB."""
    red, green, blue = GRAY_WEIGHTS
    gray = pixels[:, :1] * red
    return gray.add_(pixels[:, 1:2], alpha=green).add_(pixels[:, 2:], alpha=blue)


def _gray_image(pixels: Tensor) -> Tensor:
    return _gray(pixels).repeat(1, 3, 1, 1)


def _blend(pixels: Tensor, shares: Tensor) -> Tensor:
    own, gray_share, mean_share = shares.view(-1, 3, 1, 1, 1).unbind(1)
    gray = _gray(pixels)
    mean = gray.mean((1, 2, 3), keepdim=True)
    gray = gray.mul_(gray_share).add_(mean * mean_share)
    return pixels.mul_(own).add_(gray).clamp_(0, 1)


def turn_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of RGB (n, 3, h, w), 0..1, by ``turns`` (n,) of the color circle.

    Value and chroma stay. With hues in sixths of the circle, a channel is largest
    within 1 of its own hue (0, 2, 4), smallest beyond 2 and linear in between.
    """
    turns = _send(6 * turns, pixels.device).view(-1, 1, 1)
    red, green, blue = pixels.unbind(1)
    most = torch.maximum(torch.maximum(red, green), blue)
    least = torch.minimum(torch.minimum(red, green), blue)
    chroma = most - least
    by_green = (blue - red).add_(chroma, alpha=2)
    by_blue = (red - green).add_(chroma, alpha=4)
    hue = torch.where(most == green, by_green, by_blue)
    hue = torch.where(most == red, green - blue, hue)
    # Of a gray pixel the hue is 0 / LEAST_CHROMA, and nothing will hang on it.
    hue.div_(chroma.clamp_min(LEAST_CHROMA)).add_(turns)
    hue.sub_((hue / 6).floor_(), alpha=6)
    own = torch.arange(0.0, 6.0, 2.0, device=pixels.device).view(3, 1, 1)
    share = (hue.unsqueeze(1) - own).abs_().sub_(3).abs_().clamp_(1, 2)
    return share.mul_(chroma.unsqueeze(1)).add_((least - chroma).unsqueeze(1))


def blur(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of (n, 3, h, w) with a sigma (n,) in pixels for each, on the CPU.

    The picture is mirrored at its edges. All crops get the width of the widest
    kernel; where sigma is smaller, its ends are next to nothing. A blur along a side
    is a product with a band matrix, which is faster than a convolution of each plane
    with a kernel of its own.
    """
    radius = blur_radius(float(sigma.max()))
    offset = torch.arange(-radius, radius + 1)
    kernels = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)
    kernels = _send(kernels / kernels.sum(1, keepdim=True), pixels.device)
    height, width = pixels.shape[2:]
    down = across = _band_matrices(kernels, height)
    if width != height:
        across = _band_matrices(kernels, width)
    return down[:, None] @ pixels @ across[:, None].transpose(2, 3)


def _band_matrices(kernels: Tensor, side: int) -> Tensor:
    """Kernels (n, 2 radius + 1) as matrices (n, side, side) that mirror at the ends."""
    radius = kernels.shape[1] // 2
    position = torch.arange(-radius, side + radius, device=kernels.device)
    # There and back again, as often as it takes to come inside.
    period = max(1, 2 * (side - 1))
    position = (position % period - (side - 1)).abs_().neg_().add_(side - 1)
    source = position.unfold(0, kernels.shape[1], 1)
    shape = (len(kernels), *source.shape)
    matrices = kernels.new_zeros(len(kernels), side, side)
    return matrices.scatter_add_(
        2, source.expand(shape), kernels[:, None].expand(shape)
    )


def _solarize(pixels: Tensor, threshold: Tensor) -> Tensor:
    threshold = _send(threshold, pixels.device).view(-1, 1, 1, 1)
    return torch.where(pixels >= threshold, 1 - pixels, pixels)
