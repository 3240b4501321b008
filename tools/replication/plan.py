"""Which stages the rows need, and in what order."""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mcl.errors import InputError

from .rows import (
    CONFIGS,
    FACTORS,
    ROWS,
    SEARCH_LENGTH,
    SEARCH_SEED,
    Row,
    Scale,
    describe,
    detector_config,
    full_length,
    pretraining_config,
    read_config,
)
from .stages import (
    Stage,
    Study,
    count_work,
    export_start,
    finetune,
    make_data,
    pretrain,
    read_log,
    training_seconds,
)

PREPARE = "prepare"
# Raise when the same settings would give other figures.
FORMAT = 1
# What each of several pre-trainings, or cycles of one, has for itself.
OWN_FIGURES = ("seed", "knn", "seconds", "curve", "key", "stage_seconds")


def plan(study: Study, names: list[str], root: Path) -> list[Stage]:
    """The stages of the named rows, those of a row behind one another."""
    stages = {PREPARE: prepare_stage(study, root)}
    for name in names:
        for stage in row_stages(study, name):
            stages.setdefault(stage.name, stage)
    return list(stages.values())


def make_key(*settings: str) -> str:
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def prepare_stage(study: Study, root: Path = Path("/")) -> Stage:
    """Materials, data set, parts of the labels."""
    scale = study.scale
    # Seeds draw parts of the labels, and nothing else of the data.
    drawn = scale.seeds if min(scale.finetuning) < 100 else ()
    key = make_key(str(FORMAT), repr(sorted(scale.data.items())), repr(drawn))
    return Stage(PREPARE, partial(make_data, study, root), key=key)


def row_stages(study: Study, name: str) -> list[Stage]:
    """Search, count of work, pre-trainings, exports and fine-tunings of a row."""
    scale, owner, stages = study.scale, ROWS[name].of or name, []
    if ROWS[owner].config and not scale.rates:
        stages += search_stages(study, owner)
        if like := ROWS[owner].like:
            stages.append(work_stage(study, like))
    shared, starts = list(stages) or [prepare_stage(study)], {}
    for seed in range(scale.pretrainings):
        made = start_stages(study, name, seed, shared)
        stages += made
        starts[seed] = made[-1:] or shared
    for labels in scale.finetuning:
        for seed in scale.seeds:
            run = partial(run_finetuning, study, name, labels, seed)
            text = describe(detector_config(scale, labels, seed))
            stage, kind = finetuning_name(name, labels, seed), f"fine-tuning {labels}"
            needs = starts[scale.pretraining_seed(seed)]
            stages.append(depending(stage, run, needs, kind, own=text))
    return stages


def start_stages(study: Study, name: str, seed: int, needs: list[Stage]) -> list[Stage]:
    """Pre-training and export of one seed, each where the row has it."""
    row, owner, stages = ROWS[name], ROWS[name].of or name, []
    if ROWS[owner].config and not row.quarter:
        for cycle in range(study.scale.cycles):
            before = stages[-1:] or needs
            stages.append(pretraining_stage(study, owner, seed, before, cycle))
    if ROWS[owner].config and row.transfer == "detector":
        run = partial(run_export, study, name, seed)
        stage = of_seed(study.scale, f"{name}/export", seed)
        stages.append(depending(stage, run, stages[-1:] or needs, "export"))
    return stages


def of_seed(scale: Scale, stage: str, seed: int, cycle: int = 0) -> str:
    """A stage's name, with its seed where there are several of pre-training.

    Of cycles after the first, 0, with their number.
    """
    name = f"{stage}-{seed}" if scale.pretrainings > 1 else stage
    return f"{name}-cycle-{cycle + 1}" if cycle else name


def depending(
    name: str,
    run: Callable[[Path], dict],
    needs: list[Stage],
    kind: str,
    size: float = 1.0,
    own: str = "",
) -> Stage:
    """A stage whose figures depend on its own settings and on those of its needs."""
    key = make_key(own, *(need.key for need in needs))
    return Stage(name, run, tuple(need.name for need in needs), kind, size, key)


def finetuning_name(name: str, labels: int, seed: int) -> str:
    return f"{name}/fine-tune-{labels}-{seed}"


def search_owner(name: str) -> str:
    """The first row that pre-trains the same way, however long: they share a search.

    Of one work directory, that is: elsewhere the same search may choose another rate.
    """
    row = ROWS[name]
    return next(
        owner
        for owner, other in ROWS.items()
        if (other.config, other.batch) == (row.config, row.batch)
    )


def search_stages(study: Study, owner: str) -> list[Stage]:
    """Pre-trainings of a part of the length, one for each learning rate."""
    owner = search_owner(owner)
    row, stages = ROWS[owner], []
    middle = read_config(CONFIGS / row.config).optim_wrapper.optimizer.lr
    steps = round(SEARCH_LENGTH * full_length(row, study.scale))
    for k, factor in enumerate(FACTORS):
        lr = float(f"{factor * middle:.2g}")
        run = partial(try_rate, study, row, lr, steps)
        own = describe(pretraining_config(row, study.scale, lr, steps))
        needs, kind = [prepare_stage(study)], f"pre-training {row.config}"
        stages.append(depending(f"{owner}/search-{k}", run, needs, kind, steps, own))
    return stages


def try_rate(study: Study, row: Row, lr: float, steps: int, out: Path) -> dict:
    """A run of the search; one that a too high rate ends recognizes nothing."""
    try:
        return pretrain(study, row, lr, steps, SEARCH_SEED, out)
    except InputError as error:
        if "not finite" not in str(error):
            raise
        return dict(
            config=f"configs/replication/{row.config}",
            steps=steps,
            lr=lr,
            knn=0.0,
            seconds=training_seconds(read_log(out)),
        )


def pretraining_stage(
    study: Study, owner: str, seed: int, needs: list[Stage], cycle: int
) -> Stage:
    """A cycle of a pre-training."""
    row, scale = ROWS[owner], study.scale
    steps, lr = full_length(row, scale), None  # the search's is not known yet
    if scale.rates:
        lr = scale.rates[row.config]
    own_seed = scale.cycle_seed(seed, cycle)
    own = describe(pretraining_config(row, scale, lr, steps, own_seed))
    # How many steps equal work is, is known when the stages before are done.
    kind = "equal work" if row.like else f"pre-training {row.config}"
    run = partial(run_pretraining, study, owner, seed, cycle)
    stage = of_seed(scale, f"{owner}/pretrain", seed, cycle)
    return depending(stage, run, needs, kind, steps, own)


def work_stage(study: Study, name: str) -> Stage:
    """Multiply-adds of a row's steps."""
    row = ROWS[name]
    cfg = pretraining_config(row, study.scale, None, full_length(row, study.scale))
    run, needs = partial(count_work, study, cfg), [prepare_stage(study)]
    return depending(f"{name}/work", run, needs, "work", own=describe(cfg))


def fingerprint(study: Study, name: str) -> str:
    """SHA-256 of all settings that a row's figures depend on."""
    return make_key(*(stage.key for stage in row_stages(study, name)))


def best_search(study: Study, owner: str) -> dict:
    """The search's run with the best vote of neighbors; the lowest rate of equals.

    Raises:
        InputError: when every rate diverged.
    """
    best = max(searches(study, owner), key=lambda run: (run["knn"], -run["lr"]))
    if "checkpoint" not in best:
        raise InputError(
            f"{owner}: the loss was not finite at any learning rate of the search; "
            "lower optim_wrapper.optimizer.lr of its config"
        )
    return best


def searches(study: Study, owner: str) -> list[dict]:
    names = [f"{search_owner(owner)}/search-{k}" for k in range(len(FACTORS))]
    return [study.result(name) for name in names]


def run_pretraining(study: Study, owner: str, seed: int, cycle: int, out: Path) -> dict:
    scale, row, start = study.scale, ROWS[owner], None
    steps = full_length(row, scale)
    if cycle:
        before = of_seed(scale, f"{owner}/pretrain", seed, cycle - 1)
        start = study.work / study.result(before)["checkpoint"]
    if scale.rates:
        lr, own_seed = scale.rates[row.config], scale.cycle_seed(seed, cycle)
        return pretrain(study, row, lr, steps, own_seed, out, start)
    best = best_search(study, owner)
    if row.like:
        # As many multiply-adds as the other row's whole pre-training.
        other = study.result(f"{row.like}/work")["gmac_per_image"]
        wanted = full_length(ROWS[row.like], scale)
        steps = round(wanted * other / best["gmac_per_image"])
    return pretrain(study, row, best["lr"], steps, seed, out)


def trained(study: Study, name: str, seed: int) -> dict:
    """The pre-training that a row starts from, its cycles taken together."""
    owner, scale = ROWS[name].of or name, study.scale
    if ROWS[name].quarter:
        return best_search(study, owner)
    stages = (of_seed(scale, f"{owner}/pretrain", seed, k) for k in range(scale.cycles))
    return together([study.result(stage) for stage in stages])


def together(cycles: list[dict]) -> dict:
    """Figures of a pre-training from those of its cycles: what the last one has.

    Steps, images and times are those of all, and the curve goes through them.
    """
    if len(cycles) == 1:
        return cycles[0]
    whole, curve, steps = dict(cycles[-1], seed=cycles[0]["seed"]), [], 0
    for found in cycles:
        curve += [line | dict(step=line["step"] + steps) for line in found["curve"]]
        steps += found["steps"]
    for name in ("steps", "images", "seconds", "stage_seconds"):
        whole[name] = sum(found[name] for found in cycles)
    return whole | dict(curve=curve, earlier=[own_figures(r) for r in cycles[:-1]])


def own_figures(run: dict) -> dict:
    """What a pre-training, or a cycle of one, does not share with others of its row."""
    return {name: run[name] for name in (*OWN_FIGURES, "earlier") if name in run}


def run_export(study: Study, name: str, seed: int, out: Path) -> dict:
    row = ROWS[ROWS[name].of or name]
    checkpoint = study.work / trained(study, name, seed)["checkpoint"]
    return export_start(study, row, checkpoint, out)


def run_finetuning(study: Study, name: str, labels: int, seed: int, out: Path) -> dict:
    start = start_of(study, name, study.scale.pretraining_seed(seed))
    return finetune(study, start, labels, seed, out)


def start_of(study: Study, name: str, seed: int) -> dict:
    """The file that a row's detector starts from; nothing for random."""
    row = ROWS[name]
    if not ROWS[row.of or name].config:
        return {}
    if row.transfer == "detector":
        export = of_seed(study.scale, f"{name}/export", seed)
        return dict(load_from=str(study.work / study.result(export)["start"]))
    return dict(backbone=str(study.work / trained(study, name, seed)["checkpoint"]))


def row_result(study: Study, name: str) -> dict:
    """Pre-training and fine-tunings of a finished row, without paths."""
    runs = [
        study.result(finetuning_name(name, labels, seed))
        for labels in study.scale.finetuning
        for seed in study.scale.seeds
    ]
    return dict(pretraining=pretraining_result(study, name), finetuning=runs)


def pretraining_result(study: Study, name: str) -> dict | None:
    """A row's pre-training, or its runs where there are several, and its search."""
    owner: str = ROWS[name].of or name
    if not ROWS[owner].config:
        return None
    scale = study.scale
    made = [dict(trained(study, name, s)) for s in range(scale.pretrainings)]
    for run in made:
        run.pop("checkpoint")
    kept = made[0]
    if len(made) > 1:
        alone = own_figures(kept)
        kept = {key: value for key, value in kept.items() if key not in alone}
        kept["runs"] = [own_figures(run) for run in made]
    if scale.rates:
        return kept
    keys = ("lr", "steps", "knn", "seconds", "stage_seconds")
    searched = [{key: run[key] for key in keys} for run in searches(study, owner)]
    return kept | dict(search=searched)
