"""The detector's neck that gives one embedding for each tile."""

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

# Sizes of the paper; Kaiming fan_in, biases 0.
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

    Each canvas is read from the map where its tiles are S / 32 cells wide. The
    map is cut into tiles *before* the convs, so that no tile sees another.
    Weights carry the names of MMDetection's FPN and box head: ``lateral_convs``,
    ``fpn_convs``, ``shared_convs``.

    Args:
        in_channels: channels of C2..C5.
        out_channels: channels of the pyramid and of the shared convs.
        ratios: tiles along a canvas side, per level.
        num_shared_convs: 3x3 convs of the box head (4conv1fc has 4).
        projector: overrides of the projector's config, or another neck of
            MMPretrain by its ``type``.
        norm_cfg: norm of FPN and shared convs.
        computation: ``'selected'`` computes what the loss reads. ``'full'``, the
            authors' way, runs the FPN on all canvases and the region part on all
            tiles of all maps; BN statistics are then those of all tiles.

    Raises:
        InputError: for ratios without a map, an unknown computation or a number of
            convs below 0; in training, for one image in a process without SyncBN.

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
                f"num_shared_convs={num_shared_convs!r}: give a whole number from 0 on"
            )
        self.computation = computation
        self.ratios = check_ratios(ratios, len(in_channels))
        self.map_indices = [map_index(r, len(in_channels)) for r in self.ratios]
        # MMEngine's Sequential hands init_weights on to its ConvModules, whose own
        # is Kaiming fan_out; the FPN's Xavier would otherwise reach them too.
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
        """Convs that no level reads get no gradient: say so to the optimizer."""
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
            inputs: C2..C5, each (n, C_i, H_i, W_i): the canvases of level 0, then
                those of level 1, and so on, n in all. Of crops that stand alone,
                C2..C5 of each level's.
            counts: number of canvases of each level. Fewer entries than ratios
                mean the first levels only. None: the crops stand alone.

        Returns:
            For each level (N_l, D), the tiles row by row, canvas after canvas.
        """
        if counts is None:
            return tuple(self.embed_alone(m, level) for level, m in enumerate(inputs))
        self._check_channels(inputs)
        ratios = self.ratios[: len(counts)]
        if self.computation == "full":
            return self._embed_all(self.pyramid(inputs), counts, ratios)
        maps = self._level_maps(inputs, counts)
        return tuple(self.embed(m, r) for m, r in zip(maps, ratios, strict=True))

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
        tiles = cut_tiles(feature_map, ratio)
        if self.training and len(tiles) == 1:
            self._check_statistics()
        return self.projector((self.shared_convs(tiles),))[0]

    def _check_statistics(self) -> None:
        """Of one row no variance can be taken; SyncBN takes it over the processes."""
        if any(isinstance(m, nn.BatchNorm1d) for m in self.projector.modules()):
            raise InputError(
                "train_dataloader.batch_size=1: batch norm needs at least 2 images in "
                "each process; only SyncBN (sync_bn='torch', on accelerators) shares "
                "them"
            )

    def embed_alone(self, inputs: Sequence[Tensor], level: int) -> Tensor:
        """Embed crops of side S / r_l that stand alone: C2..C5 to (N_l, D)."""
        self._check_channels(inputs)
        index = self.map_indices[level]
        top_down = self.lateral_convs[-1](inputs[-1])
        for i in reversed(range(index, self.num_ins - 1)):
            lateral = self.lateral_convs[i](inputs[i])
            top_down = lateral + F.interpolate(
                top_down, size=lateral.shape[2:], **self.upsample_cfg
            )
        return self.embed(self.fpn_convs[index](top_down), 1)

    def _level_maps(
        self, inputs: Sequence[Tensor], counts: Sequence[int]
    ) -> list[Tensor]:
        """The map of each level on that level's canvases, and nothing else.

        Canvases lie in the order of their levels and a finer map is needed by the
        later levels only: what map i needs is the batch from some canvas on.
        """
        starts = [sum(counts[:level]) for level in range(len(counts))]
        maps, top_down, top_start = [], None, 0
        for i in reversed(range(min(self.map_indices[: len(counts)]), self.num_ins)):
            level = self._first_level(i)
            start = starts[level]
            lateral = self.lateral_convs[i](inputs[i][start:])
            if top_down is not None:
                lateral = lateral + F.interpolate(
                    top_down[start - top_start :],
                    size=lateral.shape[2:],
                    **self.upsample_cfg,
                )
            top_down, top_start = lateral, start
            if i in self.map_indices:
                maps.append(self.fpn_convs[i](lateral[: counts[level]]))
        return maps

    def _first_level(self, index: int) -> int:
        """First level whose map is ``index`` or finer."""
        return next(lv for lv, i in enumerate(self.map_indices) if i <= index)

    def _embed_all(
        self, maps: Sequence[Tensor], counts: Sequence[int], ratios: Sequence[int]
    ) -> tuple[Tensor, ...]:
        embeddings, first = [], 0
        for count, ratio, index in zip(counts, ratios, self.map_indices, strict=False):
            tiles = self.embed(maps[index], ratio)
            last = first + count
            embeddings.append(tiles[first * ratio**2 : last * ratio**2])
            first = last
        return tuple(embeddings)


def embed_canvases(
    backbone: nn.Module, neck: MCLNeck, canvases: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Embed the tiles of some levels' canvases, level 0 first.

    Canvases of one side go through the backbone together. Tiles that are not laid
    on canvases have another side on each level, and go through it level by level.

    Args:
        backbone: gives C2..C5.
        neck: with the weights that belong to it.
        canvases: for each level (n_l, 3, S_l, S_l).

    Returns:
        For each level (N_l, D).
    """
    if len({c.shape[-1] for c in canvases}) == 1:
        return neck(backbone(torch.cat(list(canvases))), [len(c) for c in canvases])
    return neck([backbone(c) for c in canvases], None)
