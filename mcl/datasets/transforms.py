"""Two views of an image, with one crop for each level (paper, section 3)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ..errors import InputError, one_value
from ..levels import check_ratios, check_size
from . import colors, crops
from .loading import LazyImage

# Settings of the paper's code for view 1 and view 2. All others are common to both.
VIEWS = (
    dict(blur_prob=1.0, solarize_prob=0.0),
    dict(blur_prob=0.1, solarize_prob=0.2),
)
# Random numbers for a crop.
NUM_RANDOM = crops.NUM_RANDOM + colors.NUM_RANDOM
# Where colors can be changed.
PLACES = ("worker", "device")


@TRANSFORMS.register_module()
class MultiLevelViews(BaseTransform):
    """Augment an image independently for each view and level.

    A crop of level l is resized, antialiased, directly from the image to the side
    S / r_l of its tile. The blur's sigma is given for a crop of side S and scaled with
    the crop. Random numbers come from torch's generator.

    Required Keys:
        - img (uint8, (H, W, 3), BGR as the hosts' loaders give it, or a
          :class:`~mcl.datasets.loading.LazyImage`)

    Modified Keys:
        - img: list of uint8 RGB tensors (3, S / r, S / r), view after view and,
          within a view, level after level. With ``colors_on="device"`` the crops
          keep their colors, and ``shared_levels`` gives one crop of side S per view.
          A float32 table follows, one row of changes per tile for
          :class:`~mcl.models.MCLDataPreprocessor`.

    Args:
        size: canvas side S in pixels, a multiple of 32.
        ratios: tiles along a canvas side, per level.
        views: ``blur_prob`` and ``solarize_prob`` of each of one or two views.
        shared_levels: whether all levels of a view show the same crop of side S,
            resized (a control: 2 crops per image in place of 8).
        crop_scale: smallest and largest fraction of the image's area in a crop.
            Below about .08 two crops of an image often show different things.
        aspect_ratio: smallest and largest width / height of a crop.
        flip_prob: probability of a horizontal flip.
        color_jitter: arguments of torchvision's ``ColorJitter``.
        color_jitter_prob, gray_prob: probabilities of jitter and of gray.
        blur_sigma: smallest and largest sigma, in pixels of a crop of side S.
        solarize_threshold: values from this threshold on are inverted, 0..255.
        colors_on: where jitter, gray, blur and solarization are computed.
            ``"worker"``: in the loader's workers, crop by crop. ``"device"``: on the
            training device, all crops of a level at once. Both use the same random
            numbers and differ by rounding alone.
        colours_on: the older name of ``colors_on``.

    Raises:
        InputError: for a wrong size, ratio, probability, range or view.

    Example:
        >>> import numpy as np
        >>> views = MultiLevelViews(size=64, ratios=(1, 2))
        >>> image = np.zeros((48, 60, 3), dtype=np.uint8)
        >>> [tuple(crop.shape) for crop in views(dict(img=image))['img']]
        [(3, 64, 64), (3, 32, 32), (3, 64, 64), (3, 32, 32)]
    """

    def __init__(
        self,
        size: int = 224,
        ratios: Sequence[int] = (1, 2, 4, 8),
        views: Sequence[dict] = VIEWS,
        shared_levels: bool = False,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip_prob: float = 0.5,
        color_jitter: dict | None = None,
        color_jitter_prob: float = 0.8,
        gray_prob: float = 0.2,
        blur_sigma: tuple[float, float] = (0.1, 2.0),
        solarize_threshold: int = 128,
        colors_on: str | None = None,
        colours_on: str | None = None,
    ) -> None:
        self.size = check_size(size)
        self.ratios = check_ratios(ratios)
        self.shared_levels = shared_levels
        names = dict(colors_on=colors_on, colours_on=colours_on)
        self.colors_on = one_value(names, "worker")
        if self.colors_on not in PLACES:
            raise InputError(f"colors_on={self.colors_on!r}: give one of {PLACES}")
        if len(views) not in (1, 2) or any(set(v) != set(VIEWS[0]) for v in views):
            raise InputError(
                f"views={views}: give one view or two, each a dict of "
                "blur_prob and solarize_prob"
            )
        probs = dict(
            flip_prob=flip_prob,
            color_jitter_prob=color_jitter_prob,
            gray_prob=gray_prob,
        )
        for name, prob in (item for d in (probs, *views) for item in d.items()):
            if not 0 <= prob <= 1:
                raise InputError(f"{name}={prob}: give a probability, 0 to 1")
        for name, low, high, most in (
            ("crop_scale", *crop_scale, 1),
            ("aspect_ratio", *aspect_ratio, math.inf),
            ("blur_sigma", *blur_sigma, math.inf),
        ):
            if not 0 < low <= high <= most:
                raise InputError(
                    f"{name}=({low}, {high}): give a smallest and a largest value, "
                    f"above 0 and at most {most}"
                )
        if not 0 <= solarize_threshold <= 255:
            raise InputError(
                f"solarize_threshold={solarize_threshold}: give a number from 0 to 255"
            )
        cropped = self.ratios[:1] if shared_levels else self.ratios
        self.sides = [size // r for _ in views for r in cropped]
        self.sample_boxes = crops.BoxSampler(crop_scale, aspect_ratio, flip_prob)
        low, high = blur_sigma
        self.sample_colors = colors.ColorSampler(
            color_jitter or dict(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1),
            color_jitter_prob,
            gray_prob,
            blur_prob=[v["blur_prob"] for v in views for _ in cropped],
            solarize_prob=[v["solarize_prob"] for v in views for _ in cropped],
            blur_sigma=[(low / r, high / r) for _ in views for r in cropped],
            solarize_threshold=solarize_threshold,
        )

    def transform(self, results: dict) -> dict:
        image = results["img"]
        # The boxes come first: they decide at what size the image is decoded.
        uniform = torch.rand(len(self.sides), NUM_RANDOM, dtype=torch.float64).numpy()
        boxes = self.sample_boxes(uniform[:, : crops.NUM_RANDOM], *image.shape[:2])
        sampled = self.sample_colors(uniform[:, crops.NUM_RANDOM :])
        if isinstance(image, LazyImage):
            image, boxes = self._decode(image, boxes)
        image = np.ascontiguousarray(image[..., ::-1])  # BGR to RGB
        image = torch.from_numpy(image).permute(2, 0, 1)  # (3, H, W)
        tiles = [
            crops.cut(image, box, side)
            for box, side in zip(boxes, self.sides, strict=True)
        ]
        if self.colors_on == "worker":
            results["img"] = self._paint(tiles, sampled)
        else:
            levels = len(self.ratios) if self.shared_levels else 1
            table = sampled.to_table().repeat_interleave(levels, 0)  # (tiles, 11)
            results["img"] = [*(t.contiguous() for t in tiles), table]
        return results

    def _decode(
        self, image: LazyImage, boxes: list[crops.Box]
    ) -> tuple[np.ndarray, list[crops.Box]]:
        reduction = crops.largest_reduction(boxes, self.sides)
        pixels, reduction = image.decode(reduction)
        if reduction > 1:
            boxes = [box.shrink(reduction, *pixels.shape[:2]) for box in boxes]
        return pixels, boxes

    def _paint(self, tiles: list[Tensor], sampled: colors.Colors) -> list[Tensor]:
        painted = []
        for row, tile in enumerate(tiles):
            pixels = colors.paint(tile.permute(1, 2, 0).numpy(), sampled, row)
            painted.append(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
        if self.shared_levels:
            painted = resize_shared(painted, self.size, self.ratios)
        return painted

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size}, ratios={self.ratios})"


def resize_shared(
    tiles: Sequence[Tensor], size: int, ratios: Sequence[int]
) -> list[Tensor]:
    """Resize each crop (..., 3, S, S) to the tile sides S / r_l of all levels."""
    sides = [size // r for r in ratios]
    return [F.resize(t, [s, s], antialias=True) for t in tiles for s in sides]
