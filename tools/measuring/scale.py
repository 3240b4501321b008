"""Time and memory of a step against batch, levels and processes."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from mcl.errors import InputError

from .fresh import run_fresh, run_group
from .memory import MIB, footprint
from .report import Column, Report
from .variants import Variant


def scale(
    variant: Variant,
    batches: Sequence[int],
    processes: Sequence[int],
    batch: int,
) -> Report:
    """Vary one of three and leave the others: all levels, one process, ``batch``.

    Args:
        variant: the config.
        batches: images per process to try.
        processes: numbers of processes to try, ``batch`` images each.
        batch: images where levels and processes are varied.

    Raises:
        InputError: for no processes, or more than there are GPUs.
    """
    if min(processes) < 1:
        raise InputError(f"--processes {min(processes)}: give 1 or more")
    if variant.device == "cuda" and max(processes) > torch.cuda.device_count():
        raise InputError(
            f"--processes {max(processes)}: there are {torch.cuda.device_count()} GPUs"
        )
    ratios = variant.load().model.data_preprocessor.montage.get("ratios", (1, 2, 4, 8))
    names = ["-".join(map(str, ratios[: n + 1])) for n in range(len(ratios))]
    rows = [
        _row(f"batch {b}", names[-1], 1, b, [run_fresh(footprint, variant, b)])
        for b in batches
    ]
    for levels, name in enumerate(names, 1):
        found = run_fresh(footprint, replace(variant, levels=levels), batch)
        rows.append(_row(f"levels {name}", name, 1, batch, [found]))
    for number in processes:
        found = run_group(number, variant.device, footprint, variant, batch, True)
        rows.append(_row(f"processes {number}", names[-1], number, batch, found))
    notes = [
        "batch and peak: of one process; seconds: of the slowest process, the "
        "fastest of its steps; processes 1 is wrapped for several, as the others are"
    ]
    return Report(rows, COLUMNS, notes, dict(batch=batch))


COLUMNS = (
    Column("name", "varied"),
    Column("levels", "levels"),
    Column("processes", "processes"),
    Column("batch", "batch"),
    Column("seconds", "seconds", ".3f"),
    Column("images_per_second", "images/s", ".2f"),
    Column("peak", "peak MiB", ".1f"),
    Column("activations", "activations", ".1f"),
)


def _row(name: str, levels: str, processes: int, batch: int, found: list[dict]) -> dict:
    seconds = max(f["seconds"] for f in found)
    return dict(
        name=name,
        levels=levels,
        processes=processes,
        batch=batch,
        seconds=seconds,
        images_per_second=processes * batch / seconds,
        peak=max(f["peak"] for f in found) / MIB,
        activations=max(f["activations"] for f in found) / MIB,
    )
