"""How far embeddings are spread: what falls when a network collapses."""

import math
from collections.abc import Mapping

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from .losses import normalize


@torch.no_grad()
def spread(embeddings: Tensor) -> Tensor:
    """Standard deviation times sqrt(D), and effective rank, of directions.

    The rows are L2-normalized first. The deviation is that of each of the D
    coordinates over the rows, averaged over the coordinates: 1 / sqrt(D) when the
    rows are spread evenly over the sphere (Chen and He 2021, SimSiam, section 4.1).
    The effective rank is exp(entropy of p), p a matrix' singular values divided by
    their sum (Roy and Vetterli 2007, The effective rank: a measure of effective
    dimensionality), of the rows' second moments, (D, D), not centered. So p is the
    share of each direction in the squared lengths: a direction that has 91 % of
    them leaves a rank of about 2.

    Args:
        embeddings: (N, D), of any floating type; computed in float32.

    Returns:
        (2,), float32: the deviation times sqrt(D), 0 (all rows equal) to 1, and the
        rank, 1 (all rows on a line) to min(N, D). NaN where an entry is not finite.
    """
    rows = normalize(embeddings)
    if not rows.isfinite().all():
        return rows.new_full((2,), math.nan)
    count, dims = rows.shape
    deviation = rows.std(dim=0, correction=0).mean() * dims**0.5
    # Either product has the eigenvalues that are not 0; the smaller one is faster.
    moments = rows @ rows.t() if count < dims else rows.t() @ rows
    values = torch.linalg.eigvalsh(moments).clamp(min=0)
    total, tiny = values.sum(), torch.finfo(values.dtype).tiny
    # Rows shorter than the norm's epsilon leave a total that is no normal number: none.
    shares = torch.where(total < tiny, 0, values / total.clamp(min=tiny))
    return torch.stack([deviation, torch.special.entr(shares).sum().exp()])


def spread_metrics(
    embeddings: Mapping[str, Tensor], prefix: str = ""
) -> dict[str, Tensor]:
    """``<prefix>std_p5`` and ``<prefix>rank_p5`` of each level, mean over processes.

    Args:
        embeddings: by the level's name, (N_l, D).
        prefix: ``target_`` of the target network's.
    """
    with torch.autocast(next(iter(embeddings.values())).device.type, enabled=False):
        values = torch.stack([spread(rows) for rows in embeddings.values()])  # (L, 2)
    all_reduce(values, op="mean")
    return {
        f"{prefix}{kind}_{name}": value
        for name, pair in zip(embeddings, values, strict=True)
        for kind, value in zip(("std", "rank"), pair, strict=True)
    }
