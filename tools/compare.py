"""Compare detectors fine-tuned from different weights, by the logs of their runs.

    python tools/compare.py mcl=work_dirs/a random=work_dirs/b [--metric bbox_mAP]

A RUN is the work directory of an MMEngine run, or one of its JSON logs. The last
evaluations are printed as a table; compare.png and compare.csv go to --out.
"""

import argparse
import csv
import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mcl.errors import InputError, run_cli

# The AP of COCO, LVIS, Pascal VOC and Cityscapes: prefix, kind, rest.
AP = re.compile(r"(.*/|)(?:(bbox|segm)_)?m?AP[_@]?(\d+|[smlrcf]|)")
KINDS = {"bbox": "box", "segm": "mask"}
SIZES = {"APs": "small", "APm": "medium", "APl": "large"}
COLUMNS = ("AP", "AP50", "AP75", *SIZES, "APr", "APc", "APf")
# Okabe and Ito's colors without yellow, which is faint on white. One marker more
# than colors: a pair comes again after 56 runs only.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^DvPX*"
Family = tuple[str, str]  # prefix and kind of the metrics of boxes or of masks


class Run(NamedTuple):
    """Evaluations of a training by step, out of one log or all."""

    name: str
    unit: str  # of the steps: iteration or epoch
    start: float  # first step that is trained
    evaluations: dict[int, dict[str, float | None]]
    notes: list[str]
    epoch_length: int | None = None  # iterations, where the logs tell

    def in_iterations(self, length: int | None) -> "Run":
        if self.unit == "iteration":
            return self
        found = {epoch * length: row for epoch, row in self.evaluations.items()}
        start = (self.start - 1) * length + 1
        return self._replace(unit="iteration", start=start, evaluations=found)

    @property
    def end(self) -> int:
        """Step of the last evaluation."""
        return max(self.evaluations)

    def metrics(self) -> list[str]:
        """Names of the APs, in the order of the log."""
        rows = self.evaluations.values()
        return list(dict.fromkeys(key for row in rows for key in row if parts(key)))

    def values(self, family: Family, column: str) -> dict[int, float]:
        """Percent points by step, without the steps that have none."""
        rows = self.evaluations.items()
        aps = [row[key] or 0 for _, row in rows for key in row if parts(key)]
        scale = 1 if max(aps) > 1 else 100
        return {
            step: value * scale
            for step, row in rows
            for key, value in row.items()
            if value is not None and parts(key) == (*family, column)
        }

    def last(self, family: Family, column: str) -> float | None:
        """Percent points at the last evaluation."""
        return self.values(family, column).get(self.end)


def parts(key: str) -> tuple[str, str, str] | None:
    """Prefix, bbox or segm, and column of an AP; None for another metric."""
    match = AP.fullmatch(key)
    if not match:
        return None
    prefix, kind, rest = match.groups()
    # CityscapesMetric measures masks and does not say so.
    kind = kind or ("segm" if "cityscapes" in prefix else "bbox")
    return prefix.rstrip("/"), kind, f"AP{rest}"


def find_logs(name: str, path: Path) -> list[Path]:
    """The JSON logs of a run, oldest first."""
    files = sorted([*path.glob("vis_data/*.json"), *path.glob("*/vis_data/*.json")])
    if path.is_file():
        return [path]
    if not files:
        missing = f"{path} is no log and has no TIMESTAMP/vis_data/*.json"
        raise InputError(f"run {name}: {missing}; give a training's work directory")
    # scalars.json repeats TIMESTAMP.json.
    return [file for file in files if file.name != "scalars.json"] or files


def read_rows(name: str, file: Path) -> tuple[list[dict], list[str]]:
    """The lines of a log, and notes about it."""
    try:
        lines = file.read_text("utf-8", errors="replace").rstrip().split("\n")
    except OSError as error:
        raise InputError(f"run {name}: it cannot be read ({error})") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append({**json.loads(line.strip() or "{}")})
        except (ValueError, TypeError) as error:
            if number == len(lines) > 1:
                return rows, [f"{name}: the unfinished last line of {file} is left out"]
            raise InputError(
                f"run {name}: line {number} of {file} is no JSON object; remove it"
            ) from error
    return rows, []


def metrics_of(row: dict) -> dict[str, float | None]:
    """The metrics of a line; None is what could not be measured."""
    row = {key.removeprefix("val/"): v for key, v in row.items()}  # log_with_hierarchy
    # The metrics log -1 where the data have no such object.
    return {
        key: None if value == -1 or not math.isfinite(value) else value
        for key, value in row.items()
        if type(value) in (int, float) and key not in ("step", "time", "data_time")
    }


def is_training(row: dict) -> bool:
    return type(row.get("iter")) is int and type(row.get("step")) is int


def place(name: str, rows: list[dict]) -> Run:
    """Evaluations of a log with their steps."""
    trained, found = 0, []  # step of the last training line; evaluations
    for row in rows:
        metrics = metrics_of(row)
        if is_training(row):
            trained = row["step"]
        elif type(row.get("step")) is int and any(map(parts, metrics)):
            found.append((row["step"], trained, metrics))
    # LoggerHook logs the epoch as the step, unless log_metric_by_epoch=False. An
    # iteration-based loop counts no epochs, and logs 0.
    lost = any(step == 0 < before for step, before, _ in found)
    by_epoch = not lost and any(step < before for step, before, _ in found)
    steps = [before if lost else step for step, before, _ in found]
    if len(set(steps)) < len(steps) and any(step == 0 for step, *_ in found):
        raise InputError(
            f"run {name}: its log does not tell the steps of its evaluations; train "
            "with default_hooks.logger.log_metric_by_epoch=False"
        )
    key, unit = ("epoch", "epoch") if by_epoch else ("step", "iteration")
    starts = [row[key] for row in rows if is_training(row) and key in row]
    evaluations = {step: row for step, (*_, row) in zip(steps, found, strict=True)}
    note = f"{name}: evaluations without a step stand at the training line before them"
    return Run(name, unit, [*starts, math.inf][0], evaluations, [note] * lost)


def find_epoch_length(logs: list[list[dict]]) -> int | None:
    """Iterations of an epoch, or None where the training lines do not tell.

    LoggerHook seldom logs the end of an epoch, but logs all epochs at the same places.
    """
    lengths, trained = set(), []
    for rows in logs:
        here = [row for row in rows if is_training(row) and "epoch" in row]
        first = {row["epoch"]: row["step"] for row in reversed(here)}
        for a, b in pairwise(sorted(first)):
            lengths.add((first[b] - first[a]) / (b - a))
        trained += here
    length = lengths.pop() if len(lengths) == 1 else 0
    whole = length >= 1 and length == int(length)
    fit = whole and all(math.ceil(r["step"] / length) == r["epoch"] for r in trained)
    return int(length) if fit else None


def merge(logs: list[Run]) -> Run:
    """One run out of its logs.

    A later log wins from its start on: what was trained there before is abandoned.
    """
    merged, replaced = {}, set()
    for log in logs:
        old = {step for step in merged if step >= log.start or step in log.evaluations}
        merged = {s: row for s, row in merged.items() if s not in old} | log.evaluations
        replaced |= old
    notes = [f"{logs[0].name}: {len(logs)} logs are merged"] * (len(logs) > 1)
    if replaced:
        steps = ", ".join(map(str, sorted(replaced)))
        notes[0] += f"; a later one replaces the evaluations at {logs[0].unit} {steps}"
    return logs[0]._replace(evaluations=dict(sorted(merged.items())), notes=notes)


def read_run(name: str, path: Path) -> Run:
    """The evaluations of a run out of its logs, found by work directory or JSON log."""
    contents, logs, notes = [], [], []
    for file in find_logs(name, path):
        rows, about_file = read_rows(name, file)
        contents.append(rows)
        logs.append(place(name, rows))
        notes += about_file + logs[-1].notes
    logs = [log for log in logs if log.evaluations]
    if not logs:
        raise InputError(
            f"run {name}: {path} holds no AP of an evaluation; wait for the first one, "
            "or give the training of a detector with validation"
        )
    length = find_epoch_length(contents)
    if len({log.unit for log in logs}) > 1:
        if not length:
            raise InputError(
                f"run {name}: some logs of {path} count evaluations in epochs, others "
                "in iterations; give one of the JSON logs"
            )
        logs = [log.in_iterations(length) for log in logs]
    run = merge(logs)
    notes = list(dict.fromkeys(notes + run.notes))
    return run._replace(notes=notes, epoch_length=length)


def share_unit(runs: list[Run]) -> list[Run]:
    """The runs in iterations, or all in epochs where one cannot be converted."""
    stuck = [r.name for r in runs if r.unit == "epoch" and not r.epoch_length]
    others = [r.name for r in runs if r.unit == "iteration"]
    if stuck and others:
        raise InputError(
            f"run {stuck[0]} counts epochs, of a length that its log does not tell, "
            f"but run {others[0]} iterations; compare runs of one kind"
        )
    return runs if stuck else [r.in_iterations(r.epoch_length) for r in runs]


def read_runs(words: list[str]) -> list[Run]:
    """The runs of ``RUN`` or ``NAME=RUN`` words, in the order given."""
    paths = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or Path(word).exists():
            whole, path = Path(word).resolve(), word
            log = whole.suffix == ".json" and whole.parent.name == "vis_data"
            name = whole.parents[2].name if log else whole.name
        if not name or not path:
            raise InputError(f"run {word!r}: give RUN or NAME=RUN")
        if name in paths:
            given = f"{paths[name]} and {path}"
            raise InputError(f"run {name}: {given} have one name; give NAME=RUN")
        paths[name] = path
    return share_unit([read_run(name, Path(path)) for name, path in paths.items()])


def choose_metric(runs: list[Run], wanted: str | None) -> str:
    """The name of the AP to plot: ``wanted``, or the box AP, or what there is."""
    shared = [m for m in runs[0].metrics() if all(m in r.metrics() for r in runs)]
    if not shared:
        held = "; ".join(f"{r.name} has {', '.join(r.metrics())}" for r in runs)
        raise InputError(f"no metric in common: {held}; compare runs of one evaluator")
    if wanted is None:
        return min(shared, key=lambda m: (parts(m)[2] != "AP", parts(m)[1] != "bbox"))
    found = [m for m in shared if wanted in (m, m.rpartition("/")[2])]
    if len(found) == 1:
        return found[0]
    raise InputError(f"--metric {wanted}: give one of {', '.join(shared)}")


def families(runs: list[Run], metric: str) -> list[Family]:
    """Those of the boxes and, if any run has them, of the masks."""
    held = {parts(m)[:2] for run in runs for m in run.metrics()}
    return [f for f in [(parts(metric)[0], kind) for kind in KINDS] if f in held]


def table(runs: list[Run], family: Family, column: str) -> str:
    """The last evaluations and their differences to the first run."""
    held = {parts(m) for run in runs for m in run.metrics()}
    first, shown = runs[0], [c for c in COLUMNS if (*family, c) in held]
    title = f"{KINDS[family[1]]} ({'/'.join(filter(None, family))})"
    best = [best_before_last(run, family, column) for run in runs]
    rows = [[title, first.unit, *shown, f"best {column}" if any(best) else ""]]
    for run, better in zip(runs, best, strict=True):
        values = [run.last(family, c) for c in shown]
        cells = ["-" if value is None else f"{value:.1f}" for value in values]
        rows.append([run.name, str(run.end), *cells, better])
    if len(runs) > 1:
        rows += [[""] * len(rows[0]), [f"minus {first.name}", "", *shown, ""]]
    for run in runs[1:]:
        cells = [difference(run, first, family, c) for c in shown]
        rows.append([run.name, "", *cells, ""])
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = [[r[0].ljust(widths[0]), *map(str.rjust, r[1:], widths[1:])] for r in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def best_before_last(run: Run, family: Family, column: str) -> str:
    """The best value and its step, where the last evaluation is not as good."""
    values = run.values(family, column)
    best = max(values, key=lambda step: (values[step], step), default=None)
    return "" if best in (None, run.end) else f"{values[best]:.1f} at {best}"


def difference(run: Run, first: Run, family: Family, column: str) -> str:
    pair = run.last(family, column), first.last(family, column)
    # + 0.0 turns a rounded -0.0 into 0.0
    return "-" if None in pair else f"{round(pair[0] - pair[1], 1) + 0.0:+.1f}"


def report(runs: list[Run], metric: str) -> str:
    """The tables of boxes and masks in percent points, and the notes."""
    blocks = [table(runs, f, parts(metric)[2]) for f in families(runs, metric)]
    notes = [f"note: {note}" for run in runs for note in run.notes]
    if len({run.end for run in runs}) > 1:
        listed = ", ".join(f"{run.name} {run.end}" for run in runs)
        notes.append(f"note: the runs end at different {runs[0].unit}s: {listed}")
    return "\n\n".join([*blocks, "\n".join(notes)]).rstrip()


def write_csv(runs: list[Run], file: Path) -> None:
    """All metrics as logged, one a line; empty is what could not be measured."""
    lines = [["run", "step", "metric", "value"]]
    for run in runs:
        for step, row in run.evaluations.items():
            lines += [[run.name, step, *pair] for pair in row.items()]
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows(lines)


def style(i: int) -> dict:
    pair = dict(color=COLORS[i % len(COLORS)], marker=MARKERS[i % len(MARKERS)])
    # Not filled: where curves meet, every marker stays visible.
    return dict(pair, markersize=7, markeredgewidth=1.5, markerfacecolor="none")


def plot_curves(axes, runs: list[Run], family: Family, column: str) -> None:
    for i, run in enumerate(runs):
        values = run.values(family, column)
        axes.plot(list(values), list(values.values()), **style(i))
    axes.set(xlabel=runs[0].unit, ylabel=f"{KINDS[family[1]]} {column} (%)")
    whole = MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    axes.xaxis.set_major_locator(whole)
    axes.grid(alpha=0.3)


def plot_sizes(axes, runs: list[Run], family: Family) -> None:
    """Bars of the last evaluations, a group for every size that was measured."""
    sizes = [s for s in SIZES if any(r.last(family, s) is not None for r in runs)]
    if not sizes:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no AP by size was measured", ha="center")
        return
    width = 0.8 / len(runs)
    for i, run in enumerate(runs):
        values = {k: run.last(family, size) for k, size in enumerate(sizes)}
        bars = {k - 0.4 + i * width: v for k, v in values.items() if v is not None}
        color = style(i)["color"]
        axes.bar(list(bars), list(bars.values()), width, align="edge", color=color)
    axes.set_xticks(range(len(sizes)), [SIZES[size] for size in sizes])
    axes.set_xlim(-0.6, len(sizes) - 0.4)  # also where an outer bar is missing
    label = f"{KINDS[family[1]]} AP (%), last evaluation"
    axes.set(xlabel="size of the objects", ylabel=label, axisbelow=True)
    axes.grid(axis="y", alpha=0.3)


def plot(runs: list[Run], metric: str, file: Path) -> None:
    """Write a PNG: curves to the left, AP by size to the right, masks below boxes."""
    rows = families(runs, metric)
    # A name is no formula, and one that starts with _ would be left out.
    names = [re.sub("^_", " _", r.name.replace("$", r"\$")) for r in runs]
    columns = max(1, 90 // (max(map(len, names)) + 8))
    inches = 3.6 * len(rows) + 0.3 + 0.22 * math.ceil(len(names) / columns)
    figure = Figure(figsize=(10, inches), dpi=120, layout="constrained")
    grid = figure.subplots(len(rows), 2, squeeze=False, width_ratios=(3, 2))
    for (left, right), family in zip(grid, rows, strict=True):
        plot_curves(left, runs, family, parts(metric)[2])
        plot_sizes(right, runs, family)
    handles = [Line2D([], [], **style(i)) for i in range(len(runs))]
    figure.legend(handles, names, loc="outside upper center", ncols=columns)
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", metavar="RUN", nargs="+", help="path or NAME=path")
    parser.add_argument("--out", default="work_dirs/compare", help="folder")
    parser.add_argument("--metric", help="AP to plot (default: the box AP)")
    args = parser.parse_args()
    runs, out = read_runs(args.runs), Path(args.out)
    metric = choose_metric(runs, args.metric)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_csv(runs, out / "compare.csv")
        plot(runs, metric, out / "compare.png")
    except OSError as error:
        raise InputError(f"--out {out}: give a folder to write to ({error})") from error
    print(f"{report(runs, metric)}\n\nwrote compare.png and compare.csv to {out}")


if __name__ == "__main__":
    run_cli(main)
