"""MCL: multi-level contrastive learning for dense prediction (arXiv 2304.02010)."""

from collections.abc import Sequence

import torch
from mmpretrain.models.selfsup.base import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from ..datasets.montage import View
from .early import differentiate_early
from .matching import Targets
from .neck import embed_canvases
from .parts import share_levels
from .target import TargetNetwork


@MODELS.register_module()
class MCL(BaseSelfSupervisor):
    """Pre-train backbone, FPN and the box head's convs on montage canvases.

    ``backbone`` and ``neck`` are the online network, under the names a detector
    gives them; ``target`` is their moving average, which
    :class:`~mcl.engine.TargetUpdateHook` moves after each optimizer step.

    Args:
        backbone: any backbone of MMPretrain or MMDetection that returns C2..C5.
        neck: config of :class:`MCLNeck`.
        head: config of :class:`MCLHead`.
        data_preprocessor: config of :class:`MCLDataPreprocessor`.
        size: canvas side S in pixels, a multiple of 32; by default 224.
        ratios: tiles along a side of each level's canvas; by default (1, 2, 4, 8).
        base_momentum: see :class:`TargetNetwork`.
        channels_last: whether weights and maps lie channel after channel of a pixel,
            which convolutions in bfloat16 and float16, and those of CPUs, prefer.
        early_backward: whether the activations of one view only are held at a time,
            see :mod:`mcl.models.early`. Not with float16, nor ``backbone.with_cp``.
        **kwargs: passed to MMPretrain's ``BaseSelfSupervisor``.

    Raises:
        InputError: as :func:`~mcl.models.parts.share_levels`.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: dict,
        data_preprocessor: dict,
        size: int | None = None,
        ratios: Sequence[int] | None = None,
        base_momentum: float = 0.01,
        channels_last: bool = False,
        early_backward: bool = False,
        **kwargs,
    ) -> None:
        parts = share_levels(data_preprocessor, neck, head, size, ratios)
        super().__init__(backbone=backbone, **parts, **kwargs)
        self.target = TargetNetwork(self.backbone, self.neck, base_momentum)
        self.early_backward = early_backward
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def loss(
        self, inputs: list[View], data_samples: list[DataSample] | None = None
    ) -> dict[str, Tensor]:
        """Match the tiles of each view with the targets of the other (section 3).

        Args:
            inputs: two views of B images, of :class:`MCLDataPreprocessor`.
            data_samples: not used.

        Returns:
            One ``loss_p<i>`` for each level, the sum over both views, and metrics
            to log, their mean over both views (:meth:`MCLHead.loss`).
        """
        view_1, view_2 = inputs  # canvases: per level (n_l, 3, S, S)
        target_1, target_2 = map(self.embed_targets, inputs)  # (L, B * processes, D)
        online_1 = self.embed(view_1)  # per level (N_l, D)
        loss_1 = self.head.loss(online_1, view_1.image_index, target_2)  # scalars
        if self.early_backward:
            loss_1 = differentiate_early(loss_1, self)
        online_2 = self.embed(view_2)  # per level (N_l, D)
        loss_2 = self.head.loss(online_2, view_2.image_index, target_1)  # scalars
        self.head.remember(target_1, target_2)
        return add_views(loss_1, loss_2)

    def embed(self, view: View) -> tuple[Tensor, ...]:
        """The online network's embeddings of all tiles, for each level (N_l, D)."""
        return embed_canvases(self.backbone, self.neck, view.canvases)

    def embed_targets(self, view: View) -> Targets:
        """The target network's embeddings of the images, of all processes."""
        levels = max(self.head.target_levels) + 1
        if self.neck.computation == "full":
            levels = len(view.canvases)
        embeddings = self.target(view.canvases[:levels])  # per level (N_l, D)
        return self.head.gather_targets(embeddings, view.image_index)

    def init_weights(self) -> None:
        """Initialize the online network; the target starts as a copy of it."""
        super().init_weights()
        self.target.reset(self.backbone, self.neck)

    def update_target(self, total_steps: int) -> None:
        """Move the target once; ``total_steps`` as in :class:`TargetNetwork`."""
        self.target.update(self.backbone, self.neck, total_steps)


def add_views(
    loss_1: dict[str, Tensor], loss_2: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Sums of both views' losses, means of their metrics."""
    return {
        name: (value + loss_2[name]) / (1 if name.startswith("loss") else 2)
        for name, value in loss_1.items()
    }
