"""Torchvision kernels for an MMCV that was installed without its compiled ops.

The MMCV found on PyPI has no ``mmcv._ext``, so ``import mmdet.models`` fails.
Importing this module closes the gap: if ``mmcv._ext`` cannot be found, a
stand-in answers that name with NMS, average RoIAlign and the sigmoid focal loss,
which is what RetinaNet, Faster, Mask and Cascade R-CNN call. Every other op
raises ``NotImplementedError`` when it is called. A real ``mmcv._ext`` always wins.

Run any script, for instance the train script of MMDetection, with it::

    python -m mmcv_ops_fallback SCRIPT [ARGS ...]
    torchrun -m mmcv_ops_fallback SCRIPT [ARGS ...]

Forked children inherit the stand-in; a spawned one has to import this module.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import runpy
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.nn.functional import logsigmoid

EXTENSION = "mmcv._ext"
_ORIGIN = "mmcv_ops_fallback"


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Greedy non-maximum suppression; signature of ``mmcv._ext.nms``.

    Args:
        boxes: Corners (x1, y1, x2, y2) in pixels, (N, 4).
        scores: (N,).
        iou_threshold: A box is dropped if its IoU with a kept one is above this.
        offset: 0, or 1 where x2 and y2 name the last pixel inside the box.

    Returns:
        Indices of the kept boxes by falling score, int64, (K,) with 0 <= K <= N.
    """
    # torchvision's CPU kernel has neither half nor bfloat16.
    boxes, scores = _widen(boxes), _widen(scores)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # MMCV compares with a float32 threshold, torchvision with a float64 one.
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    return torchvision.ops.nms(boxes, scores.to(boxes.dtype), threshold)


def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, _y: Tensor, _x: Tensor, **bins: Any
) -> None:
    """RoIAlign by averages; fills ``output`` as ``mmcv._ext`` does.

    Args:
        input: Feature maps, (B, C, H, W).
        rois: Image index in [0, B) and corners in image pixels, (N, 5).
        output: Filled in place, (N, C, aligned_height, aligned_width).
        _y: Left alone, like _x: only max pooling fills them.
        bins: ``aligned_height`` and ``aligned_width``, the bins of a RoI;
            ``spatial_scale``, feature map pixels per image pixel;
            ``sampling_ratio``, samples per bin and axis (0: one per pixel);
            ``pool_mode``, 1 for average; ``aligned``, half a pixel of shift or not.

    Raises:
        NotImplementedError: If ``pool_mode`` is 0 (max).
    """
    grid, sampling = _bin_arguments(**bins)
    maps = _widen(input)
    pooled = torch.ops.torchvision.roi_align(
        maps, rois.to(maps.dtype), *grid, *sampling
    )
    output.copy_(pooled)


def roi_align_backward(
    grad: Tensor, rois: Tensor, _y: Tensor, _x: Tensor, grad_input: Tensor, **bins: Any
) -> None:
    """Gradient of roi_align_forward by its input; fills ``grad_input``, (B, C, H, W).

    ``grad`` is (N, C, aligned_height, aligned_width), the rest as there.
    """
    grid, sampling = _bin_arguments(**bins)
    grad = _widen(grad)
    spread = torch.ops.torchvision._roi_align_backward(
        grad, rois.to(grad.dtype), *grid, *grad_input.shape, *sampling
    )
    grad_input.copy_(spread)


def sigmoid_focal_loss_forward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Focal loss of one sigmoid per class; fills ``output``.

    Args:
        input: Logits, (N, C).
        target: Class in [0, C), or C for background, int64, (N,).
        weight: Weight of each target class, (C,), or empty for none. Background
            has no entry and keeps weight 1.
        output: Filled in place, (N, C).
        gamma: Exponent that quiets easy examples; 0 gives cross-entropy.
        alpha: Factor of the target class; the others get 1 - alpha.
    """
    logit, factor, _ = _binary_view(input, target, weight, alpha)
    missed = torch.sigmoid(-logit).pow(gamma)
    output.copy_(-factor * missed * logsigmoid(logit))


def sigmoid_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Derivative of each loss by its logit; fills ``grad_input``, (N, C)."""
    logit, factor, sign = _binary_view(input, target, weight, alpha)
    right, wrong = torch.sigmoid(logit), torch.sigmoid(-logit)
    slope = wrong - gamma * right * logsigmoid(logit)
    grad_input.copy_(-sign * factor * wrong.pow(gamma) * slope)


def get_compiler_version() -> str:
    """What ``mmcv.utils.collect_env`` shows as the compiler of the ops."""
    return "n/a (torchvision fallback)"


def _widen(tensor: Tensor) -> Tensor:
    """Return ``tensor`` in float32, or as it is if that is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _bin_arguments(
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> tuple[tuple[float, int, int], tuple[int, bool]]:
    """Order MMCV's keywords as torchvision's kernels take them."""
    if pool_mode != 1:
        raise NotImplementedError(
            f"RoIAlign pool_mode={pool_mode} (max) is not in the torchvision "
            "fallback; set pool_mode='avg' or install an mmcv built with its ops."
        )
    return (spatial_scale, aligned_height, aligned_width), (sampling_ratio, aligned)


def _binary_view(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn each logit into that of the right answer, yes or no.

    Positives and negatives then share one formula, and log-sigmoid keeps it exact
    where 1 - p underflows.

    Returns:
        The logit, the factor in front of the loss and the sign that was applied to
        ``input``; each broadcasts to (N, C).
    """
    logits = _widen(input)
    classes = torch.arange(logits.size(1), device=target.device)
    positive = target[:, None] == classes
    sign = positive.to(logits.dtype) * 2 - 1
    factor = sign * (alpha - 0.5) + 0.5
    if weight.numel():
        row = weight.to(logits.dtype)[target.clamp(0, weight.numel() - 1)]
        factor = factor * torch.where(positive.any(1), row, 1.0)[:, None]
    return logits * sign, factor, sign


class MissingOp:
    """The compiled op ``name`` has no stand-in: it can be imported, not called."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: object, **kwargs: object) -> None:
        raise NotImplementedError(
            f"mmcv op '{self.name}' is not in the torchvision fallback; build or "
            "install the full mmcv, with compiled ops, to call it."
        )


class FallbackOps(ModuleType):
    """The stand-in for ``mmcv._ext``: an op it does not hold is a MissingOp."""

    nms = staticmethod(nms)
    roi_align_forward = staticmethod(roi_align_forward)
    roi_align_backward = staticmethod(roi_align_backward)
    sigmoid_focal_loss_forward = staticmethod(sigmoid_focal_loss_forward)
    sigmoid_focal_loss_backward = staticmethod(sigmoid_focal_loss_backward)
    get_compiler_version = staticmethod(get_compiler_version)
    get_compiling_cuda_version = staticmethod(get_compiler_version)

    def __getattr__(self, name: str) -> MissingOp:
        # No op starts with an underscore; __path__ and its like must stay unset.
        if name.startswith("_"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return MissingOp(name)


class _Importer(MetaPathFinder, Loader):
    """Finds and makes the stand-in when nothing before it knew the name."""

    def find_spec(
        self, name: str, path: object, target: object = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self, origin=_ORIGIN) if name == EXTENSION else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return FallbackOps(spec.name, "Stand-in for the compiled ops of MMCV.")

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: the class holds the ops."""


def install() -> bool:
    """Make ``mmcv._ext`` importable; a second call changes nothing.

    Returns:
        True if the fallback answers ``mmcv._ext``, False if real ops do.

    Raises:
        ModuleNotFoundError: If MMCV or a package it needs is not installed.
    """
    if EXTENSION not in sys.modules and _find_extension() is None:
        # Last in line, so that a real extension is always found first.
        sys.meta_path.append(_Importer())
        importlib.import_module(EXTENSION)
    spec = getattr(sys.modules.get(EXTENSION), "__spec__", None)
    return getattr(spec, "origin", None) == _ORIGIN


def _find_extension() -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(EXTENSION)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"mmcv cannot be imported: {error.name} is not installed; run "
            "'pip install onedl-mmcv'.",
            name=error.name,
        ) from error


def _describe() -> str:
    mmcv = f"mmcv {importlib.import_module('mmcv').__version__}"
    if install():
        return f"{mmcv}: no compiled ops, the kernels of torchvision are used"
    return f"{mmcv}: its own compiled ops are used"


def main(argv: list[str]) -> int:
    """Run the script ``argv[0]`` as ``__main__`` with the fallback in place.

    Args:
        argv: Path of a script and its arguments; empty to print what was found.

    Returns:
        Exit code: 0, or 2 if there is no such script.
    """
    if not argv:
        print(f"usage: python -m {_ORIGIN} SCRIPT [ARGS ...]\n{_describe()}")
        return 0
    script = argv[0]
    if not os.path.isfile(script):
        advice = "give the path of a Python script"
        print(f"SCRIPT {script!r} is not a file; {advice}.", file=sys.stderr)
        return 2
    sys.argv[:] = argv
    # As `python SCRIPT` does, so that the script finds the files next to it.
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    runpy.run_path(script, run_name="__main__")
    return 0


if __name__ == "__main__":
    # Under -m this file runs as __main__: hand over to the importable module, so
    # that there is one copy of its classes.
    sys.exit(importlib.import_module(_ORIGIN).main(sys.argv[1:]))
else:
    install()
