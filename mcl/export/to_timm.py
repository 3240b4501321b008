"""timm: ResNet as it is, Swin and ConvNeXt renamed."""

import re

import torch
from torch import Tensor

from ..errors import InputError
from .architecture import Architecture
from .destination import Destination, rename

# MMPretrain's names to timm's.
RULES = {
    "ResNet": (),
    "Swin": (
        # In timm downsampling belongs to the later of two stages.
        (r"^stages\.(\d+)\.d", lambda m: f"stages.{int(m[1]) + 1}.d"),
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
# Norms of the earlier maps, which only a detector reads, and an index that timm
# computes itself.
NO_PLACE = re.compile(r"norm[0-2]\.|.*relative_position_index$")


class ToTimm(Destination):
    """timm's model of the same backbone.

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

    def place(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        theirs = name.removeprefix("backbone.")
        if self.family != "ResNet" and NO_PLACE.match(theirs):
            return {}
        if self.family == "Swin" and ".downsample." in theirs:
            tensor = _reorder_patches(tensor)
        return {rename(theirs, RULES[self.family]): tensor}

    def usage(self, out: str) -> str:
        options = dict(num_classes=0, checkpoint_path=out, **self.options)
        listed = ", ".join(f"{key}={value!r}" for key, value in options.items())
        return f'model = timm.create_model("{self.name}", {listed})'


def _reorder_patches(tensor: Tensor) -> Tensor:
    """Reorder the inputs of a patch merging, (..., 4 C), from MMCV's order to timm's.

    MMCV sorts a 2 x 2 patch by channel, row, column; timm by column, row, channel.
    """
    cells = tensor.unflatten(-1, (-1, 2, 2))  # (..., C, row, column)
    return cells.transpose(-3, -1).flatten(-3)  # (..., column, row, C) flattened


def _model(arch: Architecture) -> tuple[str, dict]:
    """timm's name of the model, and options that differ from its defaults.

    Raises:
        InputError: for a ResNet that timm does not have.
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
