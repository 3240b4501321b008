"""Pictures of canvases, each image's tiles outlined in its color."""

import colorsys
import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.model import ImgDataPreprocessor
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from torch import Tensor

from .datasets.montage import View

# Pixels: sides from which a tile has room for a number, and of a tile and a canvas in a
# grid.
LEAST_NUMBERED, LEAST_TILE, LEAST_CANVAS = 32, 48, 128
# White between pictures.
GAP = 8


class Batch(NamedTuple):
    """The first batch of a run, as the model gets it.

    Attributes:
        views: both views.
        samples: of each image what the data set says of it, such as ``img_path``.
        preprocessor: which normalized the views.
    """

    views: list[View]
    samples: list
    preprocessor: ImgDataPreprocessor


def first_batch(cfg: Config, seed: int) -> Batch:
    """The batch that a pre-training run of one process with this seed begins with.

    It is loaded without workers: a sample depends on the seed, the epoch and its index
    only.

    Args:
        cfg: of a pre-training run, its paths checked.
        seed: of the run.

    Raises:
        InputError: when the data set holds fewer images than a batch, or no readable
            ones.
    """
    init_default_scope(cfg.default_scope)
    loader = cfg.train_dataloader.to_dict()
    for option in ("prefetch_factor", "multiprocessing_context"):
        loader.pop(option, None)
    loader.update(num_workers=0, persistent_workers=False, pin_memory=False)
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    batch = next(iter(Runner.build_dataloader(loader, seed=seed)))
    preprocessor.seed(seed, 0, 0)
    prepared = preprocessor(batch, training=True)
    return Batch(prepared["inputs"], prepared["data_samples"], preprocessor)


def image_color(index: int) -> tuple[int, int, int]:
    """RGB color of image ``index``: neighbors in number differ most."""
    hue = (index * 0.618034) % 1.0
    return tuple(int(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.85, 1.0))


def draw_canvas(
    canvas: Tensor,
    image_index: Sequence[int],
    mean: Tensor,
    std: Tensor,
    scale: int = 1,
) -> np.ndarray:
    """Undo the normalization of one canvas and outline its tiles.

    Args:
        canvas: (3, S, S) normalized.
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
    thick = max(2 if side >= LEAST_TILE else 1, side // 60)
    for tile, index in enumerate(image_index):
        top, left = tile // ratio * side, tile % ratio * side
        # A view of the picture: what is drawn beyond the tile is cut off.
        part = picture[top : top + side, left : left + side]
        color = image_color(int(index))
        cv2.rectangle(part, (0, 0), (side - 1, side - 1), color, 2 * thick - 1)
        if side >= LEAST_NUMBERED:
            draw_number(part, int(index), color)
    return picture


def draw_number(picture: np.ndarray, number: int, color: tuple[int, int, int]) -> None:
    """Write a number into the upper left corner, on a ground of its color.

    Args:
        picture: uint8 RGB (H, W, 3), changed in place.
        color: RGB, 0..255.
    """
    size = max(0.35, len(picture) / 350)
    (width, height), _ = cv2.getTextSize(str(number), 0, size, 1)
    cv2.rectangle(picture, (0, 0), (width + 4, height + 5), color, -1)
    # Rec. 601's weights: black on what looks bright.
    bright = np.dot(color, (0.299, 0.587, 0.114)) > 110
    ink = (0, 0, 0) if bright else (255, 255, 255)
    cv2.putText(picture, str(number), (3, height + 2), 0, size, ink, 1, cv2.LINE_AA)


def draw_levels(view: View, mean: Tensor, std: Tensor, side: int = 256) -> np.ndarray:
    """The first canvas of each level of a view, side by side.

    Args:
        view: of the preprocessor, normalized with ``mean`` and ``std``.
        side: least height of the picture in pixels.

    Returns:
        uint8 RGB.
    """
    scale = max(1, -(-side // view.canvases[0].shape[-1]))
    row = []
    for canvases, index in zip(view.canvases, view.image_index, strict=True):
        tiles = len(index) // len(canvases)
        row.append(draw_canvas(canvases[0], index[:tiles].tolist(), mean, std, scale))
    return lay_grid(row, len(row))


def draw_grid(
    canvases: Tensor, image_index: Tensor, mean: Tensor, std: Tensor
) -> np.ndarray:
    """Canvases of a level in a grid as square as can be, large enough to read numbers.

    Args:
        canvases: (n, 3, S, S) normalized.
        image_index: (n * r * r,) image of each tile, row by row, canvas after canvas.
        mean, std: 3 numbers each, of the preprocessor, scale 0..255.

    Returns:
        uint8 RGB.
    """
    number, side = len(canvases), canvases.shape[-1]
    tiles = image_index.view(number, -1).tolist()
    ratio = round(len(tiles[0]) ** 0.5)
    scale = max(-(-LEAST_TILE * ratio // side), -(-LEAST_CANVAS // side))
    pictures = [
        draw_canvas(canvas, index, mean, std, scale)
        for canvas, index in zip(canvases, tiles, strict=True)
    ]
    return lay_grid(pictures, math.ceil(number**0.5))


def lay_grid(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Pictures of one size in rows, white between them and where the last row ends."""
    height, width, channels = pictures[0].shape
    rows = -(-len(pictures) // columns)
    shape = rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels
    grid = np.full(shape, 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        grid[top : top + height, left : left + width] = picture
    return grid
