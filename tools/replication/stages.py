"""The stages of a row: each is a command or two, and leaves a JSON file when done."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from mcl.errors import InputError

from .rows import (
    DATA_VARIABLE,
    ROOT,
    Row,
    Scale,
    detector_config,
    label_file,
    leaves_unread,
    pretraining_config,
)

SIBLINGS = Path(__file__).parent
# Lines of a training's log that a result keeps.
CURVE_POINTS = 40


@dataclass
class Stage:
    """One command, or a few, of a row.

    Attributes:
        name: unique; also the folder below the work directory.
        run: does the work, given the stage's folder, and returns what is kept.
        needs: names of stages that must be done before.
        kind: stages of a kind take about as long as their ``size`` says.
        key: SHA-256 of all settings that its figures depend on.
    """

    name: str
    run: Callable[[Path], dict]
    needs: tuple = ()
    kind: str = "other"
    size: float = 1.0
    key: str = ""


@dataclass
class Study:
    """Where a replication lives, and how its commands are started."""

    scale: Scale
    work: Path
    threads: int = 1
    # Commands hold this open file: a lock on it outlives a killed replicate.py.
    lock: int | None = None

    @property
    def data(self) -> Path:
        return self.work / "data"

    def folder(self, stage: str) -> Path:
        return self.work / stage

    def result(self, stage: str) -> dict:
        """What a finished stage kept."""
        return json.loads((self.folder(stage) / "done.json").read_text())

    def named(self, file: Path) -> str:
        """A file of the work directory as results name it, wherever that is moved."""
        return file.relative_to(self.work).as_posix()

    def is_done(self, stage: Stage) -> bool:
        """Whether a stage was finished with these settings."""
        file = self.folder(stage.name) / "done.json"
        return file.is_file() and json.loads(file.read_text())["key"] == stage.key

    def command(self, log: Path, *words) -> None:
        """Run a Python script of the project; its output goes to ``log``.

        Raises:
            InputError: when it fails.
        """
        env = dict(
            os.environ,
            OMP_NUM_THREADS=str(self.threads),
            # Threads that wait by spinning take the cores from the loaders' workers.
            OMP_WAIT_POLICY="PASSIVE",
            PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        )
        env[DATA_VARIABLE] = f"{self.data}/"
        start = log.stat().st_size if log.is_file() else 0
        with log.open("a") as out:
            words = [sys.executable, *map(str, words)]
            held = () if self.lock is None else (self.lock,)
            status = subprocess.run(
                words, stdout=out, stderr=out, env=env, pass_fds=held
            ).returncode
        if status:
            # Of this command alone: the file may tell of earlier ones.
            text = log.read_bytes()[start:].decode(errors="replace")
            said = [line for line in text.splitlines() if line.startswith("error:")]
            raise InputError(f"{log}: this command failed; {''.join(said[-1:])}")


def make_data(study: Study, root: Path, out: Path) -> dict:
    """Materials from installed packages, the data set, parts of its labels."""
    materials, log = out / "materials", out / "log.txt"
    study.command(log, SIBLINGS / "materials.py", materials, "--root", root)
    words = []
    for key, value in study.scale.data.items():
        flag = "--" + key.replace("_", "-")
        words += [flag] if value is True else [flag, value]
    study.command(
        log,
        ROOT / "tools/scenes/make_scenes.py",
        study.data,
        *("--cutouts", materials / "cutouts", "--grounds", materials / "grounds"),
        *("--workers", os.cpu_count() or 1, "--overwrite"),
        *words,
    )
    draw_parts(study, log)
    cfg = detector_config(study.scale, 100, 0)
    (out / "detector.py").write_text(cfg.pretty_text)
    return json.loads((study.data / "card.json").read_text())


def draw_parts(study: Study, log: Path) -> None:
    """Draw the parts of the labels, for each seed its own."""
    notes, tool = study.data / "annotations", ROOT / "tools/sample_labels.py"
    for labels in study.scale.finetuning:
        for seed in study.scale.seeds if labels < 100 else ():
            words = ("--percent", labels, "--seed", seed)
            study.command(log, tool, notes / "train.json", notes, *words)
            if not (study.data / label_file(labels, seed)).is_file():
                raise InputError(f"{notes}: no labels were drawn for seed {seed}")


def pretrain(
    study: Study,
    row: Row,
    lr: float,
    steps: int,
    seed: int,
    out: Path,
    start: Path | None = None,
) -> dict:
    """Pre-train, or go on where a killed run stopped; then look at the features.

    ``start``: the checkpoint whose weights are the first ones.
    """
    cfg = pretraining_config(row, study.scale, lr, steps, seed)
    cfg.load_from = None if start is None else str(start)
    config, log = out / "config.py", out / "log.txt"
    config.write_text(cfg.pretty_text)
    words = ["--resume", "auto"] if has_checkpoint(out) else []
    study.command(log, ROOT / "tools/train.py", config, "--work-dir", out, *words)
    checkpoint, found = out / f"iter_{steps}.pth", out / "features.json"
    words = ("features", config, checkpoint, study.data, found)
    study.command(log, SIBLINGS / "measure.py", *words)
    lines = read_log(out)
    batch = cfg.train_dataloader.batch_size
    return dict(
        config=f"configs/replication/{row.config}",
        steps=steps,
        batch=batch,
        images=steps * batch,
        seed=seed,
        lr=lr,
        seconds=training_seconds(lines),
        checkpoint=study.named(checkpoint),
        curve=thin(lines),
        **json.loads(found.read_text()),
    )


def has_checkpoint(out: Path) -> bool:
    """Whether a training can go on; a kill may leave the name of none."""
    mark = out / "last_checkpoint"
    return mark.is_file() and bool(mark.read_text().strip())


def count_work(study: Study, cfg: Config, out: Path) -> dict:
    """Count the multiply-adds of a pre-training's steps, without training."""
    config, found = out / "config.py", out / "work.json"
    config.write_text(cfg.pretty_text)
    study.command(out / "log.txt", SIBLINGS / "measure.py", "work", config, found)
    return json.loads(found.read_text())


def read_log(folder: Path) -> list[dict]:
    """Figures of a training by step; where it was resumed, those made last."""
    lines = {}
    for file in sorted(folder.glob("*/vis_data/scalars.json")):
        for text in file.read_text().splitlines():
            line = json.loads(text)
            if "loss" in line:
                lines[line["step"]] = line
    return [lines[step] for step in sorted(lines)]


def training_seconds(lines: list[dict]) -> float:
    """Time of all iterations: every line has the mean of those since the last."""
    steps = [0, *(line["step"] for line in lines)]
    gaps = [b - a for a, b in zip(steps, steps[1:], strict=False)]
    return round(sum(g * line["time"] for g, line in zip(gaps, lines, strict=True)), 1)


def thin(lines: list[dict]) -> list[dict]:
    """About ``CURVE_POINTS`` of the lines, with their main figures."""
    every = -(-len(lines) // CURVE_POINTS)
    kept = lines[::-1][::every][::-1]
    names = ("step", "loss", "chance")
    begins = ("ce_", "top1_", "std_", "rank_")
    return [
        {k: round(v, 4) for k, v in line.items() if k in names or k.startswith(begins)}
        for line in kept
    ]


def export_start(study: Study, row: Row, checkpoint: Path, out: Path) -> dict:
    """The file that a detector with all of MCL's parts starts from."""
    file, log = out / "start.pth", out / "log.txt"
    words = [checkpoint, file, "--detector", study.folder("prepare") / "detector.py"]
    if leaves_unread(row):
        words.append("--allow-unread")
    study.command(log, ROOT / "tools/export.py", *words)
    return dict(start=study.named(file))


def finetune(study: Study, start: dict, labels: int, seed: int, out: Path) -> dict:
    """Fine-tune the detector.

    ``start`` has ``load_from``, a file of :func:`export_start`, or ``backbone``, a
    checkpoint of pre-training, or nothing.
    """
    cfg = detector_config(study.scale, labels, seed)
    cfg.load_from = start.get("load_from")
    if "backbone" in start:
        cfg.model.backbone.init_cfg = dict(
            type="Pretrained", checkpoint=start["backbone"], prefix="backbone."
        )
    for name in ("val_evaluator", "test_evaluator"):
        cfg[name].outfile_prefix = str(out / "val")
    config, log = out / "config.py", out / "log.txt"
    config.write_text(cfg.pretty_text)
    for old in out.glob("2*/vis_data/*.json"):  # of a run that was killed
        old.unlink()
    study.command(log, ROOT / "tools/train.py", config, "--work-dir", out)
    truth, found = study.data / "annotations/val.json", out / "ap.json"
    words = ("detections", truth, out / "val", found)
    study.command(log, SIBLINGS / "measure.py", *words)
    for weights in out.glob("*.pth"):
        weights.unlink()
    notes = study.data / cfg.train_dataloader.dataset.ann_file
    return dict(
        labels=labels,
        seed=seed,
        images=len(json.loads(notes.read_text())["images"]),
        steps=cfg.train_cfg.max_iters,
        seconds=training_seconds(read_log(out)),
        curve=ap_curve(out),
        **json.loads(found.read_text()),
    )


def ap_curve(folder: Path) -> list[dict]:
    """AP at every evaluation of a fine-tuning."""
    lines = [
        json.loads(text)
        for file in sorted(folder.glob("*/vis_data/scalars.json"))
        for text in file.read_text().splitlines()
    ]
    return [
        dict(step=line["step"], bbox=line["coco/bbox_mAP"], segm=line["coco/segm_mAP"])
        for line in lines
        if "coco/bbox_mAP" in line
    ]
