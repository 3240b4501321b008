"""The real training loop for some iterations: how long it waits for data."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from mmengine.config import Config

from mcl.errors import InputError

from .images import check_number, read_folder
from .photographs import make_photographs
from .report import Column, Report
from .variants import Variant

TRAIN = Path(__file__).parents[1] / "train.py"
# Lines of the log; those of the first third are warm-up.
LINES = 15


def measure_loop(
    variant: Variant, images: str | None, iterations: int, batch: int | None
) -> Report:
    """Train for some iterations with tools/train.py, and read its log.

    Args:
        variant: the config; its workers, batch size and hooks are kept.
        images: folder; None: drawn photographs in a temporary one.
        iterations: how many.
        batch: images per iteration; None: the config's.

    Raises:
        InputError: for too few iterations or images, or when the run fails.
    """
    if iterations < 3:
        raise InputError(f"--iters {iterations}: give 3 or more")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        cfg = variant.load()
        if batch:
            cfg.train_dataloader.batch_size = batch
            if "batch_size" in (cfg.train_dataloader.get("sampler") or {}):
                cfg.train_dataloader.sampler.batch_size = batch
        size = cfg.train_dataloader.batch_size
        if images is None:
            images = str(work / "images")
            Path(images).mkdir()
            make_photographs(Path(images), 2 * size)
        read_folder(cfg, images)
        check_number(images, size)
        prepare(cfg, iterations)
        cfg.dump(work / "config.py")
        return _report(variant, _train(work, variant.device), size)


def prepare(cfg: Config, iterations: int) -> None:
    """Make a run short, without evaluation or checkpoints, its log fine, in place."""
    interval = max(1, iterations // LINES)
    cfg.train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations)
    for part in ("val", "test"):
        for name in ("dataloader", "evaluator", "cfg"):
            cfg.pop(f"{part}_{name}", None)
    cfg.default_hooks.checkpoint.interval = -1
    cfg.default_hooks.checkpoint.save_last = False
    cfg.default_hooks.logger.interval = interval
    cfg.log_processor.window_size = interval


def _train(work: Path, device: str) -> list[dict]:
    """Run tools/train.py on work/config.py; the lines of its log."""
    root = str(TRAIN.parents[1])
    paths = [root, os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    if device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, str(TRAIN), str(work / "config.py")]
    done = subprocess.run(
        [*command, "--work-dir", str(work / "run")],
        capture_output=True,
        text=True,
        env=env,
        cwd=root,
    )
    logs = list(work.glob("run/*/vis_data/scalars.json"))
    if done.returncode or not logs:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise InputError(f"tools/train.py failed: {' '.join(last)}")
    return [json.loads(line) for line in logs[0].read_text().splitlines()]


def _report(variant: Variant, lines: list[dict], batch: int) -> Report:
    kept = lines[len(lines) // 3 :]
    iteration = sum(line["time"] for line in kept) / len(kept)
    waiting = sum(line["data_time"] for line in kept) / len(kept)
    row = dict(
        name=variant.name,
        iteration=iteration,
        waiting=waiting,
        share=waiting / iteration,
        images_per_second=batch / iteration,
        lines=[{k: line[k] for k in ("step", "time", "data_time")} for line in lines],
    )
    columns = (
        Column("name", "config"),
        Column("iteration", "s/iteration", ".3f"),
        Column("waiting", "waiting for data s", ".3f"),
        Column("share", "share", ".1%"),
        Column("images_per_second", "images/s", ".1f"),
    )
    notes = ["tools/train.py; means without the first third of the log's lines"]
    return Report([row], columns, notes, dict(batch=batch))
