"""Functions in processes of their own, whose memory nothing else has used."""

import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch


def run_fresh(function: Callable, *args) -> Any:
    """What a function of this package returns in a new process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *args).result()


def run_group(number: int, device: str, function: Callable, *args) -> list[Any]:
    """What a function returns in each of ``number`` new processes that form a group.

    On a CPU they share this process' threads; on CUDA each has a device.
    """
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // number)
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(number, context) as pool,
    ):
        where = f"file://{Path(folder) / 'store'}"
        futures = [
            pool.submit(_join, where, rank, number, device, threads, function, args)
            for rank in range(number)
        ]
        return [future.result() for future in futures]


def _join(
    where: str,
    rank: int,
    number: int,
    device: str,
    threads: int,
    function: Callable,
    args: tuple,
) -> Any:
    torch.set_num_threads(threads)
    if device == "cuda":
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=where,
        rank=rank,
        world_size=number,
    )
    try:
        return function(*args)
    finally:
        torch.distributed.destroy_process_group()
