"""timm: ResNet as it is, Swin and ConvNeXt renamed."""

import re

import torch
from torch import Tensor

from ..errors import InputError
from .architecture import Architecture
from .checkpoint import write_tensors
from .load_report import BACKBONE

# MMPretrain's names to timm's, in turn. timm opens a stage with its downsampling,
# MMPretrain's Swin closes the one before with it.
RULES = {
    "ResNet": (),
    "Swin": (
        (r"^patch_embed\.projection\.", "patch_embed.proj."),
        (r"^stages\.", "layers."),
        (r"\.attn\.w_msa\.", ".attn."),
        (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
        (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
        (r"^norm3\.", "norm."),
    ),
    "ConvNeXt": (
        (r"^downsample_layers\.0\.", "stem."),
        (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
        (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
        (r"\.depthwise_conv\.", ".conv_dw."),
        (r"\.pointwise_conv(\d)\.", r".mlp.fc\1."),
        (r"^norm3\.", "head.norm."),
    ),
}
# Norms of the maps before the last, which only a detector reads, and an index
# that timm computes anew.
NO_PLACE = re.compile(r"norm[0-2]\.|.*relative_position_index$")


class ToTimm:
    """Into timm's model of the same backbone.

    Args:
        architecture: of the backbone.

    Raises:
        InputError: when timm is not installed, or has no such model.
    """

    def __init__(self, architecture: Architecture) -> None:
        self.family = architecture.family
        self.name, self.options = _model(architecture)
        try:
            import timm
        except ImportError as error:
            raise InputError(
                "--to timm compares with timm's own model: pip install timm"
            ) from error
        with torch.device("meta"):
            model = timm.create_model(self.name, num_classes=0, **self.options)
        self.model = model.state_dict()

    def part_of(self, name: str) -> str:
        return BACKBONE

    def place(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        theirs = name.removeprefix("backbone.")
        if self.family != "ResNet" and NO_PLACE.match(theirs):
            return {}
        if self.family == "Swin" and ".downsample." in theirs:
            theirs, tensor = _open_stage(theirs), _reorder_patches(tensor)
        for pattern, replacement in RULES[self.family]:
            theirs = re.sub(pattern, replacement, theirs)
        return {theirs: tensor}

    def write(self, weights: dict[str, Tensor], out: str) -> None:
        write_tensors(weights, out)

    def usage(self, out: str) -> str:
        options = dict(num_classes=0, checkpoint_path=out, **self.options)
        listed = ", ".join(f"{key}={value!r}" for key, value in options.items())
        return f'model = timm.create_model("{self.name}", {listed})'


def _open_stage(name: str) -> str:
    """`stages.0.downsample` of MMPretrain is `stages.1.downsample` of timm."""
    return re.sub(r"^stages\.(\d+)", lambda m: f"stages.{int(m[1]) + 1}", name)


def _reorder_patches(tensor: Tensor) -> Tensor:
    """The inputs of a patch merging, (..., 4 C), in timm's order.

    MMCV unfolds 2 x 2 patches channel by channel, its cells row by row; timm puts
    the cells first, column by column.
    """
    cells = tensor.unflatten(-1, (-1, 2, 2))  # (..., C, row, column)
    return cells.movedim(-3, -1).transpose(-3, -2).flatten(-3)


def _model(arch: Architecture) -> tuple[str, dict]:
    """timm's name of the model, and what differs from its defaults.

    Raises:
        InputError: for a ResNet that timm has not.
    """
    if arch.family == "ResNet":
        if not arch.depth or (arch.stem, arch.widths[0]) != (64, 64):
            raise InputError(f"timm has no model like {arch}")
        return f"resnet{arch.depth}", {}
    if arch.family == "Swin":
        options = dict(
            embed_dim=arch.widths[0],
            depths=arch.depths,
            num_heads=arch.heads,
            window_size=arch.window,
        )
        return "swin_tiny_patch4_window7_224", options
    return "convnext_tiny", dict(depths=arch.depths, dims=arch.widths)
