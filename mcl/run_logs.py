"""Evaluations of a detector's training, read from the JSON logs of MMEngine."""

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from mcl.errors import InputError

# The AP of COCO, LVIS, Pascal VOC and Cityscapes: prefix, kind, rest.
AP = re.compile(r"(.*/|)(?:(bbox|segm)_)?m?AP[_@]?(\d+|[smlrcf]|)")


class Log(NamedTuple):
    """Evaluations of one log by step; ``start`` is the first step that it trains."""

    unit: str  # of the steps: iteration or epoch
    start: float
    evaluations: dict[int, dict[str, float | None]]

    def in_iterations(self, epoch_length: int) -> "Log":
        if self.unit == "iteration":
            return self
        found = {epoch * epoch_length: row for epoch, row in self.evaluations.items()}
        return Log("iteration", (self.start - 1) * epoch_length + 1, found)


class Run(NamedTuple):
    """A training: its logs merged into one."""

    name: str
    log: Log
    epoch_length: int | None  # iterations, where the logs tell
    notes: list[str]

    def metrics(self) -> list[str]:
        """Names of the APs, in the order of the log."""
        rows = self.log.evaluations.values()
        return list(dict.fromkeys(key for row in rows for key in row if parts(key)))

    def values(self, family: tuple[str, str], column: str) -> dict[int, float]:
        """Percent points by step, without the steps that have none."""
        rows = self.log.evaluations.items()
        aps = [row[key] or 0 for _, row in rows for key in row if parts(key)]
        scale = 1 if max(aps) > 1 else 100
        return {
            step: value * scale
            for step, row in rows
            for key, value in row.items()
            if value is not None and parts(key) == (*family, column)
        }

    def last(self, family: tuple[str, str], column: str) -> float | None:
        """Percent points at the last evaluation."""
        return self.values(family, column).get(max(self.log.evaluations))


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
    if not path.exists():
        raise InputError(f"run {name}: {path} does not exist; give a work directory")
    if path.is_file():
        return [path]
    files = sorted([*path.glob("vis_data/*.json"), *path.glob("*/vis_data/*.json")])
    if not files:
        raise InputError(
            f"run {name}: {path} has no TIMESTAMP/vis_data/*.json; give the work "
            "directory of a training, or its JSON log"
        )
    # scalars.json repeats TIMESTAMP.json.
    return [file for file in files if file.name != "scalars.json"] or files


def read_rows(name: str, file: Path) -> tuple[list[dict], list[str]]:
    """The lines of a log, and notes about it."""
    try:
        lines = file.read_text("utf-8", errors="replace").rstrip().split("\n")
    except OSError as error:
        raise InputError(f"run {name}: {file} cannot be read ({error})") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line.strip() or "{}")
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif number == len(lines) > 1:
            return rows, [f"{name}: the unfinished last line of {file} is left out"]
        else:
            raise InputError(
                f"run {name}: line {number} of {file} is no JSON object; remove that "
                "line, or give the JSON log that MMEngine wrote"
            )
    return rows, []


def metrics_of(row: dict) -> dict[str, float | None]:
    """The metrics of a line; None is what could not be measured."""
    metrics = {}
    for key, value in row.items():
        key = key.removeprefix("val/")  # of log_with_hierarchy
        if type(value) in (int, float) and key not in ("step", "time", "data_time"):
            # The metrics log -1 where the data have no such object.
            empty = value == -1 or not math.isfinite(value)
            metrics[key] = None if empty else value
    return metrics


def is_training(row: dict) -> bool:
    return type(row.get("iter")) is int and type(row.get("step")) is int


def place(name: str, rows: list[dict]) -> tuple[Log, list[str]]:
    """Evaluations of a log with their steps, and notes about it."""
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
    key = "epoch" if by_epoch else "step"
    starts = (row[key] for row in rows if is_training(row) and key in row)
    log = Log(
        "epoch" if by_epoch else "iteration",
        next(starts, math.inf),
        {step: metrics for step, (*_, metrics) in zip(steps, found, strict=True)},
    )
    note = f"{name}: evaluations without a step stand at the training line before them"
    return log, [note] * lost


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
    if length < 1 or length != int(length):
        return None
    fits = all(math.ceil(row["step"] / length) == row["epoch"] for row in trained)
    return int(length) if fits else None


def merge(name: str, logs: list[Log]) -> tuple[Log, list[str]]:
    """One log out of those of a run, and notes about it.

    A later log wins from its start on: what was trained there before is abandoned.
    """
    merged, replaced = {}, set()
    for log in logs:
        old = {step for step in merged if step >= log.start or step in log.evaluations}
        kept = {step: row for step, row in merged.items() if step not in old}
        merged = {**kept, **log.evaluations}
        replaced |= old
    note = f"{name}: {len(logs)} logs are merged"
    if replaced:
        steps = ", ".join(map(str, sorted(replaced)))
        note += f"; a later one replaces the evaluations at {logs[0].unit} {steps}"
    whole = logs[0]._replace(evaluations=dict(sorted(merged.items())))
    return whole, [note] * (len(logs) > 1)


def read_run(name: str, path: Path) -> Run:
    """The evaluations of a run out of all its logs.

    Args:
        path: work directory, or one JSON log.

    Raises:
        InputError: the path is missing, is no log or holds no evaluation.
    """
    contents, logs, notes = [], [], []
    for file in find_logs(name, path):
        rows, about_file = read_rows(name, file)
        log, about_steps = place(name, rows)
        contents.append(rows)
        logs.append(log)
        notes += [note for note in about_file + about_steps if note not in notes]
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
                f"run {name}: the logs of {path} count evaluations in iterations and "
                "in epochs; give one of the JSON logs"
            )
        logs = [log.in_iterations(length) for log in logs]
    log, about_logs = merge(name, logs)
    return Run(name, log, length, notes + about_logs)


def share_unit(runs: list[Run]) -> list[Run]:
    """The runs in iterations, or all in epochs where one cannot be converted.

    Raises:
        InputError: one run has epochs alone, another iterations alone.
    """
    stuck = [r for r in runs if r.log.unit == "epoch" and not r.epoch_length]
    if not stuck:
        return [r._replace(log=r.log.in_iterations(r.epoch_length)) for r in runs]
    for run in runs:
        if run.log.unit == "iteration":
            raise InputError(
                f"run {stuck[0].name} counts epochs, of a length that its log does not "
                f"tell, but run {run.name} iterations; compare runs of one kind"
            )
    return runs
