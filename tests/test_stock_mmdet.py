"""MMDetection's own train script benchmarks an exported file; `mcl` is kept out."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mmdet
import pytest
import torch

from mcl.config import adapt_to_cpu
from mcl.export import ToMMDetection, export, load_weights, take_network, write_tensors

from .conftest import ROOT, random_views, shrunk_model
from .detectors import DETECTORS
from .test_benchmarks import shrunk, write_dataset

TRAIN = Path(mmdet.__file__).parent / ".mim/tools/train.py"
# Stands in the way of the package: whoever imports it, fails.
BLOCK = 'raise ImportError("mcl is kept out of this process")\n'
# A hook of MMEngine's alone that keeps what training starts from.
KEEP_START = """
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class KeepStart(Hook):
    def before_train(self, runner):
        torch.save(runner.model.state_dict(), f"{runner.work_dir}/start.pth")
"""


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> str:
    """A checkpoint of pre-training as wide as the shrunk benchmarks."""
    torch.manual_seed(0)
    model = shrunk_model(
        **{
            "backbone.stem_channels": 32,
            "backbone.base_channels": 32,
            "neck.in_channels": [32, 64, 128, 256],
            "neck.out_channels": 32,
        }
    ).train()
    model.loss(random_views(model))
    path = tmp_path_factory.mktemp("pretrained") / "checkpoint.pth"
    torch.save(dict(state_dict=model.state_dict()), path)
    return str(path)


def run_stock(config: Path, folder: Path) -> subprocess.CompletedProcess:
    """MMDetection's train script, with the fallback for MMCV's ops where needed."""
    modules = folder / "modules"
    modules.mkdir()
    (modules / "mcl.py").write_text(BLOCK)
    (modules / "keep_start.py").write_text(KEEP_START)
    for name in ("mmcv_ops_fallback.py", "precise_bn.py"):
        shutil.copy(ROOT / name, modules)
    return subprocess.run(
        [sys.executable, "-m", "mmcv_ops_fallback", TRAIN, config],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(modules),
            "OMP_WAIT_POLICY": "PASSIVE",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.hosts
@pytest.mark.parametrize(
    "row, metric",
    [
        ("coco/mask-rcnn_r50-mcl-pre_fpn_1x_coco.py", "coco/segm_mAP"),
        ("coco/retinanet_r50-mcl-pre_fpn_1x_coco.py", "coco/bbox_mAP"),
        ("voc/faster-rcnn_r50-mcl-pre_fpn_24k_voc0712.py", "pascal_voc/mAP"),
    ],
    ids=["mask-rcnn", "retinanet", "voc"],
)
def test_stock_mmdetection(row, metric, pretrained, tmp_path, monkeypatch):
    cfg = shrunk(ROOT / "configs/benchmarks" / row, tmp_path)
    if "roi_head" in cfg.model:
        cfg.model.roi_head.bbox_head.conv_out_channels = 32
    write_dataset(cfg, row.split("/")[0], tmp_path, monkeypatch)
    adapt_to_cpu(cfg)
    weights, _ = take_network(load_weights(pretrained))
    exported = export(weights, ToMMDetection(DETECTORS.build(cfg.model)))
    write_tensors(dict(state_dict=exported.weights), cfg.load_from)
    # In place of the hook for BN statistics: nothing but MMDetection and this one. The
    # first row has both.
    hooks = cfg.custom_hooks if "mask-rcnn" in row else []
    imports = ["keep_start", *(["precise_bn"] if hooks else [])]
    cfg.custom_imports = dict(imports=imports, allow_failed_imports=False)
    cfg.custom_hooks = [dict(type="KeepStart"), *hooks]
    cfg.default_hooks.checkpoint.interval = 2
    cfg.work_dir = str(tmp_path / "run")
    config = tmp_path / "config.py"
    cfg.dump(config)

    done = run_stock(config, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert ("PreciseBNHook: " in done.stdout + done.stderr) == bool(hooks)
    start = torch.load(f"{cfg.work_dir}/start.pth", weights_only=True)
    for name, tensor in exported.weights.items():
        assert torch.equal(start[name], tensor), name
    (log,) = Path(cfg.work_dir).glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert any(metric in row for row in rows)
    end = torch.load(f"{cfg.work_dir}/iter_2.pth", weights_only=False)["state_dict"]
    moved = [n for n in exported.weights if not torch.equal(start[n], end[n])]
    assert len(moved) > 0.9 * len(exported.weights)


def test_the_package_is_kept_out(tmp_path):
    """The block works: a config that asks for the package fails."""
    config = tmp_path / "config.py"
    config.write_text('custom_imports = dict(imports=["mcl"])\n')
    done = run_stock(config, tmp_path)
    assert done.returncode and "mcl is kept out of this process" in done.stderr
