"""The checkpoint enters a real Mask R-CNN, whole, or is refused."""

import pytest
import torch
from mmdet.registry import MODELS as DETECTORS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_checkpoint

from mcl.errors import InputError
from mcl.export import load_weights, save_for_detector, to_detector
from mcl.load_report import SHARED_CONVS, LoadReport
from mcl.preflight import adapt_to_cpu

from .conftest import ROOT, SMALL_DETECTOR, random_views, run_tool, shrunk_model

WIDTHS = {
    "model.backbone.stem_channels": 8,
    "model.backbone.base_channels": 8,
    "model.neck.in_channels": [8, 16, 32, 64],
    "model.neck.out_channels": 16,
    "model.rpn_head.in_channels": 16,
    "model.rpn_head.feat_channels": 16,
    "model.roi_head.bbox_roi_extractor.out_channels": 16,
    "model.roi_head.mask_roi_extractor.out_channels": 16,
    "model.roi_head.bbox_head.in_channels": 16,
    "model.roi_head.bbox_head.conv_out_channels": 16,
    "model.roi_head.mask_head.in_channels": 16,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """A pre-training checkpoint of a model that has seen one batch."""
    init_default_scope("mmpretrain")
    model = shrunk_model().train()
    losses = model.loss(random_views(model))
    sum(v for k, v in losses.items() if k.startswith("loss")).backward()
    for weight in model.backbone.parameters():
        weight.data -= weight.grad
    path = tmp_path_factory.mktemp("pretrained") / "checkpoint.pth"
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return str(path)


def detector(**overrides):
    """The shipped small Mask R-CNN of stock classes, as narrow as the checkpoint."""
    cfg = Config.fromfile(SMALL_DETECTOR)
    cfg.merge_from_dict({**WIDTHS, **overrides})
    adapt_to_cpu(cfg)
    init_default_scope("mmdet")
    return DETECTORS.build(cfg.model)


@pytest.mark.hosts
def test_exported_file_fills_the_trunk_bit_for_bit(checkpoint, tmp_path):
    out, model = tmp_path / "out.pth", detector()
    weights = to_detector(load_weights(checkpoint))
    report = save_for_detector(weights, model.state_dict(), str(out))
    for part in ("backbone", "neck", SHARED_CONVS):
        row = report.parts[part]
        assert row.loaded and not row.missing + row.unexpected + row.mismatched

    exported = torch.load(out, weights_only=True)["state_dict"]
    load_checkpoint(model, str(out))
    state = model.state_dict()
    pretrained = load_weights(checkpoint)
    filled = [n for n in state if n.startswith(("backbone.", "neck.", SHARED_CONVS))]
    assert set(filled) == set(exported)
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
    ours, model = shrunk_model().eval(), detector().eval()
    load_checkpoint(model, checkpoint)
    load_checkpoint(ours, checkpoint)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        theirs = model.extract_feat(image)
        maps = ours.neck.pyramid(ours.backbone(image))
    for a, b in zip(maps, theirs, strict=False):  # the detector adds P6
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "overrides, part",
    [
        ({"model.neck.norm_cfg": None}, "neck"),
        ({"model.roi_head.bbox_head.norm_cfg": None}, SHARED_CONVS),
        ({"model.roi_head.bbox_head.num_shared_convs": 2}, SHARED_CONVS),
        ({"model.roi_head.bbox_head.num_shared_convs": 5}, SHARED_CONVS),
        ({"model.neck.out_channels": 8, "model.rpn_head.in_channels": 8}, "neck"),
        ({"model.backbone.depth": 34}, "backbone"),
    ],
)
def test_a_detector_that_would_not_be_filled_is_refused(
    checkpoint, tmp_path, overrides, part
):
    if "num_shared_convs" in str(overrides):
        overrides = {**overrides, "model.roi_head.bbox_head.type": "ConvFCBBoxHead"}
        overrides["model.roi_head.bbox_head.num_shared_fcs"] = 1
    out = tmp_path / "out.pth"
    weights = to_detector(load_weights(checkpoint))
    state = detector(**overrides).state_dict()
    with pytest.raises(InputError, match=part):
        save_for_detector(weights, state, str(out))
    assert not out.exists()


def test_an_untrained_model_is_refused():
    with pytest.raises(InputError, match="has seen no batch"):
        to_detector(shrunk_model().state_dict())


def test_another_kind_of_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="no weight called backbone"):
        to_detector({"conv1.weight": torch.zeros(1)})
    path = tmp_path / "empty.pth"
    torch.save(dict(state_dict={}), path)
    with pytest.raises(InputError, match="holds no weights"):
        load_weights(str(path))


def test_the_tool_prints_its_report_and_fails_in_one_sentence(checkpoint, tmp_path):
    config, out = tmp_path / "narrow.py", tmp_path / "out.pth"
    cfg = Config.fromfile(SMALL_DETECTOR)
    cfg.merge_from_dict(WIDTHS)
    cfg.dump(config)
    done = run_tool("tools/export.py", checkpoint, out, "--detector", config)
    assert "loaded missing unexpected" in done.stdout and out.is_file()

    other = tmp_path / "other.pth"
    done = run_tool("tools/export.py", checkpoint, other, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "does not take these weights" in done.stderr and not other.exists()
    for out, words in ((checkpoint, "the checkpoint itself"), (tmp_path, "a folder")):
        done = run_tool("tools/export.py", checkpoint, out, check=False)
        assert done.returncode == 1 and words in done.stderr
    assert "target.step" in load_weights(checkpoint)
    done = run_tool("tools/export.py", tmp_path / "none.pth", other, check=False)
    assert done.returncode == 1 and "no such checkpoint" in done.stderr


def test_benchmarks_differ_in_their_start_alone():
    folder = ROOT / "configs/benchmarks"
    for group in ("mask-rcnn_r50-{}_fpn_1x_coco.py", "mask-rcnn_r18-{}_fpn_small.py"):
        random = Config.fromfile(folder / group.format("random")).to_dict()
        mcl = Config.fromfile(folder / group.format("mcl-pre")).to_dict()
        assert mcl.pop("load_from") and not random.pop("load_from")
        assert mcl == random
    random = Config.fromfile(folder / "mask-rcnn_r50-random_fpn_1x_coco.py").to_dict()
    sup = Config.fromfile(folder / "mask-rcnn_r50-sup-pre_fpn_1x_coco.py").to_dict()
    init = sup["model"]["backbone"].pop("init_cfg")
    assert init["checkpoint"] == "torchvision://resnet50"
    assert random["model"]["backbone"].pop("init_cfg") is None
    assert sup == random


def test_a_pyramid_one_level_off_is_noticed(checkpoint):
    cfg = get_config("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py")
    cfg.model.backbone.update(init_cfg=None, stem_channels=8, base_channels=8)
    cfg.model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    cfg.model.neck.norm_cfg = dict(type="BN")
    cfg.model.bbox_head.update(in_channels=16, feat_channels=16)
    init_default_scope("mmdet")
    state = DETECTORS.build(cfg.model).state_dict()
    problems = LoadReport.compare(load_weights(checkpoint), state).problems()
    assert any(p.startswith("neck: ") for p in problems)


def test_a_detector_without_a_neck_takes_the_backbone(checkpoint):
    state = {k: v for k, v in detector().state_dict().items() if "neck" not in k}
    wrapped = {f"module.{k}": v for k, v in load_weights(checkpoint).items()}
    assert not LoadReport.compare(wrapped, state).problems()
