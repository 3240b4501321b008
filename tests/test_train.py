"""tools/train.py with its flags, on the shipped configs made small."""

import argparse
from pathlib import Path

import mmpretrain
import pytest
import torch

from tools.train import load_config

from .conftest import PRETRAINING, SHRINK, TINY, options, run_tool


def train(config, work_dir, images, *args, **overrides):
    overrides = {
        **SHRINK,
        "train_dataloader.dataset.dataset.data_root": images,
        "train_cfg.max_iters": 2,
        "default_hooks.logger.interval": 1,
        **overrides,
    }
    done = run_tool(
        "tools/train.py",
        config,
        "--work-dir",
        work_dir,
        *args,
        "--cfg-options",
        *options(overrides),
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("resume, source", [("auto", None), ("x.pth", "x.pth")])
def test_what_is_resumed_is_not_what_the_run_started_from(resume, source):
    """Given load_from MMEngine would resume that file, at its own last iteration."""
    args = argparse.Namespace(
        config=TINY,
        cfg_options=dict(load_from="start.pth"),
        work_dir="w",
        resume=resume,
        auto_scale_lr=False,
        amp=False,
        launcher="none",
    )
    cfg = load_config(args)
    assert cfg.resume and cfg.load_from == source


# A bottleneck block ends with four times its channels.
NARROW_R50 = {
    "model.neck.in_channels": [32, 64, 128, 256],
    "default_hooks.checkpoint.interval": 2,
}


def test_the_papers_recipe_on_a_cpu(tmp_path, image_folder):
    log = train(PRETRAINING, tmp_path, image_folder, **NARROW_R50)
    line = "running on the CPU with BN, gloo, bfloat16 autocast without a loss scaler"
    assert log.count(line) == 1
    state = torch.load(tmp_path / "iter_2.pth", weights_only=False)
    assert state["state_dict"]["target.step"] == 2
    excluded = state["optimizer"]["param_groups"][1]
    assert excluded["lars_exclude"] and excluded["weight_decay"] == 0
    for level in ("p5", "p4", "p3", "p2"):
        assert f"loss_{level}: " in log and f"ce_{level}: " in log
    assert "eta: " in log


def test_amp_on_a_cpu_is_bfloat16(tmp_path, image_folder):
    log = train(TINY, tmp_path, image_folder, "--amp")
    assert "bfloat16 autocast without a loss scaler" in log
    weights = torch.load(tmp_path / "iter_2.pth", weights_only=False)["state_dict"]
    assert {w.dtype for w in weights.values()} == {torch.float32, torch.int64}


def test_auto_scale_lr_counts_the_images_of_an_iteration(tmp_path, image_folder):
    train(
        TINY,
        tmp_path,
        image_folder,
        "--auto-scale-lr",
        **{"optim_wrapper.accumulative_counts": 2},
    )
    scaled = torch.load(tmp_path / "iter_2.pth", weights_only=False)
    # 8 images against 64 in the config
    initial = scaled["optimizer"]["param_groups"][0]["initial_lr"]
    assert initial == pytest.approx(1e-3 * 8 / 64)


@pytest.mark.hosts
def test_mmpretrains_own_train_script(tmp_path, image_folder):
    """Epochs, batch size and schedule do not need our script; 3 iterations an epoch."""
    overrides = {
        **SHRINK,
        "train_dataloader.dataset.dataset.data_root": image_folder,
        "train_cfg.max_iters": None,
        "train_cfg.max_epochs": 2,
        "default_hooks.logger.interval": 1,
        "env_cfg.dist_cfg.backend": "gloo",
    }
    stock = Path(mmpretrain.__file__).parent / ".mim/tools/train.py"
    words = [stock, TINY, "--work-dir", tmp_path, "--cfg-options", *options(overrides)]
    done = run_tool("-m", "mmcv_ops_fallback", *words)
    assert "Iter(train) [6/6]" in done.stdout + done.stderr
    checkpoint = torch.load(tmp_path / "iter_6.pth", weights_only=False)
    assert checkpoint["state_dict"]["target.step"] == 6
    (_, cosine) = checkpoint["param_schedulers"]
    assert cosine["T_max"] == cosine["end"] == 6
