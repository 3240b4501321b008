"""Train every option of the method on the same images; tabulate what it learned.

    python tools/scenes/try_options.py OUT --cutouts DIR [--steps 150] [--only NAME ...]

Pictures of one object of DIR, a folder of RGBA cut-outs with a sub-folder per class,
are composed once. The tiny recipe then runs on canvases of 96 pixels, each time with
one option changed. OUT/options.md says how far the cross-entropy of images alone (P5)
fell below chance, ln(number of targets or classes), and how spread embeddings stayed.
An option whose run is in OUT already is not run again.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from compose import compose_object, load_grounds
from cutouts import FolderCutouts
from mmengine.config import Config
from PIL import Image

from mcl.errors import InputError, run_cli

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/mcl/mcl_resnet18-fpn_1xb64-cpu-coslr_folder.py"
SIZE, SIDE = 96, 128  # canvas and picture, pixels
TEMPERATURE = 0.1
SGD = dict(type="SGD", lr=0.05, momentum=0.9, weight_decay=1e-4)
RATIOS = (1, 2, 4, 8)
VIEWS = "train_dataloader.dataset.dataset.pipeline.1"
ONE_LEVEL = dict.fromkeys(
    [f"model.{p}.ratios" for p in ("data_preprocessor.montage", "neck", "head")]
    + [f"{VIEWS}.ratios"],
    (1,),
)
# What each option changes of the tiny recipe.
OPTIONS = {
    "(a) image": {},
    "(b) same": {"model.head.assignment": "same"},
    "(c) neighbors": {"model.head.assignment": "neighbors"},
    "(d) all": {"model.head.assignment": "all"},
    "queue of 1024": {"model.head.queue": 1024},
    "no negatives": {"model.head.loss.type": "MultiLevelRegressionLoss"},
    "multicrop": {"model.data_preprocessor.montage.on_canvas": False},
    "image-level": {**ONE_LEVEL, "model.head.loss.level_weights": (1,)},
    "fixed tiles": {"model.data_preprocessor.montage.shuffle": False},
    "shared views": {f"{VIEWS}.shared_levels": True},
    "supervised": {},
}


class OneClass:
    """The cut-outs of one class, in the form that the composer asks for."""

    def __init__(self, source: FolderCutouts, index: int) -> None:
        self.pictures, self.index = source.pictures[index], index

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        return self.pictures[int(rng.integers(len(self.pictures)))], self.index


def compose(folder: Path, cutouts: str, number: int) -> int:
    """Write ``number`` pictures, a sub-folder per class; return how many classes."""
    source, grounds = FolderCutouts(cutouts), load_grounds()
    if len(source.names) < 2:
        raise InputError(f"--cutouts {cutouts}: give a sub-folder for each class")
    for index in range(0 if folder.exists() else number):
        label = index % len(source.names)
        path = folder / source.names[label] / f"{index:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([0, index])
        picture = compose_object(rng, OneClass(source, label), grounds, SIDE)
        Image.fromarray(picture).save(path, quality=92)
    return len(source.names)


def make_config(name: str, images: Path, classes: int, steps: int) -> Config:
    """The tiny recipe on canvases of 96 pixels, with SGD and with one option."""
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(
        {
            "model.data_preprocessor.montage.size": SIZE,
            f"{VIEWS}.size": SIZE,
            f"{VIEWS}.blur_sigma": (0.1 * SIZE / 224, 2.0 * SIZE / 224),
            "train_dataloader.dataset.dataset.data_root": str(images),
            "train_cfg.max_iters": steps,
            "param_scheduler.0.end": steps // 5,
            "param_scheduler.1.T_max": steps,
            "param_scheduler.1.end": steps,
            "default_hooks.logger.interval": 10,
            "default_hooks.checkpoint.interval": steps,
            "optim_wrapper.type": "AmpOptimWrapper",
            "optim_wrapper.optimizer": SGD,
            "model.base_momentum": 0.01,
            "model.head.loss.temperature": TEMPERATURE,
            **OPTIONS[name],
        }
    )
    if name == "supervised":
        supervise(cfg, classes)
    return cfg


def supervise(cfg: Config, classes: int) -> None:
    """Labels in place of targets; one view, hardly blurred."""
    cfg.model.type = "MCLSupervised"
    cfg.model.pop("base_momentum")
    cfg.model.data_preprocessor.num_views = 1
    cfg.model.head = dict(
        type="TileClassifierHead", num_classes=classes, in_channels=128, ratios=RATIOS
    )
    dataset = cfg.train_dataloader.dataset.dataset
    dataset.with_label = True
    dataset.pipeline[1]["views"] = [dict(blur_prob=0.1, solarize_prob=0.0)]
    hooks = [h for h in cfg.custom_hooks if h.type != "TargetUpdateHook"]
    cfg.custom_hooks = hooks


def train(cfg: Config, work_dir: Path) -> list[dict]:
    """Run the recipe, unless it was run; return the lines of its log."""
    work_dir.mkdir(parents=True, exist_ok=True)
    cfg.dump(work_dir / "config.py")
    done = work_dir / f"iter_{cfg.train_cfg.max_iters}.pth"
    if not done.exists():
        command = [sys.executable, ROOT / "tools/train.py", work_dir / "config.py"]
        with open(work_dir / "log.txt", "w") as log:
            status = subprocess.run(
                [*command, "--work-dir", work_dir],
                stdout=log,
                stderr=subprocess.STDOUT,
                # Threads that wait by spinning take the cores from the workers.
                env=dict(os.environ, OMP_WAIT_POLICY="PASSIVE"),
            ).returncode
        if status:
            raise InputError(f"{work_dir}: this run failed; see its log.txt")
    file = max(work_dir.glob("*/vis_data/scalars.json"))
    return [json.loads(line) for line in file.read_text().splitlines()]


def figures(name: str, rows: list[dict], classes: int) -> dict:
    """What the last tenth of a run says."""
    rows = [r for r in rows if "ce_p5" in r]
    last = rows[-max(1, len(rows) // 10) :]

    def mean(key: str) -> float:
        found = [r[key] for r in last if key in r]
        return sum(found) / len(found) if found else math.nan

    chance = math.log(classes) if name == "supervised" else mean("chance")
    return dict(
        chance=chance,
        ce=mean("ce_p5"),
        fall=chance - mean("ce_p5"),
        top1=mean("top1_p5"),
        std=mean("std_p5"),
        rank=mean("rank_p5"),
        seconds=sum(r["time"] for r in rows) / len(rows) * rows[-1]["step"],
    )


def report(results: dict[str, dict], args: argparse.Namespace) -> str:
    """The table in Markdown."""
    lines = [
        f"{args.steps} steps of 64 out of {args.images} pictures, canvases of {SIZE} "
        f"pixels, ResNet-18 of half width, T = {TEMPERATURE}; the last tenth of each "
        "run, one seed.",
        "",
        "| option | chance | ce_p5 | below chance | top-1 | std x sqrt(D) | rank | "
        "minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, f in results.items():
        lines.append(
            f"| {name} | {f['chance']:.2f} | {f['ce']:.2f} | {f['fall']:.2f} | "
            f"{f['top1']:.2f} | {f['std']:.2f} | {f['rank']:.1f} | "
            f"{f['seconds'] / 60:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "out", type=Path, help="folder for pictures, runs and the table"
    )
    parser.add_argument("--cutouts", required=True, help="folder of RGBA cut-outs")
    parser.add_argument("--images", type=int, default=3000, help="pictures to compose")
    parser.add_argument("--steps", type=int, default=150, help="of each run")
    parser.add_argument("--only", nargs="+", choices=list(OPTIONS), help="options")
    args = parser.parse_args()
    images = args.out / f"images_{args.images}"
    classes = compose(images, args.cutouts, args.images)
    results = {}
    for name in args.only or OPTIONS:
        cfg = make_config(name, images.resolve(), classes, args.steps)
        slug = "".join(c if c.isalnum() else "-" for c in name).strip("-")
        rows = train(cfg, args.out / f"{slug}_{args.steps}")
        results[name] = figures(name, rows, classes)
        (args.out / "options.md").write_text(report(results, args))
        print(report({name: results[name]}, args).splitlines()[-1], flush=True)


if __name__ == "__main__":
    run_cli(main)
