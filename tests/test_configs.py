"""Every shipped config builds: model, data set, optimizer, schedule, hooks."""

import json
import re

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image

from mcl.preflight import adapt_to_cpu, datasets

from .conftest import ROOT, give_images, shrink_recipe

PRETRAINING = sorted((ROOT / "configs/mcl").glob("*.py"))
BENCHMARKS = sorted((ROOT / "configs/benchmarks").glob("*.py"))


def build(cfg: Config, work_dir) -> Runner:
    """The runner with everything built that training needs."""
    adapt_to_cpu(cfg)
    cfg.work_dir = str(work_dir)
    cfg.load_from = None
    cfg.train_dataloader.num_workers = 0
    cfg.train_dataloader.persistent_workers = False
    runner = Runner.from_cfg(cfg)
    assert runner.train_loop.max_iters == cfg.train_cfg.max_iters
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    return runner


@pytest.mark.parametrize("path", PRETRAINING, ids=lambda p: p.stem)
def test_pretraining_builds(path, tmp_path):
    cfg = Config.fromfile(path)
    batch_size = cfg.train_dataloader.batch_size
    give_images(cfg, tmp_path, batch_size)
    cfg.visualizer.name = path.stem
    runner = build(cfg, tmp_path)
    sources = len(list(datasets(cfg.train_dataloader.dataset)))
    assert len(runner.train_dataloader.dataset) == sources * batch_size
    sample = runner.train_dataloader.dataset[0]
    assert len(sample["inputs"]) == 8
    hooks = [type(h).__name__ for h in runner.hooks]
    assert {"TargetUpdateHook", "NonFiniteLossHook", "IterationSeedHook"} <= set(hooks)
    assert "OptimStepParamSchedulerHook" in hooks and "ParamSchedulerHook" not in hooks


@pytest.mark.parametrize("path", PRETRAINING, ids=lambda p: p.stem)
def test_pretraining_trains(path, tmp_path):
    cfg = Config.fromfile(path)
    shrink_recipe(cfg)
    give_images(cfg, tmp_path, 24)
    adapt_to_cpu(cfg)
    cfg.work_dir = str(tmp_path / "work")
    cfg.visualizer.name = cfg.experiment_name = f"{path.stem}_trains"
    # Three optimizer steps.
    accumulation = cfg.optim_wrapper.get("accumulative_counts", 1)
    cfg.train_cfg.max_iters = cfg.default_hooks.checkpoint.interval = 3 * accumulation
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.model.target.step == 3


@pytest.mark.parametrize("path", PRETRAINING, ids=lambda p: p.stem)
def test_numbers_of_a_recipe_agree(path):
    cfg = Config.fromfile(path)
    size = cfg.model.data_preprocessor.montage.size
    ratios = cfg.model.data_preprocessor.montage.ratios
    for dataset in datasets(cfg.train_dataloader.dataset):
        views = dataset.pipeline[1]
        assert (views.size, views.ratios) == (size, ratios)
    assert cfg.model.neck.ratios == cfg.model.head.ratios == ratios
    assert cfg.train_dataloader.batch_size == cfg.train_dataloader.sampler.batch_size
    processes, batch = map(int, re.search(r"_(\d+)xb(\d+)", path.stem).groups())
    assert batch == cfg.train_dataloader.batch_size
    assert cfg.auto_scale_lr.base_batch_size == processes * batch
    accumulation = cfg.optim_wrapper.get("accumulative_counts", 1)
    named = re.search(r"accum(\d+)", path.stem)
    assert accumulation == (int(named.group(1)) if named else 1)
    assert ("amp" in path.stem) == (cfg.optim_wrapper.type == "AmpOptimWrapper")
    cosine = next(s for s in cfg.param_scheduler if s.type == "CosineAnnealingLR")
    assert cosine.T_max == cosine.end == -(-cfg.train_cfg.max_iters // accumulation)
    assert cfg.default_hooks.checkpoint.interval % accumulation == 0
    if "in1k" in path.stem:
        epoch = 1281167 // (processes * batch)
        assert cfg.train_cfg.max_iters == 100 * epoch
        assert cfg.optim_wrapper.optimizer.lr == processes * batch * accumulation / 256


def test_recipes_on_coco_take_the_papers_steps():
    recipes = [p for p in PRETRAINING if "coco" in p.stem.rpartition("_")[2]]
    assert len(recipes) == 2
    paper = Config.fromfile(
        ROOT / "configs/mcl/mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"
    )
    for cfg in map(Config.fromfile, recipes):
        for field in ("train_cfg", "param_scheduler", "optim_wrapper", "model"):
            assert cfg[field] == paper[field]


def coco_files(root, cfg) -> None:
    """A data set of two images at the paths that a benchmark names."""
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = f"{root}/"
        folder = root / loader.dataset.data_prefix.img
        folder.mkdir(parents=True, exist_ok=True)
        names = (loader.dataset.get("metainfo") or {}).get("classes") or ("person",)
        images, annotations = [], []
        for i in (1, 2):
            Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(folder / f"{i}.jpg")
            images.append(dict(id=i, file_name=f"{i}.jpg", height=60, width=80))
            box, corners = [10, 10, 40, 40], [10, 10, 50, 10, 50, 50, 10, 50]
            annotations.append(
                dict(
                    id=i,
                    image_id=i,
                    category_id=1,
                    bbox=box,
                    area=1600,
                    iscrowd=0,
                    segmentation=[corners],
                )
            )
        file = root / loader.dataset.ann_file
        file.parent.mkdir(exist_ok=True)
        categories = [dict(id=i + 1, name=name) for i, name in enumerate(names)]
        content = dict(images=images, annotations=annotations, categories=categories)
        file.write_text(json.dumps(content))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda p: p.stem)
def test_benchmark_builds(path, tmp_path, monkeypatch):
    cfg = Config.fromfile(path)
    coco_files(tmp_path, cfg)
    init_default_scope("mmdet")
    cfg.visualizer.name = path.stem
    if cfg.model.backbone.init_cfg:
        cfg.model.backbone.init_cfg = None  # a download; the name is checked elsewhere
    runner = build(cfg, tmp_path)
    trainable = [n for n, p in runner.model.named_parameters() if p.requires_grad]
    assert len(trainable) == len(list(runner.model.named_parameters()))
    norms = [m for m in runner.model.modules() if "BatchNorm" in type(m).__name__]
    runner.model.train()
    assert all(m.training for m in norms)
    sample = runner.train_dataloader.dataset[0]
    assert len(sample["data_samples"].gt_instances) == 1


def test_recipe_of_the_paper():
    cfg = Config.fromfile(PRETRAINING[-1].with_name(
        "mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"
    ))  # fmt: skip
    assert cfg.optim_wrapper.clip_grad.max_norm == 500
    assert cfg.optim_wrapper.loss_scale.init_scale == 2**14
    assert cfg.sync_bn == "torch"
    assert not cfg.model.backbone.zero_init_residual
    assert cfg.model.head.loss.level_weights == (1 / 2, 1 / 4, 1 / 8, 1 / 8)
    accumulated = Config.fromfile(
        ROOT / "configs/mcl/mcl_resnet50-fpn_8xb128-accum4-amp-coslr-100e_in1k.py"
    )
    warm_up = accumulated.param_scheduler[0].end - 1
    assert (warm_up * 4, accumulated.train_cfg.max_iters) == (12508, 125100)


def test_the_readmes_own_folder_command():
    lines = (ROOT / "README.md").read_text().split("```bash")[3].split("```")[0]
    found = dict(re.findall(r"(\S+?)=(\d+)", lines))
    cfg = Config.fromfile(ROOT / re.search(r"configs/mcl/\S+", lines).group())
    cfg.merge_from_dict({k: int(v) for k, v in found.items() if "[" not in k})
    steps = cfg.train_cfg.max_iters // cfg.optim_wrapper.accumulative_counts
    warm_up, cosine = cfg.param_scheduler
    assert cosine.T_max == cosine.end == steps
    assert warm_up.end - 1 == steps / 10
