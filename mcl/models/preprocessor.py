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
    """Move crops to the device, lay both views on canvases, normalize.

    With ``colors_on="device"`` of :class:`~mcl.datasets.MultiLevelViews`, it also
    changes the colors, of all crops of a level at once. The random numbers for this
    come with the crops.

    Canvases are laid in uint8, with a quarter of the bytes. The montage has its own
    random generator, so a resumed run sees the same canvases.

    Args:
        montage: config of :class:`~mcl.datasets.Montage`, or of another transform that
            takes ``crops`` and ``generator`` and adds ``view``.
        mean, std: per RGB channel, on the scale 0..255.
        num_views: views of a batch, each with its own montage. 2, or 1 for supervised
            pre-training.
        bgr_to_rgb: whether plain images are BGR, as the hosts' loaders give them. The
            crops of :class:`~mcl.datasets.MultiLevelViews` are always RGB.
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
        """Seed the next montage by ``key``: seed, iteration, rank."""
        if self.generator is None:
            self.generator = torch.Generator()
        state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
        self.generator.manual_seed(int(state >> np.uint64(1)))

    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepare a batch of the loader.

        Args:
            data: ``inputs`` and ``data_samples``. In training the inputs are the
                crops of :class:`~mcl.datasets.MultiLevelViews`, uint8
                (B, 3, S / r, S / r) for each view and level. A table of colors,
                float32 (B, tiles, 11), may follow. Otherwise the inputs are plain
                images (B, 3, H, W).

        Returns:
            ``inputs``, in training a list of :class:`~mcl.datasets.View`, otherwise
            normalized RGB images (B, 3, H, W), and ``data_samples``, unchanged.

        Raises:
            InputError: when the number of crops does not fit the views, or there is
                only one image.
        """
        inputs, samples = data["inputs"], self.cast_data(data.get("data_samples"))
        if training and inputs[-1].is_floating_point():
            *crops, table = inputs  # the table stays on the CPU, which reads it
            inputs = self._views(self._paint(self.cast_data(crops), table))
        elif training:
            inputs = self._views(self.cast_data(inputs))
        else:
            inputs = self.cast_data(inputs)
            images = inputs if isinstance(inputs, Tensor) else torch.stack(inputs)
            images = images.flip(1) if self.bgr_to_rgb else images  # (B, 3, H, W)
            inputs = self._normalize(images)
        return dict(inputs=inputs, data_samples=samples)

    def _paint(self, crops: list[Tensor], table: Tensor) -> list[Tensor]:
        # A crop that is shown at several levels has several equal rows.
        levels = table.shape[1] // len(crops)
        crops = paint_levels(crops, table[:, ::levels])  # table: (B, crops, 11)
        if levels > 1:
            crops = resize_shared(crops, self.montage.size, self.montage.ratios)
        return crops  # each (B, 3, S / r, S / r)

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
                "train_dataloader.batch_size=1: batch norm and negatives need at least "
                "2 images"
            )
        views = []
        for start in range(0, len(crops), levels):
            part = dict(crops=crops[start : start + levels], generator=self.generator)
            view = self.montage(part)["view"]  # canvases: per level (n_l, 3, S, S)
            canvases = [self._normalize(canvas) for canvas in view.canvases]
            views.append(view._replace(canvases=canvases))
        return views

    def _normalize(self, images: Tensor) -> Tensor:
        return (images - self.mean).div_(self.std)
