"""Which weights of a pre-training checkpoint leave it: a network, its parts."""

from collections.abc import Mapping

from torch import Tensor

from ..errors import InputError
from .load_report import BACKBONE, NECK, SHARED_CONVS

NETWORKS = ("online", "target")
# What --part means; each holds the one before it.
PARTS = {
    "backbone": (BACKBONE,),
    "trunk": (BACKBONE, NECK),
    "detector": (BACKBONE, NECK, SHARED_CONVS),
}
# Prefixes of our weights and the part that they are.
OURS = {
    "backbone.": BACKBONE,
    "neck.lateral_convs.": NECK,
    "neck.fpn_convs.": NECK,
    "neck.shared_convs.": SHARED_CONVS,
}
COUNTER = "num_batches_tracked"
STATISTICS = ("running_mean", "running_var", COUNTER)


def part_of(name: str) -> str | None:
    """The part of one of our weights; None for what serves pre-training only."""
    return next((part for p, part in OURS.items() if name.startswith(p)), None)


def take_network(
    weights: Mapping[str, Tensor], net: str = "online"
) -> tuple[dict[str, Tensor], list[str]]:
    """Backbone, FPN and shared convs of the online or the target network.

    With `selected` computation the target network reads P5 alone, so the BN layers
    of its other convs have no statistics of their own: they get those of the
    online network, whose average its weights are, where it has some.

    Args:
        weights: the state dict of :class:`~mcl.models.MCL`.
        net: ``online`` or ``target``.

    Returns:
        The weights under the online network's names, and the norm layers that
        were given the online network's statistics.

    Raises:
        InputError: when that network is not in the file.
    """
    online = {k: v for k, v in weights.items() if part_of(k)}
    if net == "online":
        return online, []
    target = {
        name: tensor
        for k, tensor in weights.items()
        if k.startswith("target.") and part_of(name := k.removeprefix("target."))
    }
    if not target:
        raise InputError(
            "--net target: the file has no target network (weights called target.*); "
            "give the checkpoint that pre-training wrote, or ask for --net online"
        )
    unseen = _unseen(online)
    borrowed = [
        layer
        for layer in _unseen(target)
        if f"{layer}.running_mean" in online and layer not in unseen
    ]
    for layer in borrowed:
        for statistic in (f"{layer}.{s}" for s in STATISTICS):
            if statistic in online:
                target[statistic] = online[statistic]
    return target, borrowed


def take_parts(
    network: Mapping[str, Tensor], parts: tuple[str, ...]
) -> dict[str, Tensor]:
    """The weights of ``parts``, in float32.

    Raises:
        InputError: when one is not there, or holds numbers that are none.
    """
    chosen = {k: _number(k, v) for k, v in network.items() if part_of(k) in parts}
    for prefix, part in OURS.items():
        if part in parts and not any(k.startswith(prefix) for k in chosen):
            raise InputError(
                f"the checkpoint has no weight called {prefix}*: give one written by "
                "pre-training with MCL, not one that was exported already; a file of "
                "the authors' code first goes through tools/import_official.py"
                + (", or ask for less with --part" if part != BACKBONE else "")
            )
    return chosen


def _number(name: str, tensor: Tensor) -> Tensor:
    """A weight in float32, which every library's models have; counters as they are."""
    if name.endswith((COUNTER, "relative_position_index")):
        return tensor
    if not tensor.is_floating_point():
        raise InputError(f"{name} is of type {tensor.dtype}: give float weights")
    if not tensor.isfinite().all():
        raise InputError(
            f"{name} is not finite: that training has diverged; give an earlier "
            "checkpoint"
        )
    return tensor.float().contiguous()  # training may keep channels last


def _unseen(weights: Mapping[str, Tensor]) -> list[str]:
    """BN layers that counted no batch, or, without a counter, are as they began."""
    unseen = []
    for name, mean in weights.items():
        if not name.endswith(".running_mean"):
            continue
        layer = name.removesuffix(".running_mean")
        counter, variance = (
            weights.get(f"{layer}.{statistic}")
            for statistic in (COUNTER, "running_var")
        )
        if counter is not None:
            began = counter.item() == 0
        else:
            began = not mean.any() and bool((variance == 1).all())
        if began:
            unseen.append(layer)
    return unseen


def find_unread(weights: Mapping[str, Tensor], allow: bool = False) -> list[str]:
    """BN layers of pyramid maps that pre-training read nothing from.

    A BN layer that counted no batch stands behind a conv that nothing was read from.
    Of the backbone it may be that its statistics were frozen on purpose. Convs without
    BN, and those that `full` computation runs, do not show it.

    Args:
        weights: of the online or the target network.
        allow: let such layers pass, where some map was read.

    Raises:
        InputError: for a layer that was never run in training, unless allowed.
    """
    unseen = [layer for layer in _unseen(weights) if part_of(layer) != BACKBONE]
    norms = [k for k in weights if part_of(k) == NECK and k.endswith(".running_mean")]
    unread = [layer for layer in unseen if part_of(layer) == NECK]
    if len(unread) == len(norms):  # of no map at all
        unread = []
    for layer in unseen:
        if layer not in unread:
            raise InputError(
                f"{layer} has seen no batch: the checkpoint is of an untrained model"
            )
    if unread and not allow:
        raise InputError(
            f"{unread[0]} has seen no batch: the ratios of pre-training leave that map "
            "of the pyramid unread; --allow-unread writes its layers as they began, "
            "--part backbone none"
        )
    return unread
