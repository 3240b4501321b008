"""A run that is stopped and resumed is the run that was not, bit for bit."""

import json
import shutil

import pytest
import torch

from .conftest import SHRINK, TINY, options, run_tool


def train(work_dir, data_root, workers, *args):
    overrides = {
        "model.head.queue": 24,
        **SHRINK,
        "train_dataloader.dataset.dataset.data_root": data_root,
        "train_dataloader.num_workers": workers,
        "train_dataloader.persistent_workers": workers > 0,
        "train_cfg.max_iters": 4,
        "optim_wrapper.accumulative_counts": 2,
        "default_hooks.checkpoint.interval": 2,
        "default_hooks.logger.interval": 1,
    }
    run_tool(
        "tools/train.py",
        TINY,
        "--work-dir",
        work_dir,
        *args,
        "--cfg-options",
        *options(overrides),
    )
    return torch.load(work_dir / "iter_4.pth", weights_only=False)


def last_losses(work_dir) -> dict:
    """The figures logged for iteration 4."""
    file = max(work_dir.glob("*/vis_data/scalars.json"))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    row = next(r for r in rows if r.get("step") == 4)
    return {k: v for k, v in row.items() if k.startswith(("loss", "ce_", "top1"))}


def assert_equal(a, b, path="") -> None:
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_equal(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{path}.{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


@pytest.mark.hosts
@pytest.mark.parametrize("workers", [0, 2])
def test_two_and_two_iterations_are_four(tmp_path, image_folder, workers):
    straight = train(tmp_path / "straight", image_folder, workers)
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    shutil.copy(tmp_path / "straight" / "iter_2.pth", stopped)
    (stopped / "last_checkpoint").write_text(str(stopped / "iter_2.pth"))
    resumed = train(stopped, image_folder, workers, "--resume")
    for part in ("state_dict", "optimizer", "param_schedulers"):
        assert_equal(straight[part], resumed[part], part)
    assert straight["state_dict"]["target.step"] == 2
    assert resumed["meta"]["iter"] == 4
    assert last_losses(tmp_path / "straight") == last_losses(stopped)
