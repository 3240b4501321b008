"""The real training loop for some iterations: how long it waits for data."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from mcl.checks import check_labels

from .data import read_folder
from .pictures import make_pictures
from .report import Report
from .variants import Variant


def measure_loop(
    variants: Sequence[Variant], batch: int | None, images: str | None, iters: int
) -> Report:
    """Train for some iterations, on what device is there; time spent waiting for data.

    Args:
        variants: one; its workers, batch size and hooks are kept.
        batch: images per iteration; None: the config's.
        images: folder; None: made-up photographs in a temporary one.
        iters: how many, 3 or more.

    Raises:
        InputError: for too few images.
    """
    (variant,) = variants
    cfg = variant.load()
    if batch:
        cfg.train_dataloader.batch_size = batch
        cfg.train_dataloader.sampler.pop("batch_size", None)
    batch = cfg.train_dataloader.batch_size
    with tempfile.TemporaryDirectory() as folder:
        if images is None:
            images = f"{folder}/images"
            make_pictures(Path(images), 2 * batch)
        read_folder(cfg, images, labels=True)
        check_labels(cfg)
        prepare(cfg, iters, f"{folder}/run")
        runner = Runner.from_cfg(cfg)
        runner.train()
    times, waits = (
        runner.message_hub.get_scalar(f"train/{name}").data[0]
        for name in ("time", "data_time")
    )
    first = iters // 3  # warm-up
    seconds, waiting = times[first:].mean(), waits[first:].mean()
    row = dict(
        name=variant.name,
        seconds=float(seconds),
        waiting=float(waiting),
        share=float(waiting / seconds),
        images_per_second=float(batch / seconds),
        times=times.tolist(),
        waits=waits.tolist(),
    )
    return Report([row], COLUMNS, NOTE, dict(batch=batch, iters=iters))


def prepare(cfg: Config, iters: int, work_dir: str) -> None:
    """Make a run short, without evaluation or checkpoints, in place."""
    cfg.work_dir, cfg.launcher = work_dir, "none"
    cfg.train_cfg = dict(type="MCLTrainLoop", max_iters=iters)
    for part in ("val", "test"):
        for name in ("dataloader", "evaluator", "cfg"):
            cfg.pop(f"{part}_{name}", None)
    cfg.default_hooks.checkpoint.update(interval=-1, save_last=False)


COLUMNS = dict(name="", seconds=".3f", waiting=".3f", share=".1%")
COLUMNS |= dict(images_per_second=".1f")
NOTE = "seconds of an iteration, of it waiting for data: means without the first third"
