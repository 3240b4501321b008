"""The neck: a detector's FPN, and one embedding for each tile."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.models.necks import FPN
from mmengine.model import Sequential
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..datasets.montage import cut_tiles
from ..errors import InputError
from ..levels import check_ratios, map_index

COMPUTATIONS = ("selected", "full")

# Sizes of the paper. Kaiming fan_in, biases 0.
PROJECTOR = dict(
    type="mmpretrain.NonLinearNeck",
    hid_channels=2048,
    out_channels=256,
    num_layers=2,
    with_bias=True,
    with_last_bias=True,
    with_last_bn=True,
    with_last_bn_affine=False,
    with_avg_pool=True,
    norm_cfg=dict(type="BN1d"),
    init_cfg=[
        dict(
            type="Kaiming",
            layer="Linear",
            mode="fan_in",
            nonlinearity="relu",
            distribution="normal",
        ),
        dict(type="Constant", val=1, layer="BatchNorm1d"),
    ],
)


@MODELS.register_module()
class MCLNeck(FPN):
    """An FPN, the box head's shared convs and a projector (paper, section 3).

    Each level's canvases are read from the map where a tile is S / 32 cells wide. The
    map is cut into tiles *before* the convs, so no tile sees another. Weights have the
    names of MMDetection's FPN and box head: ``lateral_convs``, ``fpn_convs``,
    ``shared_convs``.

    Args:
        in_channels: channels of C2..C5.
        out_channels: C, channels of the pyramid and of the shared convs.
        ratios: tiles along a canvas side, per level.
        num_shared_convs: 3x3 convs of the box head (4conv1fc has 4).
        projector: overrides of the projector's config, or another neck of
            MMPretrain by its ``type``.
        norm_cfg: norm of FPN and shared convs.
        computation: ``'selected'`` computes only what the loss reads. ``'full'``, as
            in the authors' code, runs the FPN on all canvases, and shared convs and
            projector on all tiles of a map. BN statistics are then those of all tiles.

    Raises:
        InputError: for ratios without a map, an unknown computation or a negative
            number of convs; in training, for one image in a process without SyncBN.

    Example:
        >>> import torch
        >>> neck = MCLNeck([8, 8, 8, 8], 8, ratios=(1, 2))
        >>> maps = [torch.rand(6, 8, s, s) for s in (16, 8, 4, 2)]
        >>> [tuple(e.shape) for e in neck(maps, counts=(4, 2))]
        [(4, 256), (8, 256)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        ratios: Sequence[int] = (1, 2, 4, 8),
        num_shared_convs: int = 4,
        projector: dict | None = None,
        norm_cfg: dict | None = None,
        computation: str = "selected",
    ) -> None:
        norm_cfg = norm_cfg or dict(type="BN", requires_grad=True)
        super().__init__(
            list(in_channels),
            out_channels,
            num_outs=len(in_channels),
            norm_cfg=norm_cfg,
        )
        if computation not in COMPUTATIONS:
            raise InputError(
                f"computation={computation!r}: choose one of {COMPUTATIONS}"
            )
        if not isinstance(num_shared_convs, int) or num_shared_convs < 0:
            raise InputError(
                f"num_shared_convs={num_shared_convs!r}: give an integer >= 0"
            )
        self.computation = computation
        self.ratios = check_ratios(ratios, len(in_channels))
        self.map_indices = [map_index(r, len(in_channels)) for r in self.ratios]
        # MMEngine's Sequential keeps the ConvModules' own initialization, Kaiming
        # fan_out. In torch's the FPN's Xavier would replace it.
        self.shared_convs = Sequential(
            *(
                ConvModule(out_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg)
                for _ in range(num_shared_convs)
            )
        )
        projector = projector or {}
        if projector.get("type", PROJECTOR["type"]) == PROJECTOR["type"]:
            projector = {**PROJECTOR, "in_channels": out_channels, **projector}
        self.projector = MODELS.build(projector)
        self._freeze_unread_maps()

    def _freeze_unread_maps(self) -> None:
        """Exclude convs that no level reads from the optimizer."""
        first = min(self.map_indices)
        for i, (lateral, out) in enumerate(
            zip(self.lateral_convs, self.fpn_convs, strict=True)
        ):
            lateral.requires_grad_(i >= first)
            out.requires_grad_(i in self.map_indices)

    def forward(
        self,
        inputs: Sequence[Tensor] | Sequence[Sequence[Tensor]],
        counts: Sequence[int] | None,
    ) -> tuple[Tensor, ...]:
        """Embed the tiles of all canvases.

        Args:
            inputs: C2..C5, each (n, C_i, H_i, W_i), of n canvases, level after level.
                Without canvases: for each level C2..C5 of its crops.
            counts: number of canvases of each level, n_l. Fewer entries than ratios
                mean the first levels only. None: the crops are on no canvases.

        Returns:
            For each level (N_l, D), the tiles row by row, canvas after canvas.
        """
        if counts is None:
            return tuple(self.embed_alone(m, level) for level, m in enumerate(inputs))
        self._check_channels(inputs)
        if self.computation == "full":
            return self._embed_all(self.pyramid(inputs), counts)
        maps = self._level_maps(inputs, counts)
        return tuple(map(self.embed, maps, self.ratios))

    def _check_channels(self, inputs: Sequence[Tensor]) -> None:
        channels = [m.shape[1] for m in inputs]
        if channels != list(self.in_channels):
            raise InputError(
                f"neck.in_channels={list(self.in_channels)}, but the maps have "
                f"{channels}: make them equal (four maps, backbone.out_indices)"
            )

    def pyramid(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """P2..P5 of whole images, as the detector's FPN computes them."""
        return super().forward(inputs)

    def embed(self, feature_map: Tensor, ratio: int) -> Tensor:
        """Embed the r x r tiles of each canvas: (n, C, r t, r t) to (n r r, D)."""
        tiles = cut_tiles(feature_map, ratio)  # (n r r, C, t, t)
        if self.training and len(tiles) == 1:
            self._check_statistics()
        return self.projector((self.shared_convs(tiles),))[0]  # (n r r, D)

    def _check_statistics(self) -> None:
        """Refuse BN on one row. SyncBN has the rows of all processes."""
        if any(isinstance(m, nn.BatchNorm1d) for m in self.projector.modules()):
            raise InputError(
                "train_dataloader.batch_size=1: batch norm needs at least 2 images in "
                "each process; only SyncBN (sync_bn='torch', on accelerators) shares "
                "them"
            )

    def embed_alone(self, inputs: Sequence[Tensor], level: int) -> Tensor:
        """Embed crops of side S / r_l, on no canvases: C2..C5 to (N_l, D)."""
        self._check_channels(inputs)
        index, merged = self.map_indices[level], None
        for i in reversed(range(index, self.num_ins)):
            merged = self._merge(i, inputs[i], merged)  # (N_l, C, H_i, W_i)
        return self.embed(self.fpn_convs[index](merged), 1)

    def _merge(self, i: int, inputs: Tensor, coarser: Tensor | None) -> Tensor:
        """The FPN's top-down step: C_i's lateral plus the upsampled coarser map."""
        lateral = self.lateral_convs[i](inputs)  # (n, C, H_i, W_i)
        if coarser is None:
            return lateral
        size = lateral.shape[2:]
        return lateral + F.interpolate(coarser, size=size, **self.upsample_cfg)

    def _level_maps(
        self, inputs: Sequence[Tensor], counts: Sequence[int]
    ) -> list[Tensor]:
        """The map of each level, computed on that level's canvases only.

        Finer maps serve later levels, and canvases are sorted by level. So a level's
        canvases are dropped as soon as its map is computed.
        """
        maps, merged, start = [], None, 0
        for i in reversed(range(self.map_indices[len(counts) - 1], self.num_ins)):
            merged = self._merge(i, inputs[i][start:], merged)  # (n - start, C, ...)
            if i in self.map_indices:
                count = counts[len(maps)]
                maps.append(self.fpn_convs[i](merged[:count]))  # (n_l, C, H_i, W_i)
                merged, start = merged[count:], start + count
        return maps

    def _embed_all(
        self, maps: Sequence[Tensor], counts: Sequence[int]
    ) -> tuple[Tensor, ...]:
        embeddings, first = [], 0
        levels = zip(counts, self.ratios, self.map_indices, strict=False)
        for count, ratio, index in levels:
            tiles = self.embed(maps[index], ratio)  # (n r r, D)
            last = first + count
            embeddings.append(tiles[first * ratio**2 : last * ratio**2])  # (N_l, D)
            first = last
        return tuple(embeddings)


def embed_canvases(
    backbone: nn.Module, neck: MCLNeck, canvases: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Embed the tiles of some levels' canvases, level 0 first.

    Canvases of equal side go through the backbone together. Tiles on no canvases have
    a different side on each level and go through it level by level.

    Args:
        backbone: returns C2..C5.
        neck: the neck that was trained with it.
        canvases: for each level (n_l, 3, S_l, S_l).

    Returns:
        For each level (N_l, D).
    """
    if len({c.shape[-1] for c in canvases}) == 1:
        return neck(backbone(torch.cat(list(canvases))), [len(c) for c in canvases])
    return neck([backbone(c) for c in canvases], None)
