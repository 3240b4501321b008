"""Predictors, and the match of each tile with its image's targets."""

from collections.abc import Sequence

import torch
from mmengine.dist import get_rank
from mmengine.model import BaseModule, ModuleList
from mmpretrain.registry import MODELS
from torch import Tensor

from ..errors import InputError
from ..levels import check_ratios, level_name
from .losses import ContrastiveTerm, normalize
from .matching import TargetQueue, Targets, gather_targets, matched_levels
from .spread import spread_metrics

# Sizes of the paper; Normal std .01, biases 0.
PREDICTOR = dict(
    type="mmpretrain.NonLinearNeck",
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
class MCLHead(BaseModule):
    """One predictor per level, and the loss against the target network's embeddings.

    Every tile of view 1 is matched with targets of its image in view 2, and the
    reverse (paper, section 3; the assignments are those of its figure).

    Args:
        ratios: tiles along a canvas side, per level.
        predictor: overrides of the predictors' config.
        loss: config of the loss, :class:`MultiLevelContrastiveLoss` or
            :class:`MultiLevelRegressionLoss`.
        assignment: which levels' targets a level is matched with, see
            :func:`~mcl.models.matching.matched_levels`.
        reduction: ``sum`` or ``mean`` of the losses of several matched levels.
        queue: targets of earlier iterations to keep as negatives, for each level
            read; 0 for none.

    Attributes:
        monitored: whether :meth:`loss` also reports how far embeddings are spread.
            :class:`~mcl.engine.EmbeddingMonitorHook` sets it for some iterations.

    Raises:
        InputError: for an option that does not exist, or when the loss has not one
            weight for each level.
    """

    monitored = False

    def __init__(
        self,
        ratios: Sequence[int] = (1, 2, 4, 8),
        predictor: dict | None = None,
        loss: dict | None = None,
        assignment: str = "image",
        reduction: str = "sum",
        queue: int = 0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.ratios = check_ratios(ratios)
        self.level_names = [level_name(ratio) for ratio in self.ratios]
        predictor = {**PREDICTOR, **(predictor or {})}
        self.predictors = ModuleList(MODELS.build(predictor) for _ in self.ratios)
        self.loss_module = MODELS.build(
            loss or dict(type="mmpretrain.MultiLevelContrastiveLoss")
        )
        weights = self.loss_module.level_weights
        if len(weights) != len(self.ratios):
            raise InputError(
                f"model.head.loss.level_weights={weights}: give one for each of "
                f"ratios={self.ratios}"
            )
        if reduction not in ("sum", "mean"):
            raise InputError(f"reduction={reduction!r}: choose 'sum' or 'mean'")
        self.matched = matched_levels(assignment, len(self.ratios))
        self.reduction = reduction
        # The levels that the target network is asked for.
        self.target_levels = sorted({k for levels in self.matched for k in levels})
        self.queue = None
        if queue:
            channels = predictor["out_channels"]
            self.queue = TargetQueue(queue, len(self.target_levels), channels)

    def gather_targets(
        self, embeddings: Sequence[Tensor], image_index: Sequence[Tensor]
    ) -> Targets:
        """As :func:`~mcl.models.matching.gather_targets`, of the levels read."""
        return gather_targets(embeddings, image_index, self.target_levels)

    def remember(self, *targets: Targets) -> None:
        """Put this iteration's targets, of all views, into the queue."""
        if self.queue is not None and self.training:
            for view in targets:
                self.queue.put(view)

    def loss(
        self,
        embeddings: Sequence[Tensor],
        image_index: Sequence[Tensor],
        targets: Targets,
    ) -> dict[str, Tensor]:
        """Losses and metrics of one view against the other view's targets.

        Args:
            embeddings: for each level (N_l, D), before the predictor.
            image_index: for each level (N_l,), the image 0..B-1 on each tile.
            targets: the other view's, of :meth:`gather_targets`.

        Returns:
            For each level the weighted ``loss_p5``, and metrics without gradient:
            ``ce_p5`` (the cross-entropy before weights), ``top1_p5``,
            ``positive_cosine_p5``, ``negative_cosine_p5``, each a mean over the
            matched levels. ``chance`` is the cross-entropy of guessing, ln(number of
            targets). ``monitored`` adds :func:`~mcl.models.spread.spread_metrics` of
            embeddings and targets.
        """
        metrics = self._spreads(embeddings, targets) if self.monitored else {}
        first_target = get_rank() * len(image_index[0])  # level 0: each image once
        if self.queue is not None:
            targets = self.queue.behind(targets)
        losses = {}
        for level, name in enumerate(self.level_names):
            predicted = self.predictors[level]((embeddings[level],))[0]  # (N_l, D)
            labels = image_index[level] + first_target  # (N_l,)
            loss, term = self._level_loss(level, normalize(predicted), labels, targets)
            losses[f"loss_{name}"] = loss
            losses[f"ce_{name}"] = term.cross_entropy
            losses[f"top1_{name}"] = term.top1
            losses[f"positive_cosine_{name}"] = term.positive
            losses[f"negative_cosine_{name}"] = term.negative
        return {**losses, "chance": targets.chance(), **metrics}

    def _level_loss(
        self, level: int, online: Tensor, labels: Tensor, targets: Targets
    ) -> tuple[Tensor, ContrastiveTerm]:
        """Loss of a level over all levels it is matched with; means of their terms."""
        losses, terms = [], []
        for matched in self.matched[level]:
            k = self.target_levels.index(matched)
            valid = None if targets.valid is None else targets.valid[k]
            loss, term = self.loss_module(
                level, online, targets.embeddings[k], labels, valid
            )
            losses.append(loss)
            terms.append(torch.stack(term).detach())
        total = torch.stack(losses)  # (matched levels,)
        total = total.mean() if self.reduction == "mean" else total.sum()
        return total, ContrastiveTerm(*torch.stack(terms).mean(dim=0))

    def _spreads(
        self, embeddings: Sequence[Tensor], targets: Targets
    ) -> dict[str, Tensor]:
        online = dict(zip(self.level_names, embeddings, strict=True))
        read = [self.level_names[level] for level in self.target_levels]
        of_targets = dict(zip(read, targets.rows(), strict=True))
        return {**spread_metrics(online), **spread_metrics(of_targets, "target_")}
