"""Every pre-training config builds: model, data set, optimizer, schedule, hooks."""

import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from mcl.config import adapt_to_cpu, datasets
from mcl.export import build_unfilled

from .conftest import ROOT, give_images, shrink_recipe

PRETRAINING = sorted((ROOT / "configs/mcl").glob("*.py"))


@pytest.mark.parametrize("path", PRETRAINING, ids=lambda p: p.stem)
def test_full_size_model_builds(path):
    cfg = Config.fromfile(path)
    init_default_scope("mmpretrain")
    model = build_unfilled(lambda: MODELS.build(cfg.model))
    widths = [c.conv.in_channels for c in model.neck.lateral_convs]
    assert widths == list(cfg.model.neck.in_channels)
    with torch.no_grad():
        image = torch.zeros(1, 3, 32, 32, device=next(model.parameters()).device)
        if cfg.model.backbone.type != "SwinTransformer":  # its windows need 224
            maps = model.eval().backbone(image)
            assert [m.shape[1] for m in maps] == widths


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
    assert ("amp" in path.stem) == (cfg.optim_wrapper.type != "OptimWrapper")
    cosine = next(s for s in cfg.param_scheduler if s.type == "CosineAnnealingLR")
    assert cosine.T_max == cosine.end == -(-cfg.train_cfg.max_iters // accumulation)
    assert cfg.default_hooks.checkpoint.interval % accumulation == 0
    if "in1k" in path.stem:
        epoch = 1281167 // (processes * batch)
        assert cfg.train_cfg.max_iters == 100 * epoch
        per_256 = 1.5e-4 if "adamw" in path.stem else 1.0
        lr = per_256 * processes * batch * accumulation / 256
        assert cfg.optim_wrapper.optimizer.lr == pytest.approx(lr)
        assert ("adamw" in path.stem) == (cfg.optim_wrapper.optimizer.type == "AdamW")
        warm_up = cfg.param_scheduler[0]
        assert warm_up.end - 1 == pytest.approx(10 * epoch / accumulation, rel=3e-3)


# What a name promises; each differs from the paper's recipe in that alone.
PROMISES = {
    "fpn_same_": ("head.assignment", "same"),
    "fpn_neighbors_": ("head.assignment", "neighbors"),
    "fpn_all_": ("head.assignment", "all"),
    "fpn_no-negatives_": ("head.loss.type", "MultiLevelRegressionLoss"),
    "fpn_queue4k_": ("head.queue", 4096),
    "fpn_multicrop_": ("data_preprocessor.montage.on_canvas", False),
    "fpn_fixed-tiles_": ("data_preprocessor.montage.shuffle", False),
    "fpn_image-level_": ("neck.ratios", (1,)),
    "mcl_resnet18-": ("backbone.depth", 18),
    "mcl_resnet101-": ("backbone.depth", 101),
    "mcl_swin-tiny-": ("backbone.type", "SwinTransformer"),
    "mcl_convnext-tiny-": ("backbone.type", "ConvNeXt"),
}


@pytest.mark.parametrize("path", PRETRAINING, ids=lambda p: p.stem)
def test_names_of_recipes_keep_their_promise(path):
    model = Config.fromfile(path).model
    for part, (field, value) in PROMISES.items():
        node = model
        for key in field.split("."):
            node = node.get(key) if node is not None else None
        assert (node == value) == (part in path.stem), field
    for dataset in datasets(Config.fromfile(path).train_dataloader.dataset):
        shared = bool(dataset.pipeline[1].get("shared_levels"))
        assert shared == ("shared-views" in path.stem)


def test_every_recipe_is_in_the_readme():
    text = (ROOT / "configs/mcl/README.md").read_text()
    listed = set()
    for name in re.findall(r"`(mcl\S*\.py)`", text):
        group = re.search(r"\{(.*?)\}", name)
        options = group[1].split(",") if group else [""]
        listed |= {re.sub(r"\{.*?\}", o, name) for o in options}
    assert listed == {path.name for path in PRETRAINING}


def test_recipes_on_coco_take_the_papers_steps():
    recipes = [p for p in PRETRAINING if "coco" in p.stem.rpartition("_")[2]]
    assert len(recipes) == 2
    paper = Config.fromfile(
        ROOT / "configs/mcl/mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"
    )
    for cfg in map(Config.fromfile, recipes):
        for field in ("train_cfg", "param_scheduler", "optim_wrapper", "model"):
            assert cfg[field] == paper[field]


@pytest.mark.parametrize("path", PRETRAINING, ids=lambda p: p.stem)
def test_three_steps_of_every_recipe(path, tmp_path):
    cfg = Config.fromfile(path)
    shrink_recipe(cfg)
    give_images(cfg, tmp_path, 24)
    adapt_to_cpu(cfg)
    # Rates that are right for 4096 images; eight of them would only make noise.
    cfg.optim_wrapper.pop("accumulative_counts", None)
    cfg.train_cfg.update(max_iters=3, val_interval=3)
    cfg.default_hooks.checkpoint.interval = 3
    cfg.optim_wrapper.optimizer.lr = 0.01
    cfg.param_scheduler = None
    cfg.work_dir, cfg.visualizer.name = str(tmp_path), str(tmp_path)
    init_default_scope("mmpretrain")
    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    hooks = [type(h).__name__ for h in runner.hooks]
    assert {"NonFiniteLossHook", "IterationSeedHook"} <= set(hooks)
    assert ("TargetUpdateHook" in hooks) == hasattr(runner.model, "target")
    assert "OptimStepParamSchedulerHook" in hooks and "ParamSchedulerHook" not in hooks
    runner.train()
    assert runner.iter == 3
    assert (
        getattr(runner.model, "target", None) is None or runner.model.target.step == 3
    )
    after = runner.model.state_dict()
    for name, weight in runner.model.named_parameters():
        assert weight.isfinite().all(), name
        if weight.requires_grad:
            assert not torch.equal(after[name], before[name]), name
    scalars = runner.message_hub.log_scalars
    assert np.isfinite(scalars["train/loss"].current())
    if cfg.get("val_evaluator"):
        assert 0 <= scalars["val/top1_p2"].current() <= 1


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


@pytest.mark.parametrize("path", PRETRAINING, ids=lambda p: p.stem)
def test_colors_are_applied_where_the_recipe_runs(path):
    place = "worker" if "-cpu-" in path.stem else "device"
    for dataset in datasets(Config.fromfile(path).train_dataloader.dataset):
        load, views = dataset.pipeline[:2]
        assert load.defer and views.colors_on == place
