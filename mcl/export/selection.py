"""Selection of weights from a pre-training checkpoint: a network and its parts."""

from collections.abc import Mapping

from torch import Tensor

from ..errors import InputError
from .load_report import BACKBONE, NECK, SHARED_CONVS

NETWORKS = ("online", "target")
# Values of --part. Each contains the one before it.
PARTS = {
    "backbone": (BACKBONE,),
    "trunk": (BACKBONE, NECK),
    "detector": (BACKBONE, NECK, SHARED_CONVS),
}
# Prefixes of our weights, and their parts.
OURS = {
    "backbone.": BACKBONE,
    "neck.lateral_convs.": NECK,
    "neck.fpn_convs.": NECK,
    "neck.shared_convs.": SHARED_CONVS,
}
COUNTER = "num_batches_tracked"
STATISTICS = ("running_mean", "running_var", COUNTER)


def part_of(name: str) -> str | None:
    """The part of one of our weights; None for weights of pre-training only."""
    return next((part for p, part in OURS.items() if name.startswith(p)), None)


def take_network(
    weights: Mapping[str, Tensor], net: str = "online"
) -> tuple[dict[str, Tensor], list[str]]:
    """Backbone, FPN and shared convs of the online or the target network.

    With `selected` computation the target network reads only P5. BN layers of its other
    convs have no statistics, so they get the online network's if these exist. The
    target's weights are an average of the online network's.

    Args:
        weights: the state dict of :class:`~mcl.models.MCL`.
        net: ``online`` or ``target``.

    Returns:
        The weights under the online network's names, and the norm layers with
        statistics of the online network.

    Raises:
        InputError: when the file does not have this network.
    """
    online = {k: v for k, v in weights.items() if part_of(k)}
    if net == "online":
        return online, []
    target = {
        k.removeprefix("target."): v
        for k, v in weights.items()
        if k.startswith("target.") and part_of(k.removeprefix("target."))
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
    names = [f"{layer}.{statistic}" for layer in borrowed for statistic in STATISTICS]
    target.update({name: online[name] for name in names if name in online})
    return target, borrowed


def take_parts(
    network: Mapping[str, Tensor], parts: tuple[str, ...]
) -> dict[str, Tensor]:
    """The weights of ``parts``, in float32.

    Raises:
        InputError: when a part is missing, or its numbers are not finite.
    """
    chosen = {k: _float(k, v) for k, v in network.items() if part_of(k) in parts}
    for prefix, part in OURS.items():
        if part in parts and not any(k.startswith(prefix) for k in chosen):
            raise InputError(
                f"the checkpoint has no weight called {prefix}*: give one written by "
                "pre-training with MCL, not one that was exported already; a file of "
                "the authors' code first goes through tools/import_official.py"
                + (", or ask for less with --part" if part != BACKBONE else "")
            )
    return chosen


def _float(name: str, tensor: Tensor) -> Tensor:
    """A weight in float32, as in every library; counters and indices as they are."""
    if name.endswith((COUNTER, "relative_position_index")):
        return tensor
    if not tensor.is_floating_point():
        raise InputError(f"{name} is of type {tensor.dtype}: give float weights")
    if not tensor.isfinite().all():
        raise InputError(
            f"{name} is not finite: this training has diverged; give an earlier "
            "checkpoint"
        )
    return tensor.float().contiguous()  # training may use channels last


def _unseen(weights: Mapping[str, Tensor]) -> list[str]:
    """BN layers that counted no batch, or without counter have initial statistics."""
    unseen = []
    for name, mean in weights.items():
        layer, _, kind = name.rpartition(".")
        if kind != "running_mean":
            continue
        counter = weights.get(f"{layer}.{COUNTER}")
        if counter is None:
            initial = not mean.any() and (weights[f"{layer}.running_var"] == 1).all()
        else:
            initial = counter == 0
        if initial:
            unseen.append(layer)
    return unseen


def find_unread(weights: Mapping[str, Tensor], allow: bool = False) -> list[str]:
    """BN layers of pyramid maps that pre-training did not use.

    Such a layer has counted no batch, and its conv is untrained. In the backbone, BN
    statistics may be frozen on purpose. Convs without BN, and convs that `full`
    computation runs, cannot be recognized.

    Args:
        weights: weights of the online or the target network.
        allow: whether to accept such layers, when some map was used.

    Raises:
        InputError: for a layer that was never run in training, unless allowed.
    """
    unseen = [layer for layer in _unseen(weights) if part_of(layer) != BACKBONE]
    norms = [k for k in weights if part_of(k) == NECK and k.endswith(".running_mean")]
    unread = [layer for layer in unseen if part_of(layer) == NECK]
    if len(unread) == len(norms):  # no map was used
        unread = []
    for layer in unseen:
        if layer not in unread:
            raise InputError(
                f"{layer} has seen no batch: the checkpoint is of an untrained model; "
                "give one that pre-training wrote"
            )
    if unread and not allow:
        raise InputError(
            f"{unread[0]} has seen no batch: the ratios of pre-training leave this map "
            "of the pyramid unread; --allow-unread exports its untrained layers, "
            "--part backbone leaves them out"
        )
    return unread
