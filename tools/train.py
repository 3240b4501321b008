"""Train any config of this repository, pre-training or detection.

    python tools/train.py CONFIG [--work-dir DIR] [--resume [CKPT]] [--amp] ...

For several processes see tools/dist_train.sh and tools/slurm_train.sh.
"""

import argparse
import os
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from mcl.checks import check_labels, check_loop, check_paths, make_work_dir
from mcl.config import (
    adapt_to_cpu,
    join_cpu_processes,
    leave_processes,
    merge_options,
    read_config,
    settle_loaders,
    use_mixed_precision,
)
from mcl.engine import LoadReportHook, NonFiniteLossHook
from mcl.errors import InputError, run_cli


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="config file")
    parser.add_argument("--work-dir", help="where logs and checkpoints go")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        help="go on from this checkpoint, or from the latest one in the work dir",
    )
    parser.add_argument(
        "--amp",
        action="store_true",
        help="mixed precision: bfloat16 where the device has it, else float16",
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate by actual / config's batch per iteration",
    )
    parser.add_argument(
        "--allow-partial-load",
        action="store_true",
        help="load what fits of a checkpoint of another architecture",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="read a checkpoint with objects other than tensors, which runs its code",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        help="overrides of the config, such as train_cfg.max_iters=10",
    )
    parser.add_argument(
        "--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none"
    )
    # Launchers of older torch pass it; newer ones set LOCAL_RANK only.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return args


def load_config(args: argparse.Namespace) -> Config:
    """The config with what the command line says of it."""
    cfg = read_config(args.config)
    if args.cfg_options:
        merge_options(cfg, args.cfg_options)
    cfg.launcher = args.launcher
    default = Path("work_dirs") / Path(args.config).stem
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or str(default)
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == "auto" else args.resume
    if args.auto_scale_lr:
        if not cfg.get("auto_scale_lr"):
            raise InputError(
                "--auto-scale-lr: the config has no auto_scale_lr.base_batch_size"
            )
        cfg.auto_scale_lr.enable = True
    if args.amp:
        use_mixed_precision(cfg)
    settle_loaders(cfg)
    if not torch.cuda.is_available():
        change = adapt_to_cpu(cfg)
        if os.environ.get("RANK", "0") == "0":
            print(change, flush=True)
    return cfg


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    check_loop(cfg)
    check_paths(cfg, args.trust)
    check_labels(cfg)
    make_work_dir(cfg.work_dir)
    if not torch.cuda.is_available():
        join_cpu_processes(args.launcher)
    runner = Runner.from_cfg(cfg)
    source = cfg.get("load_from") or f"latest checkpoint in {cfg.work_dir}"
    whole, refuse = bool(cfg.get("resume")), not args.allow_partial_load
    runner.register_hook(LoadReportHook(source, whole, refuse))
    if not any(isinstance(hook, NonFiniteLossHook) for hook in runner.hooks):
        runner.register_hook(NonFiniteLossHook())
    runner.train()
    leave_processes()


if __name__ == "__main__":
    run_cli(main)
