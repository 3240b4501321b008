"""Every pre-training config builds: model, data set, optimizer, schedule, hooks."""

import re

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mcl.preflight import adapt_to_cpu

from .conftest import ROOT, write_images

PRETRAINING = sorted((ROOT / "configs/mcl").glob("*.py"))


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
    write_images(tmp_path / "images", cfg.train_dataloader.batch_size)
    inner = cfg.train_dataloader.dataset.dataset
    inner.data_root = str(tmp_path / "images")
    cfg.visualizer.name = path.stem
    runner = build(cfg, tmp_path)
    assert len(runner.train_dataloader.dataset) == cfg.train_dataloader.batch_size
    sample = runner.train_dataloader.dataset[0]
    assert len(sample["inputs"]) == 8
    hooks = [type(h).__name__ for h in runner.hooks]
    assert {"TargetUpdateHook", "NonFiniteLossHook", "IterationSeedHook"} <= set(hooks)
    assert "OptimStepParamSchedulerHook" in hooks and "ParamSchedulerHook" not in hooks


@pytest.mark.parametrize("path", PRETRAINING, ids=lambda p: p.stem)
def test_numbers_of_a_recipe_agree(path):
    cfg = Config.fromfile(path)
    size = cfg.model.data_preprocessor.montage.size
    ratios = cfg.model.data_preprocessor.montage.ratios
    views = cfg.train_dataloader.dataset.dataset.pipeline[1]
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
