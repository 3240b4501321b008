"""MMDetection: our names are its names, except for positions in some detectors."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from ..errors import InputError
from .checkpoint import write_tensors
from .destination import Destination
from .load_report import HEAD_CONVS, HEAD_LAYER4, detector_parts

# Mean and deviation in the recipes, RGB, 0..255.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class ToMMDetection(Destination):
    """Any detector that MMDetection builds.

    An FPN that starts at a later map (RetinaNet: P3) takes the convs from there on.
    Each of several box heads (Cascade) is filled. Where a detector has layer4 in its
    RoI head (C4), layer4 goes there.

    Args:
        detector: the built model. Its weights may be on the meta device.
    """

    def __init__(self, detector: nn.Module) -> None:
        self.model: Mapping[str, Tensor] = detector.state_dict()
        self.part_of = detector_parts(self.model)
        first_map = getattr(detector.backbone, "out_indices", (0,))[0]
        neck = getattr(detector, "neck", None)
        self.start_level = first_map + getattr(neck, "start_level", 0)
        self.heads = sorted({m.group() for m in map(HEAD_CONVS.match, self.model) if m})
        found = next(filter(None, map(HEAD_LAYER4.match, self.model)), None)
        self.layer4 = found.group() if found else "backbone."

    def place(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        if name.startswith("backbone.layer4."):
            return {self.layer4 + name.removeprefix("backbone."): tensor}
        if name.startswith("neck.shared_convs."):
            rest = name.removeprefix("neck.shared_convs.")
            return {head + rest: tensor for head in self.heads}
        # The norm layer of a backbone's map that this detector does not read.
        if re.match(r"backbone\.norm\d\.", name) and name not in self.model:
            return {}
        level = re.match(r"(neck\.(?:lateral|fpn)_convs\.)(\d+)", name)
        if level is None:
            return {name: tensor}
        index = int(level[2]) - self.start_level
        return {f"{level[1]}{index}{name[level.end() :]}": tensor} if index >= 0 else {}

    def write(self, weights: dict[str, Tensor], out: str) -> None:
        write_tensors(dict(state_dict=weights), out)

    def usage(self, out: str) -> str:
        return f'load_from = "{out}"  # in the detector\'s config'


def find_doubts(model: Mapping) -> list[str]:
    """Settings of a detector's config with which the weights compute other features.

    Args:
        model: ``model`` of the config.

    Raises:
        InputError: when its ResNet has the stride in another conv.
    """
    backbone = model.get("backbone") or {}
    if backbone.get("style") == "caffe":
        raise InputError(
            "model.backbone.style='caffe': the stride is in another conv than in "
            "pre-training; take a detector of style 'pytorch'"
        )
    doubts = []
    images = model.get("data_preprocessor") or {}
    if not images.get("bgr_to_rgb", False):
        doubts.append("data_preprocessor.bgr_to_rgb is False: pre-training saw RGB")
    for name, expected in (("mean", MEAN), ("std", STD)):
        if images.get(name) and tuple(images[name]) != expected:
            doubts.append(f"data_preprocessor.{name} is not {list(expected)}")
    if backbone.get("frozen_stages", -1) >= 0:
        doubts.append("backbone.frozen_stages freezes stages; -1 trains all")
    if backbone.get("norm_eval"):
        doubts.append("backbone.norm_eval=True freezes batch norm's statistics")
    return doubts
