"""Detectron2: a pickle with its own names, for its DetectionCheckpointer."""

import pickle
import re

import torch
from torch import Tensor
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
        self.model = self._expected(architecture.depth)

    def _expected(self, depth: int) -> dict[str, Tensor]:
        """Names and shapes of the weights to fill, with Detectron2's widths."""
        with torch.device("meta"):
            resnet = getattr(models, f"resnet{depth}")(weights=None).state_dict()
            convs = {
                **{f"neck.lateral_convs.{i}": (1, c) for i, c in _maps(resnet)},
                **{f"neck.fpn_convs.{i}": (3, WIDTH) for i in range(4)},
                **{f"neck.shared_convs.{i}": (3, WIDTH) for i in range(4)},
            }
            ours = {f"backbone.{k}": v for k, v in resnet.items() if k[:3] != "fc."}
            for name, (kernel, channels) in convs.items():
                ours[f"{name}.conv.weight"] = torch.empty(
                    WIDTH, channels, kernel, kernel
                )
                for key, value in torch.nn.BatchNorm2d(WIDTH).state_dict().items():
                    ours[f"{name}.bn.{key}"] = value
        placed = {}
        for name, tensor in ours.items():
            placed.update(self.place(name, tensor))
        return placed

    def part_of(self, name: str) -> str:
        if ".box_head." in name:
            return SHARED_CONVS
        return NECK if name.startswith("backbone.fpn_") else BACKBONE

    def place(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        if name.startswith("backbone."):
            return {self._resnet(name.removeprefix("backbone.")): tensor}
        kind, index, rest = re.match(r"neck\.(\w+)_convs\.(\d+)\.(.+)", name).groups()
        rest = rest.removeprefix("conv.").replace("bn.", "norm.")
        if kind == "shared":
            return {f"{h}conv{int(index) + 1}.{rest}": tensor for h in self.heads}
        level = int(index) + 2
        if self.first_map is None or level < self.first_map:
            return {}
        kind = "output" if kind == "fpn" else kind
        return {f"backbone.fpn_{kind}{level}.{rest}": tensor}

    def _resnet(self, name: str) -> str:
        name = rename(name, RESNET_RULES)
        if self.first_map is not None:
            return f"backbone.bottom_up.{name}"
        return f"roi_heads.{name}" if name.startswith("res5.") else f"backbone.{name}"

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


def _maps(resnet: dict[str, Tensor]) -> list[tuple[int, int]]:
    """Index and channels of C2..C5."""
    last = {k.split(".")[0]: v.shape[0] for k, v in resnet.items() if "conv" in k}
    return [(i, last[f"layer{i + 1}"]) for i in range(4)]
