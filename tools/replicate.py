"""Does MCL pre-training make a better detector? Run a small-scale replication.

    python tools/replicate.py SCALE [--rows NAME ...] [--root DIR] [--jobs N]
    python tools/replicate.py small --report

Makes the data set from installed Debian packages (see tools/replication/materials.py;
--root: where they were unpacked), then row by row: searches the learning rate,
pre-trains, fine-tunes Mask R-CNN with all and 10 % of the labels, three seeds each. Of
the scales small is for two CPU cores and medium for one GPU; small-seeds pre-trains
some of small's rows three times, at given rates, and fine-tunes three times from each,
with all labels; small-longer does so for twice the steps. Where the work directory
small-longer/ is a copy of small-seeds/, it pre-trains none of them again. small-restart
adds a second cycle to each pre-training; in a copy of small-longer/ the first cycles
are there.

It may be killed at any time; the same command goes on. A finished row's figures are in
docs/replication/results/SCALE/ROW.json, and a row that has such a file is skipped.
docs/replication.md is written from these files after every row, or with --report.
"""

import argparse
import fcntl
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import torch
from measuring.machine import describe
from mmengine.logging import MMLogger
from replication.plan import fingerprint, plan, row_result, row_stages
from replication.rows import DATA_VARIABLE, ROOT, ROWS, SCALES, data_digest
from replication.schedule import run_stages
from replication.stages import Study

from mcl.errors import InputError, run_cli

RESULTS = ROOT / "docs/replication/results"
EXAMPLES = 6  # scenes whose true boxes are kept
FORMAT = 1


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scale", choices=list(SCALES))
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=list(ROWS),
        metavar="NAME",
        help=f"of {', '.join(ROWS)}; by default all of the scale",
    )
    parser.add_argument(
        "--root", type=Path, default=Path("/"), help="where the packages were unpacked"
    )
    parser.add_argument(
        "--jobs", type=int, help="stages at a time; by default one a core, or one a GPU"
    )
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=ROOT / "work_dirs/replication",
        help="for data, checkpoints and logs (default %(default)s)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        help="for figures (default %(default)s)",
    )
    parser.add_argument("--report", action="store_true", help="write the document only")
    args = parser.parse_args()
    planned = SCALES[args.scale].rows
    args.rows = args.rows or list(planned)
    if strange := [name for name in args.rows if name not in planned]:
        raise InputError(
            f"--rows {strange[0]}: {args.scale} has no such row; its rows are "
            f"{', '.join(planned)}"
        )
    if args.jobs is not None and args.jobs < 1:
        raise InputError(f"--jobs {args.jobs}: give 1 or more")
    args.results = args.results.resolve()
    if args.report and args.results != RESULTS:
        raise InputError(
            f"--results {args.results}: the project's document is of its own results; "
            "use tools/replication/report.py --results DIR --out FILE"
        )
    return args


def main() -> None:
    args = parse_args()
    # Reading a config logs a line for every variable in it.
    MMLogger.get_instance("replicate", log_level="WARNING")
    if args.report:
        return write_report(args)
    # Stages share a GPU badly: one after the other there.
    jobs = args.jobs or (1 if torch.cuda.is_available() else cores())
    work = (args.work_dir / args.scale).resolve()
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock, in_words():
        take(lock, work)
        threads = max(1, cores() // jobs)
        study = Study(SCALES[args.scale], work, threads, lock.fileno())
        os.environ[DATA_VARIABLE] = f"{study.data}/"
        run_rows(study, args, jobs)


@contextmanager
def in_words() -> Iterator[None]:
    """End an interrupted run without a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        raise InputError("stopped; the same command goes on from here") from None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def take(lock: TextIO, work: Path) -> None:
    """Have the work directory for this process and its commands alone."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InputError(
            f"--work-dir {work}: another replication, or a command that one started, "
            "is at work there; wait for it or end it"
        ) from error


def run_rows(study: Study, args: argparse.Namespace, jobs: int) -> None:
    """Run the rows that have no result yet; write each result when it is complete."""
    folder = args.results / args.scale
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for name in args.rows:
        if (folder / f"{name}.json").is_file():
            print(f"{name}: skipped, {folder / name}.json is there", flush=True)
            note_other_settings(folder / f"{name}.json", name, study)
        else:
            names.append(name)
    if not names:
        return write_report(args)
    stages = plan(study, names, args.root)
    run_stages(study, stages[:1], 1)
    keep_data(study, folder)
    unfinished = {name: row_stages(study, name) for name in names}

    def keep_rows() -> None:
        for name in list(unfinished):
            if all(study.is_done(stage) for stage in unfinished[name]):
                del unfinished[name]
                write_row(study, args.scale, name, folder, jobs)
                write_report(args)

    keep_rows()
    run_stages(study, stages, jobs, keep_rows)


def note_other_settings(file: Path, name: str, study: Study) -> None:
    """Say when a result was made with settings that are no more."""
    if json.loads(file.read_text())["config_sha256"] != fingerprint(study, name):
        print(f"  its settings were others; delete {file} to run it again", flush=True)


def keep_data(study: Study, folder: Path) -> None:
    """Keep the data set's card beside the results.

    Raises:
        InputError: when the results there are of other images.
    """
    card, file = study.result("prepare"), folder / "data.json"
    for name in ("key", "stage_seconds"):
        card.pop(name)
    if file.is_file():
        if json.loads(file.read_text())["card"]["sha256"] != card["sha256"]:
            raise InputError(
                f"{file}: the results there are of other images than "
                f"{study.data}, other versions of NumPy, OpenCV or Pillow perhaps; "
                "install those that the file names, or give another --results"
            )
        return
    truth = json.loads((study.data / "annotations/val.json").read_text())
    examples = [
        dict(
            image_id=image["id"],
            boxes=[
                [*note["bbox"], note["category_id"]]
                for note in truth["annotations"]
                if note["image_id"] == image["id"]
            ],
        )
        for image in truth["images"][:EXAMPLES]
    ]
    size = study.scale.data["scene_size"]
    content = dict(card=card, scene_size=size, examples=examples)
    write_whole(file, content)


def write_whole(file: Path, content: dict) -> None:
    """Write a JSON file in one step: a killed run leaves none, or a whole one."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(file)


def write_row(study: Study, scale: str, name: str, folder: Path, jobs: int) -> None:
    """Write a finished row's figures."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = describe(device)
    machine = dict(
        cpu=found["cpu"],
        cpu_flags=found["cpu_flags"],
        cores=cores(),
        gpu=found.get("gpu"),
        torch=found["torch"],
        python=platform.python_version(),
        jobs=jobs,
        threads=study.threads,
    )
    content = dict(
        format=FORMAT,
        row=name,
        scale=scale,
        config_sha256=fingerprint(study, name),
        data_sha256=data_digest(study.result("prepare")["sha256"]),
        machine=machine,
        **row_result(study, name),
    )
    write_whole(folder / f"{name}.json", content)
    print(f"{name}: written to {folder / name}.json", flush=True)


def write_report(args: argparse.Namespace) -> None:
    """Build the document and its plots from the results."""
    if args.results != RESULTS:
        print(
            f"{args.results}: no document is made of other results than the project's"
        )
        return
    script = ROOT / "tools/replication/report.py"
    if subprocess.run([sys.executable, str(script)]).returncode:
        raise InputError(f"{script} failed; its message is above")


if __name__ == "__main__":
    run_cli(main)
