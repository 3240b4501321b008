"""See MCL work on this machine: data, pre-training, export, two detectors, report.

    bash tools/quickstart.sh [--cutouts DIR]

Everything comes from installed packages; nothing is downloaded. Results are in
work_dirs/quickstart: summary.json, report.md, canvases.png, detections.png.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
from draw_detections import draw
from mmengine.config import Config

from mcl.picture import draw_levels, first_batch

ROOT = Path(__file__).parents[1]
PRETRAINING = ROOT / "configs/mcl/mcl_resnet18-fpn_1xb64-cpu-coslr_folder.py"
DETECTORS = {
    "mcl": ROOT / "configs/benchmarks/quickstart/mask-rcnn_r18-mcl-pre_fpn_small.py",
    "random": ROOT / "configs/benchmarks/quickstart/mask-rcnn_r18-random_fpn_small.py",
}
# A detector below this box AP has not learned, and no comparison means anything.
LEAST_AP = 0.03
# Threads that wait by spinning take the cores from the loaders' workers.
ENVIRONMENT = dict(OMP_WAIT_POLICY="PASSIVE")
# Pictures that share a ground, as many as a step takes. With own grounds these tell the
# images apart: the cross-entropy falls faster, and the detector learns less from it.
PER_GROUND = 64
SAME_GROUND = ("distinct_folders", "same_names")  # options of ReplayableSampler
# Iterations over which logged figures are means.
WINDOW = 5


class StageFailed(Exception):
    """A stage ended with an error; its log says why."""


class Quickstart:
    """One run; every stage writes below ``work_dir`` and is timed."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.work_dir = Path(args.work_dir).resolve()
        # Other options make another data set, beside this one.
        numbers = (args.images, args.scenes, args.val_scenes)
        source = Path(args.cutouts).name if args.cutouts else "drawn"
        self.data = self.work_dir / "_".join(["data", source, *map(str, numbers)])
        self.export = self.work_dir / "mcl_mask-rcnn.pth"
        self.seconds: dict[str, float] = {}

    def stage(self, name: str, *command, **env) -> None:
        """Run ``python COMMAND``, its output in ``NAME.log``."""
        print(f"{name} ...", end=" ", flush=True)
        start, log = time.time(), self.work_dir / f"{name}.log"
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        with log.open("w") as out:
            done = subprocess.run(
                [sys.executable, *map(str, command)],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**ENVIRONMENT, **os.environ, "PYTHONPATH": paths, **env},
            )
        self.seconds[name] = round(time.time() - start, 1)
        if done.returncode:
            tail = "\n".join(log.read_text().splitlines()[-5:])
            raise StageFailed(f"{name} failed, see {log}:\n{tail}")
        print(f"{self.seconds[name]:.0f} s", flush=True)

    def claim_work_dir(self) -> None:
        """Mark the folder as ours: stages delete what they left there before."""
        mark = self.work_dir / ".quickstart"
        if (
            self.work_dir.exists()
            and any(self.work_dir.iterdir())
            and not mark.exists()
        ):
            raise StageFailed(
                f"--work-dir {self.work_dir}: it holds files that are not the "
                "quickstart's; name a new or an empty folder"
            )
        self.work_dir.mkdir(parents=True, exist_ok=True)
        mark.touch()

    def make_data(self) -> None:
        args = self.args
        numbers = ["--pretrain", args.images, "--train", args.scenes]
        command = [ROOT / "tools/scenes/make_scenes.py", self.data, *numbers]
        command += ["--val", args.val_scenes, "--classes", "one", "--workers", 2]
        command += ["--per-ground", PER_GROUND]
        command += ["--overwrite"]  # a set that an earlier version made
        if args.cutouts:
            command += ["--cutouts", args.cutouts]
        self.stage("data", *command)

    def train(self, name: str, config: Path, iters: int, *overrides: str) -> None:
        shutil.rmtree(self.work_dir / name, ignore_errors=True)
        cosine = [f"param_scheduler.1.{k}={iters}" for k in ("T_max", "end")]
        self.stage(
            name,
            ROOT / "tools/train.py",
            config,
            "--work-dir",
            self.work_dir / name,
            "--cfg-options",
            f"train_cfg.max_iters={iters}",
            f"default_hooks.checkpoint.interval={iters}",
            f"default_hooks.logger.interval={WINDOW}",
            f"log_processor.window_size={WINDOW}",
            *cosine,
            *overrides,
            QUICKSTART_DATA=f"{self.data}/",
        )

    def pretrain(self) -> None:
        images = [
            f"train_dataloader.dataset.dataset.data_root={self.data}/pretrain",
            *(f"train_dataloader.sampler.{k}=True" for k in SAME_GROUND),
        ]
        self.train("pretrain", PRETRAINING, self.args.pretrain_iters, *images)
        self.stage(
            "export",
            ROOT / "tools/export.py",
            self.work_dir / "pretrain" / f"iter_{self.args.pretrain_iters}.pth",
            self.export,
            "--detector",
            DETECTORS["mcl"],
            QUICKSTART_DATA=f"{self.data}/",
        )

    def finetune(self, start: str) -> None:
        iters = self.args.finetune_iters
        overrides = [
            f"train_cfg.val_interval={iters}",
            f"val_evaluator.outfile_prefix={self.work_dir / start}_results",
        ]
        if start == "mcl":
            overrides.append(f"load_from={self.export}")
        self.train(f"finetune_{start}", DETECTORS[start], iters, *overrides)

    def draw_canvases(self) -> None:
        """A canvas of each level, as the loader and the preprocessor make them."""
        cfg = Config.fromfile(PRETRAINING)
        cfg.train_dataloader.dataset.dataset.data_root = f"{self.data}/pretrain"
        (view, _), _, preprocessor = first_batch(cfg, seed=0)
        picture = draw_levels(view, preprocessor.mean, preprocessor.std)
        cv2.imwrite(str(self.work_dir / "canvases.png"), picture[..., ::-1])

    def draw_detections(self) -> None:
        results = {s: f"{self.work_dir / s}_results.segm.json" for s in DETECTORS}
        annotations = self.data / "annotations/val.json"
        out = self.work_dir / "detections.png"
        draw(self.data / "val", annotations, results, out, count=6)

    def rows(self, name: str) -> list[dict]:
        """Everything that a training stage logged, in order."""
        file = max((self.work_dir / name).glob("*/vis_data/scalars.json"))
        return [json.loads(line) for line in file.read_text().splitlines()]

    def summary(self) -> dict:
        logged = [r for r in self.rows("pretrain") if "ce_p5" in r]
        last = logged[-max(1, round(len(logged) / 10)) :]

        def mean(key: str) -> float:
            return sum(r[key] for r in last) / len(last)

        detection = {}
        for start in DETECTORS:
            row = [r for r in self.rows(f"finetune_{start}") if "coco/bbox_mAP" in r][
                -1
            ]
            detection[start] = {k: row[f"coco/{k}"] for k in ("bbox_mAP", "segm_mAP")}
        return dict(
            pretrain=dict(
                loss_first=logged[0]["ce_p5"],
                loss_last=mean("ce_p5"),
                top1_p5_last=mean("top1_p5"),
            ),
            detection=detection,
            seconds={**self.seconds, "total": round(sum(self.seconds.values()), 1)},
        )

    def run(self) -> dict:
        self.claim_work_dir()
        self.make_data()
        self.pretrain()
        self.draw_canvases()
        for start in DETECTORS:
            self.finetune(start)
        self.draw_detections()
        summary = self.summary()
        (self.work_dir / "summary.json").write_text(json.dumps(summary, indent=2))
        card = json.loads((self.data / "card.json").read_text())
        report = write_report(summary, card, self.args)
        (self.work_dir / "report.md").write_text(report)
        return summary


def write_report(summary: dict, card: dict, args: argparse.Namespace) -> str:
    """The result in words; says what happened, whichever start was better."""
    pre, det = summary["pretrain"], summary["detection"]
    rows = [
        f"| {start} | {100 * ap['bbox_mAP']:.1f} | {100 * ap['segm_mAP']:.1f} |"
        for start, ap in det.items()
    ]
    return "\n".join(
        [
            "# Quickstart",
            "",
            f"Pre-training: {args.pretrain_iters} steps of 64 images out of "
            f"{args.images}, {PER_GROUND} on each ground. Cross-entropy of images "
            f"alone (P5) {pre['loss_first']:.3f} at first, {pre['loss_last']:.3f} over "
            f"the last tenth; the right image is nearest for "
            f"{100 * pre['top1_p5_last']:.0f} %.",
            "",
            f"Mask R-CNN, {args.finetune_iters} steps of 8 scenes, same seed and "
            "schedule, from exported MCL weights and from random ones:",
            "",
            "| start | box AP | mask AP |",
            "|---|---|---|",
            *rows,
            "",
            verdict(det),
            "",
            f"One seed; {args.val_scenes} validation scenes of one class. "
            f"{card['reuse']} This shows that the pipeline works, not how much the "
            "method gains.",
            "",
            f"Seconds: {summary['seconds']}. Pictures: canvases.png, detections.png.",
            "",
        ]
    )


def verdict(detection: dict) -> str:
    """Which start was better, or that a detector did not learn."""
    mcl, random = (detection[s]["bbox_mAP"] for s in ("mcl", "random"))
    if not_learned(detection):
        return (
            f"A detector did not learn (box AP under {100 * LEAST_AP:.0f}): the "
            "comparison means nothing."
        )
    if abs(mcl - random) < 0.005:
        return "Neither start was better: the box APs differ by less than 0.5."
    better, by = ("MCL" if mcl > random else "random"), 100 * abs(mcl - random)
    return f"The {better} start was better, by {by:.1f} box AP."


def not_learned(detection: dict) -> bool:
    return min(d["bbox_mAP"] for d in detection.values()) < LEAST_AP


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
    try:
        summary = start.run()
    except StageFailed as error:
        sys.exit(f"\nerror: {error}")
    print((start.work_dir / "report.md").read_text())
    if not_learned(summary["detection"]):
        sys.exit("error: a detector did not learn; see report.md")


if __name__ == "__main__":
    main()
