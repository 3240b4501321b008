"""The backbone of a state dict, recognized by names and shapes."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

from torch import Tensor

# (bottleneck?, blocks of the first three stages). The backbone of a C4 detector has no
# fourth stage.
RESNETS = {
    (False, 2, 2, 2): 18,
    (False, 3, 4, 6): 34,
    (True, 3, 4, 6): 50,
    (True, 3, 4, 23): 101,
    (True, 3, 8, 36): 152,
}


@dataclass(frozen=True)
class Architecture:
    """A backbone of MMPretrain or MMDetection.

    Args:
        family: ResNet, Swin or ConvNeXt.
        depths: blocks of each stage.
        widths: channels of each stage (of a ResNet: inside its blocks).
        depth: for a ResNet, the number in its name; else 0.
        stem: for a ResNet, channels of the first conv; else 0.
        heads: for a Swin, attention heads of each stage.
        window: for a Swin, side of a window in tokens; else 0.
    """

    family: str
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    depth: int = 0
    stem: int = 0
    heads: tuple[int, ...] = ()
    window: int = 0

    @classmethod
    def of(cls, backbone: Mapping[str, Tensor]) -> "Architecture | None":
        """Recognize the architecture; None when it is unknown.

        Args:
            backbone: state dict, its names without ``backbone.``.
        """
        found = _resnet(backbone) or _swin(backbone) or _convnext(backbone)
        return cls(**found) if found else None

    def __str__(self) -> str:
        if self.family == "ResNet":
            return f"a ResNet-{self.depth or self.depths} of width {self.widths[0]}"
        return f"a {self.family} {self.depths} of width {self.widths[0]}"


def _resnet(backbone: Mapping[str, Tensor]) -> dict | None:
    if "layer1.0.conv1.weight" not in backbone:
        return None
    stages = [f"layer{i}." for i in range(1, 5) if _count(backbone, f"layer{i}.")]
    depths = tuple(_count(backbone, stage) for stage in stages)
    bottleneck = "layer1.0.conv3.weight" in backbone
    return dict(
        family="ResNet",
        depths=depths,
        widths=tuple(backbone[f"{s}0.conv1.weight"].shape[0] for s in stages),
        depth=RESNETS.get((bottleneck, *depths[:3]), 0),
        stem=backbone["conv1.weight"].shape[0] if "conv1.weight" in backbone else 0,
    )


def _swin(backbone: Mapping[str, Tensor]) -> dict | None:
    table = "stages.{}.blocks.0.attn.w_msa.relative_position_bias_table"
    if table.format(0) not in backbone:
        return None
    stages = range(_count(backbone, "stages."))
    tables = [backbone[table.format(i)] for i in stages]
    return dict(
        family="Swin",
        depths=tuple(_count(backbone, f"stages.{i}.blocks.") for i in stages),
        widths=tuple(
            backbone[f"stages.{i}.blocks.0.norm1.weight"].shape[0] for i in stages
        ),
        heads=tuple(t.shape[1] for t in tables),
        # A table has (2 w - 1)^2 rows.
        window=(isqrt(tables[0].shape[0]) + 1) // 2,
    )


def _convnext(backbone: Mapping[str, Tensor]) -> dict | None:
    if "stages.0.0.depthwise_conv.weight" not in backbone:
        return None
    stages = range(_count(backbone, "stages."))
    return dict(
        family="ConvNeXt",
        depths=tuple(_count(backbone, f"stages.{i}.") for i in stages),
        widths=tuple(
            backbone[f"stages.{i}.0.depthwise_conv.weight"].shape[0] for i in stages
        ),
    )


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    """Number of modules in the list of modules called ``prefix``."""
    children = {
        name.removeprefix(prefix).split(".")[0]
        for name in weights
        if name.startswith(prefix)
    }
    return sum(child.isdigit() for child in children)
