"""Compare detectors fine-tuned from different weights, by the logs of their runs.

    python tools/compare.py mcl=work_dirs/a random=work_dirs/b [--metric bbox_mAP]

A RUN is the work directory of an MMEngine run, or one of its JSON logs. The last
evaluations are printed as a table; compare.png and compare.csv go to --out.
"""

import argparse
import csv
import math
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mcl.errors import InputError, run_cli
from mcl.run_logs import Run, parts, read_run, share_unit

matplotlib.use("Agg")

KINDS = {"bbox": "box", "segm": "mask"}
SIZES = {"APs": "small", "APm": "medium", "APl": "large"}
COLUMNS = ("AP", "AP50", "AP75", *SIZES, "APr", "APc", "APf")
# Okabe and Ito's colors without yellow, which is faint on white. One marker more
# than colors: a pair comes again after 56 runs only.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^DvPX*"


def read_runs(words: list[str]) -> list[Run]:
    """The runs of ``RUN`` or ``NAME=RUN`` words, in the order given.

    Raises:
        InputError: two runs have one name, or a run cannot be read.
    """
    paths = {}
    for word in words:
        name, equals, place = word.partition("=")
        if not equals or Path(word).exists():
            name, place = default_name(Path(word).resolve()), word
        if not name or not place:
            raise InputError(f"run {word!r}: give RUN or NAME=RUN")
        if name in paths:
            raise InputError(
                f"run {name}: {paths[name]} and {place} have the same name; give "
                "NAME=RUN"
            )
        paths[name] = place
    return share_unit([read_run(name, Path(path)) for name, path in paths.items()])


def default_name(path: Path) -> str:
    """The work directory's name, also of WORK_DIR/TIMESTAMP/vis_data/LOG.json."""
    if path.suffix == ".json" and path.parent.name == "vis_data":
        return path.parents[2].name
    return path.name


def choose_metric(runs: list[Run], wanted: str | None) -> str:
    """The name of the AP to plot: ``wanted``, or the box AP, or what there is.

    Raises:
        InputError: the runs lack it, or share none.
    """
    shared = [m for m in runs[0].metrics() if all(m in r.metrics() for r in runs)]
    if not shared:
        held = "; ".join(f"{r.name} has {', '.join(r.metrics())}" for r in runs)
        raise InputError(
            f"the runs share no metric: {held}; compare runs of one evaluator"
        )
    if wanted is None:
        return min(shared, key=lambda m: (parts(m)[2] != "AP", parts(m)[1] != "bbox"))
    found = [m for m in shared if wanted in (m, m.rpartition("/")[2])]
    if len(found) != 1:
        raise InputError(f"--metric {wanted}: give one of {', '.join(shared)}")
    return found[0]


def families(runs: list[Run], metric: str) -> list[tuple[str, str]]:
    """Prefix and kind of the boxes and, if any run has them, of the masks."""
    held = {parts(m)[:2] for run in runs for m in run.metrics()}
    pairs = [(parts(metric)[0], kind) for kind in KINDS]
    return [pair for pair in pairs if pair in held]


def lay_out(rows: list[list[str]]) -> list[str]:
    """Rows as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in rows
    ]


def best_before_last(run: Run, family: tuple[str, str], column: str) -> str:
    """The best value and its step, where the last evaluation is not as good."""
    values = run.values(family, column)
    best = max(values, key=lambda step: (values[step], step), default=None)
    if best is None or best == max(run.log.evaluations):
        return ""
    return f"{values[best]:.1f} at {best}"


def table(runs: list[Run], family: tuple[str, str], column: str) -> list[str]:
    """Lines of the last evaluations and of their differences to the first run."""
    held = {parts(m) for run in runs for m in run.metrics()}
    shown = [c for c in COLUMNS if (*family, c) in held]
    title = f"{KINDS[family[1]]} ({'/'.join(filter(None, family))})"
    best = [best_before_last(run, family, column) for run in runs]
    rows = [[title, runs[0].log.unit, *shown, f"best {column}" if any(best) else ""]]
    for run, better in zip(runs, best, strict=True):
        cells = [run.last(family, c) for c in shown]
        cells = ["-" if cell is None else f"{cell:.1f}" for cell in cells]
        rows.append([run.name, str(max(run.log.evaluations)), *cells, better])
    if len(runs) > 1:
        rows += [[""] * len(rows[0]), [f"minus {runs[0].name}", "", *shown, ""]]
    for run in runs[1:]:
        cells = [difference(run, runs[0], family, c) for c in shown]
        rows.append([run.name, "", *cells, ""])
    return [line.rstrip() for line in lay_out(rows)]


def difference(run: Run, first: Run, family: tuple[str, str], column: str) -> str:
    pair = run.last(family, column), first.last(family, column)
    # + 0.0 turns a rounded -0.0 into 0.0
    return "-" if None in pair else f"{round(pair[0] - pair[1], 1) + 0.0:+.1f}"


def report(runs: list[Run], metric: str) -> str:
    """The tables of boxes and masks in percent points, and the notes."""
    blocks = [
        "\n".join(table(runs, family, parts(metric)[2]))
        for family in families(runs, metric)
    ]
    notes = [note for run in runs for note in run.notes]
    ends = {run.name: max(run.log.evaluations) for run in runs}
    if len(set(ends.values())) > 1:
        listed = ", ".join(f"{name} {step}" for name, step in ends.items())
        notes.append(f"the runs end at different {runs[0].log.unit}s: {listed}")
    return "\n\n".join(blocks + ["\n".join(f"note: {n}" for n in notes)] * bool(notes))


def write_csv(runs: list[Run], file: Path) -> None:
    """All metrics as logged, one a line; empty is what could not be measured."""
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["run", "step", "metric", "value"])
        for run in runs:
            for step, row in run.log.evaluations.items():
                writer.writerows([run.name, step, *pair] for pair in row.items())


def style(i: int) -> dict:
    return dict(
        color=COLORS[i % len(COLORS)],
        marker=MARKERS[i % len(MARKERS)],
        markersize=7,
        markeredgewidth=1.5,
        markerfacecolor="none",  # where curves meet, every marker stays visible
    )


def plot_curves(axes, runs: list[Run], family: tuple[str, str], column: str) -> None:
    """Learning curves: percent points against steps."""
    for i, run in enumerate(runs):
        values = run.values(family, column)
        axes.plot(list(values), list(values.values()), **style(i))
    axes.set_xlabel(runs[0].log.unit)
    axes.set_ylabel(f"{KINDS[family[1]]} {column} (%)")
    whole = MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    axes.xaxis.set_major_locator(whole)
    axes.grid(alpha=0.3)


def plot_sizes(axes, runs: list[Run], family: tuple[str, str]) -> None:
    """Bars of the last evaluations, a group for every size that was measured."""
    sizes = [s for s in SIZES if any(r.last(family, s) is not None for r in runs)]
    if not sizes:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no AP by size was measured", ha="center")
        return
    width = 0.8 / len(runs)
    for i, run in enumerate(runs):
        for k, size in enumerate(sizes):
            value = run.last(family, size)
            if value is not None:
                left = k - 0.4 + i * width
                axes.bar(left, value, width, align="edge", color=style(i)["color"])
    axes.set_xticks(range(len(sizes)), [SIZES[size] for size in sizes])
    axes.set_xlim(-0.6, len(sizes) - 0.4)  # also where an outer bar is missing
    axes.set_xlabel("size of the objects")
    axes.set_ylabel(f"{KINDS[family[1]]} AP (%), last evaluation")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def plot(runs: list[Run], metric: str, file: Path) -> None:
    """Write a PNG: curves to the left, AP by size to the right, masks below boxes."""
    rows = families(runs, metric)
    # A name is no formula, and one that starts with _ would be left out.
    names = [r.name.replace("$", r"\$") for r in runs]
    names = [f" {name}" if name.startswith("_") else name for name in names]
    columns = max(1, 90 // (max(map(len, names)) + 8))
    inches = 3.6 * len(rows) + 0.3 + 0.22 * math.ceil(len(names) / columns)
    figure, grid = plt.subplots(
        len(rows),
        2,
        figsize=(10, inches),
        dpi=120,
        squeeze=False,
        layout="constrained",
        width_ratios=(3, 2),
    )
    for (left, right), family in zip(grid, rows, strict=True):
        plot_curves(left, runs, family, parts(metric)[2])
        plot_sizes(right, runs, family)
    handles = [Line2D([], [], **style(i)) for i in range(len(runs))]
    figure.legend(handles, names, loc="outside upper center", ncols=columns)
    figure.savefig(file)
    plt.close(figure)


def make_folder(out: str) -> Path:
    """The folder to write to.

    Raises:
        InputError: it is a file or cannot be made.
    """
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: give a folder to write to ({error})") from error
    return Path(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="work directory or log; or NAME=RUN"
    )
    parser.add_argument(
        "--out", default="work_dirs/compare", help="folder (default %(default)s)"
    )
    parser.add_argument("--metric", help="AP to plot (default: the box AP)")
    args = parser.parse_args()
    runs = read_runs(args.runs)
    metric = choose_metric(runs, args.metric)
    out = make_folder(args.out)
    try:
        write_csv(runs, out / "compare.csv")
        plot(runs, metric, out / "compare.png")
    except OSError as error:
        raise InputError(f"--out {out}: it cannot be written ({error})") from error
    print(f"{report(runs, metric)}\n\nwrote compare.png and compare.csv to {out}")


if __name__ == "__main__":
    run_cli(main)
