"""Every pre-training config builds: model, data set, optimizer, schedule, hooks."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS, MODELS

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


# Of ImageNet's images: iterations, optimizer steps and warm-up of a recipe.
LENGTHS = {
    "32xb128": (31_200, 31_200, 3_127),
    "8xb512": (31_200, 31_200, 3_127),
    "8xb128": (125_100, 125_100, 12_511),
    "8xb128-accum4": (125_100, 31_275, 3_127),
    "1xb128": (1_000_900, 1_000_900, 100_091),
    "1xb128-accum8": (1_000_900, 125_113, 12_511),
}


def planned(cfg: Config, images: int, processes: int) -> tuple[int, int, int]:
    """Iterations, optimizer steps and warm-up that loop and hook make of a config."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    batch = cfg.train_dataloader.batch_size
    loader = SimpleNamespace(batch_size=batch, dataset=range(images))
    length = cfg.train_cfg.get("max_iters")
    if length is None:
        length = cfg.train_cfg.max_epochs * (images // (batch * processes))
    schedulers = [
        PARAM_SCHEDULERS.build(s, default_args=dict(optimizer=optimizer))
        for s in cfg.param_scheduler
    ]
    runner = SimpleNamespace(
        cfg=cfg,
        logger=SimpleNamespace(info=print),
        max_iters=length,
        param_schedulers=schedulers,
        train_dataloader=loader,
        world_size=processes,
    )
    HOOKS.build(dict(cfg.default_hooks.param_scheduler)).before_run(runner)
    linear, cosine = schedulers
    assert cosine.T_max == cosine.end and linear.end == linear.total_iters + 1
    return length, cosine.end, linear.total_iters


@pytest.mark.parametrize("path", PRETRAINING, ids=lambda p: p.stem)
def test_numbers_of_a_recipe_agree(path):
    cfg = Config.fromfile(path)
    for dataset in datasets(cfg.train_dataloader.dataset):
        views = dataset.pipeline[1]
        assert (views.size, views.ratios) == (cfg.model.size, cfg.model.ratios)
    assert "batch_size" not in cfg.train_dataloader.sampler
    processes, batch = map(int, re.search(r"_(\d+)xb(\d+)", path.stem).groups())
    assert batch == cfg.train_dataloader.batch_size
    assert cfg.auto_scale_lr.base_batch_size == processes * batch
    accumulation = cfg.optim_wrapper.get("accumulative_counts", 1)
    named = re.search(r"accum(\d+)", path.stem)
    assert accumulation == (int(named.group(1)) if named else 1)
    assert ("amp" in path.stem) == (cfg.optim_wrapper.type != "OptimWrapper")
    assert cfg.default_hooks.checkpoint.interval % accumulation == 0
    if "in1k" in path.stem:
        key = re.search(r"_(\d+xb\d+(-accum\d)?)", path.stem)[1]
        assert planned(cfg, 1_281_167, processes) == LENGTHS[key]
        per_256 = 1.5e-4 if "adamw" in path.stem else 1.0
        lr = per_256 * processes * batch * accumulation / 256
        assert cfg.optim_wrapper.optimizer.lr == pytest.approx(lr)
        assert ("adamw" in path.stem) == (cfg.optim_wrapper.optimizer.type == "AdamW")


# What a name promises; each differs from the paper's recipe in that alone.
PROMISES = {
    "fpn_same_": ("head.assignment", "same"),
    "fpn_neighbors_": ("head.assignment", "neighbors"),
    "fpn_all_": ("head.assignment", "all"),
    "fpn_no-negatives_": ("head.loss.type", "MultiLevelRegressionLoss"),
    "fpn_queue4k_": ("head.queue", 4096),
    "fpn_multicrop_": ("data_preprocessor.montage.on_canvas", False),
    "fpn_fixed-tiles_": ("data_preprocessor.montage.shuffle", False),
    "fpn_image-level_": ("ratios", (1,)),
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
        for field in ("param_scheduler", "optim_wrapper", "model"):
            assert cfg[field] == paper[field]
        assert planned(cfg, 118_287, 32) == LENGTHS["32xb128"]


@pytest.mark.parametrize("path", PRETRAINING, ids=lambda p: p.stem)
def test_three_steps_of_every_recipe(path, tmp_path):
    cfg = Config.fromfile(path)
    shrink_recipe(cfg)
    give_images(cfg, tmp_path, 24)
    adapt_to_cpu(cfg)
    # Rates that are right for 4096 images; eight of them would only make noise.
    cfg.optim_wrapper.pop("accumulative_counts", None)
    cfg.train_cfg.update(max_epochs=None, max_iters=3, val_interval=3)
    cfg.default_hooks.checkpoint.interval = 3
    cfg.optim_wrapper.optimizer.lr = 0.01
    cfg.param_scheduler[0].start_factor = 1.0
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


@pytest.mark.parametrize("path", PRETRAINING, ids=lambda p: p.stem)
def test_colors_are_applied_where_the_recipe_runs(path):
    place = "worker" if "-cpu-" in path.stem else "device"
    for dataset in datasets(Config.fromfile(path).train_dataloader.dataset):
        load, views = dataset.pipeline[:2]
        assert load.defer and views.colors_on == place
