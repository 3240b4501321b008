"""Names of weights in the authors' released code (OpenSelfSup layout) and ours."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InputError

# Our prefixes and the authors'. Their network is a sequence of 0 backbone, 1 FPN,
# 2 shared convs and projector. `encoder_q` is the online network, `encoder_k` the
# target.
NETWORK = (
    ("backbone.", "encoder_q.0."),
    ("neck.lateral_convs.", "encoder_q.1.lateral_convs."),
    ("neck.fpn_convs.", "encoder_q.1.fpn_convs."),
    ("neck.shared_convs.", "encoder_q.2.cls_convs."),
    ("neck.projector.fc0.", "encoder_q.2.mlp.0."),
    ("neck.projector.bn0.", "encoder_q.2.mlp.1."),
    ("neck.projector.fc1.", "encoder_q.2.mlp.3."),
    ("neck.projector.bn1.", "encoder_q.2.mlp.4."),
)
PREDICTOR = (("fc0.", "mlp.0."), ("bn0.", "mlp.1."), ("fc1.", "mlp.3."))
MAX_LEVELS = 8
PREFIXES = (
    *NETWORK,
    *((f"target.{o}", t.replace("encoder_q", "encoder_k")) for o, t in NETWORK),
    *(
        (f"head.predictors.{level}.{ours}", f"head.predictor.{level}.{theirs}")
        for level in range(MAX_LEVELS)
        for ours, theirs in PREDICTOR
    ),
)


def released_name(name: str) -> str:
    """The authors' name of one of our weights. Other names do not change.

    Example:
        >>> released_name('neck.projector.bn0.weight')
        'encoder_q.2.mlp.1.weight'
        >>> released_name('target.backbone.conv1.weight')
        'encoder_k.0.conv1.weight'
    """
    for ours, theirs in PREFIXES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def own_name(name: str) -> str | None:
    """Our name of one of the authors' weights; None for other names.

    Example:
        >>> own_name('encoder_k.2.mlp.1.weight')
        'target.neck.projector.bn0.weight'
    """
    for ours, theirs in PREFIXES:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name if name.startswith("backbone.") else None


def from_released(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename a state dict of the authors' code.

    It holds the backbone twice, as ``encoder_q.0.*`` and as ``backbone.*``. A file
    that was reduced to the backbone has the second name only.

    Returns:
        The renamed weights, and the names that have no counterpart here.

    Raises:
        InputError: when it has our names already, a weight of its networks is unknown,
            the two backbones differ, or there is no backbone.
    """
    renamed, unknown = {}, []
    for name, tensor in weights.items():
        ours = own_name(name)
        if name.startswith(("neck.", "target.", "head.predictors.", "roi_head.")):
            raise InputError(
                f"{name}: this is a name of this repository's own files, which need no "
                "import; give the file to tools/export.py"
            )
        if ours is None and name.startswith(("encoder_q.", "encoder_k.")):
            raise InputError(
                f"{name}: the authors' code has no such weight; the file is of another "
                "method or version"
            )
        if ours is None:
            unknown.append(name)
        elif ours in renamed and not torch.equal(renamed[ours], tensor):
            raise InputError(
                f"{name} and {released_name(ours)} are one weight in the authors' "
                "code, but differ in this file: remove the wrong one"
            )
        else:
            renamed[ours] = tensor
    if not any(name.startswith("backbone.") for name in renamed):
        raise InputError(
            "no weight is called encoder_q.0.* or backbone.*: this is no checkpoint "
            "in the layout of the authors' code"
        )
    return renamed, unknown
