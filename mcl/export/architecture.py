"""Which backbone a state dict is of, told from its names and shapes."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

from torch import Tensor

# (bottleneck?, blocks of the first three stages): they differ in these already, and
# the trunk of a C4 detector has no fourth.
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
        depth: of a ResNet, the number in its name; else 0.
        stem: of a ResNet, channels of the first conv; else 0.
        heads: of a Swin, attention heads of each stage.
        window: of a Swin, side of a window in tokens; else 0.
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
        """The architecture; None for one that is not known here.

        Args:
            backbone: state dict whose names begin after ``backbone.``.
        """
        for family in (_resnet, _swin, _convnext):
            found = family(backbone)
            if found:
                return cls(**found)
        return None

    @classmethod
    def describe(cls, backbone: Mapping[str, Tensor]) -> str | None:
        """The architecture in words, or None."""
        found = cls.of(backbone)
        return str(found) if found else None

    def __str__(self) -> str:
        if self.family == "ResNet":
            return f"a ResNet-{self.depth or self.depths} of width {self.widths[0]}"
        return f"a {self.family} {self.depths} of width {self.widths[0]}"


def _resnet(backbone: Mapping[str, Tensor]) -> dict | None:
    if "layer1.0.conv1.weight" not in backbone:
        return None
    stages = [f"layer{i}" for i in range(1, 5)]
    depths = tuple(d for s in stages if (d := _count(backbone, f"{s}.")))
    bottleneck = "layer1.0.conv3.weight" in backbone
    widths = tuple(
        backbone[f"{s}.0.conv1.weight"].shape[0] for s in stages[: len(depths)]
    )
    return dict(
        family="ResNet",
        depths=depths,
        widths=widths,
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
    """Number of the children that a list of modules has."""
    children = {
        name.removeprefix(prefix).split(".")[0]
        for name in weights
        if name.startswith(prefix)
    }
    return sum(child.isdigit() for child in children)
