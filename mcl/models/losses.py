"""The contrastive loss as pure functions of tensors."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class ContrastiveTerm(NamedTuple):
    """Loss of one level and view, and what to log of it (all scalars).

    Attributes:
        cross_entropy: mean over the tiles, nat.
        positive: mean cosine of a tile and its image's target.
        negative: mean cosine of a tile and the other images' targets.
        top1: share of tiles whose nearest target is their image's.
    """

    cross_entropy: Tensor
    positive: Tensor
    negative: Tensor
    top1: Tensor


def normalise(embeddings: Tensor) -> Tensor:
    """L2-normalise (N, D) along D, in float32 whatever the autocast."""
    return F.normalize(embeddings.float(), dim=1)


def contrastive_cross_entropy(
    online: Tensor, targets: Tensor, labels: Tensor, temperature: float
) -> ContrastiveTerm:
    """Cross-entropy of tiles against all images' targets (paper, section 3; InfoNCE).

    Args:
        online: (N, D) normalised embeddings of tiles, float32.
        targets: (M, D) normalised targets of M images, float32, no gradient.
        labels: (N,) index in 0..M-1 of each tile's image.
        temperature: T, above 0; the logits are cosine / T.
    """
    with torch.autocast(online.device.type, enabled=False):
        logits = online @ (targets / temperature).t()
        cross_entropy = F.cross_entropy(logits, labels)
    with torch.no_grad():
        positive = logits.gather(1, labels[:, None]).sum()
        tiles, images = logits.shape
        negative = (logits.sum() - positive) / max(tiles * (images - 1), 1)
        top1 = (logits.argmax(dim=1) == labels).float().mean()
    return ContrastiveTerm(
        cross_entropy, positive / tiles * temperature, negative * temperature, top1
    )
