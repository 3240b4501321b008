"""The checkpoint enters real detectors of MMDetection, whole."""

import re

import pytest
import torch
from mmdet.registry import MODELS as DETECTORS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn

from mcl.config import adapt_to_cpu
from mcl.errors import InputError
from mcl.export import (
    ToMMDetection,
    export,
    load_weights,
    take_network,
    write_tensors,
)
from mcl.export.load_report import BACKBONE, NECK, SHARED_CONVS, LoadReport

from .conftest import random_views, shrunk_model
from .detectors import COCO, detector, send


@pytest.mark.hosts
def test_exported_file_fills_the_trunk_bit_for_bit(checkpoint, tmp_path):
    out, model = tmp_path / "out.pth", detector()
    exported = send(checkpoint, model)
    for part in (BACKBONE, NECK, SHARED_CONVS):
        row = exported.report.parts[part]
        assert row.loaded and not row.missing + row.unexpected + row.mismatched
    write_tensors(dict(state_dict=exported.weights), str(out))

    written = torch.load(out, weights_only=True)["state_dict"]
    load_checkpoint(model, str(out))
    state = model.state_dict()
    pretrained = load_weights(checkpoint)
    filled = [n for n in state if n.startswith(("backbone.", "neck.", SHARED_CONVS))]
    assert set(filled) == set(written)
    for name in filled:
        ours = name.replace(SHARED_CONVS, "neck.shared_convs")
        assert torch.equal(state[name], pretrained[ours]), name


@pytest.mark.hosts
def test_unconverted_checkpoint_fills_backbone_and_fpn(checkpoint):
    model = detector()
    load_checkpoint(model, checkpoint)
    pretrained, state = load_weights(checkpoint), model.state_dict()
    filled = [n for n in state if n.startswith(("backbone.", "neck."))]
    assert len(filled) > 100
    for name in filled:
        assert torch.equal(state[name], pretrained[name]), name
    assert not LoadReport.compare(pretrained, state).problems()


def test_detector_maps_are_those_of_pretraining(checkpoint):
    # Of one layout: sums are taken in its order.
    ours, model = shrunk_model(channels_last=False).eval(), detector().eval()
    load_checkpoint(model, checkpoint)
    load_checkpoint(ours, checkpoint)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        theirs = model.extract_feat(image)
        maps = ours.neck.pyramid(ours.backbone(image))
    for a, b in zip(maps, theirs, strict=False):  # the detector adds P6
        torch.testing.assert_close(a, b)


@pytest.mark.hosts
@pytest.mark.parametrize("kind", ["mask-rcnn", "faster-rcnn", "cascade"])
def test_every_box_head_is_filled(checkpoint, kind):
    model, pretrained = detector(kind), load_weights(checkpoint)
    model.load_state_dict(send(checkpoint, model).weights, strict=False)
    heads = model.roi_head.bbox_head
    heads = list(heads) if isinstance(heads, nn.ModuleList) else [heads]
    assert len(heads) == (3 if kind == "cascade" else 1)
    for head in heads:
        filled = head.shared_convs.state_dict()
        assert len(filled) == 4 * 6
        for name, tensor in filled.items():
            assert torch.equal(tensor, pretrained[f"neck.shared_convs.{name}"]), name


@pytest.mark.hosts
def test_retinanet_is_filled_level_by_level(checkpoint):
    """Maps of the two models agree at each stride; the convs above are its own."""
    ours, model = shrunk_model(channels_last=False), detector("retinanet")
    load_checkpoint(ours, checkpoint)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    exported = send(checkpoint, model)
    model.load_state_dict(exported.weights, strict=False)
    ours.eval()
    model.eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        theirs = model.extract_feat(image)
        maps = ours.neck.pyramid(ours.backbone(image))
    assert len(theirs) == 5
    for mine, its in zip(maps[1:], theirs[:3], strict=True):
        torch.testing.assert_close(mine, its)
    extra = exported.report.parts["neck.extra_convs"]
    assert not extra.loaded and len(extra.missing) == 2 * 5
    for name in extra.missing:
        assert torch.equal(model.state_dict()[name], before[name])
    assert any("lateral_convs.0" in name for name in exported.left_behind)


def test_unconverted_or_foreign_file_in_retinanet_is_refused(checkpoint):
    retinanet = detector("retinanet").state_dict()
    for weights in (load_weights(checkpoint), send(checkpoint, detector()).weights):
        problems = LoadReport.compare(weights, retinanet).problems()
        assert any(p.startswith("neck: ") for p in problems)
        cause = "pyramid takes 3 maps of the backbone, the file's 4"
        assert any(cause in p for p in problems)
    back = send(checkpoint, detector("retinanet")).weights
    assert LoadReport.compare(back, detector().state_dict()).problems()


def c4(**overrides) -> nn.Module:
    """The shipped C4 detector with a ResNet-18 of the usual widths."""
    cfg = Config.fromfile(COCO / "mask-rcnn_r50-random_c4_1x_coco.py")
    shared_head = cfg.model.roi_head.shared_head
    shared_head[0].depth, shared_head[1].num_features = 18, 512
    cfg.merge_from_dict(
        {
            "model.backbone.depth": 18,
            "model.rpn_head.in_channels": 256,
            "model.roi_head.bbox_roi_extractor.out_channels": 256,
            "model.roi_head.bbox_head.in_channels": 512,
            "model.roi_head.mask_head.in_channels": 512,
            **overrides,
        }
    )
    adapt_to_cpu(cfg)
    init_default_scope("mmdet")
    return DETECTORS.build(cfg.model)


def test_layer4_goes_to_the_roi_head_of_c4():
    pretraining = shrunk_model(
        **{
            "backbone.stem_channels": 64,
            "backbone.base_channels": 64,
            "neck.in_channels": [64, 128, 256, 512],
        }
    )
    weights = {k: v for k, v in pretraining.state_dict().items()}
    model = c4()
    network, _ = take_network(weights)
    exported = export(network, ToMMDetection(model))
    missing, unexpected = model.load_state_dict(exported.weights, strict=False)
    assert not unexpected
    assert all(
        n.startswith(("rpn_head.", "roi_head.bbox", "roi_head.mask"))
        or "shared_head.1." in n
        for n in missing
    )
    pretraining.eval()
    model.eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        theirs = model.backbone(image)[0]
        maps = pretraining.backbone(image)
        torch.testing.assert_close(theirs, maps[2])
        res5, extra_norm = model.roi_head.shared_head
        torch.testing.assert_close(res5(theirs), maps[3])
    assert extra_norm.num_features == 512

    problems = LoadReport.compare(weights, model.state_dict()).problems()
    assert any("layer4 in its RoI head" in p for p in problems)


@pytest.mark.parametrize(
    "part, filled",
    [
        ("backbone", {BACKBONE}),
        ("trunk", {BACKBONE, NECK}),
        ("detector", {BACKBONE, NECK, SHARED_CONVS}),
    ],
)
def test_parts(checkpoint, part, filled):
    report = send(checkpoint, detector(), part).report
    assert {name for name, p in report.parts.items() if p.loaded} == filled


def test_a_head_without_convs_takes_the_trunk(checkpoint):
    model = detector("2fc")
    exported = send(checkpoint, model)
    loaded = {name for name, p in exported.report.parts.items() if p.loaded}
    assert loaded == {BACKBONE, NECK}
    assert any("shared_convs" in name for name in exported.left_behind)
    with pytest.raises(InputError, match="the model has no such part"):
        send(checkpoint, model, "detector")


def test_target_network(checkpoint):
    """Its weights; where it ran no batch, the online network's statistics."""
    weights = load_weights(checkpoint)
    weights["target.backbone.conv1.weight"] = weights["backbone.conv1.weight"] + 1
    network, borrowed = take_network(weights, "target")
    exported = export(network, ToMMDetection(detector())).weights
    for name, tensor in exported.items():
        ours = name.replace(SHARED_CONVS, "neck.shared_convs")
        layer, statistic = ours.rsplit(".", 1)
        from_online = layer in borrowed and statistic in (
            "running_mean",
            "running_var",
            "num_batches_tracked",
        )
        source = weights[ours if from_online else f"target.{ours}"]
        assert torch.equal(tensor, source), name
    # It reads P5 alone: three laterals and three output convs were never run.
    assert len(borrowed) == 6
    assert all(re.match(r"neck\.(lateral|fpn)_convs\.[0-2]\.bn", n) for n in borrowed)

    online_only = {k: v for k, v in weights.items() if not k.startswith("target.")}
    with pytest.raises(InputError, match="no target network"):
        take_network(online_only, "target")


def test_swin_in_mmdetection():
    arch = dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8])
    swin = dict(type="SwinTransformer", arch=arch, out_indices=(0, 1, 2, 3))
    swin["pad_small_map"] = True
    pretraining = shrunk_model(
        **{
            "backbone": dict(_delete_=True, **swin),
            "neck.in_channels": [16, 32, 64, 128],
        }
    )
    pretraining.train().loss(random_views(pretraining))
    theirs = dict(_delete_=True, type="SwinTransformer", **arch)
    model = detector(
        **{
            "model.backbone": theirs,
            "model.neck.in_channels": [16, 32, 64, 128],
        }
    )
    network, _ = take_network(pretraining.state_dict())
    exported = export(network, ToMMDetection(model))
    model.load_state_dict(exported.weights, strict=False)
    pretraining.eval()
    model.eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = pretraining.neck.pyramid(pretraining.backbone(image))
        for mine, its in zip(maps, model.extract_feat(image)[:4], strict=True):
            torch.testing.assert_close(mine, its)


def test_a_pyramid_over_other_outputs_of_the_backbone(checkpoint):
    """C3 to C5 by the backbone's choice, not by the FPN's."""
    model = detector(
        "retinanet",
        **{
            "model.backbone.out_indices": (1, 2, 3),
            "model.neck.in_channels": [16, 32, 64],
            "model.neck.start_level": 0,
        },
    )
    weights, pretrained = send(checkpoint, model).weights, load_weights(checkpoint)
    name = "neck.{}.{}.conv.weight"
    for kind in ("lateral_convs", "fpn_convs"):
        for i in range(3):
            ours = pretrained[name.format(kind, i + 1)]
            assert torch.equal(weights[name.format(kind, i)], ours)


def test_a_neck_with_layers_of_its_own_takes_the_pyramid(checkpoint):
    model = detector(
        **{
            "model.neck.type": "PAFPN",
            "model.neck.num_outs": 5,
        }
    )
    report = send(checkpoint, model).report
    assert len(report.parts[NECK].loaded) == 40
    assert report.parts["neck.other_layers"].missing
