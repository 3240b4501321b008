"""Supervised MCL: tiles learn their image's label, and are evaluated by it."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS, MODELS
from mmpretrain.structures import DataSample
from PIL import Image
from torch import nn

from mcl.config import adapt_to_cpu, settle_loaders
from mcl.engine import ClassesHook, LevelAccuracy
from mcl.errors import InputError
from mcl.export import ToMMDetection, export, take_network
from mcl.models import TileClassifierHead

from .conftest import ROOT, SHRINK
from .detectors import detector

RECIPE = ROOT / "configs/mcl/mcl-sup_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"
CLASSES = 3
SMALL = {
    **{k: v for k, v in SHRINK.items() if ".head." not in k and "persistent" not in k},
    "model.backbone.depth": 18,
    "model.head.in_channels": 16,
    "model.head.num_classes": CLASSES,
    "train_dataloader.persistent_workers": False,
    "val_dataloader.batch_size": 5,
    "val_dataloader.num_workers": 0,
    "val_dataloader.persistent_workers": False,
    "val_dataloader.dataset.dataset.pipeline.1.scale": 36,
    "val_dataloader.dataset.dataset.pipeline.2.crop_size": 32,
}


def write_classes(folder: Path, number: int) -> None:
    """A folder per class; its images are of one color."""
    for label, color in enumerate(((200, 30, 30), (30, 200, 30), (30, 30, 200))):
        (folder / f"class_{label}").mkdir(parents=True)
        for i in range(number):
            pixels = np.full((40, 50, 3), color, np.uint8)
            Image.fromarray(pixels).save(folder / f"class_{label}/{i}.png")


def small_config(data: Path, **overrides) -> Config:
    cfg = Config.fromfile(RECIPE)
    cfg.merge_from_dict(
        {
            **SMALL,
            "train_dataloader.dataset.dataset.data_root": str(data / "train"),
            "val_dataloader.dataset.dataset.data_root": str(data / "val"),
            **overrides,
        }
    )
    settle_loaders(cfg)
    adapt_to_cpu(cfg)
    return cfg


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    write_classes(folder / "train", 8)
    write_classes(folder / "val", 4)
    return folder


def build(data: Path, **overrides) -> torch.nn.Module:
    init_default_scope("mmpretrain")
    model = MODELS.build(small_config(data, **overrides).model)
    model.init_weights()
    return model


def batch(model, size: int = 8, labels=None) -> dict:
    montage = model.data_preprocessor.montage
    crops = [
        torch.randint(0, 256, (size, 3, montage.size // r, montage.size // r)).byte()
        for r in montage.ratios
    ]
    labels = range(size) if labels is None else labels
    samples = [DataSample().set_gt_label(int(i) % CLASSES) for i in labels]
    model.data_preprocessor.seed(0)
    return model.data_preprocessor(dict(inputs=crops, data_samples=samples), True)


def test_loss_against_a_loop():
    torch.manual_seed(0)
    head = TileClassifierHead(
        3, 5, ratios=(1, 2), level_weights=(0.5, 0.25), shared=False,
        label_smoothing=0.1,
    )  # fmt: skip
    head.init_weights()
    embeddings = [torch.randn(4, 5), torch.randn(8, 5)]
    index, labels = [torch.arange(4), torch.randperm(8) % 4], torch.tensor([0, 2, 1, 2])
    got = head.loss(embeddings, index, labels)
    for level, (name, weight) in enumerate((("p5", 0.5), ("p4", 0.25))):
        logits = head.classifiers[level](embeddings[level])
        losses, hits = [], 0
        for row, image in zip(logits.tolist(), index[level].tolist(), strict=True):
            log_sum = math.log(sum(map(math.exp, row)))
            right = log_sum - row[labels[image]]
            uniform = log_sum - sum(row) / 3
            losses.append(0.9 * right + 0.1 * uniform)
            hits += max(range(3), key=row.__getitem__) == labels[image]
        ce = sum(losses) / len(losses)
        assert got[f"ce_{name}"].item() == pytest.approx(ce, rel=1e-5)
        assert got[f"loss_{name}"].item() == pytest.approx(weight * ce, rel=1e-5)
        assert got[f"top1_{name}"].item() == pytest.approx(hits / len(losses))


def test_every_weight_gets_a_gradient(data):
    model = build(data).train()
    assert len(model.head.classifiers) == 1
    inputs = batch(model)
    assert len(inputs["inputs"]) == 1  # one view
    losses = model(**inputs, mode="loss")
    assert [k for k in losses if "loss" in k] == [f"loss_p{i}" for i in (5, 4, 3, 2)]
    sum(v for k, v in losses.items() if k.startswith("loss")).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), name
    assert not any(name.startswith("target.") for name in model.state_dict())


def test_labels_travel_with_their_tiles(data):
    """Image i all of brightness i: the label on a tile is that of its pixels."""
    model = build(data).eval()
    montage = model.data_preprocessor.montage
    crops = [
        torch.arange(8).view(8, 1, 1, 1).expand(8, 3, s, s).byte()
        for s in (montage.size // r for r in montage.ratios)
    ]
    samples = [DataSample().set_gt_label(i) for i in range(8)]
    inputs = model.data_preprocessor(dict(inputs=crops, data_samples=samples), True)
    (view,) = inputs["inputs"]
    labels = torch.cat([s.gt_label for s in samples])
    for canvases, index, ratio in zip(
        view.canvases, view.image_index, montage.ratios, strict=True
    ):
        side = canvases.shape[-1] // ratio
        red = canvases[:, 0, ::side, ::side] * 58.395 + 123.675
        assert torch.equal(red.round().long().flatten(), labels[index])


@pytest.mark.hosts
@pytest.mark.parametrize(
    "projector",
    [dict(hid_channels=32, out_channels=16), dict(type="GlobalAveragePooling")],
    ids=["projector", "pooled"],
)
def test_classes_are_learned_and_evaluated(data, tmp_path, projector):
    """Three colors: a few steps suffice at every level, in training and validation."""
    cfg = small_config(
        data,
        **{
            "train_cfg.max_epochs": None,
            "train_cfg.max_iters": 120,
            "train_cfg.val_interval": 120,
            "model.size": 64,
            "train_dataloader.dataset.dataset.pipeline.1.size": 64,
            "val_dataloader.dataset.dataset.pipeline.1.scale": 64,
            "val_dataloader.dataset.dataset.pipeline.2.crop_size": 64,
            "train_dataloader.batch_size": 16,
            "optim_wrapper": dict(_delete_=True, optimizer=dict(type="AdamW", lr=3e-3)),
            # To zero, so that BN's running statistics are those of the last weights.
            "param_scheduler": [
                dict(
                    type="CosineAnnealingLR",
                    by_epoch=False,
                    begin=40,
                    end=120,
                    T_max=80,
                )
            ],
            "train_dataloader.dataset.dataset.pipeline.1.color_jitter_prob": 0.0,
            "train_dataloader.dataset.dataset.pipeline.1.gray_prob": 0.0,
            "work_dir": str(tmp_path),
            "visualizer.name": f"{tmp_path}",
        },
    )
    cfg.model.neck.projector = projector
    broken = data / "val/class_0/broken.webp"
    broken.write_bytes(b"no image")
    runner = Runner.from_cfg(cfg)
    runner.train()
    broken.unlink()
    (log,) = tmp_path.glob("*/*.log")
    assert log.read_text().count(f"unreadable image replaced: {broken}") == 1
    scalars = {k: v.current() for k, v in runner.message_hub.log_scalars.items()}
    for level in ("p5", "p4", "p3", "p2"):
        assert scalars[f"train/top1_{level}"] > 0.8
        # of 13 images; of tiles, which lie beside other classes', chance is 0.33
        assert scalars[f"val/top1_{level}"] > (0.8 if level == "p5" else 0.5)
    assert scalars["val/accuracy/top1"] == pytest.approx(100 * scalars["val/top1_p5"])


@pytest.mark.parametrize("on_canvas", [True, False])
def test_each_image_is_read_from_a_tile_of_its_own(data, on_canvas):
    """Alone it depends on nothing else; a tile's canvas shows the next images too."""
    model = build(
        data, **{"model.data_preprocessor.montage.on_canvas": on_canvas}
    ).eval()
    nn.init.normal_(model.head.classifiers[0].weight)  # no scores that are nearly equal
    given, logits = [], []
    model.backbone.register_forward_pre_hook(lambda m, args: given.extend(args[0]))
    model.head.register_forward_hook(lambda m, args, found: logits.append(found))
    images = torch.randn(5, 3, 32, 32)
    together = model.predict(images, [DataSample() for _ in range(5)])
    tile = F.interpolate(images[4:], size=8, mode="bilinear", antialias=True)[0]
    if on_canvas:  # five images, two canvases of P4, one of P3 and of P2
        assert len(given) == 5 + 2 + 1 + 1
        torch.testing.assert_close(given[7][:, 8:16, :8], tile)
    else:
        torch.testing.assert_close(given[2 * 5 + 4], tile)
    samples = [model.predict(image[None], [DataSample()])[0] for image in images]
    for level, of_level in enumerate(zip(*logits, strict=True)):
        name, (many, *alone) = f"pred_label_p{5 - level}", of_level
        assert [s.get(name) for s in together] == many[:5].argmax(dim=1).tolist()
        assert [s.get(name) for s in samples] == [o[0].argmax() for o in alone]
        alone = torch.stack([o[0] for o in alone])
        same = torch.allclose(many[:5], alone, rtol=1e-4, atol=1e-5)
        assert same == (level == 0 or not on_canvas)


def test_validation_mixes_the_classes(data):
    loader = small_config(data).val_dataloader
    first, second = (
        [
            sample.gt_label.item()
            for batch in Runner.build_dataloader(loader, seed=None)
            for sample in batch["data_samples"]
        ]
        for _ in range(2)
    )
    assert first == second and first != sorted(first)


def test_images_to_classify_are_squares_of_whole_cells(data):
    model = build(data).eval()
    for shape in ((48, 48), (32, 64)):
        with pytest.raises(InputError, match=f"{shape[0]} x {shape[1]} pixels: crop"):
            model.predict(torch.zeros(2, 3, *shape), [DataSample() for _ in range(2)])


def test_metric():
    metric = LevelAccuracy()
    one, two = torch.tensor([1]), torch.tensor([2])
    for p5, p4 in ((one, one), (one, two)):
        sample = dict(gt_label=one, pred_label_p5=p5, pred_label_p4=p4)
        metric.process({}, [sample])
    assert metric.evaluate(2) == dict(top1_p5=1.0, top1_p4=0.5)


def test_export_is_the_same(data):
    model = build(data).train()
    model(**batch(model), mode="loss")
    network, _ = take_network(model.state_dict())
    exported = export(network, ToMMDetection(detector()))
    assert exported.report.parts["neck"].loaded


def test_data_without_labels_are_refused(data):
    model = build(data).train()
    inputs = batch(model)
    with pytest.raises(InputError, match="the data have no labels"):
        model.loss(inputs["inputs"], [DataSample() for _ in range(8)])
    with pytest.raises(InputError, match="the data have no labels"):
        model.loss(inputs["inputs"], None)
    labels = [DataSample().set_gt_label(CLASSES) for _ in range(8)]
    with pytest.raises(InputError, match="a label 3"):
        model.loss(inputs["inputs"], labels)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"model.neck.ratios": (1, 2)}, "8., model.neck.ratios=.1, 2.: "),
        (
            {
                "model.neck.computation": "full",
                "model.data_preprocessor.montage.on_canvas": False,
            },
            "computation='full' needs tiles laid on canvases",
        ),
        ({"model.data_preprocessor": dict(_delete_=True, type="SelfSupDataPreproces"
          "sor")}, "SelfSupDataPreprocessor, which makes no canvases"),
        ({"model.head.in_channels": 256}, "head.in_channels=256.*embeddings have 16"),
    ],
)  # fmt: skip
def test_parts_that_do_not_agree_are_named(data, wrong, words):
    with pytest.raises(InputError, match=words):
        model = build(data, **wrong)
        model.loss(batch(model)["inputs"], batch(model)["data_samples"])


@pytest.mark.parametrize(
    "overrides, words",
    [
        ({"model.head.num_classes": 2}, "num_classes=2, but train_dataloader.* 3 cl"),
        ({"model.head.num_classes": 1000}, "num_classes=1000, but train_.* 3 classes"),
        (
            {"val_dataloader.dataset.dataset.data_root": "{}/fewer"},
            "train_.* 3 classes and val_.* 2: .'class_0'. are in one of them only",
        ),
        (
            {
                "val_dataloader.dataset.dataset.metainfo": dict(
                    classes=("class_2", "class_1", "class_0")
                )
            },
            "the order differs",
        ),
        ({}, None),
    ],
)
def test_classes_of_both_parts_and_head_must_agree(data, tmp_path, overrides, words):
    if not (data / "fewer").exists():
        shutil.copytree(data / "val", data / "fewer")
        shutil.rmtree(data / "fewer/class_0")
    filled = {
        key: value.format(data) if isinstance(value, str) else value
        for key, value in overrides.items()
    }
    cfg = small_config(data, **filled)
    assert [h.type for h in cfg.custom_hooks].count("ClassesHook") == 1
    model = MODELS.build(cfg.model)
    runner = SimpleNamespace(model=model, val_loop=True)
    for part in ("train", "val"):
        dataset = DATASETS.build(cfg[f"{part}_dataloader"].dataset)
        setattr(runner, f"{part}_dataloader", SimpleNamespace(dataset=dataset))
    if words is None:
        ClassesHook().before_train(runner)
    else:
        with pytest.raises(InputError, match=words):
            ClassesHook().before_train(runner)


def test_a_dead_copy_of_an_option_is_not_there():
    """--cfg-options num_classes=3 would change nothing, so it is pointed at."""
    assert "num_classes" not in Config.fromfile(RECIPE)


def test_wrong_options_are_named():
    for options, words in (
        (dict(num_classes=1), "num_classes=1"),
        (dict(level_weights=(1,)), "level_weights"),
        (dict(label_smoothing=1.0), "label_smoothing=1.0"),
    ):
        with pytest.raises(InputError, match=words):
            TileClassifierHead(**{"num_classes": 3, **options})
