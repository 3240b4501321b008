"""MCL: multi-level contrastive learning for dense prediction (arXiv 2304.02010)."""

import torch
from mmpretrain.models.selfsup.base import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.nn import Parameter

from ..datasets.montage import View
from ..errors import InputError
from .early import differentiate_early
from .neck import check_parts, embed_canvases
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
        base_momentum: see :class:`TargetNetwork`.
        channels_last: whether weights and maps lie channel after channel of a pixel,
            which convolutions in bfloat16 and float16, and those of CPUs, prefer.
        early_backward: whether view 1's gradient is computed before view 2's
            forward, so that the activations of one view only are held; it costs one
            more set of gradients. Not with float16, whose loss scale comes later,
            nor with the backbone's activation checkpoints (``with_cp``).
        **kwargs: passed to MMPretrain's ``BaseSelfSupervisor``.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: dict,
        base_momentum: float = 0.01,
        channels_last: bool = False,
        early_backward: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(backbone=backbone, neck=neck, head=head, **kwargs)
        check_parts(self.data_preprocessor, self.neck, self.head)
        if early_backward and any(getattr(m, "with_cp", False) for m in self.modules()):
            raise InputError(
                "early_backward=True and backbone.with_cp=True: the hosts' activation "
                "checkpoints cannot be differentiated early; choose one of them"
            )
        self.early_backward = early_backward
        self.target = TargetNetwork(self.backbone, self.neck, base_momentum)
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def init_weights(self) -> None:
        """Initialize the online network; the target starts as a copy of it."""
        super().init_weights()
        self.reset_target()

    def reset_target(self) -> None:
        """Make the target a copy of the online network, at step 0."""
        self.target.reset(self.backbone, self.neck)

    def update_target(self, total_steps: int) -> None:
        """Move the target once; ``total_steps`` as in :class:`TargetNetwork`."""
        self.target.update(self.backbone, self.neck, total_steps)

    def loss(
        self, inputs: list[View], data_samples: list[DataSample] | None = None
    ) -> dict[str, Tensor]:
        """Match the tiles of each view with the targets of the other.

        Args:
            inputs: two views of B images, of :class:`MCLDataPreprocessor`.
            data_samples: not used.

        Returns:
            One ``loss_p<i>`` for each level, the sum over both views, and figures
            to log, their mean over both views (:meth:`MCLHead.loss`).
        """
        index = [view.image_index for view in inputs]
        pending = self.head.gather_targets([self._targets(v) for v in inputs], index)
        per_view, targets = [], None
        for number, view in enumerate(inputs):
            embeddings = embed_canvases(self.backbone, self.neck, view.canvases)
            # The first view's forward ran while targets came from other processes.
            targets = targets or pending.wait()
            losses = self.head.loss(embeddings, view.image_index, targets[1 - number])
            if self.early_backward and number == 0 and torch.is_grad_enabled():
                losses = differentiate_early(losses, self._trained_weights())
            per_view.append(losses)
        self.head.remember(targets)
        losses = {}
        for name in per_view[0]:
            both = per_view[0][name] + per_view[1][name]
            losses[name] = both if name.startswith("loss") else both / 2
        return losses

    def _trained_weights(self) -> list[Parameter]:
        return [weight for weight in self.parameters() if weight.requires_grad]

    def _targets(self, view: View) -> tuple[Tensor, ...]:
        """Target embeddings (N_l, D) of the levels that the assignment reads."""
        levels = max(self.head.target_levels) + 1
        if self.neck.computation == "full":
            levels = len(view.canvases)
        return self.target(view.canvases[:levels])
