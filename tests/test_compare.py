"""tools/compare.py on logs that MMEngine's Runner wrote."""

import csv
import json
import shutil
import uuid

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from PIL import Image
from torch import nn

from mcl.errors import InputError
from tools import compare
from tools.compare import find_epoch_length, merge, parts, place, read_run

from .conftest import run_tool

ITERATIONS = dict(type="IterBasedTrainLoop", max_iters=12, val_interval=4)
EPOCHS = dict(type="EpochBasedTrainLoop", max_epochs=3)
EPOCH = 15  # iterations; the logger's interval of 2 does not divide it


class Toy(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x, mode):
        return dict(loss=self.weight.sum()) if mode == "loss" else [x]


class Scripted(BaseMetric):
    """Returns the given results, one per evaluation."""

    def __init__(self, results: list[dict]) -> None:
        super().__init__(prefix="coco")
        self.left = list(results)

    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict:
        return self.left.pop(0)


def coco(ap: float, small: float = 0.1, masks: bool = False) -> dict:
    """What CocoMetric returns: 50 and 75 are 0.2 above and below ``ap``."""
    sizes = {"": ap, "_50": ap + 0.2, "_75": ap - 0.2}
    sizes |= {"_s": small, "_m": ap, "_l": ap + 0.1}
    kinds = {"bbox": 0, "segm": -0.05} if masks else {"bbox": 0}
    return {
        f"{kind}_mAP{size}": value if value == -1 else round(value + less, 3)
        for kind, less in kinds.items()
        for size, value in sizes.items()
    }


def train(folder, results, loop=ITERATIONS, by_epoch=None, log_epoch=False, **options):
    """Train a toy and return its work directory."""
    by_epoch = loop is not ITERATIONS if by_epoch is None else by_epoch
    loader = dict(
        dataset=[dict(x=torch.zeros(1))] * EPOCH,
        sampler=dict(type="DefaultSampler", shuffle=False),
    )
    runner = Runner(
        Toy(),
        str(folder),
        train_dataloader=loader,
        val_dataloader=loader,
        train_cfg=dict(loop),
        val_cfg={},
        val_evaluator=[Scripted(results)],
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=2, log_metric_by_epoch=log_epoch),
            checkpoint=dict(type="CheckpointHook", interval=4, by_epoch=False),
        ),
        log_processor=dict(by_epoch=by_epoch),
        log_level="ERROR",
        experiment_name=uuid.uuid4().hex,  # names MMEngine's global objects
        **options,
    )
    runner.train()
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Work directories of trainings; the tests only read them."""
    out = tmp_path_factory.mktemp("runs")
    results = dict(
        mcl=[coco(ap, masks=True) for ap in (0.312, 0.401, 0.425)],
        random=[coco(ap, -1.0) for ap in (0.2, 0.413, 0.412)],
        epochs=[coco(ap) for ap in (0.2, 0.3, 0.4)],
    )
    settings = dict(mcl={}, random=dict(log_epoch=True))
    settings["epochs"] = dict(loop=EPOCHS, log_epoch=True)
    return {n: train(out / n, results[n], **settings[n]) for n in results}


def log_of(run):
    return next(run.glob("*/vis_data/2*.json"))


def copy_of(run, folder, edit):
    """The run's work directory with other lines in its log."""
    copy = folder / run.name
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("*.pth"))
    lines = edit(log_of(copy).read_text().splitlines())
    log_of(copy).write_text("\n".join(lines))
    return copy


def write_log(folder, *rows):
    (folder / "vis_data").mkdir(parents=True)
    text = "\n".join(map(json.dumps, rows))
    (folder / "vis_data" / f"{folder.name}.json").write_text(text)


def steps_of(path):
    run = read_run("a", path)
    return run.unit, {s: row["coco/bbox_mAP"] for s, row in run.evaluations.items()}


@pytest.fixture
def tool(monkeypatch, capsys, tmp_path):
    """Run the tool in this process; returns its words, or raises its error."""

    def call(*args):
        words = [str(word) for word in (*args, "--out", tmp_path / "out")]
        monkeypatch.setattr("sys.argv", ["compare.py", *words])
        compare.main()
        return capsys.readouterr().out

    return call


def test_tables_differences_and_notes(runs, tool):
    words = tool(runs["mcl"], f"scratch={runs['random']}")
    assert [line.split() for line in words.splitlines()][:10] == [
        "box (coco/bbox) iteration AP AP50 AP75 APs APm APl best AP".split(),
        "mcl 12 42.5 62.5 22.5 10.0 42.5 52.5".split(),
        "scratch 12 41.2 61.2 21.2 - 41.2 51.2 41.3 at 8".split(),
        [],
        "minus mcl AP AP50 AP75 APs APm APl".split(),
        "scratch -1.3 -1.3 -1.3 - -1.3 -1.3".split(),
        [],
        "mask (coco/segm) iteration AP AP50 AP75 APs APm APl".split(),
        "mcl 12 37.5 57.5 17.5 5.0 37.5 47.5".split(),
        "scratch 12 - - - - - -".split(),
    ]
    assert "scratch: evaluations without a step" in words
    assert "mcl: evaluations without" not in words
    assert "end at different" not in words
    words = tool(runs["mcl"], runs["epochs"], "--metric", "bbox_mAP_75")
    assert f"different iterations: mcl 12, epochs {3 * EPOCH}" in words
    words = tool(runs["random"], "--metric", "coco/bbox_mAP_75")
    assert "best AP75" in words and "21.3 at 8" in words and "minus" not in words


def test_csv_holds_the_logged_values(runs, tool, tmp_path):
    tool(runs["mcl"], runs["random"])
    with open(tmp_path / "out/compare.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["run", "step", "metric", "value"]
    assert rows[1] == ["mcl", "4", "coco/bbox_mAP", "0.312"]
    assert ["mcl", "12", "coco/segm_mAP_s", "0.05"] in rows
    small = [row[3] for row in rows if row[0] == "random" and row[2].endswith("_s")]
    assert small == ["", "", ""] and len(rows) == 1 + 3 * 12 + 3 * 6


def painted(file, color, left=0.0, right=1.0):
    """Pixels of a color below the legend, within parts of the width."""
    pixels = np.asarray(Image.open(file).convert("RGB"))
    width = pixels.shape[1]
    pixels = pixels[60:, int(left * width) : int(right * width)]
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((pixels == wanted).all(-1).sum())


def test_the_plot_shows_what_was_measured(runs, tool, tmp_path):
    tool(runs["random"], runs["mcl"], runs["epochs"])
    file, small = tmp_path / "out/compare.png", (0.64, 0.76)  # where its bars stand
    for i, color in enumerate(compare.COLORS[:3]):
        assert painted(file, color, 0, 0.6) > 100  # its curve
        assert painted(file, color, 0.62) > 2000  # its bars
        assert (painted(file, color, *small) > 500) == (i > 0)
    assert not painted(file, compare.COLORS[3])
    write_log(tmp_path / "voc/1", {"pascal_voc/mAP": 0.5, "step": 12})
    tool(tmp_path / "voc")
    assert painted(file, compare.COLORS[0], 0, 0.6) > 20  # a single evaluation
    assert not painted(file, compare.COLORS[0], 0.65)


def test_names_of_the_metrics():
    names = "coco/segm_mAP_50 lvis/bbox_APr pascal_voc/AP50 cityscapes/AP@50 bbox_mAP"
    assert [parts(name) for name in names.split()] == [
        ("coco", "segm", "AP50"),
        ("lvis", "bbox", "APr"),
        ("pascal_voc", "bbox", "AP50"),
        ("cityscapes", "segm", "AP50"),
        ("", "bbox", "AP"),
    ]
    assert parts("coco/person_precision") is None and parts("coco/AR@100") is None
    run = place("a", [{"coco/bbox_mAP": 42.5, "coco/bbox_mAP_s": 0.5, "step": 4}])
    assert run.last(("coco", "bbox"), "APs") == 0.5  # percentages stay as they are


@pytest.mark.parametrize("by_epoch", [False, True])
@pytest.mark.parametrize("log_epoch", [False, True])
def test_steps_of_an_iteration_based_loop(tmp_path, by_epoch, log_epoch):
    results = [coco(0.2), coco(0.3), coco(0.4)]
    run = train(tmp_path / "a", results, by_epoch=by_epoch, log_epoch=log_epoch)
    logged = [json.loads(line) for line in log_of(run).read_text().splitlines()]
    steps = [row["step"] for row in logged if "iter" not in row]
    assert steps == ([0, 0, 0] if log_epoch else [4, 8, 12])
    assert steps_of(run) == ("iteration", {4: 0.2, 8: 0.3, 12: 0.4})


def test_steps_of_an_epoch_based_loop(runs):
    unit, steps = steps_of(runs["epochs"])
    assert (unit, list(steps)) == ("epoch", [1, 2, 3])
    (run,) = compare.read_runs([str(runs["epochs"])])
    assert run.unit == "iteration"
    assert list(run.evaluations) == [EPOCH, 2 * EPOCH, 3 * EPOCH]


def lines_of_epochs(*starts):
    """Training lines of the epochs 1, 2, ... that start after these iterations."""
    return [
        dict(iter=start + k, step=start + k, epoch=epoch)
        for epoch, start in enumerate(starts, 1)
        for k in (2, 4)
    ]


def test_length_of_an_epoch_is_told_by_two_equal_epochs_of_a_log():
    first, second = lines_of_epochs(0, 7, 14), lines_of_epochs(0, 7, 14, 21)[4:]
    assert find_epoch_length([first]) == find_epoch_length([first[:2], second]) == 7
    assert find_epoch_length([first[:2]]) is None
    assert find_epoch_length([lines_of_epochs(0, 7, 12)]) is None
    # resumed with another batch size
    assert find_epoch_length([first[:2], lines_of_epochs(0, 3, 8, 13)[4:]]) is None


def test_a_run_with_both_units_is_converted_or_refused(tmp_path):
    trained = lines_of_epochs(0, 7, 14)
    epochs = [*trained[:4], {"coco/bbox_mAP": 0.1, "step": 2}]
    iterations = [*trained[4:], {"coco/bbox_mAP": 0.2, "step": 21}]
    write_log(tmp_path / "good/1", *epochs)
    write_log(tmp_path / "good/2", *iterations)
    assert steps_of(tmp_path / "good") == ("iteration", {14: 0.1, 21: 0.2})
    write_log(tmp_path / "bad/1", *epochs[2:])
    write_log(tmp_path / "bad/2", *iterations)
    with pytest.raises(InputError, match="run a: some logs of .* one of the JSON logs"):
        steps_of(tmp_path / "bad")


def test_one_epoch_has_no_iterations(runs, tool, tmp_path):
    one = [dict(iter=4, step=4, epoch=1), {"coco/bbox_mAP": 0.2, "step": 1}]
    write_log(tmp_path / "one/1", *one)
    words = tool(tmp_path / "one", runs["epochs"])
    assert "iteration" not in words
    assert "different epochs: one 1, epochs 3" in words
    with pytest.raises(InputError, match="run one counts epochs.* run mcl iterations"):
        tool(tmp_path / "one", runs["mcl"])


@pytest.mark.parametrize("log_epoch", [False, True])
def test_a_resumed_run_is_merged(tmp_path, tool, log_epoch):
    folder, results = tmp_path / "a", [coco(0.2), coco(0.3), coco(0.35)]
    log = log_of(train(folder, results, log_epoch=log_epoch))
    # the second within a second would have the same name
    log.parents[1].rename(folder / "20200101_000000")
    start = dict(load_from=str(folder / "iter_4.pth"), resume=True)
    train(folder, [coco(0.31), coco(0.4)], log_epoch=log_epoch, **start)
    assert steps_of(folder) == ("iteration", {4: 0.2, 8: 0.31, 12: 0.4})
    words = tool(folder)
    assert "a: 2 logs are merged; a later one replaces the evaluations at" in words
    assert "iteration 8, 12" in words


def test_a_run_started_anew_replaces_what_it_evaluates_again():
    trained, ap = dict(iter=2, step=2), "coco/bbox_mAP"
    old = place("a", [trained, {ap: 0.1, "step": 4}, {ap: 0.2, "step": 8}])
    new = place("a", [trained, {ap: 0.3, "step": 4}])
    assert merge([old, new]).evaluations == {4: {ap: 0.3}}


def test_a_log_itself_is_a_run_called_like_its_folder(runs, tool):
    words = tool(log_of(runs["mcl"]), f"b={log_of(runs['random'])}")
    assert words.splitlines()[1].split()[:3] == ["mcl", "12", "42.5"]
    scalars = log_of(runs["mcl"]).with_name("scalars.json")
    assert steps_of(scalars) == steps_of(runs["mcl"])


def test_hierarchy_nan_and_a_last_line_cut_short(runs, tool, tmp_path):
    def edit(lines):
        lines = [line.replace('"coco/', '"val/coco/') for line in lines]
        lines = [line.replace("0.401", "NaN") for line in lines]
        return [*lines[:-1], lines[-1][:40]]

    copy = copy_of(runs["mcl"], tmp_path, edit)
    assert steps_of(copy)[1] == {4: 0.312, 8: None}
    assert "mcl: the unfinished last line of" in tool(copy)


@pytest.mark.parametrize(
    "edit, said",
    [
        (lambda lines: [lines[0], '{"a', *lines[1:]], "line 2 of .* remove it"),
        (lambda lines: lines[:2], "wait for the first one"),
        (lambda lines: [], "wait for the first one"),
        (lambda lines: [s for s in lines if "iter" not in s], "log_metric_by_epoch"),
    ],
)
def test_logs_that_do_not_tell_are_named(runs, tool, tmp_path, edit, said):
    copy = copy_of(runs["random"], tmp_path, edit)
    with pytest.raises(InputError, match=f"run random: .*{said}"):
        tool(copy)


def test_wrong_arguments_are_named(runs, tool, tmp_path):
    lvis = tmp_path / "lvis"
    write_log(lvis / "1", {"lvis/bbox_AP": 0.1, "step": 4})
    for args, said in [
        ([f"lost={tmp_path / 'none'}"], "run lost: .*none is no log and has no"),
        ([runs["mcl"], runs["mcl"]], "run mcl: .* have one name; give NAME=RUN"),
        (["=x"], "run '=x': give RUN or NAME=RUN"),
        (
            [runs["mcl"], runs["random"], "--metric", "segm_mAP"],
            "give one of coco/bbox",
        ),
        (
            [runs["mcl"], lvis],
            "in common: mcl has coco/bbox_mAP.* lvis has lvis/bbox_AP",
        ),
    ]:
        with pytest.raises(InputError, match=said):
            tool(*args)
    out = tmp_path / "file"
    out.write_text("")
    done = run_tool("tools/compare.py", runs["mcl"], "--out", out, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"error: --out {out}: give a folder" in done.stderr
