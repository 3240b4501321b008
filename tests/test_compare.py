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

    def __init__(self, results: list[dict], prefix: str) -> None:
        super().__init__(prefix=prefix)
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


def train(folder, results, loop=ITERATIONS, prefix="coco", **options):
    """Train a toy and return its work directory."""
    settings = dict(by_epoch=loop is not ITERATIONS, log_metric_by_epoch=False)
    settings |= {key: options.pop(key) for key in settings if key in options}
    by_epoch = settings.pop("by_epoch")
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
        val_evaluator=[Scripted(results, prefix)],
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=2, **settings),
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
    return {
        "mcl": train(
            out / "mcl", [coco(ap, masks=True) for ap in (0.312, 0.401, 0.425)]
        ),
        "random": train(
            out / "random",
            [coco(0.2, -1.0), coco(0.413, -1.0), coco(0.412, -1.0)],
            log_metric_by_epoch=True,
        ),
        "epochs": train(
            out / "epochs",
            [coco(0.2), coco(0.3), coco(0.4)],
            EPOCHS,
            log_metric_by_epoch=True,
        ),
    }


def log_of(run):
    return next(run.glob("*/vis_data/2*.json"))


def copy_of(run, tmp_path, edit=lambda lines: lines):
    """The run's work directory with other lines in its log."""
    copy = tmp_path / run.name
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("*.pth"))
    lines = edit(log_of(copy).read_text().splitlines())
    log_of(copy).write_text("\n".join(lines))
    return copy


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


def fails(tool, *args):
    with pytest.raises(InputError) as error:
        tool(*args)
    return str(error.value)


def test_tables_differences_and_notes(runs, tool, tmp_path):
    words = tool(runs["mcl"], f"scratch={runs['random']}")
    rows = [line.split() for line in words.splitlines()]
    names = "AP AP50 AP75 APs APm APl".split()
    assert rows[:7] == [
        ["box", "(coco/bbox)", "iteration", *names, "best", "AP"],
        ["mcl", "12", "42.5", "62.5", "22.5", "10.0", "42.5", "52.5"],
        "scratch 12 41.2 61.2 21.2 - 41.2 51.2 41.3 at 8".split(),
        [],
        ["minus", "mcl", *names],
        ["scratch", "-1.3", "-1.3", "-1.3", "-", "-1.3", "-1.3"],
        [],
    ]
    assert rows[7] == ["mask", "(coco/segm)", "iteration", *names]
    assert rows[8] == ["mcl", "12", "37.5", "57.5", "17.5", "5.0", "37.5", "47.5"]
    assert rows[9] == ["scratch", "12", *"------"]
    assert "scratch: evaluations without a step" in words
    assert "mcl: evaluations without" not in words
    assert "end at different" not in words
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["compare.csv", "compare.png"]


def test_other_metric_and_runs_of_other_length(runs, tool):
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
    assert ["random", "8", "coco/bbox_mAP", "0.413"] in rows
    small = [row[3] for row in rows if row[0] == "random" and row[2].endswith("_s")]
    assert small == ["", "", ""]
    assert len(rows) == 1 + 3 * 12 + 3 * 6


def painted(file, color, left=0.0, right=1.0):
    """Pixels of a color below the legend, within parts of the width."""
    pixels = np.asarray(Image.open(file).convert("RGB"))
    assert pixels.shape[0] > 400 and pixels.shape[1] == 1200
    width = pixels.shape[1]
    pixels = pixels[60:, int(left * width) : int(right * width)]
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((pixels == wanted).all(-1).sum())


def test_picture_shows_every_run_in_its_color(runs, tool, tmp_path):
    tool(runs["mcl"], runs["random"], runs["epochs"])
    file = tmp_path / "out/compare.png"
    for color in compare.COLORS[:3]:
        assert painted(file, color, 0, 0.6) > 100
        assert painted(file, color, 0.62) > 2000
    assert not painted(file, compare.COLORS[3])
    first = file.read_bytes()
    tool(runs["mcl"], runs["random"], runs["epochs"])
    assert file.read_bytes() == first


def test_a_single_evaluation_is_visible(runs, tool, tmp_path):
    def first(lines):
        return lines[: next(i for i, line in enumerate(lines) if "coco" in line) + 1]

    tool(copy_of(runs["random"], tmp_path, first))
    assert painted(tmp_path / "out/compare.png", compare.COLORS[0], 0, 0.6) > 20


def test_an_unmeasured_size_has_no_bar(runs, tool, tmp_path):
    small = 0.64, 0.76  # where its bars stand
    tool(runs["random"], runs["epochs"])
    file = tmp_path / "out/compare.png"
    assert not painted(file, compare.COLORS[0], *small)
    assert painted(file, compare.COLORS[1], *small) > 1000
    tool(runs["epochs"], runs["random"])
    assert painted(file, compare.COLORS[0], *small) > 1000
    assert not painted(file, compare.COLORS[1], *small)


def test_without_any_size_the_panel_says_so(runs, tool, tmp_path):
    row = {"pascal_voc/mAP": 0.5, "pascal_voc/AP50": 0.7, "step": 12}
    voc = copy_of(runs["mcl"], tmp_path, lambda _: [json.dumps(row)])
    words = tool(voc).split()
    assert words[:8] == "box (pascal_voc/bbox) iteration AP AP50 mcl 12 50.0".split()
    assert not painted(tmp_path / "out/compare.png", compare.COLORS[0], 0.65)


@pytest.mark.parametrize(
    "key, expected",
    [
        ("coco/bbox_mAP", ("coco", "bbox", "AP")),
        ("coco/segm_mAP_50", ("coco", "segm", "AP50")),
        ("lvis/bbox_APs", ("lvis", "bbox", "APs")),
        ("lvis/segm_APr", ("lvis", "segm", "APr")),
        ("pascal_voc/mAP", ("pascal_voc", "bbox", "AP")),
        ("pascal_voc/AP50", ("pascal_voc", "bbox", "AP50")),
        ("cityscapes/AP@50", ("cityscapes", "segm", "AP50")),
        ("bbox_mAP", ("", "bbox", "AP")),
        ("coco/person_precision", None),
        ("coco/AR@100", None),
        ("loss", None),
    ],
)
def test_names_of_the_metrics(key, expected):
    assert parts(key) == expected


@pytest.mark.parametrize("by_epoch", [False, True])
@pytest.mark.parametrize("log_metric_by_epoch", [False, True])
def test_steps_of_an_iteration_based_loop(tmp_path, by_epoch, log_metric_by_epoch):
    run = train(
        tmp_path / "a",
        [coco(0.2), coco(0.3), coco(0.4)],
        by_epoch=by_epoch,
        log_metric_by_epoch=log_metric_by_epoch,
    )
    logged = [json.loads(line) for line in log_of(run).read_text().splitlines()]
    steps = [row["step"] for row in logged if "iter" not in row]
    assert steps == ([0, 0, 0] if log_metric_by_epoch else [4, 8, 12])
    assert steps_of(run) == ("iteration", {4: 0.2, 8: 0.3, 12: 0.4})


def test_steps_of_an_epoch_based_loop(runs, tmp_path):
    unit, steps = steps_of(runs["epochs"])
    assert (unit, list(steps)) == ("epoch", [1, 2, 3])
    (run,) = compare.read_runs([str(runs["epochs"])])
    assert run.unit == "iteration"
    assert list(run.evaluations) == [EPOCH, 2 * EPOCH, 3 * EPOCH]
    other = train(tmp_path / "a", [coco(0.2), coco(0.3), coco(0.4)], EPOCHS)
    assert list(steps_of(other)[1]) == [EPOCH, 2 * EPOCH, 3 * EPOCH]


def lines_of_epochs(*starts):
    """Training lines of the epochs 1, 2, ... that start after these iterations."""
    return [
        dict(iter=start + k, step=start + k, epoch=epoch)
        for epoch, start in enumerate(starts, 1)
        for k in (2, 4)
    ]


def test_length_of_an_epoch_is_told_by_two_equal_epochs_of_a_log():
    first, second = lines_of_epochs(0, 7, 14), lines_of_epochs(0, 7, 14, 21)[4:]
    assert find_epoch_length([first]) == 7
    assert find_epoch_length([first, second]) == 7
    assert find_epoch_length([first[:2], second]) == 7
    assert find_epoch_length([first[:2]]) is None
    assert find_epoch_length([lines_of_epochs(0, 7, 12)]) is None
    # resumed with another batch size
    assert find_epoch_length([first, lines_of_epochs(0, 9)]) is None
    assert find_epoch_length([first[:2], lines_of_epochs(0, 3, 8, 13)[4:]]) is None


def write_log(folder, rows):
    (folder / "vis_data").mkdir(parents=True)
    text = "\n".join(map(json.dumps, rows))
    (folder / "vis_data" / f"{folder.name}.json").write_text(text)


def test_a_run_with_both_units_is_converted_or_refused(tmp_path):
    trained = lines_of_epochs(0, 7, 14)
    epochs = [*trained[:4], {"coco/bbox_mAP": 0.1, "step": 2}]
    iterations = [*trained[4:], {"coco/bbox_mAP": 0.2, "step": 21}]
    write_log(tmp_path / "good/20240101_000000", epochs)
    write_log(tmp_path / "good/20240102_000000", iterations)
    assert steps_of(tmp_path / "good") == ("iteration", {14: 0.1, 21: 0.2})
    write_log(tmp_path / "bad/20240101_000000", epochs[2:])
    write_log(tmp_path / "bad/20240102_000000", iterations)
    with pytest.raises(InputError, match="run a: some logs of .* one of the JSON logs"):
        steps_of(tmp_path / "bad")


def test_one_epoch_has_no_iterations(runs, tool, tmp_path):
    loop = dict(EPOCHS, max_epochs=1)
    one = train(tmp_path / "one", [coco(0.2)], loop, log_metric_by_epoch=True)
    words = tool(one, runs["epochs"])
    assert "epoch " in words and "iteration" not in words
    assert "different epochs: one 1, epochs 3" in words
    error = fails(tool, one, runs["mcl"])
    assert "run one counts epochs" in error and "run mcl iterations" in error


@pytest.mark.parametrize("log_metric_by_epoch", [False, True])
def test_a_resumed_run_is_merged(tmp_path, tool, log_metric_by_epoch):
    folder, by = tmp_path / "a", dict(log_metric_by_epoch=log_metric_by_epoch)
    train(folder, [coco(0.2), coco(0.3), coco(0.35)], **by)
    log = log_of(folder)  # the second within a second would have the same name
    log.parents[1].rename(folder / "20200101_000000")
    start = dict(load_from=str(folder / "iter_4.pth"), resume=True)
    train(folder, [coco(0.31), coco(0.4)], **by, **start)
    assert steps_of(folder) == ("iteration", {4: 0.2, 8: 0.31, 12: 0.4})
    words = tool(folder)
    assert "a: 2 logs are merged; a later one replaces the evaluations at" in words
    assert "iteration 8, 12" in words


def test_a_run_started_anew_replaces_all():
    trained = dict(iter=2, step=2, loss=1.0)
    old = [
        trained,
        {"coco/bbox_mAP": 0.1, "step": 4},
        {"coco/bbox_mAP": 0.2, "step": 8},
    ]
    new = [trained, {"coco/bbox_mAP": 0.3, "step": 4}]
    run = merge([place("a", rows) for rows in (old, new)])
    assert run.evaluations == {4: {"coco/bbox_mAP": 0.3}}


def test_a_restart_without_evaluation_replaces_nothing(runs, tmp_path):
    copy = copy_of(runs["mcl"], tmp_path)
    later = copy / "29990101_000000/vis_data"
    later.mkdir(parents=True)
    line = log_of(copy).read_text().splitlines()[0]
    (later / "29990101_000000.json").write_text(line)
    assert steps_of(copy) == steps_of(runs["mcl"])


def test_a_log_itself_is_a_run_called_like_its_folder(runs, tool, tmp_path):
    words = tool(log_of(runs["mcl"]), f"b={log_of(runs['random'])}")
    assert words.splitlines()[1].split()[:3] == ["mcl", "12", "42.5"]
    scalars = log_of(runs["mcl"]).with_name("scalars.json")
    assert steps_of(scalars) == steps_of(runs["mcl"])


def test_percentages_stay_as_they_are():
    run = place("a", [{"coco/bbox_mAP": 42.5, "coco/bbox_mAP_s": 0.5, "step": 4}])
    assert run.last(("coco", "bbox"), "AP") == 42.5
    assert run.last(("coco", "bbox"), "APs") == 0.5


def test_hierarchy_and_nan(runs, tmp_path):
    def edit(lines):
        lines = [line.replace('"coco/', '"val/coco/') for line in lines]
        return [line.replace("0.425", "NaN") for line in lines]

    copy = copy_of(runs["mcl"], tmp_path, edit)
    assert steps_of(copy)[1] == {4: 0.312, 8: 0.401, 12: None}


def test_a_last_line_cut_short_is_left_out(runs, tool, tmp_path):
    copy = copy_of(runs["mcl"], tmp_path, lambda lines: [*lines[:-1], lines[-1][:40]])
    words = tool(copy)
    assert "mcl: the unfinished last line of" in words and "mcl  " in words
    assert list(steps_of(copy)[1]) == [4, 8]


def test_a_broken_line_is_named(runs, tool, tmp_path):
    copy = copy_of(runs["mcl"], tmp_path, lambda lines: [lines[0], '{"a', *lines[1:]])
    error = fails(tool, copy)
    assert "run mcl: line 2 of" in error and "remove it" in error


def test_errors_about_paths_and_names(runs, tool, tmp_path):
    error = fails(tool, f"lost={tmp_path / 'none'}")
    assert "run lost:" in error and "none is no log" in error
    (tmp_path / "empty").mkdir()
    assert "run empty:" in fails(tool, tmp_path / "empty")
    assert "vis_data/*.json" in fails(tool, tmp_path / "empty")
    assert "have one name; give NAME=RUN" in fails(tool, *[runs["mcl"]] * 2)
    assert "give RUN or NAME=RUN" in fails(tool, "=x")


def test_errors_about_evaluations(runs, tool, tmp_path):
    young = copy_of(runs["mcl"], tmp_path, lambda lines: lines[:2])
    error = fails(tool, young)
    assert "run mcl:" in error and "wait for the first one" in error
    empty = copy_of(runs["random"], tmp_path, lambda _: [])
    assert "run random:" in fails(tool, empty)

    def evaluated_before_logged(lines):
        return [line for line in lines if "iter" not in line]

    lost = tmp_path / "lost"
    lost.mkdir()
    lost = copy_of(runs["random"], lost, evaluated_before_logged)
    assert "log_metric_by_epoch=False" in fails(tool, lost)


def test_errors_about_metrics(runs, tool, tmp_path):
    error = fails(tool, runs["mcl"], runs["random"], "--metric", "segm_mAP")
    assert "--metric segm_mAP: give one of coco/bbox_mAP, coco/bbox_mAP_50" in error
    row = {"lvis/bbox_AP": 0.1, "step": 4}
    other = copy_of(runs["random"], tmp_path, lambda _: [json.dumps(row)])
    error = fails(tool, runs["mcl"], other)
    assert "no metric in common: mcl has coco/bbox_mAP" in error
    assert "random has lvis/bbox_AP;" in error


def test_out_that_is_a_file_ends_the_tool_in_words(runs, tmp_path):
    out = tmp_path / "file"
    out.write_text("")
    done = run_tool("tools/compare.py", runs["mcl"], "--out", out, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"error: --out {out}: give a folder" in done.stderr
