"""The plots of the replication's document. The file names begin with the scale's."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from collected import LABELS, Scale
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from spread import mean
from titles import NAMES, TITLES
from wording import share

matplotlib.use("Agg")

DPI = 90
STARTS = ("random", "mcl", "mocov2", "densecl", "byol", "sup", "mcl-sup")
# Lines of AP against length: title, and rows from the shortest to the longest.
LENGTHS = (
    ("MCL", ("random", "mcl-quarter", "mcl")),
    ("MoCo v2", ("random", "mocov2-quarter", "mocov2")),
)
SCENES, COLUMNS = 4, 5  # of the detections, at most
OVERLAP = 0.5
# What a detection meets: its label, colour and line.
MEETINGS = {
    "hit": ("detection of an object, of its class", "tab:green", "-"),
    "place": ("of an object, but another class or again", "tab:orange", "-"),
    "miss": ("detection of no object", "tab:red", "--"),
}
# Strong colours first, their pale partners for the rows after them.
COLOURS = plt.get_cmap("tab20").colors[::2] + plt.get_cmap("tab20").colors[1::2]
Box = Sequence[float]


class Plot(NamedTuple):
    """A plot that can be drawn from what there is.

    Attributes:
        file: name of the PNG.
        title: what it shows, in one sentence.
    """

    file: str
    title: str


def colour(row: str) -> tuple:
    """The same for a row in every plot."""
    return COLOURS[NAMES.index(row) % len(COLOURS)]


def figure(width: float, height: float, columns: int = 1, rows: int = 1):
    """A figure and its axes, as a list."""
    made, axes = plt.subplots(
        rows, columns, figsize=(width, height), squeeze=False, layout="constrained"
    )
    return made, list(axes.flat)


def save(made, file: Path) -> None:
    made.savefig(file, dpi=DPI)
    plt.close(made)


def rows_with(scale: Scale, labels: int) -> list[str]:
    return [row for row in NAMES if scale.values(row, labels)]


def has_points(scale: Scale) -> bool:
    return any(rows_with(scale, labels) for labels in LABELS)


def draw_points(scale: Scale, file: Path) -> None:
    """Box AP of every row: bars of the mean, a dot for each seed."""
    rows = [row for row in NAMES if any(scale.values(row, n) for n in LABELS)]
    parts = scale.labels
    made, axes = figure(2 + 3.5 * len(parts), 1.2 + 0.32 * len(rows), len(parts))
    for axis, labels in zip(axes, parts, strict=True):
        for place, row in enumerate(rows):
            values = [100 * v for v in scale.values(row, labels).values()]
            if values:
                axis.barh(place, mean(values), color=colour(row), alpha=0.5)
                axis.plot(values, [place] * len(values), "o", c="black", ms=4)
        axis.set(title=share(labels), xlabel="box AP")
        axis.set_yticks(range(len(rows)), [TITLES[row] for row in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
    for axis in axes[1:]:
        axis.set_yticklabels([])
    save(made, file)


def learning(scale: Scale, row: str, labels: int) -> list[tuple[int, list[float]]]:
    """Box AP of all seeds at the steps where each was evaluated."""
    curves = [
        {point["step"]: point["bbox"] for point in run["curve"]}
        for run in scale.runs(row, labels)
        if run.get("curve")
    ]
    steps = set.intersection(*map(set, curves)) if curves else set()
    return [(step, [100 * c[step] for c in curves]) for step in sorted(steps)]


def with_curves(scale: Scale) -> list[int]:
    """Parts of the labels with which rows were evaluated on the way."""
    return [
        labels
        for labels in LABELS
        if any(len(learning(scale, row, labels)) > 1 for row in STARTS)
    ]


def has_curves(scale: Scale) -> bool:
    return bool(with_curves(scale))


def draw_curves(scale: Scale, file: Path) -> None:
    """Box AP during fine-tuning: mean of the seeds, lowest to highest shaded."""
    parts = with_curves(scale)
    made, axes = figure(1 + 4 * len(parts), 3.6, len(parts))
    for axis, labels in zip(axes, parts, strict=True):
        for row in STARTS:
            points = learning(scale, row, labels)
            if points:
                steps, values = zip(*points, strict=True)
                means = [mean(v) for v in values]
                axis.plot(steps, means, label=TITLES[row], color=colour(row))
                ends = [min(v) for v in values], [max(v) for v in values]
                axis.fill_between(steps, *ends, color=colour(row), alpha=0.2, lw=0)
        axis.set(title=share(labels), xlabel="step of fine-tuning", ylabel="box AP")
        axis.legend(fontsize=8)
    save(made, file)


def by_length(
    scale: Scale, rows: Sequence[str], labels: int
) -> list[tuple[int, list[float]]]:
    """Steps of pre-training and box AP of the seeds, of the rows that were run."""
    steps = {row: scale.pretraining(row).get("steps") for row in rows} | {"random": 0}
    return [
        (steps[row], [100 * v for v in scale.values(row, labels).values()])
        for row in rows
        if scale.values(row, labels) and steps[row] is not None
    ]


def has_lengths(scale: Scale) -> bool:
    """Whether a length in between was run: two ends say nothing about a curve."""
    return any(
        len(by_length(scale, rows, labels)) > 2
        for _, rows in LENGTHS
        for labels in LABELS
    )


def draw_lengths(scale: Scale, file: Path) -> None:
    """Box AP against the length of pre-training; no step is the random start."""
    made, axes = figure(9, 3.4, len(LABELS))
    for axis, labels in zip(axes, LABELS, strict=True):
        for title, rows in LENGTHS:
            points = by_length(scale, rows, labels)
            if len(points) > 1:
                steps, values = zip(*points, strict=True)
                tone = colour(rows[-1])
                axis.plot(steps, [mean(v) for v in values], color=tone, label=title)
                for step, seeds in points:
                    axis.plot([step] * len(seeds), seeds, "o", ms=4, color=tone)
        axis.set(title=share(labels), xlabel="steps of pre-training", ylabel="box AP")
        if axis.lines:
            axis.legend(fontsize=8)
    save(made, file)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, each x, y, width, height first."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    union = a[2] * a[3] + b[2] * b[3] - both
    return both / union if union else 0.0


def match(found: Sequence[Box], truth: Sequence[Box]) -> list[tuple[Box, str]]:
    """The best detections, as many as objects, and what each of them meets.

    Args:
        found: x, y, width, height, score, category.
        truth: x, y, width, height, category. Each is hit once, by the detection of
            its category with the highest score among those that overlap enough.

    Returns:
        Detections, best first, each with one of ``MEETINGS``.
    """
    free, matched = list(truth), []
    for box in sorted(found, key=lambda b: -b[4])[: len(truth)]:
        fitting = [t for t in free if t[4] == box[5] and overlap(box, t) >= OVERLAP]
        if fitting:
            free.remove(max(fitting, key=lambda t: overlap(box, t)))
        placed = any(overlap(box, t) >= OVERLAP for t in truth)
        matched.append((box, "hit" if fitting else "place" if placed else "miss"))
    return matched


def examples(scale: Scale) -> tuple[dict[int, list], dict[str, dict[int, list]]]:
    """Objects of the scenes to draw, and each row's detections in them."""
    truth = {e["image_id"]: e["boxes"] for e in scale.data.get("examples") or []}
    found = {}
    for row in (*STARTS, *(n for n in NAMES if n not in STARTS)):
        runs = [r for r in scale.runs(row, LABELS[0]) if r.get("examples")]
        if runs and len(found) < COLUMNS:
            found[row] = {e["image_id"]: e["boxes"] for e in runs[0]["examples"]}
    shared = [i for i in truth if all(i in boxes for boxes in found.values())]
    return {i: truth[i] for i in shared[:SCENES]}, found


def has_examples(scale: Scale) -> bool:
    return all(examples(scale))


def draw_examples(scale: Scale, file: Path) -> None:
    """Scenes below each other, rows beside each other, boxes only."""
    truth, found = examples(scale)
    made, axes = figure(2 * len(found), 2 * len(truth) + 0.7, len(found), len(truth))
    places = [(i, row) for i in truth for row in found]
    for axis, (image, row) in zip(axes, places, strict=True):
        draw_scene(axis, scale.data["scene_size"], truth[image], found[row][image])
    for axis, row in zip(axes, found, strict=False):
        axis.set_title(TITLES[row], fontsize=9)
    lines = [Line2D([], [], color="0.6", lw=3, label="object")]
    lines += [
        Line2D([], [], color=tone, ls=style, label=label)
        for label, tone, style in MEETINGS.values()
    ]
    made.legend(handles=lines, loc="outside lower center", ncols=2, fontsize=8)
    save(made, file)


def draw_scene(axis: Axes, side: int, truth: list, found: list) -> None:
    """Objects and detections of a scene of ``side`` pixels."""
    axis.set(xlim=(0, side), ylim=(side, 0), xticks=[], yticks=[], aspect="equal")
    for x, y, width, height, _ in truth:
        grey = dict(edgecolor="0.6", linewidth=3)
        axis.add_patch(Rectangle((x, y), width, height, fill=False, **grey))
    for (x, y, width, height, *_), meeting in match(found, truth):
        _, tone, line = MEETINGS[meeting]
        style = dict(edgecolor=tone, linestyle=line)
        axis.add_patch(Rectangle((x, y), width, height, fill=False, **style))


PLOTS = {
    "rows": (
        has_points,
        draw_points,
        "Box AP by start; each dot is a seed, of several pre-trainings the mean of its "
        "fine-tunings.",
    ),
    "curves": (
        has_curves,
        draw_curves,
        "Box AP during fine-tuning of the main starts: mean of the seeds, lowest to "
        "highest shaded.",
    ),
    "length": (
        has_lengths,
        draw_lengths,
        "Box AP by steps of pre-training, of which the random start has 0. Dots are "
        "seeds. A quarter of the steps may have another learning rate, see above.",
    ),
    "detections": (
        has_examples,
        draw_examples,
        "As many detections as there are objects, those of the highest scores, of the "
        "lowest seed with all labels. An object is met with an IoU of "
        f"{OVERLAP:g} or more.",
    ),
}


def plots_of(scale: Scale) -> dict[str, Plot]:
    """The plots that the results allow, by kind."""
    return {
        kind: Plot(f"{scale.name}-{kind}.png", title)
        for kind, (possible, _, title) in PLOTS.items()
        if possible(scale)
    }


def draw_all(scale: Scale, folder: Path) -> None:
    """Write the plots of a scale into ``folder``, and remove those it had before."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in PLOTS:
        (folder / f"{scale.name}-{kind}.png").unlink(missing_ok=True)
    for kind, plot in plots_of(scale).items():
        PLOTS[kind][1](scale, folder / plot.file)
