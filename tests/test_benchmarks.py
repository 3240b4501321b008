"""Every detector's config: its twins, its name, its model, and two steps of it."""

import copy
import functools
import json
import re
import runpy
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
import torchvision
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image
from torch.nn.modules.batchnorm import _BatchNorm

from mcl.checks import check_labels, check_paths
from mcl.config import adapt_to_cpu

from .conftest import ROOT

# The quickstart's pre-training lies beside its detectors.
FILES = sorted((ROOT / "configs/benchmarks").glob("*/*.py"))
CONFIGS = [path for path in FILES if not path.name.startswith("mcl_")]
RANDOM = [path for path in CONFIGS if "-random_" in path.stem]
STARTS = re.compile("-(random|sup-pre|mcl-pre|mcl-backbone-pre)_")
STARTED = ("sup-pre", "mcl-pre")
TORCHVISION = dict(type="Pretrained", checkpoint="torchvision://resnet50")


def name(path: Path) -> str:
    return path.stem


@functools.cache
def read(path: Path) -> Config:
    return Config.fromfile(path)


def load(path: Path) -> Config:
    """The config of a file; each file is read once, which is what takes time."""
    return copy.deepcopy(read(Path(path)))


def inner_datasets(dataset: dict) -> list:
    """The data sets under wrappers that repeat, balance or join."""
    if "datasets" in dataset:
        return [inner for d in dataset["datasets"] for inner in inner_datasets(d)]
    return inner_datasets(dataset["dataset"]) if "dataset" in dataset else [dataset]


# --- twins


def exported_file(path: Path) -> str:
    """The file of tools/export.py that a config's detector takes."""
    if path.parent.name == "quickstart":
        return "work_dirs/quickstart/mcl_mask-rcnn.pth"
    kinds = {
        "mcl-backbone-pre": "backbone",
        "retinanet": "retinanet",
        "cascade": "cascade",
        "_c4_": "c4",
        "-2fc": "trunk",
    }
    kind = next((k for part, k in kinds.items() if part in path.stem), "mask-rcnn")
    return f"work_dirs/mcl_resnet50-fpn_{kind}.pth"


def take_starts(cfg: dict) -> tuple:
    """Remove what settles the initial weights; return it."""
    layers = [cfg["model"]["backbone"]]
    layers += (cfg["model"].get("roi_head") or {}).get("shared_head", [])[:1]
    return cfg.pop("load_from"), [layer.pop("init_cfg") for layer in layers]


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_twins_differ_in_their_start_alone(path):
    start = STARTS.search(path.stem).group(1)
    cfg = load(path).to_dict()
    random = load(STARTS.sub("-random_", str(path))).to_dict()
    loaded, inits = take_starts(cfg)
    take_starts(random)
    assert cfg == random
    assert loaded == (exported_file(path) if "mcl" in start else None)
    expected = TORCHVISION if start == "sup-pre" else None
    assert inits == [expected] * len(inits)
    assert len(inits) == (2 if "_c4_" in path.stem else 1)


def test_every_row_has_its_twins():
    files = {path.relative_to(ROOT / "configs/benchmarks") for path in CONFIGS}
    rows = {path for path in files if "-random_" in path.name}
    expected = set(rows)
    for row in rows:
        starts = ["mcl-pre"] if row.parent.name == "quickstart" else STARTED
        expected |= {row.with_name(row.name.replace("random", s)) for s in starts}
    backbone_only = "coco/mask-rcnn_r50-mcl-backbone-pre_fpn_1x_coco.py"
    assert files == expected | {Path(backbone_only)}
    assert len(rows) == 25


@pytest.mark.parametrize("row", ["fpn", "c4"])
def test_the_supervised_start_fills_every_stage(row, tmp_path):
    weights = torchvision.models.resnet50().state_dict()
    torch.save(weights, tmp_path / "resnet50.pth")
    cfg = load(ROOT / f"configs/benchmarks/coco/mask-rcnn_r50-sup-pre_{row}_1x_coco.py")
    parts = [cfg.model.backbone]
    parts += cfg.model.roi_head.get("shared_head", [])[:1]
    for part in parts:
        part.init_cfg.checkpoint = str(tmp_path / "resnet50.pth")
    init_default_scope("mmdet")
    model = MODELS.build(cfg.model)
    model.init_weights()
    state = model.state_dict()
    for key, value in weights.items():
        if not key.startswith("fc."):
            head = row == "c4" and key.startswith("layer4.")
            prefix = "roi_head.shared_head.0" if head else "backbone"
            assert torch.equal(state[f"{prefix}.{key}"], value), key


# --- names


@pytest.mark.parametrize("path", RANDOM, ids=name)
def test_names_agree_with_content(path):
    cfg = load(path)
    stem, folder = path.stem, path.parent.name
    (dataset, *others) = inner_datasets(cfg.train_dataloader.dataset)
    classes = (dataset.get("metainfo") or DATASETS.get(dataset.type).METAINFO)[
        "classes"
    ]
    assert numbers_of_classes(cfg.model) == {len(classes)}
    assert cfg.model.backbone.depth == int(re.search(r"_r(\d+)-", stem).group(1))
    assert cfg.model.backbone.num_stages == (3 if "_c4_" in stem else 4)
    detector = stem.split("_")[0].replace("-", "").replace("cascademask", "cascade")
    assert cfg.model.type.lower() == detector
    assert cfg.default_hooks.checkpoint.by_epoch is False
    if folder == "quickstart":
        return
    assert_schedule(cfg, stem, folder)
    weight_decay = re.search(r"_wd(\d+)e-6_", stem)
    weight_decay = int(weight_decay.group(1)) / 1e6 if weight_decay else 1e-4
    assert cfg.optim_wrapper.optimizer.weight_decay == weight_decay
    percent = re.search(r"-(\d+)pct", stem)
    if folder == "coco":
        part = (
            f"fractions/instances_train2017.seed1@{percent.group(1)}" if percent else ""
        )
        expected = f"annotations/{part or 'instances_train2017'}.json"
        assert dataset.ann_file == expected
    if folder == "voc":
        assert dataset.type == ("CocoDataset" if "cocofmt" in stem else "VOCDataset")
        assert len(others) == (0 if "cocofmt" in stem else 1)
        for one in (dataset, *others):
            assert "bbox_min_size" not in one.filter_cfg


def assert_schedule(cfg: Config, stem: str, folder: str) -> None:
    steps = dict(
        _1x_=(90000, [60000, 80000]),
        _2x_=(180000, [120000, 160000]),
        _12k_=(12000, [8000, 10667]),
        _24k_cityscapes=(24000, [18000]),
        _24k_voc=(24000, [18000, 22000]),
    )
    ((iterations, drops),) = (s for part, s in steps.items() if part in stem)
    warm_up, decay = cfg.param_scheduler
    assert cfg.train_cfg.max_iters == decay.end == iterations
    assert decay.milestones == drops
    assert warm_up.end == (100 if folder == "voc" else 1000)
    assert warm_up.start_factor == 1e-3
    assert iterations % cfg.train_cfg.val_interval == 0
    assert cfg.default_hooks.checkpoint.interval == cfg.train_cfg.val_interval
    images = 8 if folder == "cityscapes" else 16
    assert 8 * cfg.train_dataloader.batch_size == images
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=images)
    assert cfg.train_dataloader.sampler.type == "InfiniteSampler"
    optimizer = cfg.optim_wrapper.optimizer
    halved = "retinanet" in stem or folder == "cityscapes"
    assert (optimizer.type, optimizer.lr) == ("SGD", 0.01 if halved else 0.02)


def numbers_of_classes(node) -> set:
    if isinstance(node, (list, tuple)):
        return set().union(*map(numbers_of_classes, node))
    if not isinstance(node, dict):
        return set()
    own = {node["num_classes"]} if "num_classes" in node else set()
    return own.union(*map(numbers_of_classes, node.values()))


@pytest.mark.parametrize("path", RANDOM, ids=name)
def test_nothing_of_this_package_is_needed(path):
    cfg = load(path)
    stock = "-2fc_" in path.stem or path.parent.name == "quickstart"
    hooks = [] if stock else [dict(type="PreciseBNHook", num_batches=200)]
    assert cfg.get("custom_hooks", []) == hooks
    imports = [] if stock else ["precise_bn"]
    assert cfg.get("custom_imports", dict(imports=[]))["imports"] == imports
    assert cfg.default_scope == "mmdet"


# --- models


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_model_builds_with_nothing_frozen(path):
    cfg = load(path)
    init_default_scope("mmdet")
    with torch.device("meta"):
        model = MODELS.build(cfg.model).train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    norms = {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm)}
    assert all(isinstance(m, torch.nn.SyncBatchNorm) for m in norms.values())
    assert all(m.training for m in norms.values())
    assert all(m.track_running_stats for m in norms.values())
    for part in parts_with_norms(path.stem):
        assert any(n.startswith(part) for n in norms), part
    without = "roi_head" if "-2fc_" in path.stem else "bbox_head"
    assert not any(n.startswith(without) for n in norms)
    if "_c4_" in path.stem:
        res5, extra = model.roi_head.shared_head
        assert (type(res5).__name__, extra.num_features) == ("ResLayer", 2048)
        names = "roi_head.shared_head.0.layer4.0.conv1.weight", "roi_head.shared_head.1"
        assert names[0] in model.state_dict() and names[1] in norms


def parts_with_norms(stem: str) -> list:
    if "_c4_" in stem:
        return ["backbone", "roi_head.shared_head.0", "roi_head.shared_head.1"]
    parts = ["backbone", "neck.lateral_convs.0", "neck.fpn_convs.2"]
    if "retinanet" in stem:
        return [*parts, "neck.fpn_convs.3", "neck.fpn_convs.4"]
    if "-2fc_" in stem:
        return parts
    stages = [f"{i}." for i in range(3)] if "cascade" in stem else [""]
    parts += [f"roi_head.bbox_head.{s}shared_convs.3" for s in stages]
    if "mask" in stem:
        parts += [f"roi_head.mask_head.{s}convs" for s in stages]
    return parts


# --- two steps of each row


def relocate(node, root: Path):
    """The same config with every data/ and work_dirs/ under ``root``."""
    if isinstance(node, dict):
        for key, value in node.items():
            node[key] = relocate(value, root)
    elif isinstance(node, (list, tuple)):
        return type(node)(relocate(value, root) for value in node)
    elif isinstance(node, str) and re.match(r"(\./)?(data|work_dirs)/", node):
        return f"{root}/{node}"
    return node


def shrink(node, factor: int) -> None:
    """Narrow the model, take few boxes and small images, all in place."""
    small = dict(num=16, nms_pre=50, max_per_img=20, score_thr=0.0, num_workers=0)
    small.update(persistent_workers=False, depth=18, num_batches=1)
    small.update(scale=(96, 64))
    if isinstance(node, (list, tuple)):
        for value in node:
            shrink(value, factor)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in small and value is not None:
                node[key] = small[key]
            elif node.get("type") == "RandomChoiceResize" and key == "scales":
                node[key] = [(96, 64), (128, 80)]
            elif key.endswith("channels") or key == "num_features":
                many = isinstance(value, (list, tuple))
                node[key] = [v // factor for v in value] if many else value // factor
            else:
                shrink(value, factor)


def shrunk(path: Path, root: Path) -> Config:
    """The config as it is, but small and with its data under ``root``."""
    cfg = relocate(load(path)._cfg_dict, root)
    # R18 is 4 times narrower than R50; FPN lets it be narrower still
    factor = 4 if "_c4_" in path.stem else 8
    quickstart = path.parent.name == "quickstart"
    shrink(cfg, 1 if quickstart else factor)
    if not quickstart:
        cfg.model.backbone.update(base_channels=256 // factor)
        cfg.model.backbone.update(stem_channels=256 // factor)
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint.save_last = False
    cfg.param_scheduler[0].start_factor = 1.0  # warm-up would hide who is trained
    cfg.visualizer.name = path.stem
    cfg.randomness = dict(seed=0)
    return Config(cfg, filename=str(path))


def draw_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


# x, y, width, height of an object, of a small one and of a crowd or difficult one
BOXES = ([10, 10, 40, 40], [60, 5, 20, 20], [60, 30, 20, 20])


def coco_json(images: list, classes: tuple, **fields) -> dict:
    """The annotations of three objects on each image, of the first classes."""
    annotations = []
    for image in images:
        for i, (x, y, w, h) in enumerate(BOXES):
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image["id"],
                    category_id=1 + i % len(classes),
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=int(i == 2),
                    segmentation=[corners],
                )
            )
    categories = [dict(id=i + 1, name=c, **fields) for i, c in enumerate(classes)]
    return dict(images=images, annotations=annotations, categories=categories)


def write_coco(cfg: Config, image_name: str = "{}.jpg", **fields) -> None:
    """Two images for each loader, at the paths that the config names."""
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        (dataset,) = inner_datasets(loader.dataset)
        meta = dataset.get("metainfo") or DATASETS.get(dataset.type).METAINFO
        root, images = Path(dataset.data_root), []
        for i in (1, 2):
            file = image_name.format(i)
            draw_image(root / dataset.data_prefix.img / file)
            image = dict(id=i, file_name=file, height=60, width=90)
            if "lvis" in cfg.filename:
                image["coco_url"] = f"http://images.cocodataset.org/{file}"
                image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
            images.append(image)
        content = coco_json(images, meta["classes"], **fields)
        if "lvis" in cfg.filename:  # it has no crowds
            content["annotations"] = [
                a for a in content["annotations"] if not a.pop("iscrowd")
            ]
        file = root / dataset.ann_file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))


def write_cityscapes(cfg: Config) -> None:
    write_coco(cfg, image_name="frankfurt/frankfurt_00000{}_000019_leftImg8bit.png")
    # On label 0 the metric ignores predictions, and breaks when none are left: a road.
    labels = np.full((60, 90), 7, np.uint16)
    labels[10:50, 10:50] = 24001  # a person, label 24, the first
    folder = Path(cfg.val_evaluator[1].seg_prefix) / "frankfurt"
    folder.mkdir(parents=True)
    for i in (1, 2):
        file = f"frankfurt_00000{i}_000019_gtFine_instanceIds.png"
        Image.fromarray(labels).save(folder / file)


def write_voc(root: Path) -> None:
    """VOC2007 and VOC2012 as they unpack, two images in each list."""
    for year, lists in ((2007, ("trainval", "test")), (2012, ("trainval",))):
        folder = root / f"VOC{year}"
        for sub in ("Annotations", "ImageSets/Main"):
            (folder / sub).mkdir(parents=True)
        for listing in lists:
            names = [f"{listing}_{i}" for i in (1, 2)]
            text = "\n".join(names)
            (folder / "ImageSets/Main" / f"{listing}.txt").write_text(text)
            for image in names:
                draw_image(folder / "JPEGImages" / f"{image}.jpg")
                (folder / "Annotations" / f"{image}.xml").write_text(voc_xml())


def voc_xml() -> str:
    objects = ""
    for i, (x, y, w, h) in enumerate(BOXES):
        corners = dict(xmin=x + 1, ymin=y + 1, xmax=x + w, ymax=y + h)
        box = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
        objects += (
            f"<object><name>{('cat', 'dog', 'dog')[i]}</name>"
            f"<difficult>{int(i == 2)}</difficult><bndbox>{box}</bndbox></object>"
        )
    size = "<size><width>90</width><height>60</height><depth>3</depth></size>"
    return f"<annotation>{size}{objects}</annotation>"


def convert_voc(root: Path, monkeypatch) -> None:
    """Write COCO-format files with MMDetection's tool, as the README says."""
    tool = Path(mmdet.__file__).parent / ".mim/tools/dataset_converters/pascal_voc.py"
    args = [str(root), "-o", str(root / "annotations"), "--out-format", "coco"]
    monkeypatch.setattr("sys.argv", [tool.name, *args])
    runpy.run_path(str(tool), run_name="__main__")


def write_dataset(cfg: Config, folder: str, root: Path, monkeypatch) -> None:
    if folder == "voc":
        write_voc(root / "data/VOCdevkit")
        if "cocofmt" in cfg.filename:
            convert_voc(root / "data/VOCdevkit", monkeypatch)
    elif folder == "cityscapes":
        write_cityscapes(cfg)
    elif folder == "lvis":
        write_coco(cfg, "train2017/{}.jpg", synonyms=[], frequency="f", image_count=2)
    else:
        write_coco(cfg)


METRICS = dict(
    coco="coco/bbox_mAP",
    voc="pascal_voc/mAP",
    cityscapes="cityscapes/mAP",
    quickstart="coco/segm_mAP",
)


@pytest.mark.parametrize("path", RANDOM, ids=name)
def test_two_steps_and_an_evaluation(path, tmp_path, monkeypatch):
    folder = path.parent.name
    cfg = shrunk(path, tmp_path)
    write_dataset(cfg, folder, tmp_path, monkeypatch)
    if folder == "lvis":
        # lvis 0.5.3 uses np.float, which NumPy has dropped: it reads, writes
        # and cannot evaluate
        cfg.val_evaluator.update(format_only=True, outfile_prefix=f"{tmp_path}/lvis")
    check_paths(cfg)
    check_labels(cfg)
    adapt_to_cpu(cfg)
    cfg.work_dir = str(tmp_path / "work_dir")
    runner = Runner.from_cfg(cfg)
    before = [p.detach().clone() for p in runner.model.parameters()]
    runner.train()
    assert runner.iter == 2
    after = list(runner.model.parameters())
    assert all(torch.isfinite(p).all() for p in after)
    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    # weights before a ReLU that is shut have no gradient in two steps
    assert sum(changed) > 0.8 * len(changed)
    scalars = {k: v.current() for k, v in runner.message_hub.log_scalars.items()}
    assert np.isfinite(scalars["train/loss"])
    if folder == "lvis":
        assert (tmp_path / "lvis.segm.json").is_file()
    elif "cocofmt" in path.stem:
        assert 0 <= scalars["val/coco/bbox_mAP"] <= 1
    else:
        assert 0 <= scalars[f"val/{METRICS[folder]}"] <= 1
    if "voc0712" in path.stem:
        assert_voc(runner, scalars)


def assert_voc(runner: Runner, scalars: dict) -> None:
    """Small objects are trained, difficult ones are not, AP is over ten thresholds."""
    instances = runner.train_dataloader.dataset.get_data_info(0)["instances"]
    assert [i["ignore_flag"] for i in instances] == [0, 0, 1]
    if "val/pascal_voc/mAP" in scalars:
        precisions = [scalars[f"val/pascal_voc/AP{t}"] for t in range(50, 100, 5)]
        assert scalars["val/pascal_voc/mAP"] == pytest.approx(
            np.mean(precisions), abs=1e-3
        )
