"""Random crop boxes, and cutting and resizing of the crops."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

# Boxes sampled before the largest center crop is taken, as in torchvision.
ATTEMPTS = 10
# Random numbers for a box: areas and shapes, position, flip.
NUM_RANDOM = 2 * ATTEMPTS + 3
# Reductions of a JPEG's sides that its decoder offers.
REDUCTIONS = (8, 4, 2)


class Box(NamedTuple):
    """A crop's box in an image, in pixels, and whether it is flipped left to right."""

    top: int
    left: int
    height: int
    width: int
    flip: bool

    def shrink(self, reduction: int, height: int, width: int) -> "Box":
        """The same box in the image decoded at a reduced size.

        Rounding moves it by at most half a pixel of the reduced image.

        Args:
            reduction: divisor of both sides.
            height, width: of the reduced image, pixels.
        """
        box_height = min(round(self.height / reduction), height)
        box_width = min(round(self.width / reduction), width)
        top = min(round(self.top / reduction), height - box_height)
        left = min(round(self.left / reduction), width - box_width)
        return Box(top, left, box_height, box_width, self.flip)


class BoxSampler:
    """Sample boxes as torchvision's ``RandomResizedCrop``, and horizontal flips.

    Args:
        scale: smallest and largest fraction of the image's area.
        aspect_ratio: smallest and largest width / height.
        flip_prob: probability of a flip.
    """

    def __init__(
        self,
        scale: tuple[float, float],
        aspect_ratio: tuple[float, float],
        flip_prob: float,
    ) -> None:
        self.scale = scale
        self.aspect_ratio = aspect_ratio
        self.flip_prob = flip_prob

    def __call__(self, uniform: np.ndarray, height: int, width: int) -> list[Box]:
        """Turn random numbers from 0..1, (n, 23), into n boxes of an image."""
        area, shape = uniform[:, :ATTEMPTS], uniform[:, ATTEMPTS : 2 * ATTEMPTS]
        low, high = self.scale
        area = height * width * (low + (high - low) * area)
        low, high = np.log(self.aspect_ratio)
        shape = np.exp(low + (high - low) * shape)
        heights, widths = np.sqrt(area / shape).round(), np.sqrt(area * shape).round()
        fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
        boxes = []
        for i, first in enumerate(fits.argmax(1)):
            vertical, horizontal, flip = uniform[i, -3:]
            if fits[i, first]:
                h, w = int(heights[i, first]), int(widths[i, first])
                top = int(vertical * (height - h + 1))
                left = int(horizontal * (width - w + 1))
            else:  # the largest crop of an allowed aspect ratio
                low, high = self.aspect_ratio
                h = min(height, max(1, round(width / low)))
                w = min(width, max(1, round(height * high)))
                top, left = (height - h) // 2, (width - w) // 2
            boxes.append(Box(top, left, h, w, bool(flip < self.flip_prob)))
        return boxes


def largest_reduction(boxes: Sequence[Box], sides: Sequence[int]) -> int:
    """Largest reduction of an image at which no crop is smaller than its tile.

    Args:
        boxes: boxes in the image at full size.
        sides: sides of their tiles, pixels.

    Returns:
        1, 2, 4 or 8.
    """
    pairs = zip(boxes, sides, strict=True)
    most = min(min(box.height, box.width) / side for box, side in pairs)
    return next((k for k in REDUCTIONS if k <= most), 1)


def cut(image: Tensor, box: Box, side: int) -> Tensor:
    """Cut a box out of a uint8 image (3, H, W) and resize it, antialiased bilinear.

    Returns:
        (3, side, side), in channels-last memory format.
    """
    crop = image[:, box.top : box.top + box.height, box.left : box.left + box.width]
    # Decoded images are channels last. Resizing is a third faster in this format.
    batch = crop[None].contiguous(memory_format=torch.channels_last)
    crop = F.resize(batch, [side, side], antialias=True)[0]  # (3, side, side)
    return crop.flip(2) if box.flip else crop
