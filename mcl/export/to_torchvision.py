"""torchvision: the detectors of its second version have BN where ours have it."""

import re

import torch
from torch import Tensor
from torchvision import models
from torchvision.models import detection

from ..errors import InputError
from .architecture import Architecture
from .checkpoint import write_tensors
from .load_report import BACKBONE, NECK, SHARED_CONVS

DETECTORS = {
    "mask-rcnn": "maskrcnn_resnet50_fpn_v2",
    "faster-rcnn": "fasterrcnn_resnet50_fpn_v2",
}
# Ours to the detector's; `.0` is a conv there and `.1` its norm layer.
RULES = (
    (r"^backbone\.", "backbone.body."),
    (r"^neck\.lateral_convs\.(\d+)\.", r"backbone.fpn.inner_blocks.\1."),
    (r"^neck\.fpn_convs\.(\d+)\.", r"backbone.fpn.layer_blocks.\1."),
    (r"^neck\.shared_convs\.(\d+)\.", r"roi_heads.box_head.\1."),
)


class ToTorchvision:
    """Into ``maskrcnn_resnet50_fpn_v2``, ``fasterrcnn_resnet50_fpn_v2`` or a ResNet.

    Args:
        architecture: of the backbone.
        detector: mask-rcnn or faster-rcnn; None for the classifier's ResNet.

    Raises:
        InputError: when torchvision has no such model.
    """

    def __init__(self, architecture: Architecture, detector: str | None) -> None:
        self.detector = detector
        if detector and detector not in DETECTORS:
            raise InputError(
                f"--detector {detector}: of torchvision's detectors only "
                f"{', '.join(DETECTORS)} have norm layers where pre-training has them; "
                "ask for one of these, or for --part backbone"
            )
        if architecture.family != "ResNet" or not architecture.depth:
            raise InputError(f"torchvision has no backbone like {architecture}")
        if detector and architecture.depth != 50:
            raise InputError(
                f"torchvision's detectors have a ResNet-50, the file {architecture}; "
                "ask for --part backbone"
            )
        self.name = DETECTORS.get(detector, f"resnet{architecture.depth}")
        with torch.device("meta"):
            self.model = self._build().state_dict()

    def _build(self) -> torch.nn.Module:
        if self.detector:
            make = getattr(detection, self.name)
            return make(weights=None, weights_backbone=None)
        return getattr(models, self.name)(weights=None)

    def part_of(self, name: str) -> str:
        if self.detector is None:
            return "classifier" if name.startswith("fc.") else BACKBONE
        if name.startswith("backbone.fpn."):
            return NECK
        if re.match(r"roi_heads\.box_head\.[0-3]\.", name):
            return SHARED_CONVS
        return BACKBONE if name.startswith("backbone.") else name.split(".")[0]

    def place(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        if self.detector is None:
            return {name.removeprefix("backbone."): tensor}
        for pattern, replacement in RULES:
            theirs, found = re.subn(pattern, replacement, name)
            if found and name.startswith("neck."):
                theirs = re.sub(r"\.conv\.(\w+)$", r".0.\1", theirs)
                theirs = re.sub(r"\.bn\.(\w+)$", r".1.\1", theirs)
            if found:
                return {theirs: tensor}
        return {}

    def write(self, weights: dict[str, Tensor], out: str) -> None:
        write_tensors(weights, out)

    def usage(self, out: str) -> str:
        home = "models.detection" if self.detector else "models"
        arguments = "weights=None" + ", weights_backbone=None" * bool(self.detector)
        return (
            f"model = torchvision.{home}.{self.name}({arguments})\n"
            f'print(model.load_state_dict(torch.load("{out}"), strict=False))'
            "  # no key may be unexpected"
        )
