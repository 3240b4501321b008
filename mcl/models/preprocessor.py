"""From the loader's uint8 crops to normalized canvases."""

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.model import ImgDataPreprocessor
from mmpretrain.registry import MODELS, TRANSFORMS
from torch import Tensor

from ..datasets.montage import View
from ..datasets.transforms import resize_shared
from ..errors import InputError
from .augment import paint_levels


@MODELS.register_module()
class MCLDataPreprocessor(ImgDataPreprocessor):
    """Move crops to the device, assemble both views, normalize.

    Where :class:`~mcl.datasets.MultiLevelViews` leaves the colors to the device,
    they are applied here, to all crops of a level at once. What is done to a crop was
    drawn with the crop, so a resumed run repeats that too.

    The montage is laid in uint8, a quarter of the bytes. Its draws come from a
    generator of its own, so that a resumed run sees the same canvases.

    Args:
        montage: config of :class:`~mcl.datasets.Montage`, or of a transform that
            takes ``crops`` and ``generator`` and adds ``view`` likewise.
        mean, std: per RGB channel, on the scale 0..255.
        num_views: views of a batch, each montage drawn by itself: 2, or 1 where
            nothing is compared (supervised pre-training).
        bgr_to_rgb: whether plain images come as the hosts' loaders give them; the
            crops of :class:`~mcl.datasets.MultiLevelViews` are RGB already.
        **kwargs: passed to MMEngine's ``ImgDataPreprocessor``.
    """

    def __init__(
        self,
        montage: dict,
        mean: Sequence[float] = (123.675, 116.28, 103.53),
        std: Sequence[float] = (58.395, 57.12, 57.375),
        num_views: int = 2,
        bgr_to_rgb: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(mean=mean, std=std, **kwargs)
        self.num_views = num_views
        self.bgr_to_rgb = bgr_to_rgb
        self.montage = TRANSFORMS.build(montage)
        self.generator: torch.Generator | None = None

    def seed(self, *key: int) -> None:
        """Make the next montage depend on ``key`` (seed, iteration, rank) alone."""
        if self.generator is None:
            self.generator = torch.Generator()
        state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
        self.generator.manual_seed(int(state >> np.uint64(1)))

    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepare a batch of the loader.

        Args:
            data: ``inputs`` and ``data_samples``. In training the inputs are the
                crops of :class:`~mcl.datasets.MultiLevelViews`, one uint8
                (B, 3, S / r, S / r) for each view and level, and perhaps its
                table of colors, float32 (B, tiles, 11); otherwise plain
                images (B, 3, H, W), whose channels are turned to RGB and normalized.

        Returns:
            ``inputs``, in training a list of :class:`~mcl.datasets.View`, and
            ``data_samples`` as they came.

        Raises:
            InputError: when the number of crops is not that of the views.
        """
        inputs, samples = data["inputs"], self.cast_data(data.get("data_samples"))
        if training and inputs[-1].is_floating_point():
            *crops, table = inputs  # the CPU plans by the table, so it stays there
            inputs = self._views(self._paint(self.cast_data(crops), table))
        elif training:
            inputs = self._views(self.cast_data(inputs))
        else:
            inputs = self.cast_data(inputs)
            images = inputs if isinstance(inputs, Tensor) else torch.stack(inputs)
            inputs = self._normalize(images.flip(1) if self.bgr_to_rgb else images)
        return dict(inputs=inputs, data_samples=samples)

    def _paint(self, crops: list[Tensor], table: Tensor) -> list[Tensor]:
        # More rows than crops: each crop is shown at so many levels.
        levels = table.shape[1] // len(crops)
        crops = paint_levels(crops, table[:, ::levels])
        if levels > 1:
            crops = resize_shared(crops, self.montage.size, self.montage.ratios)
        return crops

    def _views(self, crops: list[Tensor]) -> list[View]:
        levels = len(self.montage.ratios)
        if len(crops) != self.num_views * levels:
            raise InputError(
                f"inputs hold {len(crops)} crops, but ratios={self.montage.ratios} "
                f"ask for {self.num_views} x {levels}: give MultiLevelViews the same "
                "ratios, and as many views as data_preprocessor.num_views"
            )
        if len(crops[0]) * get_world_size() < 2:
            raise InputError(
                "train_dataloader.batch_size=1: batch norm and the negatives need at "
                "least 2 images"
            )
        views = []
        for start in range(0, len(crops), levels):
            draw = dict(crops=crops[start : start + levels], generator=self.generator)
            view = self.montage(draw)["view"]
            canvases = [self._normalize(canvas) for canvas in view.canvases]
            views.append(view._replace(canvases=canvases))
        return views

    def _normalize(self, images: Tensor) -> Tensor:
        return (images - self.mean).div_(self.std)
