"""Supervised MCL: each tile is classified with its image's label."""

from collections.abc import Sequence
from itertools import cycle

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule, ModuleList
from mmpretrain.models.selfsup.base import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as image_ops

from ..datasets.montage import View, lay_tiles
from ..errors import InputError
from ..levels import COARSEST_STRIDE, check_ratios, level_name
from .neck import embed_canvases
from .parts import share_levels
from .spread import spread_metrics


@MODELS.register_module()
class TileClassifierHead(BaseModule):
    """Linear classifiers of tile embeddings: one for all levels, or one per level.

    Args:
        num_classes: K.
        in_channels: D, of the neck's embeddings.
        ratios: tiles along a canvas side, per level.
        level_weights: w_l of the loss, one for each level.
        shared: whether all levels share one classifier.
        label_smoothing: probability spread evenly over all classes, 0 to below 1.

    Attributes:
        monitored: as in :class:`MCLHead`.

    Raises:
        InputError: for a wrong number of classes or weights, or a wrong smoothing.
    """

    monitored = False

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 256,
        ratios: Sequence[int] = (1, 2, 4, 8),
        level_weights: Sequence[float] = (1 / 2, 1 / 4, 1 / 8, 1 / 8),
        shared: bool = True,
        label_smoothing: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        init_cfg = init_cfg or dict(type="Normal", layer="Linear", std=0.01)
        super().__init__(init_cfg)
        self.ratios = check_ratios(ratios)
        if not isinstance(num_classes, int) or num_classes < 2:
            raise InputError(f"num_classes={num_classes}: give an integer >= 2")
        if len(level_weights) != len(self.ratios):
            raise InputError(
                f"level_weights={level_weights}: give one for each of ratios="
                f"{self.ratios}"
            )
        if not 0 <= label_smoothing < 1:
            raise InputError(
                f"label_smoothing={label_smoothing}: give a number >= 0 and < 1"
            )
        self.num_classes = num_classes
        self.level_weights = tuple(level_weights)
        self.label_smoothing = label_smoothing
        count = 1 if shared else len(self.ratios)
        self.classifiers = ModuleList(
            nn.Linear(in_channels, num_classes) for _ in range(count)
        )

    def forward(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        """Logits of the tiles, for each level (N_l, D) to (N_l, K).

        Raises:
            InputError: when D is not ``in_channels``.
        """
        wanted, given = self.classifiers[0].in_features, embeddings[0].shape[1]
        if wanted != given:
            raise InputError(
                f"head.in_channels={wanted}, but the neck's embeddings have {given}: "
                "make them equal"
            )
        pairs = zip(cycle(self.classifiers), embeddings, strict=False)
        return [classifier(rows) for classifier, rows in pairs]  # (N_l, K)

    def loss(
        self,
        embeddings: Sequence[Tensor],
        image_index: Sequence[Tensor],
        labels: Tensor,
    ) -> dict[str, Tensor]:
        """Mean cross-entropy of the tiles with the labels of their images.

        Args:
            embeddings: for each level (N_l, D).
            image_index: for each level (N_l,), the image 0..B-1 on each tile.
            labels: (B,) class of each image, 0..K-1.

        Returns:
            For each level ``loss_p5`` (weighted), ``ce_p5`` and ``top1_p5``. With
            ``monitored`` also :func:`~mcl.models.spread.spread_metrics`.
        """
        names = [level_name(ratio) for ratio in self.ratios]
        losses = {}
        if self.monitored:
            losses = spread_metrics(dict(zip(names, embeddings, strict=True)))
        levels = zip(names, self(embeddings), image_index, strict=True)
        for level, (name, logits, index) in enumerate(levels):
            target = labels[index]  # (N_l,)
            with torch.autocast(logits.device.type, enabled=False):
                ce = F.cross_entropy(
                    logits.float(), target, label_smoothing=self.label_smoothing
                )
            losses[f"loss_{name}"] = self.level_weights[level] * ce
            losses[f"ce_{name}"] = ce.detach()
            hits = (logits.detach().argmax(dim=1) == target).float()
            losses[f"top1_{name}"] = hits.mean()
        return losses


@MODELS.register_module()
class MCLSupervised(BaseSelfSupervisor):
    """Pre-train backbone, FPN and box-head convs by classifying tiles.

    The paper reports a similar result with labels, but no code was released. This is
    our reading: the same montage, trunk and tile embeddings, one view and no target
    network.

    Args:
        backbone: any backbone of MMPretrain or MMDetection that returns C2..C5.
        neck: config of :class:`MCLNeck`. ``projector=dict(type=
            "GlobalAveragePooling")`` classifies the pooled features instead.
        head: config of :class:`TileClassifierHead`.
        data_preprocessor: config of :class:`MCLDataPreprocessor`.
        size, ratios, channels_last: as in :class:`MCL`.
        **kwargs: passed to MMPretrain's ``BaseSelfSupervisor``.

    Raises:
        InputError: as :func:`~mcl.models.parts.share_levels`.
    """

    checked_labels = False

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: dict,
        data_preprocessor: dict,
        size: int | None = None,
        ratios: Sequence[int] | None = None,
        channels_last: bool = False,
        **kwargs,
    ) -> None:
        parts = share_levels(data_preprocessor, neck, head, size, ratios)
        super().__init__(backbone=backbone, **parts, **kwargs)
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def loss(
        self, inputs: list[View], data_samples: list[DataSample] | None = None
    ) -> dict[str, Tensor]:
        """Classify the tiles of every view.

        Args:
            inputs: views of B images, from :class:`MCLDataPreprocessor`.
            data_samples: B samples with ``gt_label``.

        Returns:
            The head's losses and metrics, their mean over the views.

        Raises:
            InputError: when there are no labels, or labels beyond ``num_classes``.
        """
        labels = self._labels(data_samples, inputs[0].canvases[0].device)
        losses = []
        for view in inputs:  # canvases: per level (n_l, 3, S, S)
            embeddings = embed_canvases(self.backbone, self.neck, view.canvases)
            losses.append(self.head.loss(embeddings, view.image_index, labels))
        return {
            name: sum(loss[name] for loss in losses) / len(losses) for name in losses[0]
        }

    def _labels(
        self, data_samples: list[DataSample] | None, device: torch.device
    ) -> Tensor:
        samples = data_samples or []
        if not samples or any("gt_label" not in sample for sample in samples):
            raise InputError(
                "the data have no labels: MCLSupervised needs a data set with "
                "classes, such as CustomDataset(with_label=True) on class folders"
            )
        labels = torch.cat([sample.gt_label for sample in samples])  # (B,)
        # Reading waits for an accelerator, so there only the first batch is checked.
        if not self.checked_labels and labels.max() >= self.head.num_classes:
            raise InputError(
                f"head.num_classes={self.head.num_classes}, but the data have a label "
                f"{int(labels.max())}: give as many classes as the data have"
            )
        self.checked_labels = labels.device.type != "cpu"
        return labels.to(device, non_blocking=True)

    def forward(self, inputs, data_samples=None, mode: str = "tensor"):
        """As in the host, and mode ``predict``: see :meth:`predict`."""
        if mode == "predict":
            return self.predict(inputs, data_samples)
        return super().forward(inputs, data_samples, mode)

    @torch.no_grad()
    def predict(
        self, inputs: Tensor, data_samples: list[DataSample]
    ) -> list[DataSample]:
        """Classify images alone (level 0) and as tiles of every other level.

        As in training, the backbone sees a tile's neighbors on the canvas. Predictions
        of tiles therefore depend on the batch and its order. Mix the classes with a
        seeded sampler, as the recipes do; otherwise neighbors mostly are of the same
        class. Predictions of images alone depend on nothing else.

        Args:
            inputs: (B, 3, S, S) normalized images, S a multiple of 32.
            data_samples: B samples.

        Returns:
            The samples with ``pred_label_p5`` and so on, and ``pred_score`` and
            ``pred_label`` of level 0, which MMPretrain's metrics read.

        Raises:
            InputError: for images of another shape.
        """
        height, width = inputs.shape[-2:]
        if height != width or width % COARSEST_STRIDE:
            raise InputError(
                f"images to classify are {height} x {width} pixels: crop squares with "
                f"CenterCrop, their side a multiple of {COARSEST_STRIDE}"
            )
        tiled = [self._tile_canvases(inputs, ratio) for ratio in self.head.ratios[1:]]
        embeddings = embed_canvases(self.backbone, self.neck, [inputs, *tiled])
        for ratio, logits in zip(self.head.ratios, self.head(embeddings), strict=True):
            scores = logits[: len(inputs)].float().softmax(dim=1)  # (B, K)
            for sample, score in zip(data_samples, scores, strict=True):
                label = score.argmax().view(1)
                sample.set_field(label, f"pred_label_{level_name(ratio)}")
                if ratio == 1:
                    sample.set_pred_score(score).set_pred_label(label)
        return data_samples

    def _tile_canvases(self, images: Tensor, ratio: int) -> Tensor:
        """Lay the resized images on canvases (n_l, 3, S, S), each once and in order.

        Images from the beginning fill up the last canvas. If the montage lays no
        canvases, return the resized images (B, 3, S / r, S / r).
        """
        slots, sides = ratio**2, [images.shape[-1] // ratio] * 2
        tiles = image_ops.resize(images, sides, antialias=True)  # (B, 3, S / r, S / r)
        if not getattr(self.data_preprocessor.montage, "on_canvas", True):
            return tiles
        filled = -(-len(images) // slots) * slots
        index = torch.arange(filled, device=images.device) % len(images)
        return lay_tiles(tiles[index], ratio)  # (n_l, 3, S, S)
