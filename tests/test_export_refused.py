"""What would not arrive whole, or runs code when read, is refused in words."""

import os

import pytest
import torch
from mmengine.logging import HistoryBuffer

from mcl.errors import InputError
from mcl.export import (
    ToMMDetection,
    export,
    find_doubts,
    load_weights,
    read_checkpoint,
    take_network,
)
from mcl.export.load_report import NECK, SHARED_CONVS, LoadReport

from .conftest import random_views, run_tool, shrunk_model
from .detectors import detector, send, small_config


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


@pytest.mark.parametrize("allow_unread", [False, True])
def test_an_untrained_model_is_refused(allow_unread):
    network, _ = take_network(shrunk_model().state_dict())
    with pytest.raises(InputError, match="seen no batch: .* of an untrained model"):
        export(network, ToMMDetection(detector()), allow_unread=allow_unread)


def unrun(weights: dict, *layers: str) -> dict:
    """Weights whose named BN layers have counted no batch."""
    counters = [f"{layer}.num_batches_tracked" for layer in layers]
    return {**weights, **{k: torch.zeros_like(weights[k]) for k in counters}}


def test_maps_that_pretraining_left_unread_go_when_asked_for(checkpoint):
    layers = [f"neck.{kind}_convs.0.bn" for kind in ("fpn", "lateral")]
    network, _ = take_network(unrun(load_weights(checkpoint), *layers))
    model = ToMMDetection(detector())
    with pytest.raises(InputError, match=r"_convs.0.bn .* unread; --allow-unread"):
        export(network, model)
    exported = export(network, model, allow_unread=True)
    assert sorted(exported.unread) == layers
    assert exported.weights.keys() == send(checkpoint, detector()).weights.keys()
    assert not export(network, model, "backbone").unread
    convs = "neck.shared_convs.0.bn"  # every level goes through them
    network, _ = take_network(unrun(load_weights(checkpoint), *layers, convs))
    with pytest.raises(InputError, match=f"{convs} has seen no batch"):
        export(network, model, allow_unread=True)


def test_an_unread_map_does_not_matter_to_a_detector_without_it(checkpoint):
    """RetinaNet takes no P2."""
    layers = [f"neck.{kind}_convs.0.bn" for kind in ("fpn", "lateral")]
    network, _ = take_network(unrun(load_weights(checkpoint), *layers))
    exported = export(network, ToMMDetection(detector("retinanet")), "trunk")
    assert exported.weights and not exported.unread


@pytest.mark.parametrize("ratios, unread", [((1,), 6), ((1, 2, 4), 2)])
def test_few_levels_leave_convs_as_they_began(tmp_path, run_export, ratios, unread):
    model = shrunk_model(
        **{
            "ratios": ratios,
            "head.loss.level_weights": (1,) * len(ratios),
        }
    )
    began = {k: v.clone() for k, v in model.state_dict().items()}
    model.loss(random_views(model))
    weights = model.state_dict()
    network, _ = take_network(weights)
    exported = export(network, ToMMDetection(detector()), allow_unread=True)
    assert len(exported.unread) == unread
    for layer in exported.unread:
        assert torch.equal(
            weights[f"{layer}.running_var"], began[f"{layer}.running_var"]
        )
    path = tmp_path / "few.pth"
    torch.save(dict(state_dict=weights), path)
    config = tmp_path / "detector.py"
    config.write_text(small_config().pretty_text)
    options = ("--detector", config, "--net", "target", "--allow-unread")
    said = run_export(path, tmp_path / "out.pth", *options).splitlines()
    kept = [line for line in said if "as they began" in line]
    lent = [line for line in said if "online network's" in line]
    assert len(kept) == 1 and f"{unread} norm layers" in kept[0]
    assert len(lent) == (ratios != (1,)) and "convs.0" not in str(lent)


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
