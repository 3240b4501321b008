"""Small detectors of the shipped configs, as narrow as the tests' checkpoint."""

from mmdet.registry import MODELS as DETECTORS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mcl.config import adapt_to_cpu
from mcl.export import Export, ToMMDetection, export, load_weights, take_network

from .conftest import ROOT, SMALL_DETECTOR

NARROW = {
    "model.backbone.depth": 18,
    "model.backbone.stem_channels": 8,
    "model.backbone.base_channels": 8,
}
FPN = {
    **NARROW,
    "model.neck.in_channels": [8, 16, 32, 64],
    "model.neck.out_channels": 16,
}
RPN = {"model.rpn_head.in_channels": 16, "model.rpn_head.feat_channels": 16}
BOX_HEAD = dict(in_channels=16, conv_out_channels=16, fc_out_channels=32)
TWO_STAGE = {
    **FPN,
    **RPN,
    "model.roi_head.bbox_roi_extractor.out_channels": 16,
    **{f"model.roi_head.bbox_head.{k}": v for k, v in BOX_HEAD.items()},
}
WIDTHS = {
    **TWO_STAGE,
    "model.roi_head.mask_roi_extractor.out_channels": 16,
    "model.roi_head.mask_head.in_channels": 16,
}
CASCADE = {
    **{k: v for k, v in WIDTHS.items() if ".bbox_head." not in k},
    **{
        f"model.roi_head.bbox_head.{i}.{k}": v
        for i in range(3)
        for k, v in BOX_HEAD.items()
    },
}
RETINANET = {**FPN, "model.bbox_head.in_channels": 16}
COCO = ROOT / "configs/benchmarks/coco"
KINDS = {
    "mask-rcnn": ("mask-rcnn_r50-random_fpn_1x_coco.py", WIDTHS),
    "2fc": ("mask-rcnn_r50-random_fpn-2fc_1x_coco.py", WIDTHS),
    "faster-rcnn": ("faster-rcnn_r50-random_fpn_1x_coco.py", TWO_STAGE),
    "cascade": ("cascade-mask-rcnn_r50-random_fpn_1x_coco.py", CASCADE),
    "retinanet": ("retinanet_r50-random_fpn_1x_coco.py", RETINANET),
}


def small_config(kind: str = "small", **overrides) -> Config:
    """A shipped detector of stock classes, as narrow as the checkpoint."""
    path, widths = (SMALL_DETECTOR, WIDTHS)
    if kind != "small":
        path, widths = COCO / KINDS[kind][0], KINDS[kind][1]
    cfg = Config.fromfile(path)
    cfg.merge_from_dict({**widths, **overrides})
    adapt_to_cpu(cfg)
    return cfg


def detector(kind: str = "small", **overrides) -> nn.Module:
    init_default_scope("mmdet")
    return DETECTORS.build(small_config(kind, **overrides).model)


def send(checkpoint: str, model: nn.Module, part: str | None = None) -> Export:
    """What of ``checkpoint`` is for ``model``."""
    network, _ = take_network(load_weights(checkpoint))
    return export(network, ToMMDetection(model), part)
