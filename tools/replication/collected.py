"""Read the committed result files of a scale, and refuse what cannot be compared."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from rows import SCALES as PLANS
from rows import data_digest
from spread import Comparison, compare, mean
from titles import NAMES

from mcl.errors import InputError

FORMAT = 1
SCALES = tuple(PLANS)
LABELS = (100, 10)  # per cent of the labels of detection training


class Scale(NamedTuple):
    """All that was found for a scale.

    Attributes:
        name: one of ``SCALES``.
        rows: content of the result files by row, in the order of the tables.
        data: content of data.json; empty where there is none.
        notes: the file of remarks by hand, if there is one.
    """

    name: str
    rows: dict[str, dict]
    data: dict
    notes: Path | None = None

    @property
    def planned(self) -> tuple[str, ...]:
        """The rows that can be run, in the order of the tables."""
        return tuple(row for row in NAMES if row in PLANS[self.name].rows)

    @property
    def wanted(self) -> int:
        """How many fine-tunings a complete row has."""
        plan = PLANS[self.name]
        return len(plan.finetuning) * len(plan.seeds)

    @property
    def labels(self) -> tuple[int, ...]:
        """Per cent of the labels that are fine-tuned with."""
        return tuple(PLANS[self.name].finetuning)

    @property
    def pretrainings(self) -> int:
        """How many a row has."""
        return PLANS[self.name].pretrainings

    def shares_data(self, other: "Scale") -> bool:
        """Whether another scale has the same data set."""
        return PLANS[self.name].data == PLANS[other.name].data

    @property
    def cycles(self) -> int:
        """Of a pre-training."""
        return PLANS[self.name].cycles

    def lengthens(self, other: "Scale") -> bool:
        """Whether this one fine-tunes pre-trainings like another's for more steps."""
        alike = self._alike(other) and self.cycles == other.cycles
        return alike and self.pretrainings > 1 and self.steps > other.steps

    def repeats(self, other: "Scale") -> bool:
        """Whether this adds a second cycle to another's first, fine-tuned alike."""
        alike = self._alike(other) and self.steps == other.steps
        return alike and (self.cycles, other.cycles) == (2, 1)

    def _alike(self, other: "Scale") -> bool:
        """Whether one cycle of pre-training is as another scale's, the detector too."""
        ours, theirs = PLANS[self.name], PLANS[other.name]
        names = "data", "rates", "pretrainings", "pretraining", "methods", "detector"
        return all(getattr(ours, name) == getattr(theirs, name) for name in names)

    @property
    def steps(self) -> int:
        """Of fine-tuning with all labels."""
        return PLANS[self.name].finetuning[LABELS[0]]

    def runs(self, row: str, labels: int) -> list[dict]:
        """Fine-tunings of a row by seed; empty where it was not run."""
        runs = self.rows.get(row, {}).get("finetuning", [])
        return sorted(
            (r for r in runs if r["labels"] == labels), key=lambda r: r["seed"]
        )

    def tuning_seeds(
        self, row: str, labels: int = 100, figure: str = "bbox"
    ) -> frozenset[int]:
        """Seeds of a row's fine-tunings that have a figure."""
        runs = self.runs(row, labels)
        return frozenset(r["seed"] for r in runs if r.get(figure) is not None)

    def values(
        self,
        row: str,
        labels: int = 100,
        figure: str = "bbox",
        among: Collection[int] | None = None,
    ) -> dict[int, float]:
        """A figure of a row by seed, without the seeds that lack it.

        Of several pre-trainings the seeds are theirs, and a value is the mean of the
        fine-tunings that started there. ``among``: seeds of the fine-tunings to take.
        """
        groups = self.groups(row, labels, figure, among)
        return {seed: mean(values) for seed, values in groups.items()}

    def groups(
        self,
        row: str,
        labels: int = 100,
        figure: str = "bbox",
        among: Collection[int] | None = None,
    ) -> dict[int, list[float]]:
        """A figure of the fine-tunings behind each of :meth:`values`."""
        found, plan = defaultdict(list), PLANS[self.name]
        for run in self.runs(row, labels):
            wanted = among is None or run["seed"] in among
            if wanted and run.get(figure) is not None:
                several = plan.pretrainings > 1
                seed = plan.pretraining_seed(run["seed"]) if several else run["seed"]
                found[seed].append(run[figure])
        return dict(sorted(found.items()))

    def compare(
        self,
        first: str,
        second: str,
        labels: int = 100,
        figure: str = "bbox",
        among: Collection[int] | None = None,
    ) -> Comparison:
        """Two rows over the fine-tunings of the seeds that both have."""
        rows = first, second
        if among is None:
            found = (self.tuning_seeds(row, labels, figure) for row in rows)
            among = frozenset.intersection(*found)
        return compare(*(self.values(row, labels, figure, among) for row in rows))

    def pretraining(self, row: str) -> dict:
        """Of a row; empty where it was not run or there is none.

        Of several pre-trainings, ``seconds`` are their mean.
        """
        found = self.rows.get(row, {}).get("pretraining") or {}
        runs = found.get("runs")
        if not runs:
            return found
        seconds = [run["seconds"] for run in runs if run.get("seconds")]
        return found | dict(seconds=mean(seconds))


def cycles_of(run: dict) -> list[dict]:
    """The cycles of a pre-training, of which the last has what the others leave."""
    earlier = run.get("earlier") or []
    last = dict(run)
    for name in ("seconds", "stage_seconds"):
        if run.get(name):
            last[name] = run[name] - sum(found.get(name) or 0 for found in earlier)
    return [*earlier, last]


def without_key(stage: dict) -> dict:
    """Figures of a stage. Its key tells of settings, which may differ for one run."""
    return {name: value for name, value in stage.items() if name != "key"}


def read_json(file: Path) -> dict:
    """An object of a json file.

    Raises:
        InputError: when it cannot be read or is none.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: it cannot be read ({error}); make it anew") from (
            error
        )
    if not isinstance(content, dict):
        raise InputError(f"{file}: it holds no object; make it anew")
    return content


def expect(file: Path, field: str, value: Any, allowed: tuple) -> None:
    """Refuse a value that is none of those allowed."""
    if value not in allowed:
        words = " or ".join(map(repr, allowed))
        raise InputError(f"{file}: {field}={value!r}; give {words}")


def check_run(file: Path, run: dict) -> None:
    """Refuse a fine-tuning whose figures are not as they must be."""
    allowed = tuple(PLANS[file.parent.name].finetuning)
    expect(file, "finetuning.labels", run.get("labels"), allowed)
    if not isinstance(run.get("seed"), int):
        raise InputError(
            f"{file}: finetuning.seed={run.get('seed')!r}; give an integer"
        )
    for name in ("bbox", "segm"):
        value = run.get(name)
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InputError(
                f"{file}: finetuning.{name}={value!r}; give an AP from 0 to 1"
            )


def read_row(file: Path) -> dict:
    """The checked content of a result file.

    Raises:
        InputError: when it is no result of the row and scale that its path names.
    """
    row = read_json(file)
    expect(file, "format", row.get("format"), (FORMAT,))
    expect(file, "row", row.get("row"), (file.stem,))
    expect(file, "scale", row.get("scale"), (file.parent.name,))
    seen = set()
    for run in row.get("finetuning", []):
        check_run(file, run)
        key = run["labels"], run["seed"]
        if key in seen:
            raise InputError(f"{file}: labels={key[0]} seed={key[1]} is there twice")
        seen.add(key)
    if row.get("pretraining"):
        check_pretrainings(file, row["pretraining"], {seed for _, seed in seen})
    runs = row.get("finetuning", [])
    check_protocols(file, [(f"seed {run['seed']}", run) for run in runs])
    return row


def check_pretrainings(file: Path, found: dict, seeds: set[int]) -> None:
    """Refuse a rate that is not the scale's, and fine-tunings of no pre-training."""
    plan = PLANS[file.parent.name]
    if plan.rates:
        config = str(found.get("config")).rpartition("/")[2]
        rate = plan.rates.get(config)
        expect(file, f"pretraining.lr of {config}", found.get("lr"), (rate,))
    if plan.pretrainings > 1:
        trained = {run.get("seed") for run in found.get("runs") or []}
        if lacking := set(map(plan.pretraining_seed, seeds)) - trained:
            raise InputError(
                f"{file}: pretraining.runs has no seed {min(lacking)}, which was "
                "fine-tuned; run the row again"
            )


def check_protocols(place: Path, runs: list[tuple[str, dict]]) -> None:
    """Refuse fine-tunings with as many labels but other steps or images.

    Args:
        place: what the error begins with.
        runs: fine-tunings, each with the name that the error gives it.
    """
    for labels in LABELS:
        protocols = (
            (f"{run.get('steps')} steps, {run.get('images')} images", name)
            for name, run in runs
            if run["labels"] == labels
        )
        field = f"the fine-tuning with labels={labels}"
        expect_one(place, field, protocols, "fine-tunings of different protocols")


def expect_one(
    place: Path, field: str, found: Iterable[tuple[Any, str]], what: str
) -> None:
    """Refuse values that differ.

    Args:
        place: what the error begins with.
        field: what must not differ.
        found: each value with the name of what has it.
        what: those that cannot be compared where it does.
    """
    names: dict[Any, list[str]] = {}
    for value, name in found:
        have = names.setdefault(value, [])
        if name not in have:
            have.append(name)
    if len(names) > 1:
        words = "; ".join(f"{value}: {', '.join(n)}" for value, n in names.items())
        raise InputError(
            f"{place}: {field} differs ({words}); {what} cannot be compared, so run "
            "them again alike"
        )


def read_scale(folder: Path) -> Scale:
    """What a scale's folder holds.

    Raises:
        InputError: when a file is none of the replication's, or the rows were not made
            with one data set and fine-tuned by one protocol.
    """
    files = {f.stem: f for f in folder.glob("*.json") if f.name != "data.json"}
    planned = PLANS[folder.name].rows
    unknown = sorted(set(files) - set(planned))
    if unknown:
        raise InputError(
            f"{files[unknown[0]]}: there is no such row; the rows are "
            f"{', '.join(planned)}"
        )
    rows = {name: read_row(files[name]) for name in NAMES if name in files}
    data, notes = folder / "data.json", folder / "notes.md"
    card = read_json(data) if data.is_file() else {}
    sums = [(row.get("data_sha256"), name) for name, row in rows.items()]
    if card:
        sums.append((data_digest(card["card"]["sha256"]), data.name))
    expect_one(folder, "data_sha256", sums, "rows of different data")
    runs = [(n, run) for n, row in rows.items() for run in row.get("finetuning", [])]
    check_protocols(folder, runs)
    return Scale(
        folder.name,
        rows,
        card,
        notes if notes.is_file() else None,
    )


def read_scales(root: Path) -> list[Scale]:
    """All scales that have results, small first.

    Raises:
        InputError: when there is none.
    """
    scales = [read_scale(root / name) for name in SCALES if (root / name).is_dir()]
    scales = [scale for scale in scales if scale.rows]
    if not scales:
        raise InputError(
            f"{root}: there are no results; make some with `python tools/replicate.py "
            f"{SCALES[0]}`"
        )
    check_data(root, scales)
    return scales


def check_data(root: Path, scales: list[Scale]) -> None:
    """Refuse scales that are made alike but were run on different data."""
    for scale in scales:
        sums = (
            (row.get("data_sha256"), other.name)
            for other in scales
            for row in other.rows.values()
            if scale.shares_data(other)
        )
        expect_one(root, "data_sha256", sums, "scales of different data")
