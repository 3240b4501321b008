"""This machine: its name, the peak of its matrix product, one thread for a while."""

import platform
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import cv2
import torch

# Sides of the square matrices whose product stands for the peak.
MATMUL_SIDE = dict(cpu=2048, cuda=8192)
MATMUL_TRIES = 10
# Instructions that multiply in half precision.
CPU_FLAGS = ("amx_bf16", "avx512_bf16", "avx512_fp16", "avx512f", "avx2")


def synchronize(device: str) -> None:
    """Wait for what an accelerator has been given to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def describe(device: str) -> dict:
    """Name of the device, versions and threads."""
    name, flags = _cpu()
    found = dict(device=device, cpu=name, cpu_flags=flags)
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
    found.update(torch=torch.__version__, threads=torch.get_num_threads())
    return found


def _cpu() -> tuple[str, str]:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine(), ""
    fields = {}
    for line in info.read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", "").split()
    name = fields.get("model name", platform.machine())
    return name, " ".join(flag for flag in CPU_FLAGS if flag in flags)


@cache
def matmul_peak(device: str, dtype: str) -> float:
    """FLOP/s, a multiply-add being two, of a large matrix product.

    The median of some tries after a first one that does not count.

    Args:
        device: ``cpu`` or ``cuda``.
        dtype: name of a torch dtype, such as ``bfloat16``.
    """
    side = MATMUL_SIDE[device]
    a, b = (
        torch.randn(side, side, device=device).to(getattr(torch, dtype))
        for _ in range(2)
    )
    seconds = []
    for _ in range(MATMUL_TRIES + 1):
        synchronize(device)
        start = time.perf_counter()
        a @ b
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / statistics.median(seconds[1:])


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch and OpenCV inside; the former numbers after it."""
    torch_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv2_threads)
