"""The exported files in torchvision's, timm's, MMPretrain's and Detectron2's models."""

import pickle
from functools import partial
from itertools import product

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import nn

from mcl.errors import InputError
from mcl.export import (
    ToDetectron2,
    ToMMPretrain,
    ToTimm,
    ToTorchvision,
    export,
    load_weights,
    take_network,
)
from mcl.export.architecture import Architecture

from .conftest import PRETRAINING, run_main

IMAGE = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
CLOSE = dict(rtol=1e-5, atol=1e-5)
# Small ones of the families that only libraries of classifiers take.
SWIN = dict(
    type="SwinTransformer",
    arch=dict(embed_dims=16, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8]),
    out_indices=(0, 1, 2, 3),
)
CONVNEXT = dict(
    type="ConvNeXt",
    arch=dict(depths=[1, 1, 2, 1], channels=[16, 32, 64, 128]),
    out_indices=(0, 1, 2, 3),
    gap_before_final_norm=False,
)


def randomise(model: nn.Module) -> nn.Module:
    """Weights and statistics as after training: no two layers alike."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(7)
        elif name.endswith(("running_var", "gamma")) or ".bn" in name[:-6]:
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor.normal_(0.2, 0.1, generator=generator)
        elif name.endswith("relative_position_bias_table"):
            tensor.normal_(0, 1, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def ours() -> nn.Module:
    """The shipped R50 model, in eval mode."""
    init_default_scope("mmpretrain")
    cfg = Config.fromfile(PRETRAINING)
    cfg.model.channels_last = False  # sums are taken in the order of the layout
    torch.manual_seed(0)
    return randomise(MODELS.build(cfg.model))


@pytest.fixture(scope="module")
def checkpoint(ours, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("r50") / "checkpoint.pth"
    torch.save(dict(state_dict=ours.state_dict()), path)
    return str(path)


@pytest.fixture(scope="module")
def maps(ours) -> dict[str, tuple[torch.Tensor, ...]]:
    """C2..C5, P2..P5 and the shared convs' outcome of ten tiles."""
    with torch.no_grad():
        c = ours.backbone(IMAGE)
        tiles = torch.randn(10, 256, 7, 7, generator=torch.Generator().manual_seed(1))
        return dict(
            c=c, p=ours.neck.pyramid(c), x=tiles, y=ours.neck.shared_convs(tiles)
        )


@pytest.fixture
def send(checkpoint, run_export):
    """Export the checkpoint; return what was printed."""
    return partial(run_export, checkpoint)


def arrives(model: nn.Module, out, fresh: set[str]) -> nn.Module:
    """Load ``out``; only weights that begin with one of ``fresh`` may be missing."""
    missing, unexpected = model.load_state_dict(
        torch.load(out, weights_only=True), strict=False
    )
    assert not unexpected
    assert all(name.startswith(tuple(fresh)) for name in missing), missing
    return model.eval()


def run_printed(printed: str) -> nn.Module:
    """Execute the lines that tell how to load the file; return the model."""
    names = dict(torch=torch, torchvision=torchvision, timm=timm)
    exec(printed.split("to load it:\n")[1], names)
    return names["model"].eval()


@pytest.mark.parametrize(
    "detector, build",
    [
        ("mask-rcnn", "maskrcnn_resnet50_fpn_v2"),
        ("faster-rcnn", "fasterrcnn_resnet50_fpn_v2"),
    ],
)
def test_torchvision_detector(send, maps, tmp_path, detector, build):
    out = tmp_path / "out.pth"
    printed = send(out, "--to", "torchvision", "--detector", detector)
    assert f"{build}(weights=None, weights_backbone=None)" in printed
    model = run_printed(printed)
    heads = {"rpn.", "roi_heads.box_predictor.", "roi_heads.mask_"}
    arrives(model, out, heads | {"roi_heads.box_head.5."})
    with torch.no_grad():
        theirs = model.backbone(IMAGE)
        convs = nn.Sequential(*list(model.roi_heads.box_head)[:4])(maps["x"])
    for i, ours in enumerate(maps["p"]):
        torch.testing.assert_close(theirs[str(i)], ours, **CLOSE)
    torch.testing.assert_close(convs, maps["y"], **CLOSE)


def test_torchvision_trunk_and_backbone(send, maps, tmp_path):
    out = tmp_path / "trunk.pth"
    send(out, "--to", "torchvision", "--part", "trunk")
    names = torch.load(out, weights_only=True)
    assert {n.split(".")[1] for n in names} == {"body", "fpn"}

    printed = send(out, "--to", "torchvision", "--part", "backbone")
    model = arrives(run_printed(printed), out, {"fc."})
    with torch.no_grad():
        # with a detector named, the same weights under the detector's names
        named = tmp_path / "named.pth"
        args = ("--part", "backbone", "--detector", "mask-rcnn")
        send(named, "--to", "torchvision", *args)
        inside = torch.load(named, weights_only=True)
        alone = torch.load(out, weights_only=True)
        assert inside.keys() == {f"backbone.body.{name}" for name in alone}
        x = model.maxpool(model.relu(model.bn1(model.conv1(IMAGE))))
        for i, ours in enumerate(maps["c"], 1):
            x = getattr(model, f"layer{i}")(x)
            torch.testing.assert_close(x, ours, **CLOSE)


def test_timm_resnet(send, maps, tmp_path):
    out = tmp_path / "out.pth"
    model = run_printed(send(out, "--to", "timm"))
    arrives(timm.create_model("resnet50"), out, {"fc."})
    model.load_state_dict(torch.load(out, weights_only=True), strict=True)
    with torch.no_grad():
        theirs = model.eval().forward_intermediates(IMAGE, intermediates_only=True)
    for a, ours in zip(theirs[-4:], maps["c"], strict=True):
        torch.testing.assert_close(a, ours, **CLOSE)


@pytest.mark.hosts
def test_mmpretrain_resnet(send, maps, tmp_path):
    out = tmp_path / "out.pth"
    send(out, "--to", "mmpretrain")
    init = dict(type="Pretrained", checkpoint=str(out), prefix="backbone.")
    model = MODELS.build(
        dict(type="ResNet", depth=50, out_indices=(0, 1, 2, 3), init_cfg=init)
    )
    model.init_weights()
    model.eval()
    with torch.no_grad():
        for a, ours in zip(model(IMAGE), maps["c"], strict=True):
            assert torch.equal(a, ours)


def backbone_of(config: dict) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A backbone of MMPretrain and its weights under the checkpoint's names."""
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    randomise(model)
    return model, {f"backbone.{k}": v for k, v in model.state_dict().items()}


def architecture_of(weights: dict[str, torch.Tensor]) -> Architecture:
    return Architecture.of({k.removeprefix("backbone."): v for k, v in weights.items()})


@pytest.mark.parametrize(
    "config, name, options",
    [
        (
            SWIN,
            "swin_tiny_patch4_window7_224",
            dict(embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8)),
        ),
        (
            CONVNEXT,
            "convnext_tiny",
            dict(depths=(1, 1, 2, 1), dims=(16, 32, 64, 128)),
        ),
    ],
    ids=["swin", "convnext"],
)
def test_timm_other_families(config, name, options, tmp_path):
    ours, weights = backbone_of(config)
    target = ToTimm(architecture_of(weights))
    exported = export(take_network(weights)[0], target)
    model = timm.create_model(name, num_classes=0, **options)
    model.load_state_dict(exported.weights, strict=True)
    out = tmp_path / "out.pth"
    target.write(exported.weights, str(out))
    told = run_printed(f"to load it:\n{target.usage(str(out))}").state_dict()
    assert all(torch.equal(told[k], v) for k, v in exported.weights.items())
    image = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        theirs = model.eval().forward_features(image)
        if name.startswith("swin"):
            theirs = theirs.permute(0, 3, 1, 2)
        else:
            theirs = model.head.norm(theirs)
        last = ours(image)[-1]
    assert last.std() > 0.01
    torch.testing.assert_close(theirs, last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [SWIN, CONVNEXT], ids=["swin", "convnext"])
def test_mmpretrain_other_families(config):
    _, weights = backbone_of(config)
    target = ToMMPretrain(architecture_of(weights))
    exported = export(take_network(weights)[0], target)
    model = MODELS.build(config)
    state = {k.removeprefix("backbone."): v for k, v in exported.weights.items()}
    model.load_state_dict(state, strict=True)


NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def detectron2_names() -> set[str]:
    """What Detectron2's R50-FPN with SyncBN and 4conv1fc calls its trunk's weights."""
    convs = ["backbone.bottom_up.stem.conv1"]
    for stage, blocks in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True):
        block = f"backbone.bottom_up.res{stage}"
        convs.append(f"{block}.0.shortcut")
        convs += [f"{block}.{i}.conv{c}" for i, c in product(range(blocks), (1, 2, 3))]
    convs += [
        f"backbone.fpn_{k}{s}" for k in ("lateral", "output") for s in range(2, 6)
    ]
    convs += [f"roi_heads.box_head.conv{i}" for i in (1, 2, 3, 4)]
    return {f"{c}.weight" for c in convs} | {
        f"{c}.norm.{n}" for c, n in product(convs, NORM)
    }


class Detectron2Forward:
    """The trunk of Detectron2's Mask R-CNN in plain torch, by its weights' names."""

    def __init__(self, weights: dict) -> None:
        self.weights = {k: torch.from_numpy(v) for k, v in weights.items()}

    def conv(self, x, name, stride=1):
        weight = self.weights[f"{name}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        w, b, mean, var = (self.weights[f"{name}.norm.{n}"] for n in NORM[:4])
        return F.batch_norm(x, mean, var, w, b, eps=1e-5)

    def stage(self, x, name, blocks, stride):
        for i in range(blocks):
            block, step = f"{name}.{i}", stride if i == 0 else 1
            y = self.conv(x, f"{block}.conv1").relu()
            y = self.conv(y, f"{block}.conv2", step).relu()
            y = self.conv(y, f"{block}.conv3")
            x = (y + (self.conv(x, f"{block}.shortcut", step) if i == 0 else x)).relu()
        return x

    def pyramid(self, image):
        stem = self.conv(image, "backbone.bottom_up.stem.conv1", 2).relu()
        x, maps, above = F.max_pool2d(stem, 3, 2, 1), {}, None
        for stage, blocks in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True):
            name = f"backbone.bottom_up.res{stage}"
            maps[stage] = x = self.stage(x, name, blocks, 1 if stage == 2 else 2)
        outputs = []
        for stage in (5, 4, 3, 2):
            lateral = self.conv(maps[stage], f"backbone.fpn_lateral{stage}")
            if above is not None:
                lateral = lateral + F.interpolate(above, scale_factor=2)
            above = lateral
            outputs.append(self.conv(lateral, f"backbone.fpn_output{stage}"))
        return outputs[::-1]

    def box_head(self, x):
        for i in (1, 2, 3, 4):
            x = self.conv(x, f"roi_heads.box_head.conv{i}").relu()
        return x


def test_detectron2(send, maps, tmp_path):
    out = tmp_path / "out.pkl"
    assert "MODEL.FPN.NORM SyncBN" in send(out, "--to", "detectron2")
    content = pickle.loads(out.read_bytes())
    assert set(content) == {"model", "__author__", "matching_heuristics"}
    assert set(content["model"]) == detectron2_names()
    model = Detectron2Forward(content["model"])
    for theirs, ours in zip(model.pyramid(IMAGE), maps["p"], strict=True):
        torch.testing.assert_close(theirs, ours, **CLOSE)
    torch.testing.assert_close(model.box_head(maps["x"]), maps["y"], **CLOSE)


@pytest.mark.parametrize("library", ["torchvision", "timm", "mmpretrain"])
def test_target_network(send, checkpoint, tmp_path, library):
    out, target = tmp_path / "out.pth", tmp_path / "target.pth"
    weights = load_weights(checkpoint)
    name = "backbone.layer4.2.conv3.weight"
    changed = {**weights, f"target.{name}": weights[name] + 1}
    source = tmp_path / "changed.pth"
    torch.save(dict(state_dict=changed), source)
    args = ("--to", library, "--part", "backbone")
    send(out, *args)
    run_main("tools/export.py", source, target, *args, "--net", "target")
    a, b = (torch.load(file, weights_only=True) for file in (out, target))
    a, b = a.get("state_dict", a), b.get("state_dict", b)
    (key,) = (k for k in a if k.endswith("layer4.2.conv3.weight"))
    torch.testing.assert_close(b[key], a[key] + 1)


def test_detectron2_other_detectors(checkpoint):
    network, _ = take_network(load_weights(checkpoint))
    names, layers = {}, {k.removeprefix("backbone."): v for k, v in network.items()}
    for kind in ("c4", "retinanet", "cascade"):
        target = ToDetectron2(Architecture.of(layers), kind)
        names[kind] = export(network, target).weights
    assert {k for k in names["c4"] if k.startswith("roi_heads.")} == {
        k.replace("backbone.bottom_up.res5", "roi_heads.res5")
        for k in detectron2_names()
        if ".res5." in k
    }
    assert "backbone.stem.conv1.weight" in names["c4"]
    assert not any("fpn" in k for k in names["c4"])
    retina = {k for k in names["retinanet"] if "fpn" in k}
    assert retina == {k for k in detectron2_names() if "fpn" in k and "2." not in k}
    lateral = names["retinanet"]["backbone.fpn_lateral3.weight"]
    assert torch.equal(lateral, network["neck.lateral_convs.1.conv.weight"])
    for head, i in product(range(3), range(4)):
        conv = names["cascade"][f"roi_heads.box_head.{head}.conv{i + 1}.weight"]
        assert torch.equal(conv, network[f"neck.shared_convs.{i}.conv.weight"])


def test_what_a_library_has_not_is_refused(send, tmp_path):
    out = tmp_path / "out.pth"
    for args, words in (
        (["--to", "torchvision", "--detector", "retinanet"], "only mask-rcnn"),
        (
            ["--to", "torchvision", "--detector", "c4", "--part", "backbone"],
            "only mask-rcnn",
        ),
        (["--to", "timm", "--part", "trunk"], "a backbone only"),
        (["--to", "mmpretrain", "--detector", "c4"], "a backbone only"),
        (["--to", "detectron2", "--detector", "fcos"], "choose one of mask-rcnn"),
        (["--to", "detectron2"], r"ends in \.pkl"),
    ):
        with pytest.raises(InputError, match=words):
            send(out, *args)
        assert not out.exists()


@pytest.mark.parametrize("destination", [ToTorchvision, ToDetectron2])
def test_other_families_have_no_place_there(destination):
    _, weights = backbone_of(CONVNEXT)
    with pytest.raises(InputError, match="a ConvNeXt"):
        destination(architecture_of(weights), "mask-rcnn")


def test_narrow_resnets_have_no_place_there():
    _, weights = backbone_of(
        dict(type="ResNet", depth=18, base_channels=8, out_indices=(0, 1, 2, 3))
    )
    with pytest.raises(InputError, match="ResNet-18 of width 8"):
        ToTimm(architecture_of(weights))
    network, _ = take_network(weights)
    target = ToTorchvision(architecture_of(weights), None)
    with pytest.raises(InputError, match=r"bn1\.bias \(8,\) for \(64,\)"):
        export(network, target, "backbone")
    with pytest.raises(InputError, match="ask for --part backbone"):
        ToTorchvision(architecture_of(weights), "mask-rcnn")
