"""Color augmentation: random parameters of a crop, and their use on the CPU.

The same parameters serve two implementations. :func:`paint` here handles one crop at a
time in the loader's workers. :func:`~mcl.models.augment.paint_batch` handles all crops
of a level at once on the training device. Both compute in floating point and round
once, at the end. They differ by that rounding alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from ..errors import InputError

# The steps of color jitter in torchvision's order of arguments, the value of each that
# leaves a crop unchanged, and their numbers in `Colors.order`.
JITTER = ("brightness", "contrast", "saturation", "hue")
NEUTRAL = (1.0, 1.0, 1.0, 0.0)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
# Weights of red, green and blue in gray (Rec. 601, as torchvision rounds them).
GRAY_WEIGHTS = (0.2989, 0.587, 0.114)
# Random numbers for the colors of a crop.
NUM_RANDOM = 13
# A solarize threshold above all values.
NEVER = 256.0


class Colors(NamedTuple):
    """Color changes of n crops, in the order of their use. All tensors are on the CPU.

    Attributes:
        factors: (n, 4), factors of brightness, contrast and saturation (1 is neutral),
            and the shift of the hue in turns (0 is neutral), as in torchvision.
        order: (n, 4), the order of these four steps, 0..3.
        gray: (n,), bool.
        sigma: (n,), of the blur, in pixels of the crop; 0 for no blur.
        solarize: (n,), values from this threshold on are inverted, 0..255; 256 for
            none.
    """

    factors: Tensor
    order: Tensor
    gray: Tensor
    sigma: Tensor
    solarize: Tensor

    def to_table(self) -> Tensor:
        """All fields as one float32 tensor (n, 11), which a loader can collate."""
        columns = [self.gray[:, None], self.sigma[:, None], self.solarize[:, None]]
        return torch.cat([self.factors, self.order, *columns], 1).float()

    @classmethod
    def from_table(cls, table: Tensor) -> "Colors":
        """Undo :meth:`to_table`."""
        factors, order, gray, sigma, solarize = table.split([4, 4, 1, 1, 1], 1)
        return cls(factors, order.long(), gray[:, 0] > 0, sigma[:, 0], solarize[:, 0])

    def take(self, rows: slice | Tensor) -> "Colors":
        """Select the colors of some crops."""
        return Colors(*(field[rows] for field in self))


class ColorSampler:
    """Sample the colors of the n crops of an image.

    Args:
        color_jitter: arguments of torchvision's ``ColorJitter``.
        color_jitter_prob, gray_prob: probabilities of jitter and of gray.
        blur_prob, solarize_prob: (n,), probabilities for each crop.
        blur_sigma: (n, 2), smallest and largest sigma, in pixels of each crop.
        solarize_threshold: values from this threshold on are inverted, 0..255.

    Raises:
        InputError: when ``color_jitter`` is not what torchvision takes.
    """

    def __init__(
        self,
        color_jitter: dict,
        color_jitter_prob: float,
        gray_prob: float,
        blur_prob: Sequence[float],
        solarize_prob: Sequence[float],
        blur_sigma: Sequence[tuple[float, float]],
        solarize_threshold: float,
    ) -> None:
        try:
            jitter = v2.ColorJitter(**color_jitter)
        except (TypeError, ValueError) as error:
            raise InputError(f"color_jitter={color_jitter}: {error}") from error
        ranges = [
            getattr(jitter, name) or (neutral, neutral)
            for name, neutral in zip(JITTER, NEUTRAL, strict=True)
        ]
        self.low, self.high = np.array(ranges).T
        self.color_jitter_prob = color_jitter_prob
        self.gray_prob = gray_prob
        self.blur_prob = np.array(blur_prob)
        self.solarize_prob = np.array(solarize_prob)
        self.blur_sigma = np.array(blur_sigma, dtype=float)
        self.solarize_threshold = float(solarize_threshold)

    def __call__(self, uniform: np.ndarray) -> Colors:
        """Turn random numbers from 0..1, (n, 13), into the colors of n crops."""
        jittered, grayed, blurred, sigma, solarized = uniform[:, 8:].T
        factors = self.low + (self.high - self.low) * uniform[:, :4]
        factors[jittered >= self.color_jitter_prob] = NEUTRAL
        low, high = self.blur_sigma.T
        sigma = np.where(blurred < self.blur_prob, low + (high - low) * sigma, 0.0)
        threshold = np.where(
            solarized < self.solarize_prob, self.solarize_threshold, NEVER
        )
        return Colors(
            torch.from_numpy(factors),
            # Sorting four independent numbers gives every order equal probability.
            torch.from_numpy(uniform[:, 4:8].argsort(1)),
            torch.from_numpy(grayed < self.gray_prob),
            torch.from_numpy(sigma),
            torch.from_numpy(threshold),
        )


def blur_radius(sigma: float) -> int:
    """Radius of the blur's kernel, pixels; 0.3 % of its weight lies outside."""
    return int(np.ceil(3 * sigma))


def paint(crop: np.ndarray, colors: Colors, row: int) -> np.ndarray:
    """Apply one row of ``colors`` to one crop with OpenCV.

    Args:
        crop: uint8 RGB (H, W, 3).
        colors: of n crops.
        row: the crop's index, 0..n-1.

    Returns:
        uint8 RGB (H, W, 3).
    """
    factors, sigma = colors.factors[row].tolist(), float(colors.sigma[row])
    threshold = float(colors.solarize[row]) / 255
    pixels = np.multiply(crop, np.float32(1 / 255), dtype=np.float32)
    for step in colors.order[row].tolist():
        if factors[step] != NEUTRAL[step]:
            pixels = _jitter(pixels, step, factors[step])
    if colors.gray[row]:
        pixels = cv2.cvtColor(
            cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB
        )
    if sigma > 0:
        kernel = 2 * blur_radius(sigma) + 1
        pixels = cv2.GaussianBlur(pixels, (kernel, kernel), sigma)
    if threshold <= 1:
        pixels = np.where(pixels >= threshold, 1 - pixels, pixels)
    return cv2.convertScaleAbs(pixels, alpha=255)


def _jitter(pixels: np.ndarray, step: int, factor: float) -> np.ndarray:
    """One step of color jitter on float32 RGB, 0..1."""
    if step == HUE:
        return _shift_hue(pixels, factor)
    weights = np.array(GRAY_WEIGHTS)
    if step == SATURATION:  # blend each pixel with its own gray
        matrix = factor * np.eye(3) + (1 - factor) * weights
        pixels = cv2.transform(pixels, matrix)
    else:  # blend with black, or with the mean gray
        gray = weights @ cv2.mean(pixels)[:3] if step == CONTRAST else 0.0
        pixels = pixels * np.float32(factor)
        pixels += np.float32((1 - factor) * gray)
    return np.clip(pixels, 0, 1, out=pixels)


def _shift_hue(pixels: np.ndarray, turns: float) -> np.ndarray:
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)  # hue 0..360
    hue = cv2.extractChannel(hsv, 0) + np.float32(360 * turns)
    hue -= 360 * np.floor(hue / 360)
    cv2.insertChannel(hue, hsv, 0)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
