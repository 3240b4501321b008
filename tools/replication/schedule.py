"""Run stages as their needs are met, some at a time; what is done stays done."""

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from .stages import Stage, Study


def run_stages(
    study: Study,
    stages: list[Stage],
    jobs: int,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Run what is not done yet, ``jobs`` stages at a time, the earlier ones first.

    ``after`` is called when a stage is done. When one fails, those that run are
    waited for, and no other is begun.

    Raises:
        InputError: of the stage that failed.
    """
    waiting = [stage for stage in stages if not study.is_done(stage)]
    undone = {stage.name for stage in waiting}
    running: dict[Future, Stage] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or running:
            for stage in ready(waiting, undone)[: jobs - len(running)]:
                waiting.remove(stage)
                print(f"begun: {study.folder(stage.name)}", flush=True)
                running[pool.submit(run_stage, study, stage)] = stage
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                stage = running.pop(future)
                seconds = future.result()
                undone.discard(stage.name)
                left = remaining(study, [*waiting, *running.values()], jobs)
                number = len(stages) - len(waiting) - len(running)
                print(
                    f"[{number}/{len(stages)}] {stage.name}: {seconds:.0f} s; {left}",
                    flush=True,
                )
                after()


def ready(waiting: list[Stage], undone: set[str]) -> list[Stage]:
    """Stages whose needs are done."""
    return [stage for stage in waiting if not undone.intersection(stage.needs)]


def run_stage(study: Study, stage: Stage) -> float:
    """Run a stage in its folder; its figures are written last, in one step.

    What a killed run with the same settings left is gone on with, else removed.
    """
    folder, start = study.folder(stage.name), time.monotonic()
    mark = folder / "settings.txt"
    if not mark.is_file() or mark.read_text() != stage.key:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        mark.write_text(stage.key)
    kept = stage.run(folder)
    seconds = time.monotonic() - start
    partial = folder / "partial.json"
    partial.write_text(
        json.dumps(kept | dict(key=stage.key, stage_seconds=seconds)) + "\n"
    )
    partial.replace(folder / "done.json")
    return seconds


def remaining(study: Study, stages: list[Stage], jobs: int) -> str:
    """About how long these stages take, judged by the finished ones of their kinds."""
    rates: dict[str, list[float]] = {}
    for file in study.work.glob("*/*/done.json"):
        name = file.parent.relative_to(study.work).as_posix()
        kept = json.loads(file.read_text())
        kind, size = kind_of(name, kept)
        rates.setdefault(kind, []).append(kept["stage_seconds"] / size)
    means = {kind: sum(found) / len(found) for kind, found in rates.items()}
    of_trainings = [mean for kind, mean in means.items() if kind.startswith("pre-")]
    guess = max(of_trainings, default=None)
    total, unknown = 0.0, 0
    for stage in stages:
        fallback = guess if stage.kind.startswith("pre-") else None
        rate = means.get(stage.kind, fallback)
        if rate is None:
            unknown += 1
        else:
            total += rate * stage.size
    words = f"about {total / jobs / 60:.0f} min left"
    return words + (f" and {unknown} stages of unknown length" if unknown else "")


def kind_of(name: str, kept: dict) -> tuple[str, float]:
    """Kind and size of a finished stage, as :class:`Stage` has them."""
    if "knn" in kept:
        return f"pre-training {kept['config'].rpartition('/')[2]}", kept["steps"]
    if "labels" in kept:
        return f"fine-tuning {kept['labels']}", 1.0
    return name.rpartition("/")[2].partition("-")[0], 1.0
