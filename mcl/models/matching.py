"""Which level's targets a level is matched with, and a batch's targets in order."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmengine.dist import all_gather
from torch import Tensor, nn

from ..errors import InputError
from .losses import normalize

# The paper's figure: (a), (b), (c), (d). Its results use (a).
ASSIGNMENTS = ("image", "same", "neighbors", "all")
# As older configs spell it.
OLD_NAMES = {"neighbours": "neighbors"}


def matched_levels(assignment: str, num_levels: int) -> tuple[tuple[int, ...], ...]:
    """For each level, the levels whose targets it is matched with.

    Args:
        assignment: ``image``: (a) the image alone, level 0; ``same``: (b) its own
            level; ``neighbors``: (c) its own level and those beside it that exist;
            ``all``: (d) every level.
        num_levels: number of levels.

    Raises:
        InputError: for an unknown assignment.

    Example:
        >>> matched_levels("neighbors", 3)
        ((0, 1), (0, 1, 2), (1, 2))
    """
    assignment = OLD_NAMES.get(assignment, assignment)
    if assignment not in ASSIGNMENTS:
        raise InputError(f"assignment={assignment!r}: choose one of {ASSIGNMENTS}")
    levels = range(num_levels)
    reach = dict(image=lambda i, k: k == 0, same=lambda i, k: k == i)
    reach["neighbors"] = lambda i, k: abs(i - k) <= 1
    reach["all"] = lambda i, k: True
    return tuple(tuple(k for k in levels if reach[assignment](i, k)) for i in levels)


class Targets(NamedTuple):
    """Targets of a view's images, gathered over processes, for each level read.

    Attributes:
        embeddings: (L, M, D) normalized, float32, M = B * processes.
        valid: (L, M) bool, whether the image was on a tile of that level; None
            where every image was.
    """

    embeddings: Tensor
    valid: Tensor | None

    def rows(self) -> list[Tensor]:
        """The targets that exist, for each level (M_l, D); may wait for a device."""
        if self.valid is None:
            return list(self.embeddings)
        return [e[v] for e, v in zip(self.embeddings, self.valid, strict=True)]

    def chance(self) -> Tensor:
        """Cross-entropy of guessing, ln(number of targets), mean over the levels."""
        if self.valid is None:
            return self.embeddings.new_full((), math.log(self.embeddings.shape[1]))
        return self.valid.sum(dim=1).log().mean()


def average_tiles(
    embeddings: Tensor, image_index: Tensor, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Put a level's embeddings in the order of the images.

    Where an image has several tiles, their normalized embeddings are averaged and
    normalized again.

    Args:
        embeddings: (N, D) of the tiles.
        image_index: (N,) image 0..B-1 on each tile.
        batch_size: B.

    Returns:
        (B, D) normalized, and (B,) bool: whether the image was on any tile.
    """
    unit = normalize(embeddings)
    sums = unit.new_zeros(batch_size, unit.shape[1]).index_add(0, image_index, unit)
    tiles = unit.new_zeros(batch_size).index_fill(0, image_index, 1)
    return normalize(sums), tiles > 0


@torch.no_grad()
def gather_targets(
    embeddings: Sequence[Tensor], image_index: Sequence[Tensor], levels: Sequence[int]
) -> Targets:
    """A view's targets of all processes, process after process.

    Args:
        embeddings: for each level (N_l, D), as the target network gave them; levels
            beyond the last one read may be absent.
        image_index: for each level (N_l,), the image 0..B-1 on each tile.
        levels: the levels that are read, L of them.
    """
    batch_size = len(image_index[0])  # level 0 is every image once
    own = [average_tiles(embeddings[k], image_index[k], batch_size) for k in levels]
    rows, present = map(torch.stack, zip(*own, strict=True))  # (L, B, D), (L, B)
    rows = torch.cat(all_gather(rows), dim=1)  # (L, B * processes, D)
    # Every process has as many tiles, so all agree on whether images may be absent.
    if all(len(image_index[k]) >= batch_size for k in levels):
        return Targets(rows, None)
    present = torch.cat(all_gather(present.to(rows)), dim=1)  # (L, B * processes)
    return Targets(rows, present > 0)


class TargetQueue(nn.Module):
    """Targets of the last iterations as further negatives; first in, first out.

    What goes in is gathered over processes, so all hold the same. It is in the
    state dict: a resumed run goes on with it.

    Args:
        size: Q, targets kept for each level.
        num_levels: L, levels that are read.
        channels: D.

    Raises:
        InputError: for a size below 1.
    """

    def __init__(self, size: int, num_levels: int, channels: int) -> None:
        super().__init__()
        # True would be a queue of one target.
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise InputError(f"queue={size!r}: give a number of targets from 1 on")
        self.register_buffer("embeddings", torch.zeros(num_levels, size, channels))
        self.register_buffer("valid", torch.zeros(num_levels, size, dtype=torch.bool))

    def behind(self, targets: Targets) -> Targets:
        """``targets`` with the queue's behind them: (L, M + Q, D)."""
        embeddings = torch.cat([targets.embeddings, self.embeddings], dim=1)
        present = targets.valid
        if present is None:
            present = self.valid.new_ones(targets.embeddings.shape[:2])
        return Targets(embeddings, torch.cat([present, self.valid], dim=1))

    @torch.no_grad()
    def put(self, targets: Targets) -> None:
        """Put the newest in front; the oldest fall out at the end."""
        newest, size = self.behind(targets), self.valid.shape[1]
        self.embeddings.copy_(newest.embeddings[:, :size])
        self.valid.copy_(newest.valid[:, :size])
