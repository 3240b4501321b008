"""Where crops lie in an image, and how an image is shrunk to them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

# Areas and shapes tried before a crop is taken from the middle, as torchvision does.
ATTEMPTS = 10
# Random numbers that the place of a crop takes: area and shape, place, flip.
NUM_DRAWS = 2 * ATTEMPTS + 3
# By how much a JPEG can be shrunk while it is decoded.
REDUCTIONS = (8, 4, 2)


class Box(NamedTuple):
    """A crop's place in an image, pixels, and whether it is turned left to right."""

    top: int
    left: int
    height: int
    width: int
    flip: bool

    def shrink(self, reduction: int, height: int, width: int) -> "Box":
        """The box in the image decoded at a whole fraction of its size.

        It is moved by half a pixel of the small image at most.

        Args:
            reduction: of each side.
            height, width: of the small image.
        """
        box_height = min(round(self.height / reduction), height)
        box_width = min(round(self.width / reduction), width)
        top = min(round(self.top / reduction), height - box_height)
        left = min(round(self.left / reduction), width - box_width)
        return Box(top, left, box_height, box_width, self.flip)


class BoxSampler:
    """Draw boxes as torchvision's ``RandomResizedCrop`` and ``RandomHorizontalFlip``.

    Args:
        scale: smallest and largest share of the image's area.
        aspect_ratio: smallest and largest width / height.
        flip_prob: chance of a flip.
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
        """Turn numbers drawn from 0..1, (n, 23), into n boxes of an image."""
        area, shape = uniform[:, :ATTEMPTS], uniform[:, ATTEMPTS : 2 * ATTEMPTS]
        low, high = self.scale
        area = height * width * (low + (high - low) * area)
        low, high = np.log(self.aspect_ratio)
        shape = np.exp(low + (high - low) * shape)
        heights, widths = np.sqrt(area / shape).round(), np.sqrt(area * shape).round()
        fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
        boxes = []
        for i, first in enumerate(fits.argmax(1)):
            down, right, flip = uniform[i, -3:]
            if fits[i, first]:
                h, w = int(heights[i, first]), int(widths[i, first])
                top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
            else:
                h, w = self._largest(height, width)
                top, left = (height - h) // 2, (width - w) // 2
            boxes.append(Box(top, left, h, w, bool(flip < self.flip_prob)))
        return boxes

    def _largest(self, height: int, width: int) -> tuple[int, int]:
        """Sides of the largest crop whose shape is allowed."""
        low, high = self.aspect_ratio
        if width < low * height:
            return max(1, min(height, round(width / low))), width
        return height, max(1, min(width, round(height * high)))


def largest_reduction(boxes: Sequence[Box], sides: Sequence[int]) -> int:
    """By how much an image may be shrunk before its crops are cut out.

    No crop may come to have fewer pixels, along either side, than its tile.

    Args:
        boxes: in the image at full size.
        sides: of their tiles, pixels.

    Returns:
        1, 2, 4 or 8.
    """
    spare = min(
        min(box.height, box.width) / side
        for box, side in zip(boxes, sides, strict=True)
    )
    return next((k for k in REDUCTIONS if k <= spare), 1)


def cut(image: Tensor, box: Box, side: int) -> Tensor:
    """Cut a box out of a uint8 image (3, H, W) and resize it, antialiased bilinear.

    Returns:
        (3, side, side), its channels last in memory.
    """
    crop = image[:, box.top : box.top + box.height, box.left : box.left + box.width]
    # As a batch whose channels come last, which is what an image has in memory, it is
    # resized by a third faster and needs no other layout for what comes next.
    batch = crop[None].contiguous(memory_format=torch.channels_last)
    crop = F.resize(batch, [side, side], antialias=True)[0]
    return crop.flip(2) if box.flip else crop
