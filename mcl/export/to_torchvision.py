"""torchvision: ResNets, and the detectors that have norm layers in FPN and box head."""

import re

import torch
from torch import Tensor
from torchvision import models

from ..errors import InputError
from .architecture import Architecture
from .destination import Destination, rename
from .load_report import BACKBONE, NECK, SHARED_CONVS

DETECTORS = {
    "mask-rcnn": "maskrcnn_resnet50_fpn_v2",
    "faster-rcnn": "fasterrcnn_resnet50_fpn_v2",
}
# Our names to the detector's, where `.0` is a conv and `.1` its norm layer.
RULES = (
    (r"^backbone\.", "backbone.body."),
    (r"^neck\.lateral_convs\.(\d+)\.", r"backbone.fpn.inner_blocks.\1."),
    (r"^neck\.fpn_convs\.(\d+)\.", r"backbone.fpn.layer_blocks.\1."),
    (r"^neck\.shared_convs\.(\d+)\.", r"roi_heads.box_head.\1."),
    (r"\.conv\.", ".0."),
    (r"\.bn\.", ".1."),
)


class ToTorchvision(Destination):
    """``maskrcnn_resnet50_fpn_v2``, ``fasterrcnn_resnet50_fpn_v2`` or a ResNet.

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
                f"{', '.join(DETECTORS)} have the norm layers of pre-training; "
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
        options = dict(weights_backbone=None) if detector else {}
        with torch.device("meta"):
            model = models.get_model(self.name, weights=None, **options)
        self.model = model.state_dict()

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
        return {rename(name, RULES): tensor}

    def usage(self, out: str) -> str:
        home = "models.detection" if self.detector else "models"
        arguments = "weights=None" + ", weights_backbone=None" * bool(self.detector)
        return (
            f"model = torchvision.{home}.{self.name}({arguments})\n"
            f'print(model.load_state_dict(torch.load("{out}"), strict=False))'
            "  # no key may be unexpected"
        )
