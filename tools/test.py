"""Evaluate a detector: python tools/test.py CONFIG CKPT [--work-dir DIR]"""

import argparse
from pathlib import Path

import torch
from mmengine.config import DictAction
from mmengine.runner import Runner

from mcl.checks import check_paths, make_work_dir
from mcl.config import (
    adapt_to_cpu,
    join_cpu_processes,
    leave_processes,
    merge_options,
    read_config,
    settle_loaders,
)
from mcl.engine import LoadReportHook
from mcl.errors import InputError, run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--work-dir", help="where the log goes")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="read a checkpoint with objects other than tensors, which runs its code",
    )
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    parser.add_argument(
        "--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none"
    )
    args = parser.parse_args()
    cfg = read_config(args.config)
    if args.cfg_options:
        merge_options(cfg, args.cfg_options)
    settle_loaders(cfg)
    cfg.launcher = args.launcher
    cfg.load_from = args.checkpoint
    cfg.work_dir = args.work_dir or str(Path("work_dirs") / Path(args.config).stem)
    if not cfg.get("test_evaluator"):
        raise InputError(
            f"config {args.config}: it has no test_evaluator; give a detector's config"
        )
    check_paths(cfg, args.trust)
    if not torch.cuda.is_available():
        print(adapt_to_cpu(cfg), flush=True)
        join_cpu_processes(args.launcher)
    make_work_dir(cfg.work_dir)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(LoadReportHook(args.checkpoint, whole=True))
    runner.test()
    leave_processes()


if __name__ == "__main__":
    run_cli(main)
