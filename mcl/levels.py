"""Levels: the map of the pyramid for each tile ratio.

A level is given by its ratio r. Its canvases hold r x r tiles of side S / r. P5
(stride 32) serves r = 1, P4 r = 2, P3 r = 4 and P2 r = 8. On its own map every tile is
therefore S / 32 cells wide (paper, section on multi-level montage).
"""

from collections.abc import Sequence

from .errors import InputError

# Side in pixels of one cell of the coarsest map, P5.
COARSEST_STRIDE = 32


def check_ratios(ratios: Sequence[int], num_maps: int = 4) -> tuple[int, ...]:
    """Check ratios and return them as a tuple.

    Args:
        ratios: tiles along a canvas side, per level: ascending powers of two that
            begin with 1.
        num_maps: number of maps of the pyramid. The coarsest has stride 32.

    Raises:
        InputError: when a ratio has no map, or the first is not 1 (images alone, which
            give the targets).
    """
    allowed = [2**i for i in range(num_maps)]
    ratios = tuple(ratios) if isinstance(ratios, Sequence) else (ratios,)
    whole = all(isinstance(r, int) for r in ratios)
    ascending = whole and list(ratios) == sorted(set(ratios))
    if not ascending or ratios[:1] != (1,) or not set(ratios) <= set(allowed):
        raise InputError(
            f"ratios={ratios}: give ascending ratios out of {allowed} that begin "
            f"with 1, for a pyramid of {num_maps} maps"
        )
    return ratios


def check_size(size: int) -> int:
    """Check the canvas side S in pixels and return it.

    Raises:
        InputError: when it is not a positive multiple of 32.
    """
    if not isinstance(size, int):
        raise InputError(f"size={size!r}: give an integer number of pixels")
    if size < COARSEST_STRIDE or size % COARSEST_STRIDE:
        down = max(size // COARSEST_STRIDE, 1) * COARSEST_STRIDE
        raise InputError(
            f"size={size}: the canvas side must be a multiple of {COARSEST_STRIDE}, "
            f"such as {down} or {down + COARSEST_STRIDE}"
        )
    return size


def map_index(ratio: int, num_maps: int = 4) -> int:
    """Index of the map for a ratio, 0 for the finest map."""
    return num_maps - ratio.bit_length()


def level_name(ratio: int) -> str:
    """Name of the map for a ratio: ``p5`` for 1, ``p4`` for 2, ``p3``, ``p2``."""
    return f"p{6 - ratio.bit_length()}"
