"""The two views of an image, one crop for each level (paper, section 3)."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..errors import InputError
from ..levels import check_ratios, check_size

# What the paper's code does in view 1 and in view 2; the rest is common to both.
VIEWS = (
    dict(blur_prob=1.0, solarize_prob=0.0),
    dict(blur_prob=0.1, solarize_prob=0.2),
)


class GaussianBlur:
    """Blur a uint8 (3, H, W) tensor with a sigma drawn from a range in pixels.

    OpenCV's separable filter takes a tenth of the time of a dense convolution.
    """

    def __init__(self, sigma: tuple[float, float]) -> None:
        self.sigma = sigma

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        sigma = float(torch.empty(1).uniform_(*self.sigma))
        # Three sigma on each side; what lies beyond rounds to nothing in uint8.
        kernel = 2 * int(np.ceil(3 * sigma)) + 1
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        blurred = cv2.GaussianBlur(pixels, (kernel, kernel), sigma)
        return torch.from_numpy(blurred).permute(2, 0, 1)

    def __repr__(self) -> str:
        return f"GaussianBlur(sigma={self.sigma})"


@TRANSFORMS.register_module()
class MultiLevelViews(BaseTransform):
    """Augment an image independently for each view and level.

    A crop of level l is resized, antialiased, straight from the image to its
    tile side S / r_l. Lengths in pixels (the blur's sigma) are given for a crop
    of side S and scaled with it. Random numbers come from torch's generator.

    Required Keys:
        - img (uint8, (H, W, 3), BGR as the hosts' loaders give it)

    Modified Keys:
        - img: list of uint8 RGB tensors (3, S / r, S / r), view after view and,
          within a view, level after level

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
        color_jitter_prob, gray_prob: chances of jitter and of grey.
        blur_sigma: smallest and largest sigma, pixels of a crop of side S.
        solarize_threshold: values from here on are inverted, 0..255.

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

        def pipeline(ratio: int, blur_prob: float, solarize_prob: float) -> v2.Compose:
            sigma = (blur_sigma[0] / ratio, blur_sigma[1] / ratio)
            return v2.Compose(
                [
                    v2.RandomResizedCrop(
                        size // ratio, crop_scale, aspect_ratio, antialias=True
                    ),
                    v2.RandomHorizontalFlip(flip_prob),
                    v2.RandomApply([v2.ColorJitter(**jitter)], p=color_jitter_prob),
                    v2.RandomGrayscale(gray_prob),
                    v2.RandomApply([GaussianBlur(sigma)], p=blur_prob),
                    v2.RandomSolarize(solarize_threshold, p=solarize_prob),
                ]
            )

        self.shared_levels = shared_levels
        drawn = self.ratios[:1] if shared_levels else self.ratios
        self.pipelines = [pipeline(r, **view) for view in views for r in drawn]

    def transform(self, results: dict) -> dict:
        image = np.ascontiguousarray(results["img"][..., ::-1])  # BGR to RGB
        image = torch.from_numpy(image).permute(2, 0, 1)
        crops = [crop(image) for crop in self.pipelines]
        if self.shared_levels:
            sides = [self.size // r for r in self.ratios]
            crops = [F.resize(c, [s, s], antialias=True) for c in crops for s in sides]
        results["img"] = [crop.contiguous() for crop in crops]
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size}, ratios={self.ratios})"


def _check_probs(probs: dict[str, float]) -> None:
    for name, value in probs.items():
        if not 0 <= value <= 1:
            raise InputError(f"{name}={value}: a probability lies between 0 and 1")
