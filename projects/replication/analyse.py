"""Tables and plots of the replication's results.

    python -m projects.replication.analyse [--results DIR] [--metric NAME] [--labels 10]
    python -m projects.replication.analyse --check   # README.md against the results
    python -m projects.replication.analyse --plots   # the PNG files of this folder

A value is the mean and the sample deviation over units. A unit is a pre-training, with
the mean of its fine-tunings, or a fine-tuning where a scale has one pre-training a row;
the random start's fine-tunings are put into as many groups. Rows are compared unit by
unit: t interval (95 %) and p of the paired t test, p of Welch's test, ratio of the
means with the t interval of the units' log ratios. No p is corrected for the number of
comparisons.
"""

import argparse
import csv
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from scipy import stats

from mcl.errors import InputError, run_cli

from .scales import RESULTS, ROWS, SCALES

README = RESULTS.with_name("README.md")
WORDS = {"scale", "row", "config", "config_sha256", "data_sha256", "machine"}
PAIRS = [
    *((row, "random") for row in ROWS if row != "random"),
    *(("mcl", row) for row in ROWS if row not in ("random", "mcl")),
    *(("mcl-backbone", row) for row in ("mocov2", "densecl", "mcl-level1-backbone")),
]
# The same rows before and after more fine-tuning, and more pre-training.
CHANGES = [("small-seeds", "small-longer"), ("small-longer", "small-restart")]
COMPARED = "first | second | difference | 95 % | p | p, Welch | ratio | 95 % | n"
METRICS = ("box_ap", "box_ap50", "box_ap75", "box_ap_agnostic", "mask_ap", "knn")
COSTS = ("lr", "gmac_per_image", "seconds")
Units = dict[float, float]


def t_interval(values: np.ndarray) -> tuple[float, float]:
    """Student's 95 % interval of the mean."""
    reach = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return values.mean() - reach, values.mean() + reach


def compare(first: Units, second: Units) -> dict:
    """Statistics of two rows over the units that both have, two or more."""
    units = sorted(set(first) & set(second))
    a, b = (np.array([values[unit] for unit in units]) for values in (first, second))
    return dict(
        n=len(units),
        difference=(a - b).mean(),
        interval=t_interval(a - b),
        p=stats.ttest_rel(a, b).pvalue,
        welch=stats.ttest_ind(a, b, equal_var=False).pvalue,
        ratio=a.mean() / b.mean(),
        ratio_interval=np.exp(t_interval(np.log(a) - np.log(b))),
    )


class Results:
    """The runs in a folder of csv files, with ``labels`` per cent of the labels.

    Raises:
        InputError: when a run is there twice, or runs are of different data sets.
    """

    def __init__(self, folder: Path, metric: str = "box_ap", labels: int = 100) -> None:
        self.folder, self.metric, self.labels = folder, metric, labels
        self.tuned, self.trained = self.read("finetuning"), self.read("pretraining")
        if not self.tuned or metric not in {*self.tuned[0], "knn"}:
            raise InputError(f"{folder}/finetuning.csv: it has no {metric}")
        names = ("scale", "row", "labels", "seed")
        runs = Counter(tuple(run[name] for name in names) for run in self.tuned)
        if max(runs.values()) > 1:
            raise InputError(f"{folder}: {runs.most_common(1)[0][0]} was run twice")
        sums = {(SCALES[run["scale"]].data, run["data_sha256"]) for run in self.tuned}
        if len(sums) > len({data for data, _ in sums}):
            raise InputError(f"{folder}: data_sha256 differs; run these rows alike")

    def read(self, table: str) -> list[dict]:
        file = self.folder / f"{table}.csv"
        text = file.read_text().splitlines() if file.is_file() else []
        return [
            {k: v if k in WORDS else float(v or "nan") for k, v in line.items()}
            for line in csv.DictReader(text)
        ]

    def groups(
        self, scale: str, row: str, metric: str | None = None, seeds: int = 99
    ) -> dict[float, list[float]]:
        """A metric of each unit's fine-tunings in points of 100; of the first seeds."""
        found, metric = defaultdict(list), metric or self.metric
        unit = "pretraining" if SCALES[scale].pretrainings > 1 else "seed"
        for run in self.tuned:
            known = run["scale"], run["row"], run["labels"]
            if known == (scale, row, self.labels) and run["seed"] < seeds:
                found[run[unit]].append(100 * run.get(metric, 0))
        if metric == "knn" and found:
            return {x["seed"]: [100 * x["knn"]] for x in self.starts(scale, row)}
        return found

    def units(self, *args, **kwargs) -> Units:
        """The means of :meth:`groups`."""
        groups = self.groups(*args, **kwargs)
        return {unit: float(np.mean(values)) for unit, values in groups.items()}

    def starts(self, scale: str, row: str) -> list[dict]:
        """The pre-trainings, or last cycles of them, that a row's detectors have."""
        plan = SCALES[scale]
        where = scale if plan.cycles > 1 else plan.first_cycles or scale
        owner = ROWS[row].of or row
        return [x for x in self.trained if (x["scale"], x["row"]) == (where, owner)]


def table(title: str, head: str, lines: list[list[str]]) -> str:
    """A Markdown table of the lines with more than a name; empty without such."""
    names = head.split(" | ")
    lines = [names, ["---"] * len(names), *(line for line in lines if len(line) > 1)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{title}\n\n{text}\n\n" if len(lines) > 2 else ""


def spread(units: Units) -> str:
    """Mean and deviation of several values."""
    values = list(units.values())
    if len(values) < 2:
        return "".join(f"{value:.1f}" for value in values) or "-"
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.2f}"


def summary(results: Results) -> str:
    """All rows and scales: mean and deviation, ratio to the random start's mean, n."""
    names = [name for name in SCALES if results.units(name, "random")]

    def cell(scale: str, row: str) -> str:
        ours, base = (results.units(scale, x) for x in (row, "random"))
        if not ours:
            return "-"
        ratio = np.mean(list(ours.values())) / np.mean(list(base.values()))
        return f"{spread(ours)}, {ratio:.2f}, {len(ours)}"

    lines = [[row.title, *(cell(s, name) for s in names)] for name, row in ROWS.items()]
    return table(f"{results.metric}, ratio, n", " | ".join(["start", *names]), lines)


def overview(results: Results, scale: str) -> str:
    """All metrics of a scale's rows, and costs of their pre-trainings."""
    lines = []
    for name, row in ROWS.items():
        if results.units(scale, name):
            cells = [spread(results.units(scale, name, metric)) for metric in METRICS]
            starts = results.starts(scale, name)
            costs = [np.mean([x[cost] for x in starts] or 0) for cost in COSTS]
            lines.append(
                [row.title, *cells, *(f"{c:.4g}" if c else "-" for c in costs)]
            )
    return table(scale, " | ".join(["start", *METRICS, *COSTS]), lines)


def compared(first: Units, second: Units) -> list[str]:
    """Cells of ``COMPARED``; none of fewer than two units, or of the same runs."""
    if len(set(first) & set(second)) < 2 or first == second:
        return []
    found = compare(first, second)
    return [
        *(spread(first), spread(second), f"{found['difference']:+.2f}"),
        "{:+.2f} to {:+.2f}".format(*found["interval"]),
        *("< 0.001" if found[p] < 1e-3 else f"{found[p]:.2g}" for p in ("p", "welch")),
        f"{found['ratio']:.2f}",
        "{:.2f} to {:.2f}".format(*found["ratio_interval"]),
        f"{found['n']}",
    ]


def comparisons(results: Results, scale: str) -> str:
    """Pairs of rows of one scale."""
    lines = []
    for pair in PAIRS:
        titles = " against ".join(ROWS[row].title for row in pair)
        lines.append([titles, *compared(*(results.units(scale, row) for row in pair))])
    return table(f"{scale}: {results.metric}", f"start | {COMPARED}", lines)


def change(results: Results, before: str, after: str) -> str:
    """Rows of one scale against themselves in another, over the same fine-tunings."""
    lines, seeds = [], len(SCALES[after].seeds)
    for name, row in ROWS.items():
        units = (results.units(s, name, seeds=seeds) for s in (after, before))
        lines.append([row.title, *compared(*units)])
    title = f"{results.metric}: {after} against {before}"
    return table(title, f"start | {COMPARED}", lines)


def noise(results: Results, scale: str) -> str:
    """Means of pre-trainings, and whether they differ by more than fine-tunings do."""
    lines = []
    for name, row in ROWS.items():
        groups = list(results.groups(scale, name).values())
        if len(groups) > 1 and min(map(len, groups)) > 1:
            means = ", ".join(f"{np.mean(values):.1f}" for values in groups)
            within = np.mean([np.var(values, ddof=1) for values in groups]) ** 0.5
            p = stats.f_oneway(*groups).pvalue
            lines.append([row.title, means, f"{within:.2f}", f"{p:.2g}"])
    head = "start | pre-trainings | deviation of fine-tunings | p, F test"
    return table(f"{scale}: {results.metric} of pre-trainings", head, lines)


def check(results: Results, readme: Path = README) -> list[str]:
    """Cells of the README's table that differ from the stored results."""

    def cells(text: str) -> dict[str, list[str]]:
        rows = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
        names, _, *lines = (row.split(" | ") for row in rows)
        return {
            f"{line[0]}, {name}": re.findall(r"[\d.]+", cell)
            for line in lines
            for name, cell in zip(names[1:], line[1:], strict=True)
        }

    shown, stored = cells(readme.read_text()), cells(summary(results))
    return [
        f"{readme.name}, {key}: {shown.get(key)}; the results have {stored.get(key)}"
        for key in stored | shown
        if shown.get(key) != stored.get(key)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--metric", default="box_ap", help="of finetuning.csv, or knn")
    parser.add_argument("--labels", type=int, default=100, help="per cent")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--plots", action="store_true")
    args = parser.parse_args()
    results = Results(args.results, args.metric, args.labels)
    if args.check:
        if differences := check(results):
            raise InputError("\n".join(differences))
        print(f"{README}: all numbers of the table are those of the results")
    elif args.plots:
        from .plots import plot_all

        plot_all(results, README.parent)
    else:
        print(summary(results), end="")
        for scale in SCALES:
            print(overview(results, scale), comparisons(results, scale), sep="", end="")
            print(noise(results, scale), end="")
        print(*(change(results, *pair) for pair in CHANGES), sep="", end="")


if __name__ == "__main__":
    run_cli(main)
