"""The plots beside the README: rows and their units, learning curves."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from .scales import ROWS, SCALES

MAIN = ("random", "mcl", "mocov2", "densecl", "mcl-sup")


def plot_all(results, folder: Path) -> None:
    """Write rows.png and curves.png."""
    for plot in (rows, curves):
        figure = plot(results)
        figure.tight_layout()
        figure.savefig(folder / f"{plot.__name__}.png", dpi=80)


def rows(results) -> Figure:
    """Box AP of every row and scale; a dot is a unit, a bar the mean."""
    figure = Figure(figsize=(11, 4))
    scales = [scale for scale in SCALES if results.units(scale, "random")]
    panels = figure.subplots(1, len(scales), sharey=True)
    for panel, scale in zip(panels, scales, strict=True):
        for place, row in enumerate(ROWS):
            if found := list(results.units(scale, row).values()):
                panel.plot(found, [place] * len(found), "o", color=f"C{place % 10}")
                panel.plot(np.mean(found), place, "k|", markersize=14)
        panel.set(title=scale, xlabel="box AP")
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(ROWS)), [row.title for row in ROWS.values()])
    panels[0].invert_yaxis()
    return figure


def curves(results) -> Figure:
    """MCL's loss over two cycles of pre-training; box AP during fine-tuning."""
    figure = Figure(figsize=(10, 3.5))
    left, right = figure.subplots(1, 2)
    lines = results.read("curves")
    for seed in range(3):
        for k, scale in enumerate(("small-seeds", "small-restart")):
            known = (scale, "mcl", seed)
            run = [x for x in lines if (x["scale"], x["row"], x["seed"]) == known]
            steps = [x["step"] + 1700 * k for x in run]
            left.plot(steps, [x["loss"] for x in run], color=f"C{seed}")
    left.set(xlabel="steps of pre-training, two cycles", ylabel="loss of MCL's three")
    points = results.read("ap_curves")
    for row in MAIN:
        known, found = ("small", row, 100), {}
        for x in points:
            if (x["scale"], x["row"], x["labels"]) == known:
                found.setdefault(x["step"], []).append(100 * x["box_ap"])
        means = [np.mean(aps) for aps in found.values()]
        right.plot(list(found), means, "o-", label=ROWS[row].title)
    right.set(xlabel="steps of fine-tuning, small", ylabel="box AP")
    right.legend(frameon=False)
    return figure
