"""Predictors, and the match of each tile with its image's target."""

from collections.abc import Sequence

import torch
from mmengine.dist import all_gather, get_rank
from mmengine.model import BaseModule, ModuleList
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..errors import InputError
from ..levels import check_ratios, level_name
from .losses import ContrastiveTerm, contrastive_cross_entropy, normalise

# Sizes of the paper; Normal std .01, biases 0.
PREDICTOR = dict(
    type="NonLinearNeck",
    in_channels=256,
    hid_channels=2048,
    out_channels=256,
    num_layers=2,
    with_bias=True,
    with_last_bias=True,
    with_last_bn=False,
    with_avg_pool=False,
    norm_cfg=dict(type="BN1d"),
    init_cfg=[
        dict(type="Normal", layer="Linear", std=0.01),
        dict(type="Constant", val=1, layer="BatchNorm1d"),
    ],
)


@MODELS.register_module()
class MultiLevelContrastiveLoss(nn.Module):
    """w_l * 2T * CE(u . targets / T, y) for a level l (paper, section 3).

    Args:
        level_weights: w_l, one for each level.
        temperature: T. The factor 2T keeps the gradient's scale over T; at T = 1
            the cross-entropy can fall only about 1 nat below chance.

    Raises:
        InputError: when T is not above 0.
    """

    def __init__(
        self,
        level_weights: Sequence[float] = (1 / 2, 1 / 4, 1 / 8, 1 / 8),
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise InputError(f"temperature={temperature}: it must be above 0")
        self.level_weights = tuple(level_weights)
        self.temperature = temperature

    def forward(
        self, level: int, online: Tensor, targets: Tensor, labels: Tensor
    ) -> tuple[Tensor, ContrastiveTerm]:
        """Weighted loss of a level, and the term it comes from.

        Args:
            level: index of the level, 0 for images alone.
            online: (N, D), targets: (M, D), both normalised; labels: (N,).
        """
        term = contrastive_cross_entropy(online, targets, labels, self.temperature)
        weight = self.level_weights[level] * 2 * self.temperature
        return weight * term.cross_entropy, term


@MODELS.register_module()
class MCLHead(BaseModule):
    """One predictor per level, and the loss against un-montaged images.

    Every tile of view 1 is matched to the target of its image in view 2, and the
    reverse (the paper's assignment (a)).

    Args:
        ratios: tiles along a canvas side, per level.
        predictor: overrides of the predictors' config.
        loss: config of the loss, :class:`MultiLevelContrastiveLoss`.

    Raises:
        InputError: when the loss has not one weight for each level.
    """

    def __init__(
        self,
        ratios: Sequence[int] = (1, 2, 4, 8),
        predictor: dict | None = None,
        loss: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.ratios = check_ratios(ratios)
        self.predictors = ModuleList(
            MODELS.build({**PREDICTOR, **(predictor or {})}) for _ in self.ratios
        )
        self.loss_module = MODELS.build(loss or dict(type="MultiLevelContrastiveLoss"))
        weights = self.loss_module.level_weights
        if len(weights) != len(self.ratios):
            raise InputError(
                f"level_weights={weights}: give one for each of ratios={self.ratios}"
            )

    @torch.no_grad()
    def gather_targets(self, targets: Sequence[Tensor]) -> Tensor:
        """Normalise both views' targets and gather them over processes.

        Args:
            targets: for each of V views (B, D), in the order of the images.

        Returns:
            (V, B * processes, D), float32, process after process.
        """
        own = torch.stack([normalise(t) for t in targets])
        return torch.cat(all_gather(own), dim=1)

    def loss(
        self,
        embeddings: Sequence[Tensor],
        image_index: Sequence[Tensor],
        targets: Tensor,
    ) -> dict[str, Tensor]:
        """Losses and figures of one view against the other view's targets.

        Args:
            embeddings: for each level (N_l, D), before the predictor.
            image_index: for each level (N_l,), the image 0..B-1 on each tile.
            targets: (B * processes, D) of :meth:`gather_targets`.

        Returns:
            For each level ``loss_p5`` (weighted), ``ce_p5`` (before weights),
            ``top1_p5``, ``positive_cosine_p5`` and ``negative_cosine_p5``.
        """
        # Level 0 is every image once, so its length is the batch size B.
        first_target = get_rank() * len(image_index[0])
        losses = {}
        for level, ratio in enumerate(self.ratios):
            online = normalise(self.predictors[level]((embeddings[level],))[0])
            labels = image_index[level] + first_target
            loss, term = self.loss_module(level, online, targets, labels)
            name = level_name(ratio)
            losses[f"loss_{name}"] = loss
            losses[f"ce_{name}"] = term.cross_entropy.detach()
            losses[f"top1_{name}"] = term.top1
            losses[f"positive_cosine_{name}"] = term.positive
            losses[f"negative_cosine_{name}"] = term.negative
        return losses
