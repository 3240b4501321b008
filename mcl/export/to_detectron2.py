"""Detectron2: a pickle with its own names, for its DetectionCheckpointer."""

import pickle
import re

import torch
from torch import Tensor, nn
from torchvision import models

from ..errors import InputError
from .architecture import Architecture
from .checkpoint import write_tensors
from .destination import Destination, rename
from .load_report import BACKBONE, NECK, SHARED_CONVS

# Each detector's box heads and the first map of its FPN (None: no FPN).
DETECTORS = {
    "mask-rcnn": (("roi_heads.box_head.",), 2),
    "faster-rcnn": (("roi_heads.box_head.",), 2),
    "cascade": (tuple(f"roi_heads.box_head.{i}." for i in range(3)), 2),
    "retinanet": ((), 3),
    "c4": ((), None),
}
WIDTH = 256
# In Detectron2 a norm layer is a child of its conv.
RESNET_RULES = (
    (r"^(conv1|bn1)\.", r"stem.\1."),
    (r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}."),
    (r"(^|\.)bn(\d)\.", r"\1conv\2.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)


class ToDetectron2(Destination):
    """Detectron2's R-CNNs and RetinaNet, with SyncBN in the FPN, 4conv1fc box heads.

    Args:
        architecture: of the backbone.
        detector: a key of ``DETECTORS``.

    Raises:
        InputError: when Detectron2 has no such model.
    """

    def __init__(self, architecture: Architecture, detector: str) -> None:
        if detector not in DETECTORS:
            raise InputError(
                f"--detector {detector}: for Detectron2 choose one of "
                f"{', '.join(DETECTORS)}"
            )
        if architecture.family != "ResNet" or not architecture.depth:
            raise InputError(f"Detectron2 has no backbone like {architecture}")
        self.depth = architecture.depth
        self.heads, self.first_map = DETECTORS[detector]
        self.model = {}
        with torch.device("meta"):
            for name, tensor in _expected(self.depth).items():
                self.model.update(self.place(name, tensor))

    def part_of(self, name: str) -> str:
        if ".box_head." in name:
            return SHARED_CONVS
        return NECK if name.startswith("backbone.fpn_") else BACKBONE

    def place(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        if name.startswith("backbone."):
            name = rename(name.removeprefix("backbone."), RESNET_RULES)
            if self.first_map is not None:
                return {f"backbone.bottom_up.{name}": tensor}
            parent = "roi_heads" if name.startswith("res5.") else "backbone"
            return {f"{parent}.{name}": tensor}
        kind, index, rest = re.match(r"neck\.(\w+)_convs\.(\d+)\.(.+)", name).groups()
        rest = rest.removeprefix("conv.").replace("bn.", "norm.")
        if kind == "shared":
            return {f"{h}conv{int(index) + 1}.{rest}": tensor for h in self.heads}
        level = int(index) + 2
        if self.first_map is None or level < self.first_map:
            return {}
        kind = "output" if kind == "fpn" else kind
        return {f"backbone.fpn_{kind}{level}.{rest}": tensor}

    def write(self, weights: dict[str, Tensor], out: str) -> None:
        """Write the pickle.

        Raises:
            InputError: when ``out`` does not end in .pkl.
        """
        if not out.endswith(".pkl"):
            raise InputError(f"OUT={out}: Detectron2 reads it if its name ends in .pkl")
        arrays = {name: tensor.numpy() for name, tensor in weights.items()}
        content = dict(model=arrays, __author__="mcl", matching_heuristics=False)
        write_tensors(content, out, pickle.dump)

    def usage(self, out: str) -> str:
        lines = [
            f"MODEL.WEIGHTS {out} INPUT.FORMAT RGB",
            "MODEL.PIXEL_MEAN [123.675,116.28,103.53] "
            "MODEL.PIXEL_STD [58.395,57.12,57.375]",
            f"MODEL.RESNETS.DEPTH {self.depth} MODEL.RESNETS.STRIDE_IN_1X1 False "
            "MODEL.RESNETS.NORM SyncBN MODEL.BACKBONE.FREEZE_AT 0",
        ]
        if self.depth < 50:
            lines.append("MODEL.RESNETS.RES2_OUT_CHANNELS 64")
        if self.first_map is not None:
            lines.append("MODEL.FPN.NORM SyncBN  # if the file has the FPN")
        if self.heads:
            lines.append(
                "MODEL.ROI_BOX_HEAD.NAME FastRCNNConvFCHead "
                "MODEL.ROI_BOX_HEAD.NUM_CONV 4 MODEL.ROI_BOX_HEAD.NUM_FC 1 "
                "MODEL.ROI_BOX_HEAD.NORM SyncBN  # if it has the box head's convs"
            )
        return "\n".join(lines)


def _expected(depth: int) -> dict[str, Tensor]:
    """Our names of the weights to fill, with the shapes of Detectron2's models."""
    resnet = models.get_model(f"resnet{depth}", weights=None)
    del resnet.fc
    ours = resnet.state_dict(prefix="backbone.")
    for i in range(4):
        channels = (64 if depth < 50 else 256) * 2**i  # of C2..C5
        for kind, inputs, kernel in (
            ("lateral", channels, 1),
            ("fpn", WIDTH, 3),
            ("shared", WIDTH, 3),
        ):
            conv = nn.Conv2d(inputs, WIDTH, kernel, bias=False)
            layers = nn.ModuleDict(dict(conv=conv, bn=nn.BatchNorm2d(WIDTH)))
            ours.update(layers.state_dict(prefix=f"neck.{kind}_convs.{i}."))
    return ours
