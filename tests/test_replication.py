"""tools/replicate.py: its configs, its order of work, and rows from end to end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mcl.load_report import PRETRAINED, LoadReport
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from PIL import Image

from mcl.errors import InputError

from .conftest import ROOT
from .test_benchmark import load
from .test_make_scenes import make_scenes

replicate, plan, rows, schedule, stages, measure = (
    load(name)
    for name in (
        "replicate",
        "replication.plan",
        "replication.rows",
        "replication.schedule",
        "replication.stages",
        "replication.measure",
    )
)
OWN = [name for name, row in rows.ROWS.items() if row.config]
# Configs of rows whose detectors start from more than a backbone.
WHOLE = sorted(
    {rows.ROWS[n].config for n in OWN if rows.ROWS[n].transfer == "detector"}
)
# Shrinks everything to seconds; what the configs have beside these stays.
TINY = rows.Scale(
    data=dict(
        pretrain=2 * 18 * 6,
        probe=18 * 6,
        train=20,
        val=8,
        object_size=48,
        scene_size=64,
        split_cutouts=True,
    ),
    finetuning={100: 2, 10: 1},
    seeds=(0,),
    pretraining={
        "train_cfg.max_iters": 8,
        "default_hooks.logger.interval": 1,
        "train_dataloader.batch_size": 8,
        "train_dataloader.sampler.batch_size": 8,
        "train_dataloader.num_workers": 0,
        "train_dataloader.persistent_workers": False,
    },
    detector={
        "train_dataloader.batch_size": 2,
        "train_dataloader.num_workers": 0,
        "train_dataloader.persistent_workers": False,
        "val_dataloader.num_workers": 0,
        "val_dataloader.persistent_workers": False,
    },
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A work directory whose data set is made, of discs in the classes' folders."""
    work = tmp_path_factory.mktemp("replication")
    classes = rows.detector_config(TINY, 100, 0).metainfo.classes
    rng = np.random.default_rng(0)
    for name in classes:
        for k in range(7):
            rgba = np.zeros((96, 96, 4), np.uint8)
            colour = (*map(int, rng.integers(0, 255, 3)), 255)
            cv2.circle(rgba, (48, 48), 30 + k, colour, -1)
            file = work / "cutouts" / name / f"{k}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rgba).save(file)
    options = make_scenes.Options(**TINY.data, cutouts=str(work / "cutouts"))
    card, _ = make_scenes.build(work / "data", options)
    study = stages.Study(TINY, work, threads=2)
    (work / "prepare").mkdir()
    stages.draw_parts(study, work / "log.txt")
    text = rows.detector_config(TINY, 100, 0).pretty_text
    (work / "prepare/detector.py").write_text(text)
    key = plan.prepare_stage(study).key
    done = json.dumps(card | dict(key=key, stage_seconds=1.0))
    (work / "prepare/done.json").write_text(done)
    return work


@pytest.fixture
def study(prepared, monkeypatch) -> "stages.Study":
    monkeypatch.setenv(rows.DATA_VARIABLE, f"{prepared}/data/")
    return stages.Study(TINY, prepared, threads=2)


# What small-seeds trains is what small does, at other rates.
@pytest.mark.parametrize("scale", ["small", "medium"])
@pytest.mark.parametrize("name", OWN)
def test_pretrainings_take_a_step(study, name, scale):
    cfg = rows.pretraining_config(rows.ROWS[name], rows.SCALES[scale], 0.1, 40)
    assert cfg.optim_wrapper.optimizer.lr == 0.1
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[1].end == 40
    assert cfg.param_scheduler[0].end == 2
    _, loss = take_step(cfg)
    assert loss.isfinite() and loss > 0
    side = cfg.train_dataloader.dataset.dataset.pipeline[1]
    wanted = 96 if scale == "small" else 128
    assert wanted in (side.get("size"), side.get("scale")) or (
        side.transforms[0][0].scale == wanted
    )
    assert cfg.size == wanted


def build_detector(scale):
    from mmdet.registry import MODELS as DETECTORS

    init_default_scope("mmdet")
    return DETECTORS.build(rows.detector_config(scale, 100, 0).model)


def take_step(cfg):
    """The model after a forward and a backward pass on 8 images, and its loss."""
    init_default_scope("mmpretrain")
    cfg.train_dataloader.update(batch_size=8, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.sampler.batch_size = 8
    model = MODELS.build(cfg.model)
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
    losses = model(**model.data_preprocessor(batch, True), mode="loss")
    loss, _ = model.parse_losses(losses)
    loss.backward()
    return model, loss


@pytest.mark.parametrize("config", WHOLE)
def test_a_row_leaves_as_what_its_detector_starts_from(study, config):
    folder = study.folder(f"starts/{Path(config).stem}")
    folder.mkdir(parents=True)
    row, checkpoint = rows.Row(config), folder / "trained.pth"
    model, _ = take_step(rows.pretraining_config(row, TINY, 0.1, 4))
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    start = stages.export_start(study, row, checkpoint, folder)["start"]
    assert start == f"starts/{Path(config).stem}/start.pth"
    report = LoadReport.compare(
        torch.load(study.work / start)["state_dict"], build_detector(TINY).state_dict()
    )
    assert not report.problems(promised=PRETRAINED)


def test_one_level_alone_leaves_maps_unread():
    assert [c for c in WHOLE if rows.leaves_unread(rows.Row(c))] == ["mcl-level1.py"]


@pytest.mark.parametrize("scale", list(rows.SCALES))
def test_detector_is_one_for_all_rows(study, scale):
    whole, *parts = (
        rows.detector_config(rows.SCALES[scale], labels, 1)
        for labels in rows.SCALES[scale].finetuning
    )
    build_detector(rows.SCALES[scale])
    assert len(parts) == (scale in ("small", "medium"))
    for part in parts:
        dataset = part.train_dataloader.dataset
        assert dataset.ann_file == "annotations/train.seed1@10.json"
    assert whole.train_dataloader.dataset.ann_file == "annotations/train.json"
    assert whole.randomness.seed == 1
    side = rows.SCALES[scale].data["scene_size"]
    assert whole.train_dataloader.dataset.pipeline[2].scale == (side, side)


def test_every_row_has_a_title():
    assert set(load("replication.titles").NAMES) == set(rows.ROWS)


def test_medium_has_the_sizes_of_its_name():
    data = rows.SCALES["medium"].data
    assert data["pretrain"] >= 60000 and (data["train"], data["val"]) == (3000, 2000)
    small = rows.SCALES["small"].data
    assert small["pretrain"] >= 10000 and (small["train"], small["val"]) == (2000, 500)


@pytest.mark.parametrize("scale", list(rows.SCALES))
def test_scenes_are_as_varied_as_they_are_said_to_be(scale):
    rules = make_scenes.Options(**rows.SCALES[scale].data, cutouts="/x").rules
    assert rules.objects == (1, 8) and rules.distractors[1] > 0
    assert rules.scale[1] / rules.scale[0] >= 6


@pytest.mark.parametrize("scale", [name for name in rows.SCALES if name != "medium"])
def test_stored_results_are_of_todays_settings(monkeypatch, scale):
    monkeypatch.setenv(rows.DATA_VARIABLE, "/x/")
    study = stages.Study(rows.SCALES[scale], Path("/nowhere"))
    stored = {
        f.stem: json.loads(f.read_text())["config_sha256"]
        for f in (replicate.RESULTS / scale).glob("*.json")
        if f.name != "data.json"
    }
    assert stored and stored == {name: plan.fingerprint(study, name) for name in stored}


@pytest.mark.parametrize("scale", list(rows.SCALES))
def test_the_data_of_every_scale_were_made_once(scale):
    file = replicate.RESULTS / scale / "data.json"
    card = json.loads(file.read_text())["card"]
    options = rows.SCALES[scale].data
    assert {name: card["options"][name] for name in options} == options
    assert card["images"] == {n: options[n] for n in card["images"]}
    notes = [f"annotations/{name}.json" for name in card["objects"]]
    assert set(card["sha256"]) == {*card["images"], *notes}


def result_of_small(name) -> dict:
    file = replicate.RESULTS / f"small/{name}.json"
    return json.loads(file.read_text())["pretraining"]


def test_small_seeds_is_small_at_the_rates_of_its_searches():
    """Rows that change a part of MCL have MCL's rate, the others their own."""
    scale, small = rows.SCALES["small-seeds"], rows.SCALES["small"]
    assert scale.data == small.data and scale.seeds[:3] == small.seeds
    assert scale.finetuning[100] == small.finetuning[100]
    own = {rows.ROWS[name].config: name for name in scale.rows if name in OWN}
    assert set(own) == set(scale.rates)
    for row in (rows.ROWS[name] for name in scale.rows):
        assert not row.quarter and not row.like and row.of in (None, *scale.rows)
    for config, name in own.items():
        part = name.startswith("mcl-") and name != "mcl-sup"
        searched = "mcl" if part else name
        lr = result_of_small(searched)["lr"]
        assert scale.rates[config] == lr
        assert name == searched or result_of_small(name)["lr"] < lr
        ours, theirs = (
            rows.pretraining_config(rows.ROWS[name], s, lr, 40) for s in (scale, small)
        )
        assert rows.describe(ours) == rows.describe(theirs)
    whole, other = (rows.detector_config(s, 100, 1) for s in (scale, small))
    assert (whole.train_cfg.val_interval, other.train_cfg.val_interval) == (400, 100)
    whole.train_cfg.val_interval = 100
    assert rows.describe(whole) == rows.describe(other)


def stage_keys(scale, names) -> dict[str, str]:
    """The keys of all stages of some rows, by name."""
    study = stages.Study(rows.SCALES[scale], Path("/x"))
    return {s.name: s.key for s in plan.plan(study, names, Path("/"))}


def test_small_longer_goes_on_from_the_pretrainings_of_small_seeds():
    names = rows.SCALES["small-longer"].rows
    ours, theirs = (
        stage_keys(scale, names) for scale in ("small-longer", "small-seeds")
    )
    trained = {n for n in ours if "fine-tune" not in n}
    assert {n.partition("/")[0] for n in trained} == {"prepare", *names} - {"random"}
    assert all(ours[n] == theirs[n] for n in trained)
    assert not {ours[n] for n in set(ours) - trained} & set(theirs.values())


def test_small_restart_goes_on_from_small_longer():
    """First cycles, their data and the random start's fine-tunings are the same."""
    names = rows.SCALES["small-restart"].rows
    ours, theirs = (
        stage_keys(scale, names) for scale in ("small-restart", "small-longer")
    )
    alike = {name for name in ours if ours[name] == theirs.get(name)}
    first = {n for n in ours if "/pretrain-" in n and not n.endswith("-cycle-2")}
    random = {n for n in ours if n.startswith("random/")}
    assert alike == {"prepare"} | first | random
    assert len(first) == 9 and len(random) == 6
    assert set(ours) - set(theirs) == {f"{name}-cycle-2" for name in first}


def keys(scale, *names) -> list[str]:
    study = stages.Study(scale, Path("/nowhere"))
    return [plan.fingerprint(study, name) for name in names]


def test_fingerprint_follows_what_a_row_needs():
    ours, other = keys(TINY, "mcl", "mocov2")
    assert [ours, other] == keys(TINY, "mcl", "mocov2")
    changed = replace(TINY, methods={"mcl": {"model.base_momentum": 0.5}})
    assert keys(changed, "mcl")[0] != ours and keys(changed, "mocov2")[0] == other
    assert keys(changed, "mocov2-compute") != keys(TINY, "mocov2-compute")
    assert keys(changed, "mcl-backbone") != keys(TINY, "mcl-backbone")
    for scale in (
        replace(TINY, seeds=(0, 1)),
        replace(TINY, finetuning={100: 3}),
        replace(TINY, data=TINY.data | dict(seed=1)),
        replace(TINY, detector={"optim_wrapper.optimizer.lr": 5.0}),
    ):
        both = keys(scale, "mcl", "mocov2")
        assert both[0] != ours and both[1] != other


@pytest.mark.parametrize("folder", ["/a/", "/jürgen" + "x" * 150 + "/"])
def test_fingerprint_does_not_depend_on_the_folder(monkeypatch, folder):
    monkeypatch.setenv(rows.DATA_VARIABLE, "/b/")
    before = keys(TINY, "mcl", "random")
    monkeypatch.setenv(rows.DATA_VARIABLE, folder)
    assert keys(TINY, "mcl", "random") == before


def test_rows_differ_in_what_they_train():
    for scale in rows.SCALES.values():
        found = set()
        for name in OWN:
            row = rows.ROWS[name]
            cfg = rows.pretraining_config(row, scale, 0.1, 40)
            parts = (cfg.model, cfg.train_dataloader, row.like)
            found.add(str(parts))
            images = cfg.train_dataloader.batch_size * rows.full_length(row, scale)
            ours = rows.full_length(rows.ROWS["mcl"], scale) * rows.batch_size(scale)
            assert images == ours
        assert len(found) == len(OWN)


def fake_stages(work, order, needs, fail=(), key="k"):
    def make(name):
        def run(folder):
            order.append(name)
            if name in fail:
                raise InputError(f"{name} failed")
            return dict(value=name)

        return stages.Stage(name, run, tuple(needs.get(name, ())), key=key)

    return [make(name) for name in "abcd"]


def test_stages_wait_for_what_they_need(tmp_path):
    study, order = stages.Study(TINY, tmp_path), []
    needs = dict(a="c", b="a")
    schedule.run_stages(study, fake_stages(tmp_path, order, needs), 2)
    assert sorted(order) == list("abcd")
    assert order.index("c") < order.index("a") < order.index("b")
    assert study.result("b")["value"] == "b"


def test_what_is_done_is_not_done_again(tmp_path):
    study, order = stages.Study(TINY, tmp_path), []
    with pytest.raises(InputError, match="c failed"):
        schedule.run_stages(study, fake_stages(tmp_path, order, {}, fail="c"), 1)
    assert order == list("abc")
    (tmp_path / "c" / "checkpoint").write_text("half done")
    schedule.run_stages(study, fake_stages(tmp_path, order, {}), 1)
    assert order == list("abccd")
    assert (tmp_path / "c" / "checkpoint").exists()


def test_what_was_done_with_other_settings_is_done_anew(tmp_path):
    study, order = stages.Study(TINY, tmp_path), []
    schedule.run_stages(study, fake_stages(tmp_path, order, {}), 1)
    (tmp_path / "c" / "checkpoint").write_text("of other settings")
    schedule.run_stages(study, fake_stages(tmp_path, order, {}, key="l"), 1)
    assert order == list("abcdabcd")
    assert not (tmp_path / "c" / "checkpoint").exists()


def test_remaining_time_is_of_the_kind(tmp_path):
    study = stages.Study(TINY, tmp_path)
    for name, kept in {
        "mcl/search-0": dict(knn=0.1, config="x/mcl.py", steps=10, stage_seconds=600),
        "mcl/fine-tune-10-0": dict(labels=10, stage_seconds=120),
    }.items():
        study.folder(name).mkdir(parents=True)
        (study.folder(name) / "done.json").write_text(json.dumps(kept))
    long = stages.Stage("x", print, (), "pre-training mcl.py", 40)
    short = stages.Stage("y", print, (), "fine-tuning 10")
    text = schedule.remaining(study, [long, short, short], 2)
    assert text == "about 22 min left"  # (40 x 60 + 2 x 120) / 2 seconds
    unknown = stages.Stage("z", print, (), "export")
    assert "1 stages of unknown length" in schedule.remaining(study, [unknown], 2)
    study.folder("mcl/export-0").mkdir()
    file = study.folder("mcl/export-0") / "done.json"
    file.write_text(json.dumps(dict(stage_seconds=240)))
    assert schedule.remaining(study, [unknown], 2) == "about 2 min left"


def test_search_is_judged_by_neighbours(tmp_path):
    study = stages.Study(TINY, tmp_path)
    for k, (lr, knn) in enumerate([(0.1, 0.3), (0.3, 0.4), (0.9, 0.4)]):
        folder = study.folder(f"mcl/search-{k}")
        folder.mkdir(parents=True)
        kept = dict(lr=lr, knn=knn, checkpoint="a.pth")
        (folder / "done.json").write_text(json.dumps(kept))
    assert plan.best_search(study, "mcl")["lr"] == 0.3


def test_a_search_without_a_finite_run_is_said(tmp_path):
    study = stages.Study(TINY, tmp_path)
    for k in range(3):
        folder = study.folder(f"mcl/search-{k}")
        folder.mkdir(parents=True)
        (folder / "done.json").write_text(json.dumps(dict(lr=1.0, knn=0.0)))
    with pytest.raises(InputError, match="mcl: the loss was not finite"):
        plan.best_search(study, "mcl")


def test_a_command_that_fails_says_its_own_error(tmp_path):
    study, log = stages.Study(TINY, tmp_path), tmp_path / "log.txt"
    log.write_text("error: of an earlier command\n")
    script = tmp_path / "script.py"
    for text, words in {
        "import sys; sys.exit('error: new')": "error: new",
        "import sys; sys.exit(3)": "this command failed; $",
    }.items():
        script.write_text(text)
        with pytest.raises(InputError, match=words):
            study.command(log, script)


@pytest.mark.parametrize("words", ["loss is not finite at iteration 3", "disk full"])
def test_a_rate_that_diverges_loses_the_search(study, tmp_path, monkeypatch, words):
    def fail(*args):
        raise InputError(f"log.txt: this command failed; error: {words}")

    monkeypatch.setattr(plan, "pretrain", fail)
    try_it = (study, rows.ROWS["mcl"], 9.0, 4, tmp_path)
    if "finite" in words:
        assert plan.try_rate(*try_it)["knn"] == 0
    else:
        with pytest.raises(InputError, match="disk full"):
            plan.try_rate(*try_it)


def test_plan_shares_a_pretraining_and_counts_for_equal_work(study, monkeypatch):
    names = ["mcl", "mcl-backbone", "mcl-quarter", "mocov2-compute"]
    found = {s.name: s for s in plan.plan(study, names, Path("/"))}
    trained = [n for n in found if n.endswith("/pretrain")]
    assert trained == ["mcl/pretrain", "mocov2-compute/pretrain"]
    assert "mcl/work" in found["mocov2-compute/pretrain"].needs
    assert "mocov2/search-0" in found["mocov2-compute/pretrain"].needs
    assert found["mcl-backbone/fine-tune-10-0"].needs == ("mcl/pretrain",)
    assert "mcl/search-2" in found["mcl-quarter/export"].needs
    kept = dict(lr=0.1, knn=0.5, checkpoint="", gmac_per_image=3.0)
    results = {f"mocov2/search-{k}": kept for k in range(3)}
    results["mcl/work"] = dict(gmac_per_image=9.0)
    monkeypatch.setattr(stages.Study, "result", lambda _, stage: results[stage])
    monkeypatch.setattr(plan, "pretrain", lambda *args: args)
    *_, steps, _, _ = plan.run_pretraining(study, "mocov2-compute", 0, 0, study.work)
    assert steps == 3 * rows.full_length(rows.ROWS["mcl"], TINY)


@pytest.mark.parametrize(
    "scale, name", [(s, n) for s, found in rows.SCALES.items() for n in found.rows]
)
def test_every_row_can_be_run_alone(tmp_path, scale, name):
    before, study = set(), stages.Study(rows.SCALES[scale], tmp_path)
    for stage in plan.plan(study, [name], Path("/")):
        assert before.issuperset(stage.needs), stage.name
        before.add(stage.name)


SEEDED = replace(
    TINY,
    seeds=(0, 1, 2, 3),
    pretrainings=2,
    finetuning={100: 2},
    rates={"mcl.py": 0.02},
)


def test_given_rates_are_not_searched_and_pretrainings_have_tunings(tmp_path):
    study = stages.Study(SEEDED, tmp_path)
    found = {s.name: s for s in plan.plan(study, ["mcl", "mcl-backbone"], Path("/"))}
    own = [f"mcl/{kind}-{k}" for kind in ("export", "pretrain") for k in (0, 1)]
    own += [f"mcl/fine-tune-100-{seed}" for seed in SEEDED.seeds]
    alone = [f"mcl-backbone/fine-tune-100-{seed}" for seed in SEEDED.seeds]
    assert sorted(found) == sorted(["prepare", *own, *alone])
    for k in (0, 1):
        assert found[f"mcl/export-{k}"].needs == (f"mcl/pretrain-{k}",)
        for seed in (k, k + 2):
            assert found[f"mcl/fine-tune-100-{seed}"].needs == (f"mcl/export-{k}",)
            assert found[alone[seed]].needs == (f"mcl/pretrain-{k}",)
    assert len({found[name].key for name in alone}) == 4
    assert found["mcl/pretrain-0"].key != found["mcl/pretrain-1"].key
    other = stages.Study(replace(SEEDED, rates={"mcl.py": 0.03}), tmp_path)
    changed = {s.name: s for s in plan.row_stages(other, "mcl")}
    assert changed["mcl/pretrain-0"].key != found["mcl/pretrain-0"].key


def test_more_seeds_keep_what_is_done_where_no_labels_are_drawn():
    more, study = (
        replace(SEEDED, seeds=tuple(range(6))),
        partial(stages.Study, work=Path("/")),
    )
    ours, theirs = (
        {s.name: s.key for s in plan.plan(study(scale), ["mcl"], Path("/"))}
        for scale in (SEEDED, more)
    )
    assert len(theirs) == len(ours) + 2 and ours.items() <= theirs.items()
    few = [replace(scale, finetuning={10: 2}) for scale in (SEEDED, more)]
    assert len({plan.prepare_stage(study(scale)).key for scale in few}) == 2


def test_results_of_several_pretrainings_keep_each(tmp_path, monkeypatch):
    study, asked = stages.Study(SEEDED, tmp_path), []

    def train(study, row, lr, steps, seed, out, start):
        asked.append((lr, steps, seed, start))
        run = dict(seed=seed, knn=0.1 + seed, seconds=5.0, curve=[], lr=lr)
        return run | dict(
            steps=steps,
            checkpoint=study.named(out / f"{seed}.pth"),
            config="x/mcl.py",
        )

    def export(study, row, checkpoint, out):
        return dict(start=f"{study.named(checkpoint)}.export")

    def tune(study, start, labels, seed, out):
        return dict(labels=labels, seed=seed, **start)

    monkeypatch.setattr(plan, "pretrain", train)
    monkeypatch.setattr(plan, "export_start", export)
    monkeypatch.setattr(plan, "finetune", tune)
    study.folder("prepare").mkdir()
    key = plan.prepare_stage(study).key
    (study.folder("prepare") / "done.json").write_text(json.dumps(dict(key=key)))
    both = ["mcl", "mcl-backbone"]
    schedule.run_stages(study, plan.plan(study, both, Path("/")), 1)
    assert asked == [(0.02, 8, 0, None), (0.02, 8, 1, None)]
    row = plan.row_result(study, "mcl-backbone")
    assert [run["seed"] for run in row["finetuning"]] == [0, 1, 2, 3]
    for seed, run in enumerate(row["finetuning"]):
        k = seed % 2
        assert run["backbone"].endswith(f"mcl/pretrain-{k}/{k}.pth")
        whole = plan.row_result(study, "mcl")["finetuning"][seed]
        assert whole["load_from"] == f"{run['backbone']}.export"
    before = row["pretraining"]
    assert (before["lr"], before["steps"]) == (0.02, 8) and "knn" not in before
    assert [(r["seed"], r["knn"]) for r in before["runs"]] == [(0, 0.1), (1, 1.1)]
    assert "checkpoint" not in json.dumps(before)


RESTARTED = replace(SEEDED, cycles=2, rates={"mcl.py": 0.0})


def test_a_cycle_waits_for_the_one_before(tmp_path):
    study = stages.Study(RESTARTED, tmp_path)
    found = {s.name: s for s in plan.row_stages(study, "mcl")}
    for k in (0, 1):
        first, second = f"mcl/pretrain-{k}", f"mcl/pretrain-{k}-cycle-2"
        assert found[second].needs == (first,)
        assert found[f"mcl/export-{k}"].needs == (second,)
    other = stages.Study(replace(RESTARTED, cycles=3), tmp_path)
    more = {s.name: s for s in plan.row_stages(other, "mcl")}
    assert more["mcl/pretrain-1-cycle-3"].needs == ("mcl/pretrain-1-cycle-2",)
    trained = [s for name, s in more.items() if "/pretrain-" in name]
    assert len({s.key for s in trained}) == len(trained) == 6


def test_a_cycle_starts_from_the_weights_of_the_one_before(prepared, monkeypatch):
    """At a rate of 0 they stay as they are, though another seed would draw others."""
    monkeypatch.setenv(rows.DATA_VARIABLE, f"{prepared}/data/")
    study = stages.Study(RESTARTED, prepared, threads=2)
    wanted = ["mcl/pretrain-1", "mcl/pretrain-1-cycle-2"]
    found = [s for s in plan.row_stages(study, "mcl") if s.name in wanted]
    schedule.run_stages(study, found, 1)
    runs = [study.result(name) for name in wanted]
    assert [run["seed"] for run in runs] == [1, 3]
    weights = [
        torch.load(prepared / run["checkpoint"], weights_only=False)["state_dict"]
        for run in runs
    ]
    trained = [name for name in weights[0] if name.endswith("weight")]
    assert len(trained) > 40
    assert all(torch.equal(*(w[name] for w in weights)) for name in trained)
    losses = [run["curve"][0]["loss"] for run in runs]
    assert losses[0] != losses[1]  # of other images
    assert [int(w["target.step"]) for w in weights] == [8, 8]
    whole = plan.trained(study, "mcl", 1)
    (before,) = whole["earlier"]
    assert (before["seed"], before["knn"]) == (1, runs[0]["knn"])
    assert "checkpoint" not in before
    assert (whole["steps"], whole["images"], whole["seed"]) == (16, 128, 1)
    assert [line["step"] for line in whole["curve"]] == list(range(1, 17))
    assert whole["seconds"] == sum(run["seconds"] for run in runs)
    assert whole["knn"] == runs[1]["knn"]
    assert whole["checkpoint"] == runs[1]["checkpoint"]


def test_a_cycle_that_was_killed_goes_on_with_its_own_checkpoint(
    study, tmp_path, monkeypatch
):
    """Not with the one that it started from, which is at the end of a cycle."""
    commands = []
    monkeypatch.setattr(stages.Study, "command", lambda _, log, *w: commands.append(w))
    line = dict(step=8, time=1.0, loss=1.0)
    monkeypatch.setattr(stages, "read_log", lambda _: [line])
    (tmp_path / "features.json").write_text("{}")
    monkeypatch.setattr(stages.Study, "named", lambda _, file: file.name)
    options = [study, rows.ROWS["mcl"], 0.1, 8, 3, tmp_path, Path("/start.pth")]
    stages.pretrain(*options)
    assert "--resume" not in commands[0]
    assert "load_from = '/start.pth'" in (tmp_path / "config.py").read_text()
    (tmp_path / "last_checkpoint").write_text("iter_4.pth")
    stages.pretrain(*options)
    assert commands[2][-2:] == ("--resume", "auto")


def test_cycles_without_rates_are_refused():
    with pytest.raises(InputError, match="cycles=2: give the scale's rates"):
        replace(TINY, cycles=2)
    with pytest.raises(InputError, match="leave byol.py out"):
        replace(TINY, cycles=2, rates={"byol.py": 0.1})


def test_rows_of_another_scale_are_refused(monkeypatch):
    words = ["replicate.py", "small-seeds", "--rows", "mcl", "byol"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(InputError, match="--rows byol: small-seeds has no .*random"):
        replicate.parse_args()
    monkeypatch.setattr("sys.argv", words[:2])
    assert replicate.parse_args().rows == list(rows.SCALES["small-seeds"].rows)


def test_work_is_counted_without_training(study, prepared, tmp_path):
    cfg = rows.pretraining_config(rows.ROWS["mcl"], TINY, None, 4)
    whole = stages.count_work(stages.Study(TINY, prepared), cfg, tmp_path)
    other = rows.pretraining_config(rows.ROWS["mcl-sup"], TINY, None, 4)
    alone = stages.count_work(stages.Study(TINY, prepared), other, tmp_path)
    # One view and no target, instead of two views, each with a target.
    assert 2 < whole["gmac_per_image"] / alone["gmac_per_image"] < 3


def test_rows_end_in_results(study, prepared, tmp_path, monkeypatch, capsys):
    """One learning rate; MCL is stopped in its last stage, and goes on."""
    monkeypatch.setattr(plan, "FACTORS", (1,))
    monkeypatch.setattr(replicate, "write_report", lambda args: None)
    shorter = replace(TINY, finetuning={10: 2})
    study = stages.Study(shorter, prepared, threads=2)
    monkeypatch.setitem(rows.SCALES, "small", shorter)
    results = tmp_path / "results"

    class Args:
        scale, root, rows = "small", Path("/none"), ["mcl"]

    Args.results = results
    with monkeypatch.context() as patch, pytest.raises(InputError, match="killed"):
        patch.setattr(plan, "finetune", stop)
        replicate.run_rows(study, Args, 1)
    assert not (results / "small/mcl.json").exists()
    before = (prepared / "mcl/pretrain/done.json").read_text()
    replicate.run_rows(study, Args, 1)
    assert (prepared / "mcl/pretrain/done.json").read_text() == before
    row = json.loads((results / "small/mcl.json").read_text())
    assert row["config_sha256"] == plan.fingerprint(study, "mcl")
    training = row["pretraining"]
    assert training["steps"] == 8 and training["images"] == 64
    assert 0 <= training["knn"] <= 1 and training["gmac_per_image"] > 0.1
    assert [line["step"] for line in training["curve"]] == list(range(1, 9))
    assert len(training["search"]) == 1 and training["search"][0]["steps"] == 2
    (run,) = row["finetuning"]
    assert (run["seed"], run["labels"], run["images"], run["steps"]) == (0, 10, 2, 2)
    assert {"bbox", "segm", "bbox_agnostic", "segm_agnostic"} <= set(run)
    assert len(run["examples"]) == 6 and len(run["curve"]) == 1
    assert str(prepared) not in json.dumps(row)
    data = json.loads((results / "small/data.json").read_text())
    assert len(data["examples"][0]["boxes"]) >= 1
    capsys.readouterr()
    replicate.run_rows(study, Args, 1)
    assert "mcl: skipped" in capsys.readouterr().out


def stop(*args):
    raise InputError("killed")


KILLABLE = f"""
import sys
from dataclasses import replace
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tools")!r}]
import replicate
from replication import rows
from tests.test_replication import TINY
rows.SCALES["small"] = replace(
    TINY,
    finetuning={{10: 2}},
    rates={{"mcl.py": 0.02}},
    pretraining=TINY.pretraining | {{"train_cfg.max_iters": 16}},
)
replicate.main()
"""


def test_a_killed_run_goes_on(prepared, tmp_path):
    """SIGKILL to all its processes after the first checkpoint of pre-training."""
    work, results = tmp_path / "work/small", tmp_path / "results/small"
    for name in ("data", "prepare"):
        shutil.copytree(prepared / name, work / name)
    script, log = tmp_path / "run.py", tmp_path / "log.txt"
    script.write_text(KILLABLE)
    words = ["small", "--rows", "mcl", "--jobs", "1"]
    words += ["--work-dir", work.parent, "--results", results.parent]
    command = [sys.executable, script, *words]
    with log.open("w") as out:
        first = subprocess.Popen(
            command, stdout=out, stderr=out, start_new_session=True
        )
        mark = work / "mcl/pretrain/last_checkpoint"
        end = time.monotonic() + 300
        while not stages.has_checkpoint(mark.parent) and first.poll() is None:
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        os.killpg(first.pid, signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL, log.read_text()
        assert not list(results.glob("mcl.*"))
        subprocess.run(command, stdout=out, stderr=out, check=True, timeout=300)
    row = json.loads((results / "mcl.json").read_text())
    assert [p["step"] for p in row["pretraining"]["curve"]] == list(range(1, 17))
    assert len(row["finetuning"]) == 1 and "search" not in row["pretraining"]
    assert log.read_text().count(f"begun: {work / 'mcl/pretrain'}") == 2
    logs = sorted((work / "mcl/pretrain").glob("2*/vis_data/scalars.json"))
    begins = [json.loads(f.read_text().splitlines()[0])["step"] for f in logs]
    assert len(begins) == 2 and begins[0] == 1 and begins[1] > 4  # a checkpoint's


def test_results_of_other_images_are_not_mixed(study, tmp_path):
    (tmp_path / "data.json").write_text(json.dumps(dict(card=dict(sha256={}))))
    with pytest.raises(InputError, match="other images"):
        replicate.keep_data(study, tmp_path)


def test_two_at_a_time_are_refused(tmp_path):
    with (tmp_path / "lock").open("w") as first, (tmp_path / "lock").open("w") as other:
        replicate.take(first, tmp_path)
        with pytest.raises(InputError, match="at work there"):
            replicate.take(other, tmp_path)


def test_perfect_detections_have_an_ap_of_one(prepared, tmp_path):
    truth = prepared / "data/annotations/val.json"
    notes = json.loads(truth.read_text())["annotations"]
    wrong = [dict(note, category_id=note["category_id"] % 18 + 1) for note in notes]
    for name, found in dict(right=notes, wrong=wrong).items():
        for kind in ("bbox", "segm"):
            content = [dict(n, score=score) for score in (0.1, 0.9) for n in found]
            (tmp_path / f"{name}.{kind}.json").write_text(json.dumps(content))
    right = measure.measure_detections(truth, str(tmp_path / "right"))
    assert right["bbox"] == right["segm_75"] == right["bbox_agnostic"] == 1
    # Of the examples as many detections as objects, the best ones.
    for kept in right["examples"]:
        objects = [n for n in notes if n["image_id"] == kept["image_id"]]
        assert [box[4] for box in kept["boxes"]] == [0.9] * len(objects)
    wrong = measure.measure_detections(truth, str(tmp_path / "wrong"))
    assert wrong["bbox"] < 0.1 and wrong["bbox_agnostic"] == 1
    (tmp_path / "none.bbox.json").write_text("[]")
    (tmp_path / "none.segm.json").write_text("[]")
    none = measure.measure_detections(truth, str(tmp_path / "none"))
    assert none["bbox"] == 0 and none["examples"][0]["boxes"] == []
