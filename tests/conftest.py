"""Small things shared by the tests: images, a shrunk config, the tools."""

import json
import os
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from PIL import Image

import mcl
from mcl.config import datasets

ROOT = Path(mcl.__file__).parents[1]
DATA = ROOT / "tests" / "data"
PRETRAINING = ROOT / "configs/mcl/mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"
TINY = ROOT / "configs/mcl/mcl_resnet18-fpn_1xb64-cpu-coslr_folder.py"
SMALL_DETECTOR = (
    ROOT / "configs/benchmarks/quickstart/mask-rcnn_r18-mcl-pre_fpn_small.py"
)

# Overrides that shrink the tiny recipe to a second per step.
SHRINK = {
    "model.size": 32,
    "model.backbone.stem_channels": 8,
    "model.backbone.base_channels": 8,
    "model.neck.in_channels": [8, 16, 32, 64],
    "model.neck.out_channels": 16,
    "model.neck.projector.hid_channels": 32,
    "model.neck.projector.out_channels": 16,
    "model.head.predictor.in_channels": 16,
    "model.head.predictor.hid_channels": 32,
    "model.head.predictor.out_channels": 16,
    "train_dataloader.batch_size": 8,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "train_dataloader.dataset.dataset.pipeline.1.size": 32,
}


@pytest.fixture(autouse=True)
def _scope() -> None:
    """Some tests build detectors, which changes the scope for those after them."""
    init_default_scope("mmpretrain")
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """24 smooth random images, some of them in a sub-folder."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder, 24)
    return folder


def write_images(folder: Path, number: int) -> None:
    (folder / "deeper").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(number):
        small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        image = small.resize((60, 48), Image.Resampling.BICUBIC)
        image.save(folder / ("deeper" if i % 3 == 0 else ".") / f"{i:03}.jpg")


def write_coco(root: Path, number: int, ann_file: str, prefix: str) -> Path:
    """A COCO-format file without annotations, and its images; returns the file."""
    write_images(root / prefix, number)
    paths = sorted((root / prefix).rglob("*.jpg"))
    images = [
        dict(id=i, file_name=str(p.relative_to(root / prefix)), height=48, width=60)
        for i, p in enumerate(paths)
    ]
    file = root / ann_file
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(dict(images=images, annotations=[], categories=[])))
    return file


def write_tar(path: Path, folder: Path, mode: str = "w") -> None:
    """All files of ``folder`` in a tar, called by their paths inside it."""
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT) as tar:
        for file in sorted(f for f in folder.rglob("*") if f.is_file()):
            tar.add(file, str(file.relative_to(folder)))


def give_images(cfg: Config, root: Path, number: int) -> None:
    """Let each data set of a pre-training config find ``number`` images of its kind."""
    found = list(datasets(cfg.train_dataloader.dataset))
    found += datasets((cfg.get("val_dataloader") or {}).get("dataset"))
    for i, dataset in enumerate(found):
        data_root = root / f"source{i}"
        if dataset.type == "COCOImages":
            write_coco(data_root, number, dataset.ann_file, dataset.data_prefix)
        elif dataset.get("with_label"):
            for label in ("class_0", "class_1"):
                write_images(data_root / label, number // 2)
        else:
            write_images(data_root, number)
        if dataset.type == "ArchiveImages":
            write_tar(data_root / "images.tar", data_root)
            dataset.archives, dataset.index_file = "*.tar", f"{data_root}/index.json"
        elif dataset.type == "CustomDataset" and dataset.get("ann_file"):
            names = [str(p.relative_to(data_root)) for p in data_root.rglob("*.jpg")]
            (data_root / dataset.ann_file).write_text("\n".join(sorted(names)))
        dataset.data_root = str(data_root)


# What makes a backbone narrow, and its C2..C5 (a ResNet's follow from its depth).
NARROW_BACKBONES = {
    "ResNet": (dict(stem_channels=8, base_channels=8), None),
    "SwinTransformer": (
        dict(
            arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
            pad_small_map=True,
        ),
        [8, 16, 32, 64],
    ),
    "ConvNeXt": (
        dict(arch=dict(depths=[1, 1, 1, 1], channels=[8, 16, 32, 64])),
        [8, 16, 32, 64],
    ),
}


def shrink_recipe(cfg: Config) -> None:
    """Make the model, canvases and batch of any pre-training config small."""
    model, backbone = cfg.model, cfg.model.backbone
    overrides, channels = NARROW_BACKBONES[backbone.type]
    backbone.update(overrides)
    if channels is None:  # a bottleneck ends with four times its channels
        wide = 1 if backbone.depth < 50 else 4
        channels = [8 * wide * 2**i for i in range(4)]
    model.neck.update(in_channels=channels, out_channels=16)
    model.neck.projector = dict(hid_channels=32, out_channels=16)
    if model.type == "MCL":
        model.head.predictor = dict(in_channels=16, hid_channels=32, out_channels=16)
    else:
        model.head.update(in_channels=16, num_classes=2)
    model.size = 32
    for dataset in datasets(cfg.train_dataloader.dataset):
        dataset.pipeline[1].size = 32
    cfg.train_dataloader.update(batch_size=8, num_workers=0, persistent_workers=False)
    if cfg.get("val_dataloader"):
        cfg.val_dataloader.update(num_workers=0, persistent_workers=False)
        cfg.val_dataloader.dataset.dataset.pipeline[2].crop_size = 32


def shrunk_config(data_root: Path, **overrides) -> Config:
    """The shipped tiny recipe, made smaller still."""
    cfg = Config.fromfile(TINY)
    cfg.merge_from_dict(
        {
            **SHRINK,
            "train_dataloader.dataset.dataset.data_root": str(data_root),
            **overrides,
        }
    )
    return cfg


def shrunk_model(**overrides) -> torch.nn.Module:
    """The model of that recipe, initialized; ``overrides`` are of ``model.*``."""
    init_default_scope("mmpretrain")  # a detector may have been built before
    overrides = {f"model.{k}": v for k, v in overrides.items()}
    model = MODELS.build(shrunk_config(Path("."), **overrides).model)
    model.init_weights()
    return model


@pytest.fixture(scope="session")
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


def random_views(model: torch.nn.Module, batch_size: int = 8, seed: int = 0) -> list:
    """Two views of random crops, through the model's own preprocessor."""
    montage = model.data_preprocessor.montage
    generator = torch.Generator().manual_seed(seed)
    crops = [
        torch.randint(
            0,
            256,
            (batch_size, 3, montage.size // r, montage.size // r),
            dtype=torch.uint8,
            generator=generator,
        )
        for _ in range(2)
        for r in montage.ratios
    ]
    model.data_preprocessor.seed(seed)
    return model.data_preprocessor(dict(inputs=crops), training=True)["inputs"]


def run_tool(*args, check: bool = True, **env) -> subprocess.CompletedProcess:
    """Run ``python ARGS`` (or bash, for a script) from the repository's root."""
    program = ["bash"] if str(args[0]).endswith(".sh") else [sys.executable]
    done = subprocess.run(
        program + [str(a) for a in args],
        cwd=ROOT,
        env={
            "OMP_WAIT_POLICY": "PASSIVE",  # with workers, spinning threads starve them
            **os.environ,
            "PYTHONPATH": str(ROOT),
            **env,
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    if check and done.returncode:
        raise AssertionError(f"{args} failed:\n{done.stdout}\n{done.stderr}")
    return done


def run_main(path: str, *args) -> None:
    """Run ``main()`` of a tool in this process; its errors are raised."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [path, *(str(a) for a in args)])
        runpy.run_path(str(ROOT / path), run_name="tool")["main"]()


@pytest.fixture
def run_export(capsys):
    """Run tools/export.py in this process; return what it printed."""

    def run(*args) -> str:
        run_main("tools/export.py", *args)
        return capsys.readouterr().out

    return run


def options(overrides: dict) -> list[str]:
    """``overrides`` as arguments after --cfg-options."""
    return [f"{key}={value}".replace(" ", "") for key, value in overrides.items()]
