"""The checkpoint enters real detectors of MMDetection, whole, or is refused."""

import os
import re

import pytest
import torch
from mmdet.registry import MODELS as DETECTORS
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn

from mcl.errors import InputError
from mcl.export import (
    ToMMDetection,
    export,
    find_doubts,
    load_weights,
    read_checkpoint,
    take_network,
    write_tensors,
)
from mcl.load_report import BACKBONE, NECK, SHARED_CONVS, LoadReport
from mcl.preflight import adapt_to_cpu

from .conftest import ROOT, SMALL_DETECTOR, random_views, run_tool, shrunk_model

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


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """A pre-training checkpoint of a model that has seen one batch."""
    init_default_scope("mmpretrain")
    torch.manual_seed(0)
    model = shrunk_model().train()
    losses = model.loss(random_views(model))
    sum(v for k, v in losses.items() if k.startswith("loss")).backward()
    for weight in model.backbone.parameters():
        weight.data -= weight.grad
    path = tmp_path_factory.mktemp("pretrained") / "checkpoint.pth"
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return str(path)


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


def send(checkpoint: str, model: nn.Module, part: str | None = None, net="online"):
    """What of ``checkpoint`` is for ``model``."""
    network, _ = take_network(load_weights(checkpoint), net)
    return export(network, ToMMDetection(model), part)


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
    ours, model = shrunk_model().eval(), detector().eval()
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
    ours, model = shrunk_model(), detector("retinanet")
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


@pytest.mark.parametrize(
    "overrides, part, cause",
    [
        ({"model.neck.norm_cfg": None}, "neck", "one FPN has norm layers"),
        ({"model.roi_head.bbox_head.norm_cfg": None}, SHARED_CONVS, ""),
        ({"model.roi_head.bbox_head.num_shared_convs": 2}, SHARED_CONVS, ""),
        ({"model.roi_head.bbox_head.num_shared_convs": 5}, SHARED_CONVS, ""),
        (
            {"model.neck.out_channels": 8, "model.rpn_head.in_channels": 8},
            "neck",
            "the file's FPN has 16 channels, the model's 8",
        ),
        (
            {"model.backbone.depth": 34},
            "backbone",
            "the file's backbone is a ResNet-18 of width 8, the model's a ResNet-34",
        ),
    ],
)
def test_a_detector_that_would_not_be_filled_is_refused(
    checkpoint, overrides, part, cause
):
    if "num_shared_convs" in str(overrides):
        overrides = {**overrides, "model.roi_head.bbox_head.type": "ConvFCBBoxHead"}
        overrides["model.roi_head.bbox_head.num_shared_fcs"] = 1
    with pytest.raises(InputError, match=part) as error:
        send(checkpoint, detector(**overrides))
    assert cause in str(error.value)


def test_heads_of_a_cascade_are_not_those_of_a_mask_rcnn(checkpoint):
    weights = send(checkpoint, detector()).weights
    problems = LoadReport.compare(weights, detector("cascade").state_dict()).problems()
    assert any("3 box heads" in p for p in problems)


def test_an_untrained_model_is_refused():
    network, _ = take_network(shrunk_model().state_dict())
    with pytest.raises(InputError, match="has seen no batch"):
        export(network, ToMMDetection(detector()))


def test_another_kind_of_checkpoint_is_refused(tmp_path):
    network, _ = take_network({"conv1.weight": torch.zeros(1)})
    with pytest.raises(InputError, match="no weight called backbone"):
        export(network, ToMMDetection(detector()))
    path = tmp_path / "empty.pth"
    torch.save(dict(state_dict={}), path)
    with pytest.raises(InputError, match="holds no weights"):
        load_weights(str(path))


class Sly:
    """Its pickle asks for an attribute that leads to everything else."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, "__init__")


class Loud:
    """Unpickling it runs code: it leaves a file behind."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.hosts
def test_code_in_a_file_is_not_run_unless_trusted(checkpoint, tmp_path):
    path, trace = tmp_path / "loud.pth", tmp_path / "trace"
    content = dict(state_dict=load_weights(checkpoint), extra=Loud(trace))
    torch.save(content, path)
    with pytest.raises(InputError, match=r"it holds .*open.* --trust"):
        read_checkpoint(str(path))
    assert not trace.exists()
    assert read_checkpoint(str(path), trust=True)["state_dict"]
    assert trace.exists()


@pytest.mark.hosts
def test_a_file_gets_no_attribute_but_those_of_the_log(tmp_path):
    """MMEngine's checkpoints need `getattr` for the methods of a HistoryBuffer."""
    path, buffer = tmp_path / "log.pth", HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save(dict(message_hub=dict(loss=buffer)), path)
    loaded = read_checkpoint(str(path))["message_hub"]["loss"]
    assert loaded.mean() == 1.5
    torch.save(dict(state_dict={}, extra=Sly()), path)
    with pytest.raises(InputError, match="getattr.*--trust"):
        read_checkpoint(str(path))


def test_numbers_that_are_none_are_refused(checkpoint):
    weights = load_weights(checkpoint)
    name = "backbone.layer4.0.conv1.weight"
    for broken, words in (
        (weights[name] * float("nan"), "is not finite"),
        (weights[name].to(torch.int8), "int8"),
    ):
        network, _ = take_network({**weights, name: broken})
        with pytest.raises(InputError, match=f"{name} is .*{words.split()[-1]}"):
            export(network, ToMMDetection(detector()))
    half = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    exported = export(take_network(half)[0], ToMMDetection(detector())).weights
    assert exported[name].dtype == torch.float32


def test_norms_without_a_counter_are_judged_by_their_statistics(checkpoint):
    weights = load_weights(checkpoint)
    weights = {k: v for k, v in weights.items() if not k.endswith("batches_tracked")}
    assert send_weights(weights).report.parts[NECK].loaded
    _, borrowed = take_network(weights, "target")
    assert len(borrowed) == 6
    layer = "neck.fpn_convs.1.bn"
    weights[f"{layer}.running_mean"] = torch.zeros(16)
    weights[f"{layer}.running_var"] = torch.ones(16)
    with pytest.raises(InputError, match=f"{layer} has seen no batch"):
        send_weights(weights)


def send_weights(weights: dict):
    return export(take_network(weights)[0], ToMMDetection(detector()))


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(state_dict=[1]), "state_dict holds no weights"),
        (dict(state_dict={1: torch.zeros(1)}), "1 is a Tensor"),
        (dict(model={"a": torch.zeros(1)}), "'model' is a dict"),
        (dict(state_dict={"a": torch.zeros(1, device="meta")}), "no numbers"),
    ],
)
def test_files_of_odd_layouts_are_named(tmp_path, change, words):
    path = tmp_path / "odd.pth"
    torch.save(change, path)
    with pytest.raises(InputError, match=words):
        load_weights(str(path))


def test_a_stride_in_another_conv_is_refused_and_doubts_are_told(
    checkpoint, tmp_path, run_export
):
    config, out = tmp_path / "config.py", tmp_path / "out.pth"
    cfg = small_config(**{"model.backbone.norm_eval": True})
    cfg.model.data_preprocessor.bgr_to_rgb = False
    cfg.dump(config)
    printed = run_export(checkpoint, out, "--detector", config)
    assert "wrote" in printed and out.is_file()
    assert find_doubts(cfg.model) == [
        "data_preprocessor.bgr_to_rgb is False: pre-training saw RGB",
        "backbone.norm_eval=True freezes batch norm's statistics",
    ]
    assert not find_doubts(small_config().model)
    cfg.model.backbone.style = "caffe"
    cfg.dump(config)
    with pytest.raises(InputError, match="style='caffe'"):
        run_export(checkpoint, out, "--detector", config)
    cfg.model.neck.type = "NoNeck"
    cfg.model.backbone.style = "pytorch"
    cfg.dump(config)
    with pytest.raises(InputError, match="cannot be built.*NoNeck"):
        run_export(checkpoint, out, "--detector", config)


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


def test_what_cannot_be_written_leaves_nothing_behind(checkpoint, tmp_path, run_export):
    config = tmp_path / "narrow.py"
    small_config().dump(config)
    os.mkfifo(tmp_path / "pipe")
    refused = {"pipe": "no plain file", "new/": "a folder", "": "a folder"}
    for out, words in refused.items():
        path = f"{tmp_path}/{out}" if out else ""
        with pytest.raises(InputError, match=words):
            run_export(checkpoint, path, "--detector", config)
    with pytest.raises(InputError, match="cannot be written"):
        run_export(checkpoint, config / "out.pth", "--detector", config)
    assert {p.name for p in tmp_path.iterdir()} == {"narrow.py", "pipe"}


def test_the_prefix_of_a_distributed_wrapper_is_taken_off(checkpoint, tmp_path):
    path, weights = tmp_path / "ddp.pth", load_weights(checkpoint)
    torch.save({f"module.{k}": v for k, v in weights.items()}, path)
    assert set(load_weights(str(path))) == set(weights)


def test_the_tool_prints_its_report_and_fails_in_one_sentence(checkpoint, tmp_path):
    config, out = tmp_path / "narrow.py", tmp_path / "out.pth"
    small_config().dump(config)
    done = run_tool("tools/export.py", checkpoint, out, "--detector", config)
    assert "loaded missing unexpected" in done.stdout and out.is_file()
    assert f'load_from = "{out}"' in done.stdout

    other = tmp_path / "other.pth"
    done = run_tool("tools/export.py", checkpoint, other, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "the file's backbone is a ResNet-18" in done.stderr and not other.exists()


def test_the_tool_refuses_wrong_arguments(checkpoint, tmp_path, run_export):
    other = tmp_path / "other.pth"
    for args, words in (
        ((checkpoint, checkpoint), "the checkpoint itself"),
        ((checkpoint, tmp_path), "a folder"),
        ((tmp_path / "none.pth", other), "no such checkpoint"),
        ((checkpoint, other, "--detector", "fcos"), "choose one of mask-rcnn"),
        ((checkpoint, other, "--detector", "none.py"), "no such file"),
        ((checkpoint, other, "--detector", "mmdet::none/none.py"), "mmdet::none"),
        ((checkpoint, other, "--detector", "mmpretrain::a/b.py"), "a config of mmdet"),
        ((checkpoint, other, "--net", "target"), "ResNet-18"),
    ):
        with pytest.raises(InputError, match=words):
            run_export(*args)
    assert "target.step" in load_weights(checkpoint) and not other.exists()


def test_a_detector_of_mmdetections_own(checkpoint, tmp_path, run_export):
    """Its FPN has no norm: the backbone is what it can take, of the right depth."""
    name, out = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py", tmp_path / "out.pth"
    with pytest.raises(InputError, match="ResNet-18 of width 8.*ResNet-18 of width 64"):
        run_export(checkpoint, out, "--detector", name, "--part", "backbone")
    wide = shrunk_model(
        **{
            "backbone.stem_channels": 64,
            "backbone.base_channels": 64,
            "neck.in_channels": [64, 128, 256, 512],
        }
    )
    path = tmp_path / "wide.pth"
    torch.save(dict(state_dict=wide.state_dict()), path)
    printed = run_export(path, out, "--detector", name, "--part", "backbone")
    assert "left behind: " in printed and out.is_file()


@pytest.mark.parametrize("to_file", [False, True])
def test_a_detector_without_a_neck_takes_the_backbone(checkpoint, to_file):
    state = {k: v for k, v in detector().state_dict().items() if "neck" not in k}
    weights = load_weights(checkpoint)
    if to_file:
        weights = {f"module.{k}": v for k, v in weights.items()}
    assert not LoadReport.compare(weights, state).problems()
