"""Measure pre-training configs on this machine.

    python tools/benchmark.py step      CONFIG [--variant NAME KEY=VALUE ...] ...
    python tools/benchmark.py memory    CONFIG [--variant NAME KEY=VALUE ...] ...
    python tools/benchmark.py count     CONFIG [--variant NAME KEY=VALUE ...] ...
    python tools/benchmark.py scale     CONFIG [--batches 8 16] [--processes 1 2]
    python tools/benchmark.py data      CONFIG [--variant ...] [--images DIR]
    python tools/benchmark.py optimizer CONFIG
    python tools/benchmark.py loop      CONFIG [--images DIR] [--iters 30]

Each prints a table and, with --json FILE, writes it with every single measurement.
Several variants are measured in turn, pair by pair, and compared with the first.
KEY=VALUE are options of the config as after --cfg-options, or amp=none|bfloat16|
float16, compile=True, config=OTHER.py, which say how or what to run:

    python tools/benchmark.py step CONFIG --amp none \\
        --variant full model.neck.computation=full --variant selected \\
        --variant selected-bf16 amp=bfloat16
"""

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from measuring.count import compare_counts
from measuring.data import compare_data
from measuring.loop import measure_loop
from measuring.machine import describe
from measuring.memory import compare_memory
from measuring.optimizer import compare_optimizers
from measuring.report import Report
from measuring.scale import scale
from measuring.step import compare_steps
from measuring.variants import AMP, check_device, make_variants
from mmengine.config import DictAction

from mcl.errors import InputError, run_cli


def run_step(args: argparse.Namespace) -> Report:
    return compare_steps(make_variants(args), args.batch, args.pairs)


def run_memory(args: argparse.Namespace) -> Report:
    return compare_memory(make_variants(args), args.batch)


def run_count(args: argparse.Namespace) -> Report:
    return compare_counts(make_variants(args), args.batch)


def run_scale(args: argparse.Namespace) -> Report:
    variant = make_variants(args)[0]
    return scale(variant, args.batches, args.processes, args.batch)


def run_data(args: argparse.Namespace) -> Report:
    variants = make_variants(args)
    return compare_data(variants, args.images, args.number, args.batch, args.pairs)


def run_optimizer(args: argparse.Namespace) -> Report:
    return compare_optimizers(make_variants(args)[0], args.pairs)


def run_loop(args: argparse.Namespace) -> Report:
    variant = make_variants(args)[0]
    return measure_loop(variant, args.images, args.iters, args.batch)


def add_common(parser: argparse.ArgumentParser, amp: bool) -> None:
    """Arguments of every sub-command."""
    parser.add_argument("config", help="config file of a pre-training")
    parser.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        default=None,
        help="by default what is there",
    )
    parser.add_argument("--json", help="file to write all measurements into")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        help="overrides, for all variants",
    )
    if amp:
        parser.add_argument(
            "--amp",
            choices=AMP,
            default="config",
            help="mixed precision (the config's)",
        )


def add_variants(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--variant",
        nargs="+",
        action="append",
        metavar=("NAME", "KEY=VALUE"),
        help="the config with options, under a name; the first one is the baseline",
    )


def add_compile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compile", action="store_true", help="compile backbone and neck"
    )


def add_number(parser: argparse.ArgumentParser, name: str, default, text: str) -> None:
    shown = f" ({default})" if default is not None else ""
    parser.add_argument(name, type=int, default=default, help=text + shown)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable, text: str, amp: bool = True):
        sub = commands.add_parser(name, help=text, description=text)
        add_common(sub, amp)
        sub.set_defaults(run=run)
        return sub

    step = command("step", run_step, "time of a training step, part by part")
    memory = command("memory", run_memory, "peak memory of a step, and where it goes")
    count = command("count", run_count, "multiply-adds of a step, not computed", False)
    scaled = command("scale", run_scale, "time and memory by batch, levels, processes")
    data = command("data", run_data, "the data pipeline alone, on one thread", False)
    optimizer = command("optimizer", run_optimizer, "LARS and moving average", False)
    loop = command("loop", run_loop, "the training loop: time spent waiting for data")
    for sub in (step, memory, count, data):
        add_variants(sub)
    for sub in (step, memory, scaled):
        add_compile(sub)
    for sub in (step, memory, scaled):
        add_number(sub, "--batch", 16, "images per process")
    add_number(count, "--batch", 128, "images per process")
    add_number(data, "--batch", 32, "images of a batch")
    add_number(loop, "--batch", None, "images per iteration, by default the config's")
    for sub in (step, data):
        add_number(sub, "--pairs", 5, "measurements of each variant")
    add_number(optimizer, "--pairs", 20, "measurements of each")
    scaled.add_argument("--batches", nargs="+", type=int, default=[4, 8, 16, 32])
    scaled.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    for sub in (data, loop):
        sub.add_argument("--images", help="folder; by default drawn pictures")
    add_number(data, "--number", 64, "pictures to draw")
    add_number(loop, "--iters", 30, "iterations")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(args.device)
    # MMEngine says a lot about building models.
    logging.disable(logging.WARNING)
    try:
        report = args.run(args)
    finally:
        logging.disable(logging.NOTSET)
    machine = describe(args.device)
    print(", ".join(f"{k}: {v}" for k, v in {**machine, **report.facts}.items()))
    print(report.table())
    if args.json:
        write(args, machine, report)


def write(args: argparse.Namespace, machine: dict, report: Report) -> None:
    """Write --json.

    Raises:
        InputError: when that cannot be done.
    """
    found = dict(
        command=args.command,
        config=args.config,
        machine=machine,
        **report.facts,
        rows=report.rows,
        notes=list(report.notes),
    )
    try:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"--json {args.json}: it cannot be written ({error})") from (
            error
        )


if __name__ == "__main__":
    run_cli(main)
