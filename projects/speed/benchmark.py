"""Measure pre-training configs on this machine.

    python -m projects.speed.benchmark step      CONFIG [--variant NAME KEY=VALUE ...]
    python -m projects.speed.benchmark memory    CONFIG [--variant NAME KEY=VALUE ...]
    python -m projects.speed.benchmark count     CONFIG [--variant NAME KEY=VALUE ...]
    python -m projects.speed.benchmark scale     CONFIG [--batches 8 16] [--processes 1]
    python -m projects.speed.benchmark data      CONFIG [--variant ...] [--images DIR]
    python -m projects.speed.benchmark optimizer CONFIG
    python -m projects.speed.benchmark loop      CONFIG [--images DIR] [--iters 30]

Each prints a table and, with --json FILE, writes it with every single measurement.
Several variants are measured in turn, pair by pair, and compared with the first.
KEY=VALUE are options of the config as after --cfg-options, or amp=none|bfloat16|
float16, compile=True, config=OTHER.py, which say how or what to run:

    python -m projects.speed.benchmark step CONFIG --amp none \\
        --variant full model.neck.computation=full --variant selected \\
        --variant selected-bf16 amp=bfloat16
"""

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import DictAction

from mcl.errors import InputError, run_cli

from .count import compare_counts
from .data import compare_data
from .loop import measure_loop
from .memory import compare_memory
from .optimizer import compare_optimizers
from .report import Report, describe_machine
from .scale import measure_scale
from .step import compare_steps
from .variants import AMP, make_variants


def at_least(least: int) -> Callable[[str], int]:
    """A parser of whole numbers from ``least`` on."""

    def whole_number(word: str) -> int:
        if not word.isdecimal() or int(word) < least:
            raise argparse.ArgumentTypeError(f"{word}: give {least} or more")
        return int(word)

    return whole_number


BATCH = at_least(2)  # batch norm needs at least 2 images
# What may be chosen for a measurement, and its arguments.
CHOICES = {
    "--amp": dict(choices=AMP, help="mixed precision, by default the config's"),
    "--device": dict(choices=["cpu", "cuda"], help="by default what is there"),
    "--variant": dict(nargs="+", action="append", metavar=("NAME", "KEY=VALUE")),
}
ARGUMENTS = {
    "--batch": dict(type=BATCH, help="images of a process and iteration (%(default)s)"),
    "--pairs": dict(type=at_least(1), help="measurements of each (%(default)s)"),
    "--images": dict(metavar="DIR", help="folder; by default made-up pictures"),
    "--number": dict(type=at_least(1), help="pictures to make up (%(default)s)"),
    "--iters": dict(type=at_least(3), help="iterations (%(default)s)"),
    "--batches": dict(nargs="+", type=BATCH, help="to try (%(default)s)"),
    "--processes": dict(nargs="+", type=at_least(1), help="to try (%(default)s)"),
}
PICTURES = dict(images=None, number=64)
RANGES = dict(batches=[4, 8, 16, 32], processes=[1, 2])
# Function, choices, and its arguments with their defaults.
COMMANDS = dict(
    step=(compare_steps, "--amp --device --variant", dict(batch=16, pairs=5)),
    memory=(compare_memory, "--amp --device --variant", dict(batch=16)),
    count=(compare_counts, "--variant", dict(batch=128)),
    scale=(measure_scale, "--amp --device", dict(batch=16, **RANGES)),
    data=(compare_data, "--device --variant", dict(batch=32, pairs=5, **PICTURES)),
    optimizer=(compare_optimizers, "--device", dict(pairs=20)),
    loop=(measure_loop, "--amp", dict(batch=None, images=None, iters=30)),
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command, (measure, choices, defaults) in COMMANDS.items():
        text = measure.__doc__.splitlines()[0]
        sub = commands.add_parser(command, help=text, description=text)
        sub.add_argument("config", help="config file of a pre-training")
        sub.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="K=V")
        sub.add_argument("--json", help="file to write all measurements into")
        sub.set_defaults(amp=None, device=None, variant=None)
        for option in choices.split():
            sub.add_argument(option, **CHOICES[option])
        for name, default in defaults.items():
            option = f"--{name}"
            sub.add_argument(option, default=default, **ARGUMENTS[option])
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU here; take --device cpu")
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    measure, _, defaults = COMMANDS[args.command]
    # MMEngine says a lot about building models.
    logging.disable(logging.WARNING)
    try:
        arguments = {name: getattr(args, name) for name in defaults}
        report = measure(make_variants(args), **arguments)
    finally:
        logging.disable(logging.NOTSET)
    machine = describe_machine(args.device)
    print(", ".join(f"{k}: {v}" for k, v in {**machine, **report.facts}.items()))
    print(f"{report.table()}\n{report.note}")
    if args.json:
        write_json(args, machine, report)


def write_json(args: argparse.Namespace, machine: dict, report: Report) -> None:
    found = dict(command=args.command, config=args.config, machine=machine)
    found.update(report.facts, rows=report.rows)
    try:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"--json {args.json}: it cannot be written") from error


if __name__ == "__main__":
    run_cli(main)
