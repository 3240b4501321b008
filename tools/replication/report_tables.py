"""The tables of the replication's document, each from the results of one scale."""

import json
from collections import defaultdict
from collections.abc import Sequence

from collected import LABELS, Scale, cycles_of
from spread import CONFIDENCE, Comparison, deviation, mean, pooled_deviation
from titles import ROWS, TITLES
from wording import (
    NOT_RUN,
    NOTHING,
    bounds,
    counted,
    number,
    p_value,
    percent,
    plain,
    points,
    share,
    signed,
    spread,
    table,
    times,
    with_spread,
)

FIGURES = (("bbox", "box AP"), ("segm", "mask AP"))
MORE_FIGURES = (
    ("bbox_50", "box AP50"),
    ("bbox_75", "box AP75"),
    ("segm_50", "mask AP50"),
    ("segm_75", "mask AP75"),
    ("bbox_agnostic", "class-agnostic box AP"),
    ("segm_agnostic", "class-agnostic mask AP"),
)
MAIN_STARTS = ("random", "mocov2", "densecl")
# What is varied, the row with it and the row without.
EFFECTS = (
    ("montage, not stacked crops", "mcl", "mcl-crops"),
    ("`selected`, not `full` computation", "mcl", "mcl-full"),
    ("FPN and box convs transferred, too", "mcl", "mcl-backbone"),
    # Added after the rows were known, as their words say.
    ("MCL, not MoCo v2: backbone alone (an afterthought)", "mcl-backbone", "mocov2"),
    ("MCL, not DenseCL: backbone alone (an afterthought)", "mcl-backbone", "densecl"),
    ("several levels, not one", "mcl", "mcl-level1"),
    ("several levels, not one: backbone alone", "mcl-backbone", "mcl-level1-backbone"),
    ("whole batch, not half", "mcl", "mcl-half-batch"),
    ("whole length, not a quarter: MCL", "mcl", "mcl-quarter"),
    ("whole length, not a quarter: MoCo v2", "mocov2", "mocov2-quarter"),
    ("labels used in MCL", "mcl-sup", "mcl"),
    ("labels used in MCL, with as much compute", "mcl-sup-compute", "mcl"),
    ("MCL, not MoCo v2 with as much compute", "mcl", "mocov2-compute"),
)
COMPARED = (
    "with",
    "first",
    "second",
    "difference",
    f"{percent(CONFIDENCE)} interval",
    "p",
    "p, unpaired",
    "ratio",
    "interval of the ratio",
    "seeds",
)


def figures_of(scale: Scale, row: str, labels: int, figure: str) -> str:
    """Mean and deviation; says where a fine-tuning or its figure is missing."""
    if not scale.runs(row, labels):
        return NOT_RUN
    values = list(scale.values(row, labels, figure).values())
    return with_spread(values) if values else NOTHING


def results(scale: Scale) -> str:
    """Every row's AP, kNN accuracy, learning rate and numbers of fine-tunings."""
    lines = []
    for row in scale.planned:
        cells = [
            figures_of(scale, row, labels, figure)
            for labels in scale.labels
            for figure, _ in FIGURES
        ]
        cells.append(figures_of(scale, row, LABELS[0], "bbox_agnostic"))
        before = scale.pretraining(row)
        cells.append(recognition(before))
        cells.append(plain(before.get("lr")))
        tuned = [str(len(scale.runs(row, labels))) for labels in scale.labels]
        lines.append((TITLES[row], *cells, " / ".join(tuned)))
    headings = [f"{words}, {share(n)}" for n in scale.labels for _, words in FIGURES]
    headings += [f"class-agnostic box AP, {share(LABELS[0])}", "kNN", "lr"]
    return table(("start", *headings, "fine-tunings"), lines)


def recognition(pretraining: dict) -> str:
    """The kNN accuracy of a pre-training, or of several."""
    if runs := pretraining.get("runs"):
        return with_spread([run["knn"] for run in runs])
    return NOTHING if pretraining.get("knn") is None else points(pretraining["knn"])


def more_results(scale: Scale) -> str:
    """AP at fixed overlaps and without classes, of the rows that were run."""
    lines = [
        (
            TITLES[row],
            share(labels),
            *(figures_of(scale, row, labels, figure) for figure, _ in MORE_FIGURES),
        )
        for labels in scale.labels
        for row in scale.planned
        if scale.runs(row, labels)
    ]
    return table(("start", "with", *(words for _, words in MORE_FIGURES)), lines)


def within_pretrainings(scale: Scale) -> str:
    """Box AP of every fine-tuning with all labels, and kNN, by pre-training."""
    seeds, lines = range(scale.pretrainings), []
    for row in scale.planned:
        if groups := scale.groups(row, LABELS[0]):
            cells = [", ".join(map(points, groups.get(seed, []))) for seed in seeds]
            within = pooled_deviation(groups.values())
            # Of means of n values each, were there nothing but the spread within.
            part = mean([1 / len(values) for values in groups.values()]) ** 0.5
            alone = within * part if within is not None else None
            means = deviation([mean(values) for values in groups.values()])
            runs = scale.pretraining(row).get("runs") or []
            knn = ", ".join(points(run["knn"]) for run in runs) or NOTHING
            spreads = map(spread, (within, alone, means))
            lines.append((TITLES[row], *cells, *spreads, knn))
    headings = [f"seed {seed}" for seed in seeds]
    headings += ["within a seed", "of means, expected from it", "of means, found"]
    return table(("start", *headings, "kNN of the seeds"), lines)


def compared_cells(
    scale: Scale, first: str, second: str, labels: int, figure: str = "bbox"
) -> list[str]:
    """The columns COMPARED of two rows but for the labels."""
    compared = scale.compare(first, second, labels, figure)
    means = [figures_of(scale, row, labels, figure) for row in (first, second)]
    if compared.enough:  # the means of what is compared
        means = [with_spread(values) for values in (compared.first, compared.second)]
    return [*means, *statements(compared)]


def statements(compared: Comparison) -> list[str]:
    """What a comparison over two or more seeds says; dashes of fewer."""
    if not compared.enough:
        return [NOTHING] * 6 + [str(len(compared.seeds))]
    return [
        signed(compared.difference),
        bounds(compared.interval),
        p_value(compared.p),
        p_value(compared.unpaired_p),
        times(compared.ratio),
        bounds(compared.ratio_interval, times),
        str(len(compared.seeds)),
    ]


def gains(scale: Scale) -> str:
    """Every row that was run against the random start."""
    lines = [
        (TITLES[row], share(labels), *compared_cells(scale, row, "random", labels))
        for labels in scale.labels
        for row in scale.planned
        if row != "random" and scale.runs(row, labels)
    ]
    return table(("start", *COMPARED), lines)


def effects(scale: Scale) -> str:
    """What one change does, for each part of the method and of the protocol."""
    lines = [
        (
            words,
            share(labels),
            *compared_cells(scale, first, second, labels),
            both_rates(scale, first, second),
        )
        for words, first, second in EFFECTS
        for labels in scale.labels
        if scale.runs(first, labels) and scale.runs(second, labels)
    ]
    return table(("effect", *COMPARED, "lr"), lines)


def measures(scale: Scale) -> str:
    """MCL against the main starts by figures of boxes other than AP."""
    lines = [
        (TITLES[row], words, *compared_cells(scale, "mcl", row, LABELS[0], figure))
        for row in MAIN_STARTS
        for figure, words in MORE_FIGURES
        if figure.startswith("bbox") and scale.compare("mcl", row, figure=figure).enough
    ]
    return table(("MCL against", "by", *COMPARED[1:]), lines)


def both_rates(scale: Scale, *rows: str) -> str:
    """The learning rates of two pre-trainings, or the one that they share."""
    rates = dict.fromkeys(plain(scale.pretraining(row).get("lr")) for row in rows)
    return " / ".join(rates)


def searches(scale: Scale) -> str:
    """The learning rates that were tried, and which was taken.

    Rows that share a search are in one line.
    """
    groups = defaultdict(list)
    for row in scale.planned:
        before = scale.pretraining(row)
        for trial in before.get("search") or []:
            taken = "taken" if trial["lr"] == before.get("lr") else ""
            knn = NOTHING if trial.get("knn") is None else points(trial["knn"])
            seconds = number(trial.get("seconds"))
            cells = plain(trial["lr"]), str(trial["steps"]), knn, seconds, taken
            groups[json.dumps(before["search"]), cells].append(TITLES[row])
    lines = [("; ".join(titles), *cells) for (_, cells), titles in groups.items()]
    return table(("row", "lr", "steps", "kNN", "seconds", ""), lines)


def lengths(scale: Scale) -> str:
    """Pre-training of every row as it was run."""
    lines = []
    for row in scale.planned:
        before = scale.pretraining(row)
        if before:
            figures = [plain(before.get(k), ",") for k in ("steps", "batch", "images")]
            seed, lr = seeds_of(before), plain(before.get("lr"))
            config = f"`{before['config']}`" if before.get("config") else NOTHING
            sha = f"`{str(scale.rows[row].get('config_sha256'))[:12]}`"
            lines.append((TITLES[row], *figures, lr, seed, config, sha))
    headings = ("row", "steps", "images a step", "images seen", "lr", "seed", "config")
    return table((*headings, "hash"), lines)


def seeds_of(pretraining: dict) -> str:
    """The seed of a pre-training, or those of several."""
    runs = pretraining.get("runs") or [pretraining]
    return ", ".join(plain(run.get("seed")) for run in runs)


def costs(scale: Scale) -> str:
    """Seconds and multiply-adds of every row that was run."""
    machines = machine_names(scale)
    lines = []
    for row, content in scale.rows.items():
        before = scale.pretraining(row)
        tried = [t["seconds"] for t in before.get("search") or [] if t.get("seconds")]
        tunings = [
            number(mean([r["seconds"] for r in scale.runs(row, n) if r.get("seconds")]))
            for n in scale.labels
        ]
        each = before.get("gmac_per_image")
        tera = each * before["images"] / 1e3 if each and before.get("images") else None
        lines.append(
            (
                TITLES[row],
                number(before.get("seconds")),
                number(sum(tried) if tried else None),
                *tunings,
                number(whole_hours(content)),
                number(each),
                number(tera),
                machines[machine_words(content)],
            )
        )
    headings = ["start", "one pre-training, s", "its search, s"]
    headings += [f"one fine-tuning, {share(n)}, s" for n in scale.labels]
    headings += [
        "whole row, h",
        "G multiply-adds an image",
        "T multiply-adds a pre-training",
        "machine",
    ]
    return table(headings, lines)


def whole_hours(content: dict) -> float:
    """What a row's stages took one after another, with those it shares."""
    before = content.get("pretraining") or {}
    trained = [c for run in before.get("runs") or [before] for c in cycles_of(run)]
    stages = [*trained, *content.get("finetuning", [])]
    stages += before.get("search") or []
    # A stage that was resumed has the time of its last part alone.
    seconds = [max(timed(s, "stage_seconds"), timed(s, "seconds")) for s in stages]
    return sum(seconds) / 3600


def timed(stage: dict, name: str) -> float:
    """A time of a stage; 0 where there is none."""
    return stage.get(name) or 0


def machine_words(content: dict) -> str:
    """The machine of a result file in one line, and how stages shared it."""
    machine = content.get("machine") or {}
    flags = f" ({machine['cpu_flags']})" if machine.get("cpu_flags") else ""
    cpu = f"{machine.get('cpu', 'CPU not named')}{flags}"
    parts = [cpu]
    if machine.get("cores"):
        parts.append(counted(machine["cores"], "core"))
    if machine.get("gpu"):
        parts.append(machine["gpu"])
    parts += [
        f"{title} {machine[key]}"
        for key, title in (("torch", "PyTorch"), ("python", "Python"))
        if machine.get(key)
    ]
    return f"{', '.join(parts)}; {sharing(machine)}"


def sharing(machine: dict) -> str:
    """How many stages ran at a time, with how many threads each."""
    jobs, threads = machine.get("jobs"), machine.get("threads")
    if jobs is None or threads is None:
        return "how many stages ran at a time was not recorded"
    return f"{counted(jobs, 'stage')} at a time, {counted(threads, 'thread')} each"


def machine_names(scale: Scale) -> dict[str, str]:
    """A letter for each machine, in the order of the rows."""
    found = dict.fromkeys(map(machine_words, scale.rows.values()))
    return {words: chr(ord("A") + i) for i, words in enumerate(found)}


def rows_explained() -> str:
    """What every row is."""
    return table(
        ("row", "start", "what it is"),
        [(f"`{row.name}`", row.title, row.line) for row in ROWS],
    )


def tunings(scale: Scale) -> str:
    """Images and steps of fine-tuning, in which all rows agree."""
    lines = []
    for labels in scale.labels:
        runs = [run for row in scale.planned for run in scale.runs(row, labels)]
        if runs:
            figures = [plain(runs[0].get(key)) for key in ("images", "steps")]
            lines.append((share(labels), *figures))
    return table(("with", "images", "steps"), lines)


def checksums(sums: dict[str, str]) -> str:
    """SHA-256 of each part of the data set."""
    return table(("set", "SHA-256"), [(f"`{k}`", f"`{v}`") for k, v in sums.items()])


def close_searches(scale: Scale) -> list[str]:
    """Rows whose best kNN is ahead of the next by less than a standard error.

    It is that of the difference of two shares. Empty where the data card does not say
    how many pictures were asked.
    """
    asked = (scale.data.get("card") or {}).get("images", {}).get("probe")
    found = []
    for row in scale.planned:
        trials = scale.pretraining(row).get("search") or []
        figures = sorted(t["knn"] for t in trials if t.get("knn") is not None)
        if asked and len(figures) > 1:
            variances = [knn * (1 - knn) / asked for knn in figures[-2:]]
            if figures[-1] - figures[-2] < sum(variances) ** 0.5:
                found.append(TITLES[row])
    return found


def edges(scale: Scale) -> dict[str, Sequence[str]]:
    """Rows whose learning rate is the lowest or highest tried, or not the best by kNN.

    Returns:
        Titles by ``edge`` and ``other``.
    """
    found = dict(edge=[], other=[])
    for row in scale.planned:
        before = scale.pretraining(row)
        trials = [t for t in before.get("search") or [] if t.get("knn") is not None]
        if len(trials) < 2:
            continue
        rates = [t["lr"] for t in trials]
        best = max(t["knn"] for t in trials)
        if before.get("lr") not in [t["lr"] for t in trials if t["knn"] == best]:
            found["other"].append(TITLES[row])
        elif before["lr"] in (min(rates), max(rates)):
            found["edge"].append(TITLES[row])
    return found
