"""The loss of a level as pure functions of tensors, and modules that weight it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..errors import InputError


class ContrastiveTerm(NamedTuple):
    """Cross-entropy of one level and view, and metrics to log (all scalars).

    Attributes:
        cross_entropy: mean over the tiles, nat.
        positive: mean cosine of a tile and its image's target; no gradient.
        negative: mean cosine of a tile and the other images' targets; no gradient.
        top1: share of tiles whose nearest target is their image's, 0..1.
    """

    cross_entropy: Tensor
    positive: Tensor
    negative: Tensor
    top1: Tensor


def normalize(embeddings: Tensor) -> Tensor:
    """L2-normalize (N, D) along D, in float32 whatever the autocast."""
    return F.normalize(embeddings.float(), dim=1)


def contrastive_cross_entropy(
    online: Tensor,
    targets: Tensor,
    labels: Tensor,
    temperature: float,
    valid: Tensor | None = None,
) -> ContrastiveTerm:
    """Cross-entropy of tiles against all images' targets (paper, section 3; InfoNCE).

    Args:
        online: (N, D) normalized embeddings of tiles, float32.
        targets: (M, D) normalized targets of M images, float32, no gradient.
        labels: (N,) index in 0..M-1 of each tile's image.
        temperature: T, above 0; the logits are cosine / T.
        valid: (M,) bool, the targets that exist; None: all. The others are no
            negatives, and tiles matched with one are left out of every mean.
    """
    with torch.autocast(online.device.type, enabled=False):
        logits = online @ (targets / temperature).t()  # (N, M)
        cosines, kept = logits.detach() * temperature, labels
        if valid is not None:
            logits = logits.masked_fill(~valid, -torch.inf)
            kept = labels.masked_fill(~valid[labels], -100)  # ignored by the host
        losses = F.cross_entropy(logits, kept, reduction="none")  # (N,)
        share = (kept >= 0).to(losses.dtype)
        share = share / share.sum().clamp(min=1)  # (N,), of the tiles that count
        return ContrastiveTerm(
            losses @ share, *_match_metrics(cosines, labels, valid, share)
        )


def _match_metrics(
    cosines: Tensor, labels: Tensor, valid: Tensor | None, share: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Positive and negative cosine and top-1, each a mean by ``share`` (N,)."""
    positives = cosines.gather(1, labels[:, None])[:, 0]  # (N,)
    if valid is None:
        sums, others = cosines.sum(dim=1), max(cosines.shape[1] - 1, 1)
    else:
        sums, others = cosines @ valid.to(cosines.dtype), (valid.sum() - 1).clamp(min=1)
        cosines = cosines.masked_fill(~valid, -torch.inf)
    hits = (cosines.argmax(dim=1) == labels).to(share.dtype)
    return positives @ share, (sums - positives) / others @ share, hits @ share


def cosine_regression(
    online: Tensor, targets: Tensor, labels: Tensor, valid: Tensor | None = None
) -> Tensor:
    """2 - 2 cosine of a tile and its image's target, mean over the tiles, 0..4.

    BYOL's loss (arXiv 2006.07733, equation 2): no negatives.

    Args:
        online, targets, labels, valid: as :func:`contrastive_cross_entropy`.
    """
    losses = 2 - 2 * (online * targets[labels]).sum(dim=1)  # (N,)
    if valid is None:
        return losses.mean()
    matched = valid[labels]
    return torch.where(matched, losses, 0).sum() / matched.sum().clamp(min=1)


@MODELS.register_module()
class MultiLevelContrastiveLoss(nn.Module):
    """w_l * 2T * CE(u . targets / T, y) for a level l (paper, section 3).

    Args:
        level_weights: w_l, one for each level.
        temperature: T. The factor 2T keeps the gradient's scale over T; at T = 1
            the cross-entropy can fall only about 1 nat below chance.

    Attributes:
        trains_cross_entropy: whether the cross-entropy is what is made small.

    Raises:
        InputError: when T is no number above 0.
    """

    trains_cross_entropy = True

    def __init__(
        self,
        level_weights: Sequence[float] = (1 / 2, 1 / 4, 1 / 8, 1 / 8),
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(temperature, (int, float)) or not temperature > 0:
            raise InputError(f"temperature={temperature!r}: give a number above 0")
        self.level_weights = tuple(level_weights)
        self.temperature = temperature

    def forward(
        self,
        level: int,
        online: Tensor,
        targets: Tensor,
        labels: Tensor,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, ContrastiveTerm]:
        """Weighted loss of a level, and the term it comes from.

        Args:
            level: index of the level, 0 for images alone.
            online: (N, D), targets: (M, D), both normalized; labels: (N,).
            valid: (M,) bool or None, as :func:`contrastive_cross_entropy`.
        """
        term = contrastive_cross_entropy(
            online, targets, labels, self.temperature, valid
        )
        weight = self.level_weights[level] * 2 * self.temperature
        return weight * term.cross_entropy, term


@MODELS.register_module()
class MultiLevelRegressionLoss(MultiLevelContrastiveLoss):
    """w_l * (2 - 2 cosine) with the matched target alone, as in BYOL: no negatives.

    The cross-entropy against all targets is computed without gradient, to be logged.

    Args:
        level_weights: w_l, one for each level.
        temperature: T of the logged cross-entropy.
    """

    trains_cross_entropy = False

    def forward(
        self,
        level: int,
        online: Tensor,
        targets: Tensor,
        labels: Tensor,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, ContrastiveTerm]:
        """As :meth:`MultiLevelContrastiveLoss.forward`."""
        with torch.no_grad():
            term = contrastive_cross_entropy(
                online, targets, labels, self.temperature, valid
            )
        loss = cosine_regression(online, targets, labels, valid)
        return self.level_weights[level] * loss, term
