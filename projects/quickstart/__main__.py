"""Pre-train on composed images, export, fine-tune two detectors, compare them.

    bash tools/quickstart.sh [--cutouts DIR]

Nothing is downloaded. The work dir gets summary.json, report.md, canvases.png and
detections.png.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
from mmengine.config import Config

from mcl.checks import make_work_dir
from mcl.errors import InputError, run_cli
from tools.browse_montage import first_batch, plot_levels

from .make_scenes import Options, build
from .plot_detections import plot_detections

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs/benchmarks/quickstart"
PRETRAINING = CONFIGS / "mcl_resnet18-fpn_quickstart.py"
DETECTORS = {
    "mcl": CONFIGS / "mask-rcnn_r18-mcl-pre_fpn_small.py",
    "random": CONFIGS / "mask-rcnn_r18-random_fpn_small.py",
}
DATA_VARIABLE = "QUICKSTART_DATA"  # where these configs find their data
METRICS = ("bbox_mAP", "segm_mAP")  # COCO's AP of boxes and masks, 0 to 1
# Box AP below which a detector has not learned.
LEAST_AP = 0.03
NOT_LEARNED = "a detector did not learn, so the comparison means nothing"
NOTE = (
    "One seed, few scenes: this shows that the pipeline works, not how much the method "
    "gains."
)
WINDOW = 5  # iterations between lines of the log, which are means over them


class Quickstart:
    """One run; every stage writes below ``work_dir`` and is timed."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.work_dir = Path(args.work_dir).resolve()
        # Other options make another data set, beside this one.
        numbers = (args.images, args.scenes, args.val_scenes)
        source = Path(args.cutouts).resolve().name if args.cutouts else "drawn"
        self.data = self.work_dir / "_".join(["data", source, *map(str, numbers)])
        os.environ[DATA_VARIABLE] = f"{self.data}/"
        self.export = self.work_dir / "mcl_mask-rcnn.pth"
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        print(f"{stage} ...", end=" ", flush=True)
        start = time.time()
        yield
        self.seconds[stage] = round(time.time() - start, 1)
        print(f"{self.seconds[stage]:.0f} s", flush=True)

    def run_tool(self, stage: str, *command) -> None:
        """Run ``python COMMAND`` with its output in ``STAGE.log``.

        Raises:
            InputError: when it fails; with the end of the log.
        """
        log = self.work_dir / f"{stage}.log"
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        # Threads that wait by spinning take the cores from the loaders' workers.
        env = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        env["PYTHONPATH"] = os.pathsep.join(paths)
        words = [sys.executable, *map(str, command)]
        with self.timed(stage), log.open("w") as out:
            done = subprocess.run(words, stdout=out, stderr=subprocess.STDOUT, env=env)
            if done.returncode:
                tail = "\n".join(log.read_text().splitlines()[-5:])
                raise InputError(f"stage {stage} failed, see {log}:\n{tail}")

    def make_data(self) -> None:
        args = self.args
        options = Options(
            pretrain=args.images,
            train=args.scenes,
            val=args.val_scenes,
            classes="one",
            cutouts=args.cutouts,
            # As many as a batch, which then has one ground.
            per_ground=Config.fromfile(PRETRAINING).train_dataloader.batch_size,
        )
        with self.timed("data"):
            # A set that an earlier version made is replaced.
            build(self.data, options, workers=2, overwrite=True)

    def train(self, stage: str, config: Path, iters: int, *overrides: str) -> None:
        self.run_tool(
            stage,
            ROOT / "tools/train.py",
            config,
            *("--work-dir", self.work_dir / stage),
            "--cfg-options",
            f"train_cfg.max_iters={iters}",
            f"default_hooks.checkpoint.interval={iters}",
            f"default_hooks.logger.interval={WINDOW}",
            f"log_processor.window_size={WINDOW}",
            *overrides,
        )

    def pretrain(self) -> None:
        iters = self.args.pretrain_iters
        self.train("pretrain", PRETRAINING, iters)
        checkpoint = self.work_dir / f"pretrain/iter_{iters}.pth"
        detector = ("--detector", DETECTORS["mcl"])
        command = (ROOT / "tools/export.py", checkpoint, self.export)
        self.run_tool("export", *command, *detector)

    def finetune(self, start: str) -> None:
        iters = self.args.finetune_iters
        overrides = [
            f"train_cfg.val_interval={iters}",
            f"param_scheduler.1.T_max={iters}",
            f"param_scheduler.1.end={iters}",
            f"val_evaluator.outfile_prefix={self.work_dir / start}_results",
        ]
        if start == "mcl":
            overrides.append(f"load_from={self.export}")
        self.train(f"finetune_{start}", DETECTORS[start], iters, *overrides)

    def plot(self) -> None:
        """A canvas of each level; scenes with the detections from both starts."""
        (view, _), _, preprocessor = first_batch(Config.fromfile(PRETRAINING), seed=0)
        picture = plot_levels(view, preprocessor.mean, preprocessor.std)
        cv2.imwrite(str(self.work_dir / "canvases.png"), picture[..., ::-1])
        results = {s: self.work_dir / f"{s}_results.segm.json" for s in DETECTORS}
        truth, out = self.data / "annotations/val.json", self.work_dir
        plot_detections(self.data / "val", truth, results, out / "detections.png")

    def logged(self, stage: str, key: str) -> list[float]:
        """What the last run of a training stage logged under ``key``, in order."""
        file = max((self.work_dir / stage).glob("*/vis_data/scalars.json"))
        rows = map(json.loads, file.read_text().splitlines())
        return [row[key] for row in rows if key in row]

    def summary(self) -> dict:
        def last_tenth(key: str) -> float:
            values = self.logged("pretrain", key)
            values = values[-max(1, round(len(values) / 10)) :]
            return sum(values) / len(values)

        return dict(
            pretrain=dict(
                loss_first=self.logged("pretrain", "ce_p5")[0],
                loss_last=last_tenth("ce_p5"),
                top1_p5_last=last_tenth("top1_p5"),
            ),
            detection={
                start: {
                    ap: self.logged(f"finetune_{start}", f"coco/{ap}")[-1]
                    for ap in METRICS
                }
                for start in DETECTORS
            },
            seconds={**self.seconds, "total": round(sum(self.seconds.values()), 1)},
        )

    def run(self) -> dict:
        """All stages; returns what summary.json holds."""
        make_work_dir(self.work_dir)
        self.make_data()
        self.pretrain()
        for start in DETECTORS:
            self.finetune(start)
        self.plot()
        summary = self.summary()
        (self.work_dir / "summary.json").write_text(json.dumps(summary, indent=2))
        (self.work_dir / "report.md").write_text(report(summary["detection"]))
        return summary


def report(detection: dict) -> str:
    """The comparison as Markdown."""
    lines = ["# Quickstart", "", "| start | box AP | mask AP |", "|---|---|---|"]
    for start, ap in detection.items():
        box, mask = (f"{100 * ap[k]:.1f}" for k in METRICS)
        lines.append(f"| {start} | {box} | {mask} |")
    return "\n".join([*lines, "", NOTE, ""])


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cutouts", help="folder of RGBA cut-outs, in class folders")
    parser.add_argument("--work-dir", default=str(ROOT / "work_dirs/quickstart"))
    parser.add_argument("--images", type=int, default=3072, help="to pre-train on")
    parser.add_argument("--scenes", type=int, default=400, help="to fine-tune on")
    parser.add_argument("--val-scenes", type=int, default=100)
    parser.add_argument("--pretrain-iters", type=int, default=400)
    parser.add_argument("--finetune-iters", type=int, default=250)
    return parser.parse_args()


def main() -> None:
    start = Quickstart(parse_args())
    summary = start.run()
    print((start.work_dir / "report.md").read_text())
    if min(ap["bbox_mAP"] for ap in summary["detection"].values()) < LEAST_AP:
        sys.exit(f"error: {NOT_LEARNED}")


if __name__ == "__main__":
    run_cli(main)
