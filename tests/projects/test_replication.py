"""The replication: its results, its loop without trainings, its configs."""

import copy
import json
import math
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from PIL import Image

from mcl.errors import InputError
from projects.replication import analyse, materials, measure, run, scales
from projects.replication.hooks import ChannelsLastHook
from projects.replication.scales import RESULTS, ROWS, SCALES

PRETRAINED = {row.config: row for row in ROWS.values() if row.config}


@pytest.fixture(scope="module")
def results() -> analyse.Results:
    return analyse.Results(RESULTS)


def test_readme_has_the_stored_numbers(results, tmp_path):
    assert analyse.check(results) == []
    file, text = tmp_path / "README.md", analyse.README.read_text()
    file.write_text(text.replace("| 2.3 ± 0.31, 1.79, 3 |", "| 2.4 ± 0.31, 1.79, 3 |"))
    (difference,) = analyse.check(results, file)
    assert "MCL, small-seeds" in difference and "2.4" in difference
    file.write_text("\n".join(x for x in text.splitlines() if "| DenseCL |" not in x))
    assert len(analyse.check(results, file)) == 4


def test_statistics_of_three_pairs():
    found = analyse.compare({0: 3.0, 1: 5.0, 2: 7.0}, {2: 4.0, 1: 3.0, 0: 2.0, 9: 1.0})
    assert (found["n"], found["difference"], found["ratio"]) == (3, 2, 5 / 3)
    # Differences 1, 2, 3: deviation 1; the quantile of t with 2 degrees is 4.302653.
    reach = 4.302653 / math.sqrt(3)
    assert found["interval"] == pytest.approx((2 - reach, 2 + reach), rel=1e-6)
    t = 2 * math.sqrt(3)  # P(|T| > t) of 2 degrees is 1 - t / sqrt(2 + t^2)
    assert found["p"] == pytest.approx(1 - t / math.sqrt(2 + t * t))
    logs = np.log([3 / 2, 5 / 3, 7 / 4])
    reach = 4.302653 * logs.std(ddof=1) / math.sqrt(3)
    low, high = np.exp(logs.mean() - reach), np.exp(logs.mean() + reach)
    assert found["ratio_interval"] == pytest.approx((low, high), rel=1e-6)
    # Variances 4 and 1: t = 2 / sqrt(5 / 3) with 2.941 degrees (Welch, Satterthwaite).
    assert found["welch"] == pytest.approx(0.2209, abs=2e-4)


def test_units_are_pretrainings_where_there_are_several(results):
    groups = results.groups("small-longer", "mcl", seeds=6)
    assert [len(values) for values in groups.values()] == [2, 2, 2]
    units = results.units("small-longer", "mcl", seeds=6)
    assert units[1] == pytest.approx(sum(groups[1]) / 2)
    assert list(results.units("small", "mcl")) == [0, 1, 2]
    starts = results.starts("small-longer", "mcl")
    assert [(x["scale"], x["seed"]) for x in starts] == [
        ("small-seeds", seed) for seed in range(3)
    ]


@pytest.mark.parametrize("wrong", ["twice", "data_sha256"])
def test_results_that_cannot_be_compared_are_refused(tmp_path, wrong):
    head, first, *lines = (RESULTS / "finetuning.csv").read_text().splitlines()
    sums = json.loads((RESULTS / "data.json").read_text())["small"]["sha256"]
    assert scales.digest(sums) in first
    other = first if wrong == "twice" else first.replace(scales.digest(sums), "0")
    kept = [head, other, *lines, *([first] if wrong == "twice" else [])]
    (tmp_path / "finetuning.csv").write_text("\n".join(kept))
    with pytest.raises(InputError, match=wrong):
        analyse.Results(tmp_path)


def test_stored_runs_are_those_of_the_scales(results):
    for tuned in results.tuned:
        plan = SCALES[tuned["scale"]]
        assert tuned["row"] in plan.rows and tuned["seed"] in plan.seeds
        assert tuned["steps"] == plan.finetuning[tuned["labels"]]
        assert tuned["pretraining"] == tuned["seed"] % plan.pretrainings
    for trained in results.trained:
        config, rates = ROWS[trained["row"]].config, SCALES[trained["scale"]].rates
        assert trained["config"] == config
        assert rates.get(config, trained["lr"]) == trained["lr"]
    for name, card in json.loads((RESULTS / "data.json").read_text()).items():
        assert scales.DATA[name].items() <= card["options"].items()


class Commands:
    """Stands for a study's commands: writes their files, trains nothing.

    ``fail``: number of the command that raises; ``knn``: by the text of the rate, None
    where the loss is not finite.
    """

    def __init__(self, monkeypatch, knn=()):
        self.done, self.fail, self.knn = [], None, dict(knn)
        monkeypatch.setattr(run.Study, "command", lambda *args: self(*args[1:]))
        parse = cache(scales.Config.fromfile)
        once = SimpleNamespace(fromfile=lambda file: copy.deepcopy(parse(file)))
        monkeypatch.setattr(scales, "Config", once)

    def __call__(self, log, *words):
        out, words = log.parent, [str(word) for word in words]
        if len(self.done) == self.fail:
            raise InputError("killed")
        self.done.append((words[0].split("/")[-1], out))
        text = (out / "config.py").read_text()
        knn = [v for k, v in self.knn.items() if f"'lr': {k}," in text] or [0.1]
        if "train.py" in words[0]:
            if None in knn:
                raise InputError("log.txt: error: loss is not finite")
            log = out / "20200101_000000/vis_data/scalars.json"
            log.parent.mkdir(parents=True, exist_ok=True)
            lines = [dict(step=k, loss=1.0, time=0.5, ce_p5=2.0) for k in (20, 40)]
            lines += [{"step": 40, "coco/bbox_mAP": 0.1, "coco/segm_mAP": 0.2}]
            log.write_text("\n".join(map(json.dumps, lines)))
        elif "features" in words:
            found = dict(knn=knn[0], gmac_per_image=3.0 if "MoCo" in text else 9.0)
            Path(words[-1]).write_text(json.dumps(found))
        elif "detections" in words:
            columns = (RESULTS / "finetuning.csv").read_text().split("\n")[0].split(",")
            found = {name: 0.5 for name in columns if "_ap" in name}
            Path(words[-1]).write_text(json.dumps(found))

    def trained(self) -> list[str]:
        return [out.name for tool, out in self.done if tool == "train.py"]


@pytest.fixture
def make_study(tmp_path, monkeypatch):
    def make(name) -> run.Study:
        study = run.Study(name, tmp_path, tmp_path / "results")
        monkeypatch.setenv(scales.DATA_VARIABLE, f"{study.data}/")
        notes = study.data / "annotations"
        notes.mkdir(parents=True, exist_ok=True)
        (study.data / "card.json").write_text('{"sha256": {"a": "1"}}')
        for part in ("", *(f".seed{k}@10" for k in range(3))):
            (notes / f"train{part}.json").write_text('{"images": [1, 2]}')
        return study

    return make


def test_a_killed_run_goes_on_and_nothing_is_run_twice(make_study, monkeypatch):
    study, commands = make_study("small-restart"), Commands(monkeypatch)
    commands.fail = 18  # behind 6 pre-trainings, 3 exports, 1 fine-tuning: a measure
    with pytest.raises(InputError, match="killed"):
        run.run_row(study, "mcl")
    commands.fail = None
    run.run_row(study, "mcl")
    cycles = [f"pretrain-{k}-cycle-{c}" for k in range(3) for c in (0, 1)]
    tuned = [f"fine-tune-100-{k}" for k in range(6)]
    half = [name for name in tuned if commands.trained().count(name) == 2]
    assert len(half) == 1 and sorted(commands.trained()) == sorted(
        cycles + tuned + half
    )
    count = len(commands.done)
    run.run_row(study, "mcl")
    assert len(commands.done) == count
    found = analyse.Results(study.results)
    units = [(x["seed"], x["pretraining"]) for x in found.tuned]
    assert units == [(k, k % 3) for k in range(6)]
    first = [x for x in found.trained if x["scale"] == "small-seeds"]
    assert len(first) == 3 and len(found.trained) == 6
    assert (first[0]["seconds"], first[0]["lr"]) == (20, 0.003)
    config = study.work / "small-restart/mcl/pretrain-1-cycle-1/config.py"
    assert "small-seeds/mcl/pretrain-1-cycle-0/iter_1700.pth" in config.read_text()
    assert "{'seed': 4}" in config.read_text()
    # What the other scales start from is there.
    run.run_row(make_study("small-longer"), "mcl")
    assert set(commands.trained()[13:]) == {f"fine-tune-100-{k}" for k in range(9)}
    (study.work / "small-restart/mcl/fine-tune-100-0/config.sha256").write_text("other")
    with pytest.raises(InputError, match="another one"):
        run.run_row(study, "mcl")


def test_rates_are_searched_and_work_is_equalled(make_study, monkeypatch):
    study = make_study("small")
    knn = {"0.00011": None, "0.00033": 0.4, "0.00099": 0.4}
    commands = Commands(monkeypatch, knn)
    run.run_row(study, "mocov2-compute")
    run.run_row(study, "mocov2-quarter")
    assert commands.trained().count("search-0") == 2  # of mocov2 and of mcl
    found = analyse.Results(study.results)
    assert [x["knn"] for x in found.read("search")][:3] == [0, 0.4, 0.4]
    # The lower rate of equals; three times MCL's 1,700 steps, and a quarter.
    assert [(x["row"], x["lr"], x["steps"]) for x in found.trained] == [
        ("mocov2-compute", 0.00033, 5100),
        ("mocov2-quarter", 0.00033, 425),
    ]
    assert {x["labels"] for x in found.tuned} == {100, 10}
    config = study.work / "small/mocov2-quarter/fine-tune-10-2/config.py"
    assert "mocov2-quarter/pretrain-0-cycle-0/iter_425.pth" in config.read_text()
    assert "train.seed2@10.json" in config.read_text()


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Eight pictures each of eight cut-outs; the probe shows them again."""
    data, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for k in range(8):
        color = rng.integers(0, 240, 3)
        for number in range(8):
            shade = (color + number).astype(np.uint8)
            picture = Image.fromarray(np.broadcast_to(shade, (100, 100, 3)))
            for split in ("pretrain", "probe"):
                file = data / split / f"class{k % 2}/{k}/{number}.jpg"
                file.parent.mkdir(parents=True, exist_ok=True)
                picture.save(file)
    return data


@pytest.mark.parametrize("config", PRETRAINED)
def test_pretrainings_take_a_step_and_build_at_every_scale(config, images, monkeypatch):
    monkeypatch.setenv(scales.DATA_VARIABLE, f"{images}/")
    cfg = scales.pretraining_config(PRETRAINED[config], SCALES["small"])
    if config in ("mcl.py", "byol.py"):
        assert measure.recognize(cfg, "random", images) > 0.9
    assert measure.count_work(cfg, batch=8) > 0
    cfg = scales.pretraining_config(PRETRAINED[config], SCALES["medium"])
    assert MODELS.build(cfg.model).backbone.layer4[1].conv2.out_channels == 512
    assert cfg.size == 128 and cfg.train_dataloader.batch_size >= 128


@pytest.mark.parametrize("scale", ["small", "medium"])
def test_the_detector_builds_and_keeps_channels_last(scale):
    from mmdet.registry import MODELS as DETECTORS

    init_default_scope("mmdet")
    cfg = scales.detector_config(SCALES[scale], 10, 1)
    assert cfg.train_dataloader.dataset.ann_file == "annotations/train.seed1@10.json"
    side = scales.DATA[scale]["scene_size"]
    for loader, place in (("train", 2), ("val", 1), ("test", 1)):
        step = cfg[f"{loader}_dataloader"].dataset.pipeline[place]
        assert (step.type, step.scale) == ("Resize", (side, side))
    detector = DETECTORS.build(cfg.model)
    assert detector.roi_head.bbox_head.num_classes == 18
    ChannelsLastHook().before_train(SimpleNamespace(model=detector))
    weight = detector.backbone.layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_ap_of_a_tiny_result(tmp_path):
    """Two boxes are found where they are, the second as the wrong class."""
    numbers, box = (1, 2), [2, 2, 20, 20]
    note = dict(bbox=box, area=400.0, iscrowd=0)
    note["segmentation"] = dict(size=[40, 40], counts=[400, 400, 800])
    content = dict(
        images=[dict(id=k, height=40, width=40) for k in numbers],
        annotations=[dict(note, id=k, image_id=k, category_id=k) for k in numbers],
        categories=[dict(id=k, name=str(k)) for k in numbers],
    )
    found = [
        dict(image_id=k, category_id=1, bbox=box, score=1 - k / 9) for k in numbers
    ]
    for name, part in (("ann", content), ("val.bbox", found), ("val.segm", [])):
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    ap = measure.measure_detections(f"{tmp_path}/ann.json", f"{tmp_path}/val")
    assert [ap["box_ap"], ap["box_ap_agnostic"]] == pytest.approx([0.5, 1])
    assert [ap["mask_ap"], ap["mask_ap75"], ap["mask_ap_agnostic"]] == [0, 0, 0]
    assert set(ap) <= set(analyse.Results(RESULTS).tuned[0])


def test_materials_are_cut_and_bounded(tmp_path):
    rgba = np.zeros((420, 300, 4), np.uint8)
    rgba[10:410, 50:290, 3] = 255
    rgba[0, 0, 3] = 32  # too faint to count
    Image.fromarray(rgba).save(tmp_path / "owl.png")
    Image.fromarray(np.zeros((1100, 2003), np.uint8)).save(tmp_path / "wide.webp")
    listed = dict(packages=dict(stamps="2:3-4"))
    listed["grounds"] = dict(stamps={"val/wide": "wide.webp"})
    listed["cutouts"] = dict(stamps={"bird/owl": "owl.png"})
    materials.make(tmp_path / "out", tmp_path, listed)
    with Image.open(tmp_path / "out/cutouts/bird/owl.png") as owl:
        assert (owl.mode, owl.size) == ("RGBA", (115, 192))
    with Image.open(tmp_path / "out/grounds/val/wide.jpg") as wide:
        assert (wide.mode, wide.size) == ("RGB", (round(2003 * 1080 / 1100), 1080))
    (tmp_path / "owl.png").unlink()
    with pytest.raises(InputError, match="apt-get download stamps.*2:3-4"):
        materials.make(tmp_path / "out", tmp_path, listed)


def test_features_of_grounds_and_of_classes():
    from projects.replication import features

    grid = torch.randn(5, 1, 4).expand(5, 6, 4)
    assert features.shares(grid) == pytest.approx((1, 0), abs=1e-6)
    assert features.shares(grid.transpose(0, 1)) == pytest.approx((0, 1), abs=1e-6)

    class Colors(torch.nn.Module):
        """A backbone of two maps: a constant one, and the picture itself."""

        def forward(self, x):
            return torch.zeros_like(x), x

    colors = torch.eye(3)[:2].repeat(20, 1) + torch.arange(40).view(-1, 1) / 1000
    objects = colors.view(-1, 3, 1, 1).expand(-1, 3, 8, 8), torch.arange(40) % 2
    assert features.tell_classes(Colors(), objects, objects) == [0.5, 1]
