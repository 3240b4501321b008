"""MMPretrain: the backbone under its own names."""

from mmengine.registry import DefaultScope
from torch import Tensor

from ..errors import InputError
from .architecture import Architecture
from .checkpoint import write_tensors
from .destination import Destination, build_unfilled
from .load_report import BACKBONE


class ToMMPretrain(Destination):
    """The backbone of any model of MMPretrain.

    Args:
        architecture: of the backbone.
    """

    def __init__(self, architecture: Architecture) -> None:
        from mmpretrain.registry import MODELS

        config = dict(_config(architecture), out_indices=(0, 1, 2, 3))
        with DefaultScope.overwrite_default_scope("mmpretrain"):
            backbone = build_unfilled(lambda: MODELS.build(config))
        self.model = {f"{BACKBONE}.{k}": v for k, v in backbone.state_dict().items()}

    def place(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        return {name: tensor} if name.startswith(f"{BACKBONE}.") else {}

    def write(self, weights: dict[str, Tensor], out: str) -> None:
        write_tensors(dict(state_dict=weights), out)

    def usage(self, out: str) -> str:
        init = f'dict(type="Pretrained", checkpoint="{out}", prefix="{BACKBONE}.")'
        return f"init_cfg = {init}  # in the backbone's config"


def _config(arch: Architecture) -> dict:
    """MMPretrain's config of this backbone.

    Raises:
        InputError: for a ResNet with an unusual number of blocks.
    """
    if arch.family == "ResNet":
        if not arch.depth:
            raise InputError(f"MMPretrain has no backbone like {arch}")
        return dict(
            type="ResNet",
            depth=arch.depth,
            stem_channels=arch.stem,
            base_channels=arch.widths[0],
        )
    if arch.family == "Swin":
        size = dict(embed_dims=arch.widths[0], depths=arch.depths, num_heads=arch.heads)
        return dict(type="SwinTransformer", arch=size, window_size=arch.window)
    size = dict(depths=arch.depths, channels=arch.widths)
    return dict(type="ConvNeXt", arch=size, gap_before_final_norm=False)
