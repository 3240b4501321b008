"""Pictures of canvases, each image's tiles outlined in its colour."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from torch import Tensor

from .datasets.montage import View


def image_colour(index: int) -> tuple[int, int, int]:
    """RGB colour of image ``index``: neighbours in number differ most."""
    hue = (index * 0.618034) % 1.0
    return tuple(int(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.85, 1.0))


def draw_canvas(
    canvas: Tensor,
    image_index: Sequence[int],
    mean: Tensor,
    std: Tensor,
    scale: int = 1,
) -> np.ndarray:
    """Undo the normalisation of one canvas and outline its tiles.

    Args:
        canvas: (3, S, S) normalised.
        image_index: r * r indices of its tiles, row by row.
        mean, std: 3 numbers each, of the preprocessor, scale 0..255.
        scale: whole number of output pixels for a pixel.

    Returns:
        uint8 RGB (S * scale, S * scale, 3).
    """
    pixels = canvas.float().cpu() * std.view(3, 1, 1) + mean.view(3, 1, 1)
    picture = pixels.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    picture = np.ascontiguousarray(picture.repeat(scale, 0).repeat(scale, 1))
    ratio = round(len(image_index) ** 0.5)
    side = len(picture) // ratio
    thick = max(1, side // 40)
    for tile, index in enumerate(image_index):
        top, left = tile // ratio * side, tile % ratio * side
        corners = (left, top), (left + side - 1, top + side - 1)
        colour = image_colour(int(index))
        cv2.rectangle(picture, *corners, colour, thick)
        if side >= 32:
            place = (left + 3, top + 3 + max(9, side // 8))
            size = max(0.35, side / 250)
            cv2.putText(picture, str(int(index)), place, 0, size, (0, 0, 0), 3)
            cv2.putText(picture, str(int(index)), place, 0, size, colour, 1)
    return picture


def draw_levels(view: View, mean: Tensor, std: Tensor, side: int = 256) -> np.ndarray:
    """The first canvas of each level of a view, side by side.

    Args:
        view: of the preprocessor, normalised with ``mean`` and ``std``.
        side: least height of the picture in pixels.

    Returns:
        uint8 RGB.
    """
    scale = max(1, -(-side // view.canvases[0].shape[-1]))
    row = []
    for canvases, index in zip(view.canvases, view.image_index, strict=True):
        tiles = len(index) // len(canvases)
        row.append(draw_canvas(canvases[0], index[:tiles].tolist(), mean, std, scale))
        row.append(np.full((len(row[0]), 8, 3), 255, np.uint8))
    return np.concatenate(row[:-1], axis=1)
