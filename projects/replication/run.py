"""Does MCL pre-training make a better detector? Run a small-scale replication.

    python -m projects.replication.run SCALE [--rows NAME ...] [--root DIR]

Makes the data set from Debian packages (--root: where they were unpacked). Then each
row: searches the learning rate where the scale gives none, pre-trains, fine-tunes Mask
R-CNN, measures. It may be killed at any time; the same command goes on. A stage has a
folder below the work directory, with done.json when it is finished. Finished runs are
lines of the csv files in --results; `python -m projects.replication.analyse --results
DIR` makes tables of them.
"""

import argparse
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat
from typing import TextIO

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from mcl.errors import InputError, run_cli

from . import materials, scales
from .scales import RESULTS, ROOT, ROWS, SCALES

CORES = len(os.sched_getaffinity(0))
CPU_FLAGS = ("amx_bf16", "avx512_bf16", "avx512_fp16", "avx512f", "avx2")


@dataclass
class Study:
    """Where a replication lives, and how its stages are run."""

    name: str
    work: Path
    results: Path
    lock: TextIO | None = None  # commands hold it: it outlives a killed run

    def __post_init__(self) -> None:
        self.scale = SCALES[self.name]
        self.data = self.work / f"data-{self.scale.data}"

    def command(self, log: Path, *words) -> None:
        """Run Python with these arguments; its output goes to ``log``.

        Raises:
            InputError: when it fails.
        """
        env = dict(
            os.environ,
            OMP_NUM_THREADS=str(CORES),
            # Threads that wait by spinning take the cores from the loaders' workers.
            OMP_WAIT_POLICY="PASSIVE",
            PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        )
        words = [sys.executable, *map(str, words)]
        held = [self.lock.fileno()] if self.lock else []
        start = log.stat().st_size if log.is_file() else 0
        with log.open("a") as out:
            streams = dict(stdout=out, stderr=out)
            done = subprocess.run(words, env=env, pass_fds=held, **streams)
        if done.returncode:
            # Of this command alone: the file may tell of earlier ones.
            text = log.read_bytes()[start:].decode(errors="replace")
            said = [line for line in text.splitlines() if line.startswith("error:")]
            raise InputError(f"{log}: this command failed; {''.join(said[-1:])}")

    def tool(self, out: Path, name: str, *words) -> None:
        self.command(out / "log.txt", ROOT / f"tools/{name}.py", *words)

    def measure(self, out: Path, *words) -> dict:
        """What a command of measure.py finds."""
        module, found = "projects.replication.measure", out / "measured.json"
        self.command(out / "log.txt", "-m", module, *words, found)
        return json.loads(found.read_text())

    def stage(self, name: str, cfg: Config, make: Callable[[Path], dict]) -> dict:
        """What a finished stage kept; else write its config, run it and keep that.

        Raises:
            InputError: when it was begun with another config.
        """
        folder = self.work / name
        done, mark = folder / "done.json", folder / "config.sha256"
        digest = scales.digest(cfg.to_dict(), without=str(self.work))
        if mark.is_file() and mark.read_text() != digest:
            raise InputError(f"{folder}: its config was another one; move it away")
        if not done.is_file():
            print(f"begun: {folder}", flush=True)
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(mark, digest)
            parts = (f"{k} = {pformat(v)}\n" for k, v in cfg.to_dict().items())
            (folder / "config.py").write_text("".join(parts))
            start = time.monotonic()
            kept = make(folder) | dict(
                config_sha256=digest,
                data_sha256=scales.digest(checksums(self.data)),
                wall_seconds=time.monotonic() - start,
                machine=describe_machine(),
            )
            write_whole(done, json.dumps(kept))
        return json.loads(done.read_text())

    def record(self, table: str, lines: list[dict]) -> None:
        """Append the lines of a run to a csv, unless they are there."""
        stored = (RESULTS / f"{table}.csv").read_text()
        columns = stored.partition("\n")[0].split(",")
        rows = [",".join(str(x.get(name, "")) for name in columns) for x in lines]
        text, file = "\n".join(rows) + "\n", self.results / f"{table}.csv"
        known = file.read_text() if file.is_file() else ",".join(columns) + "\n"
        if text not in known:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, known + text)


def checksums(data: Path) -> dict[str, str]:
    """Of the parts of a data set."""
    return json.loads((data / "card.json").read_text())["sha256"]


def write_whole(file: Path, text: str) -> None:
    """Write a file in one step: a killed run leaves none, or a whole one."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text)
    partial.replace(file)


def describe_machine() -> str:
    """Processor or GPU, cores and versions."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    else:
        words = Path("/proc/cpuinfo").read_text()
        named = re.findall(r"model name\s*: (.*)", words) or [platform.machine()]
        name = f"{named[0]} ({' '.join(f for f in CPU_FLAGS if f in words.split())})"
    versions = f"torch {torch.__version__}; python {platform.python_version()}"
    return f"{name}; {CORES} cores; {versions}".replace(",", " ")  # it goes into a csv


def make_data(study: Study, root: Path) -> None:
    """Materials from the packages, the data set from them, parts of its labels."""
    done, log = study.data.with_suffix(".done"), study.work / "data.txt"
    if not done.is_file():
        made, scenes = study.work / "materials", "projects.quickstart.make_scenes"
        materials.make(made, root)
        words = ["--workers", CORES, "--overwrite"]
        words += ["--cutouts", made / "cutouts", "--grounds", made / "grounds"]
        for key, value in scales.DATA[study.scale.data].items():
            flag = "--" + key.replace("_", "-")
            words += [flag] if value is True else [flag, value]
        study.command(log, "-m", scenes, study.data, *words)
        write_whole(done, "")
    stored = json.loads((RESULTS / "data.json").read_text())[study.scale.data]
    if checksums(study.data) != stored["sha256"]:
        versions = stored["versions"]
        print(f"{study.data}: not the stored results' images, made with {versions}")
    notes = study.data / "annotations"
    for labels in set(study.scale.finetuning) - {100}:
        for seed in study.scale.seeds:
            words = (notes, "--percent", labels, "--seed", seed)
            study.tool(study.work, "sample_labels", notes / "train.json", *words)


def run_row(study: Study, name: str) -> None:
    """Pre-train and fine-tune one row; what is done is not done again."""
    starts = [make_start(study, name, k) for k in range(study.scale.pretrainings)]
    for labels in study.scale.finetuning:
        for seed in study.scale.seeds:
            finetune(study, name, labels, seed, starts)
    print(f"{name}: finished", flush=True)


def make_start(study: Study, name: str, seed: int) -> dict:
    """A detector's ``load_from`` or its backbone's ``init_cfg``; empty for random."""
    owner = ROWS[name].of or name
    if not ROWS[owner].config:
        return {}
    checkpoint = study.work / pretrain(study, owner, seed)["checkpoint"]
    if not ROWS[name].detector:
        part = dict(type="Pretrained", prefix="backbone.")
        return dict(init_cfg=part | dict(checkpoint=str(checkpoint)))

    def export(out: Path) -> dict:
        words = [checkpoint, out / "start.pth", "--detector", out / "config.py"]
        words += ["--allow-unread"] if name == "mcl-level1" else []
        study.tool(out, "export", *words)
        return {}

    stage = f"{study.name}/{name}/export-{seed}"
    study.stage(stage, scales.detector_config(study.scale, 100, 0), export)
    return dict(load_from=str(study.work / stage / "start.pth"))


def search(study: Study, name: str) -> dict:
    """The run with the best kNN; the lowest learning rate of equals.

    Rows that pre-train the same way, however long, share a search.

    Raises:
        InputError: when every rate diverged.
    """
    alike = (ROWS[name].config, ROWS[name].batch)
    owner = next(k for k, row in ROWS.items() if (row.config, row.batch) == alike)
    runs = []
    for k, factor in enumerate(scales.FACTORS):
        cfg = scales.pretraining_config(ROWS[owner], study.scale)
        optimizer = cfg.optim_wrapper.optimizer
        optimizer.lr = float(f"{factor * optimizer.lr:.2g}")
        scales.set_length(cfg, round(scales.SEARCH_LENGTH * cfg.train_cfg.max_iters))
        runs.append(train(study, cfg, f"{study.name}/{owner}/search-{k}", True))
        study.record("search", [dict(runs[-1], scale=study.name, row=owner)])
    best = max(runs, key=lambda run: (run["knn"], -run["lr"]))
    if "checkpoint" not in best:
        raise InputError(f"{owner}: no finite loss; lower lr in {ROWS[owner].config}")
    return best


def pretrain(study: Study, name: str, seed: int) -> dict:
    """All cycles of a row's pre-training; what the last one kept."""
    scale, row, trained = study.scale, ROWS[name], {}
    best = {} if scale.rates else search(study, name)
    for cycle in range(scale.cycles):
        own_seed = seed + cycle * scale.pretrainings
        cfg = scales.pretraining_config(row, scale, own_seed)
        cfg.optim_wrapper.optimizer.lr = best.get("lr") or scale.rates[row.config]
        if row.like:
            theirs = search(study, row.like)["gmac_per_image"]
            steps = cfg.train_cfg.max_iters * theirs / best["gmac_per_image"]
            scales.set_length(cfg, round(steps))
        if trained:
            cfg.load_from = str(study.work / trained["checkpoint"])
        where = study.name if cycle else scale.first_cycles or study.name
        trained = train(study, cfg, f"{where}/{name}/pretrain-{seed}-cycle-{cycle}")
        known = dict(scale=where, row=name, seed=seed, cycle=cycle, config=row.config)
        study.record("pretraining", [trained | known])
        study.record("curves", [line | known for line in trained["curve"]])
    return trained


def train(study: Study, cfg: Config, stage: str, may_diverge: bool = False) -> dict:
    """Pre-train, or go on where a killed run stopped; then measure the features.

    A run that may diverge has kNN 0 and no checkpoint when it does.
    """

    def make(out: Path) -> dict:
        config, mark = out / "config.py", out / "last_checkpoint"
        steps, batch = cfg.train_cfg.max_iters, cfg.train_dataloader.batch_size
        kept = dict(lr=cfg.optim_wrapper.optimizer.lr, steps=steps, batch=batch)
        # A kill may leave the name of no checkpoint.
        goes_on = mark.is_file() and mark.read_text().strip()
        words = ["--resume", "auto"] if goes_on else []
        try:
            study.tool(out, "train", config, "--work-dir", out, *words)
        except InputError as error:
            if not may_diverge or "not finite" not in str(error):
                raise
            return dict(kept, knn=0.0, seconds=training_seconds(read_log(out)))
        file, log = out / f"iter_{steps}.pth", read_log(out)
        return kept | dict(
            checkpoint=file.relative_to(study.work).as_posix(),
            seconds=training_seconds(log),
            curve=log[::-3][::-1],  # enough for a plot
            **study.measure(out, "features", config, file, study.data),
        )

    return study.stage(stage, cfg, make)


def finetune(
    study: Study, name: str, labels: int, seed: int, starts: list[dict]
) -> None:
    """Fine-tune the detector from one of a row's starts, and measure AP."""
    stage = f"{study.name}/{name}/fine-tune-{labels}-{seed}"
    cfg = scales.detector_config(study.scale, labels, seed)
    start = starts[seed % len(starts)]
    cfg.load_from = start.get("load_from")
    cfg.model.backbone.init_cfg = start.get("init_cfg")
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.outfile_prefix = str(study.work / stage / "val")

    def make(out: Path) -> dict:
        for old in out.glob("2*/"):  # logs of a run that was killed
            shutil.rmtree(old)
        study.tool(out, "train", out / "config.py", "--work-dir", out)
        truth = study.data / "annotations/val.json"
        found = study.measure(out, "detections", truth, out / "val")
        for weights in out.glob("*.pth"):
            weights.unlink()
        images = study.data / cfg.train_dataloader.dataset.ann_file
        return found | dict(
            steps=cfg.train_cfg.max_iters,
            images=len(json.loads(images.read_text())["images"]),
            seconds=training_seconds(read_log(out)),
            curve=ap_curve(out),
        )

    kept = study.stage(stage, cfg, make)
    known = dict(scale=study.name, row=name, labels=labels, seed=seed)
    study.record("finetuning", [kept | known | dict(pretraining=seed % len(starts))])
    study.record("ap_curves", [point | known for point in kept["curve"]])


def log_lines(folder: Path) -> list[dict]:
    """All lines of a training's log, those of resumed runs behind one another."""
    files = sorted(folder.glob("*/vis_data/scalars.json"))
    return [json.loads(t) for file in files for t in file.read_text().splitlines()]


def read_log(folder: Path) -> list[dict]:
    """Metrics of a training by step; where it was resumed, those made last."""
    lines = {line["step"]: line for line in log_lines(folder) if "loss" in line}
    return [{k: round(v, 4) for k, v in lines[step].items()} for step in sorted(lines)]


def training_seconds(lines: list[dict]) -> float:
    """Time of all iterations: every line has the mean of those since the last."""
    steps = [0, *(line["step"] for line in lines)]
    gaps = [b - a for a, b in zip(steps, steps[1:], strict=False)]
    return round(sum(g * line["time"] for g, line in zip(gaps, lines, strict=True)), 1)


def ap_curve(folder: Path) -> list[dict]:
    """AP at every evaluation of a fine-tuning, 0..1."""
    box, mask = "coco/bbox_mAP", "coco/segm_mAP"
    lines = [line for line in log_lines(folder) if box in line]
    return [dict(step=x["step"], box_ap=x[box], mask_ap=x[mask]) for x in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    work, root = ROOT / "work_dirs/replication", Path("/")
    parser.add_argument("scale", choices=list(SCALES))
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--root", type=Path, default=root, help="unpacked packages")
    parser.add_argument("--work-dir", type=Path, default=work)
    parser.add_argument("--results", type=Path, help="default: results/ in --work-dir")
    args = parser.parse_args()
    planned = SCALES[args.scale].rows
    if strange := set(args.rows or ()) - set(planned):
        raise InputError(f"--rows {min(strange)}: give some of {', '.join(planned)}")
    # Reading a config logs a line for every variable in it.
    MMLogger.get_instance("replication", log_level="WARNING")
    work = args.work_dir.resolve()
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"--work-dir {work}: a run is at work there") from error
        results = (args.results or work / "results").resolve()
        study = Study(args.scale, work, results, lock)
        os.environ[scales.DATA_VARIABLE] = f"{study.data}/"
        make_data(study, args.root.resolve())
        for row in args.rows or planned:
            run_row(study, row)


if __name__ == "__main__":
    run_cli(main)
