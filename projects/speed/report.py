"""Compare measurements taken in turn, lay them out as a table, name the machine."""

import platform
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

# CPU instructions that multiply in half precision, or many numbers at once.
CPU_FLAGS = ("amx_bf16", "avx512_bf16", "avx512_fp16", "avx512f", "avx2")
# Columns of every comparison in turn.
RATIO = dict(ratio=".2f", min=".2f", max=".2f")


class Report(NamedTuple):
    """What a measurement found.

    Attributes:
        rows: one for each line of the table. Keys that are no column go to the json.
        columns: key of a row and format of its value; the key is the heading.
        note: what the columns mean.
        facts: of the whole measurement, such as the batch size.
    """

    rows: Sequence[Mapping[str, Any]]
    columns: Mapping[str, str]
    note: str
    facts: Mapping[str, Any]

    def table(self) -> str:
        """The rows in columns, the first to the left and the others to the right."""
        lines = [[key.replace("_", " ") for key in self.columns]]
        for row in self.rows:
            lines.append([format(row[key], f) for key, f in self.columns.items()])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        cells = [
            [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]
            for line in lines
        ]
        return "\n".join("  ".join(line) for line in cells)


def compare(
    measured: Mapping[str, Callable[[], dict[str, float]]], pairs: int
) -> list[dict[str, Any]]:
    """Measure each thing in turn, ``pairs`` times, so that a slow minute hits all.

    Args:
        measured: name to a function that returns the seconds of its parts.
        pairs: measurements of each.

    Returns:
        A row for each: ``name``; the parts and their ``total`` of the measurement whose
        total is the median; ``ratio``, the first row's total by this one's, median of
        the pairs, with its ``min`` and ``max``; ``seconds``, all measurements.
    """
    seconds: dict[str, list[dict]] = {name: [] for name in measured}
    for _ in range(pairs):
        for name, measure in measured.items():
            parts = measure()
            seconds[name].append(dict(parts, total=sum(parts.values())))
    first = next(iter(seconds.values()))
    rows = []
    for name, found in seconds.items():
        middle = sorted(found, key=lambda s: s["total"])[(pairs - 1) // 2]
        ratios = [a["total"] / b["total"] for a, b in zip(first, found, strict=True)]
        spread = dict(ratio=statistics.median(ratios), min=min(ratios), max=max(ratios))
        rows.append(dict(name=name, **middle, **spread, seconds=found))
    return rows


def synchronize(device: str) -> None:
    """Wait for what an accelerator has been given to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def describe_machine(device: str) -> dict[str, Any]:
    """Name of the device, version of torch, number of threads."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    name = re.search(r"^model name\s*: (.*)", text, re.MULTILINE)
    flags = re.search(r"^flags\s*: (.*)", text, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    found = dict(device=device, cpu=name[1] if name else platform.machine())
    found["cpu_flags"] = " ".join(flag for flag in CPU_FLAGS if flag in known)
    if device == "cuda":
        found.update(gpu=torch.cuda.get_device_name(), cuda=torch.version.cuda)
    return dict(found, torch=torch.__version__, threads=torch.get_num_threads())
