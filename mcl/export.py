"""From pre-training weights to a detector's.

The online network already bears the detector's names, so this is a choice by
prefix; what remains is to prove that everything arrives.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor

from .errors import InputError
from .load_report import SHARED_CONVS, TRUNK, LoadReport

# Ours to MMDetection's, by prefix.
DETECTOR_NAMES = {
    "backbone.": "backbone.",
    "neck.lateral_convs.": "neck.lateral_convs.",
    "neck.fpn_convs.": "neck.fpn_convs.",
    "neck.shared_convs.": f"{SHARED_CONVS}.",
}


def load_weights(path: str) -> dict[str, Tensor]:
    """Weights of a checkpoint file.

    Raises:
        InputError: when there is no such file, or no weights in it.
    """
    checkpoint = read_checkpoint(path)
    weights = checkpoint.get("state_dict", checkpoint)
    if not weights or not all(isinstance(w, Tensor) for w in weights.values()):
        raise InputError(f"{path}: it holds no weights (no `state_dict` of tensors)")
    return {name.removeprefix("module."): w for name, w in weights.items()}


def read_checkpoint(path: str) -> dict:
    """The content of a checkpoint file, on the CPU.

    Raises:
        InputError: when there is no such file, or it is no checkpoint.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such checkpoint")
    try:
        checkpoint = CheckpointLoader.load_checkpoint(str(path), map_location="cpu")
    except Exception as error:  # unpickling raises many kinds
        raise InputError(f"{path}: it is no checkpoint, or damaged") from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"{path}: it holds a {type(checkpoint).__name__}, no weights")
    return checkpoint


def to_detector(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Online backbone, FPN and shared convs under MMDetection's names.

    Args:
        weights: the state dict of :class:`~mcl.models.MCL`.

    Raises:
        InputError: when a part is not there, or was never run in training.
    """
    exported = {}
    for ours, theirs in DETECTOR_NAMES.items():
        part = {k: v for k, v in weights.items() if k.startswith(ours)}
        if not part:
            raise InputError(
                f"the checkpoint has no weight called {ours}*: give one written by "
                "pre-training with MCL"
            )
        for name, tensor in part.items():
            exported[theirs + name.removeprefix(ours)] = tensor.clone()
    _refuse_untrained(exported)
    return exported


def _refuse_untrained(weights: Mapping[str, Tensor]) -> None:
    """A BN layer that counted no batch stands behind a conv nothing was read from.

    Of the backbone it may be that its statistics were frozen on purpose.
    """
    for name, tensor in weights.items():
        if name.startswith("backbone."):
            continue
        if name.endswith("num_batches_tracked") and tensor.item() == 0:
            layer = name.removesuffix(".num_batches_tracked")
            raise InputError(
                f"{layer} has seen no batch: the checkpoint is of an untrained model, "
                "or its ratios leave a map of the pyramid unread"
            )


def save_for_detector(
    weights: Mapping[str, Tensor], detector: Mapping[str, Tensor], out: str
) -> LoadReport:
    """Write ``weights`` to ``out`` if they fill the trunk of ``detector``.

    Args:
        weights: of :func:`to_detector`.
        detector: state dict of the detector they are meant for.
        out: file to write; holds tensors only (``torch.load(weights_only=True)``).

    Raises:
        InputError: when a promised part is not wholly filled; nothing is written.
    """
    report = LoadReport.compare(weights, detector)
    problems = report.problems(promised=TRUNK)
    if problems:
        raise InputError(
            f"the detector does not take these weights: {'; '.join(problems)}. Its FPN "
            "and box head need BN (neck.norm_cfg, bbox_head.norm_cfg), four shared "
            f"convs and the checkpoint's backbone; {out} is not written\n{report}"
        )
    _write(dict(state_dict=dict(weights)), Path(out))
    return report


def _write(content: dict, out: Path) -> None:
    """Write ``out`` whole or not at all."""
    partial = out.with_name(f"{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, partial)
        os.replace(partial, out)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{out}: it cannot be written ({error})") from error
