"""The two views of an image, one crop for each level (paper, section 3)."""

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

# What the paper's code does in view 1 and in view 2; the rest is common to both.
VIEWS = (
    dict(blur_prob=1.0, solarize_prob=0.0),
    dict(blur_prob=0.1, solarize_prob=0.2),
)
# Random numbers that a crop takes.
NUM_DRAWS = crops.NUM_DRAWS + colors.NUM_DRAWS
# Who applies the colors.
PLACES = ("worker", "device")


@TRANSFORMS.register_module()
class MultiLevelViews(BaseTransform):
    """Augment an image independently for each view and level.

    A crop of level l is resized, antialiased, straight from the image to its
    tile side S / r_l. Lengths in pixels (the blur's sigma) are given for a crop
    of side S and scaled with it. Random numbers come from torch's generator.

    Required Keys:
        - img (uint8, (H, W, 3), BGR as the hosts' loaders give it, or a
          :class:`~mcl.datasets.loading.LazyImage`)

    Modified Keys:
        - img: list of uint8 RGB tensors (3, S / r, S / r), view after view and,
          within a view, level after level. With ``colors_on="device"`` their
          colors are untouched, with ``shared_levels`` there is one of side S a
          view, and the list ends with a float32 table, a row for each tile, that
          :class:`~mcl.models.MCLDataPreprocessor` applies

    Args:
        size: canvas side S in pixels, a multiple of 32.
        ratios: tiles along a canvas side, per level.
        views: for each of one or two views ``blur_prob`` and ``solarize_prob``.
        shared_levels: whether all levels of a view show one crop of side S, resized
            (a control: 2 crops an image in place of 8); otherwise each is drawn.
        crop_scale: smallest and largest share of the image's area in a crop.
            Below about .08 two crops of an image often show different things.
        aspect_ratio: smallest and largest width / height of a crop.
        flip_prob: chance of a horizontal flip.
        color_jitter: arguments of torchvision's ``ColorJitter``.
        color_jitter_prob, gray_prob: chances of jitter and of gray.
        blur_sigma: smallest and largest sigma, pixels of a crop of side S.
        solarize_threshold: values from here on are inverted, 0..255.
        colors_on: who applies jitter, gray, blur and solarization: the loader's
            ``"worker"``, crop by crop, or the training ``"device"``, all crops of a
            level at once. Both use the same draws and differ by rounding alone.
        colours_on: the older name of ``colors_on``.

    Raises:
        InputError: for a size, ratio, probability or view that cannot work.

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
        if len(views) not in (1, 2) or any(set(v) != set(VIEWS[0]) for v in views):
            raise InputError(
                f"views={views}: give one view or two, each a dict of "
                "blur_prob and solarize_prob"
            )
        jitter = color_jitter or dict(
            brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1
        )
        probs = dict(
            flip_prob=flip_prob,
            color_jitter_prob=color_jitter_prob,
            gray_prob=gray_prob,
        )
        for view in views:
            _check_probs({**probs, **view})
        for name, (low, high) in dict(
            crop_scale=crop_scale, aspect_ratio=aspect_ratio, blur_sigma=blur_sigma
        ).items():
            most = 1 if name == "crop_scale" else float("inf")
            if not 0 < low <= high <= most:
                raise InputError(
                    f"{name}=({low}, {high}): give a smallest and a largest value, "
                    f"above 0 and at most {most}"
                )
        if not 0 <= solarize_threshold <= 255:
            raise InputError(
                f"solarize_threshold={solarize_threshold}: it lies between 0 and 255"
            )

        colors_on = one_value(
            dict(colors_on=colors_on, colours_on=colours_on), "worker"
        )
        if colors_on not in PLACES:
            raise InputError(f"colors_on={colors_on!r}: give one of {PLACES}")
        self.shared_levels = shared_levels
        self.colors_on = colors_on
        drawn = self.ratios[:1] if shared_levels else self.ratios
        self.sides = [size // r for _ in views for r in drawn]
        self.sample_boxes = crops.BoxSampler(crop_scale, aspect_ratio, flip_prob)
        low, high = blur_sigma
        self.sample_colors = colors.ColorSampler(
            jitter,
            color_jitter_prob,
            gray_prob,
            blur_prob=[v["blur_prob"] for v in views for _ in drawn],
            solarize_prob=[v["solarize_prob"] for v in views for _ in drawn],
            blur_sigma=[(low / r, high / r) for _ in views for r in drawn],
            solarize_threshold=solarize_threshold,
        )

    def transform(self, results: dict) -> dict:
        image = results["img"]
        # All draws come first: how small the image may be decoded hangs on them.
        uniform = torch.rand(len(self.sides), NUM_DRAWS, dtype=torch.float64).numpy()
        boxes = self.sample_boxes(uniform[:, : crops.NUM_DRAWS], *image.shape[:2])
        drawn = self.sample_colors(uniform[:, crops.NUM_DRAWS :])
        if isinstance(image, LazyImage):
            image, boxes = self._decode(image, boxes)
        image = np.ascontiguousarray(image[..., ::-1])  # BGR to RGB
        image = torch.from_numpy(image).permute(2, 0, 1)
        tiles = [
            crops.cut(image, box, side)
            for box, side in zip(boxes, self.sides, strict=True)
        ]
        if self.colors_on == "device":
            results["img"] = [t.contiguous() for t in tiles] + [self._table(drawn)]
        else:
            results["img"] = self._paint(tiles, drawn)
        return results

    def _decode(
        self, image: LazyImage, boxes: list[crops.Box]
    ) -> tuple[np.ndarray, list[crops.Box]]:
        reduction = crops.largest_reduction(boxes, self.sides)
        pixels, reduction = image.decode(reduction)
        if reduction > 1:
            boxes = [box.shrink(reduction, *pixels.shape[:2]) for box in boxes]
        return pixels, boxes

    def _table(self, drawn: colors.Colors) -> Tensor:
        levels = len(self.ratios) if self.shared_levels else 1
        return drawn.to_table().repeat_interleave(levels, 0)

    def _paint(self, tiles: list[Tensor], drawn: colors.Colors) -> list[Tensor]:
        painted = []
        for row, tile in enumerate(tiles):
            pixels = colors.paint(tile.permute(1, 2, 0).numpy(), drawn, row)
            painted.append(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
        if self.shared_levels:
            painted = resize_shared(painted, self.size, self.ratios)
        return painted

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size}, ratios={self.ratios})"


def resize_shared(
    tiles: Sequence[Tensor], size: int, ratios: Sequence[int]
) -> list[Tensor]:
    """Show one crop of side S, (..., 3, S, S), at every level; view after view."""
    sides = [size // r for r in ratios]
    return [F.resize(t, [s, s], antialias=True) for t in tiles for s in sides]


def _check_probs(probs: dict[str, float]) -> None:
    for name, value in probs.items():
        if not 0 <= value <= 1:
            raise InputError(f"{name}={value}: a probability lies between 0 and 1")
