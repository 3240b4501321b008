"""Time and memory of a step against batch, levels and processes."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from mcl.errors import InputError
from mcl.models.parts import share_model

from .memory import MIB, measure
from .report import Report
from .variants import Variant


def measure_scale(
    variants: Sequence[Variant],
    batch: int,
    batches: Sequence[int],
    processes: Sequence[int],
) -> Report:
    """Time and memory of a step by batch, levels and processes, one varied at a time.

    Args:
        variants: one.
        batch: images per process where levels or processes are varied.
        batches: images per process to try.
        processes: numbers of processes to try, ``batch`` images each.

    Raises:
        InputError: for more processes than there are GPUs.
    """
    (variant,) = variants
    if variant.device == "cuda" and max(processes) > torch.cuda.device_count():
        raise InputError(
            f"--processes {max(processes)}: there are {torch.cuda.device_count()} GPUs"
        )
    parts = first_levels(variant)
    *_, every = parts
    rows = [_row(f"batch {n}", every, 0, n, variant) for n in batches]
    rows += [_row(f"levels {name}", name, 0, batch, v) for name, v in parts.items()]
    rows += [_row(f"processes {n}", every, n, batch, variant) for n in processes]
    return Report(rows, COLUMNS, NOTE, dict(batch=batch))


def first_levels(variant: Variant) -> dict[str, Variant]:
    """The variant with its first level, its first two and so on, by their ratios."""
    model = variant.load().model
    ratios = share_model(model)["data_preprocessor"]["montage"]["ratios"]
    place = "model.head.loss" if model.type == "MCL" else "model.head"
    loss = model.head.get("loss", {}) if model.type == "MCL" else model.head
    weights = loss.get("level_weights", (1 / 2, 1 / 4, 1 / 8, 1 / 8))
    found = {}
    for n in range(1, len(ratios) + 1):
        changed = {"model.ratios": ratios[:n], f"{place}.level_weights": weights[:n]}
        options = {**variant.options, **changed}
        found["-".join(map(str, ratios[:n]))] = replace(variant, options=options)
    return found


def _row(name: str, levels: str, processes: int, batch: int, variant: Variant) -> dict:
    found = measure(variant, batch, processes)
    number = processes or 1
    seconds = max(f["seconds"] for f in found)
    return dict(
        name=name,
        levels=levels,
        processes=number,
        batch=batch,
        seconds=seconds,
        images_per_second=number * batch / seconds,
        peak=max(f["peak"] for f in found) / MIB,
        activations=max(f["activations"] for f in found) / MIB,
    )


COLUMNS = dict.fromkeys(("name", "levels", "processes", "batch"), "")
COLUMNS |= dict(seconds=".3f", images_per_second=".2f", peak=".1f", activations=".1f")
NOTE = """batch, peak and activations (MiB): of one process; seconds: of the slowest
process, its fastest step; processes 1 is wrapped for several, as the others are"""
