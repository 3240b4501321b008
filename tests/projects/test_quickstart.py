"""The quickstart: its sampler, and the run from end to end."""

import json
import sys
from itertools import islice

import cv2
import pytest

from mcl.errors import InputError
from projects.quickstart import __main__ as quickstart
from projects.quickstart.sampler import SameNameSampler

from ..conftest import run_main, run_tool
from ..test_replay import Folders


def test_batches_of_one_name():
    """Seven folders of images 0.jpg to 8.jpg, in batches of seven, then of five."""
    data = Folders([9] * 7)

    def names(key) -> str:
        return data.paths[key.index].partition("/")[2]

    sampler = SameNameSampler(data, batch_size=7, seed=0)
    keys = list(islice(sampler, len(sampler)))
    assert len({k.index for k in keys}) == 63
    batches = [{names(k) for k in keys[i : i + 7]} for i in range(0, 63, 7)]
    assert all(len(batch) == 1 for batch in batches)
    assert set.union(*batches) == {f"{i}.jpg" for i in range(9)}
    assert [min(b) for b in batches] != sorted(map(min, batches))
    keys = list(islice(SameNameSampler(data, batch_size=5, seed=0), 60))
    for start in range(0, 60, 5):
        batch = keys[start : start + 5]
        assert len({data.folder(k.index) for k in batch}) == 5
        assert len({names(k) for k in batch}) <= 2


def short_run(monkeypatch, work_dir) -> quickstart.Quickstart:
    """A run far too short to learn anything."""
    monkeypatch.setenv(quickstart.DATA_VARIABLE, "")  # undone at the end of the test
    words = "--images 64 --scenes 8 --val-scenes 4 --pretrain-iters 2"
    words = [*words.split(), "--finetune-iters", "2", "--work-dir", str(work_dir)]
    monkeypatch.setattr(sys, "argv", ["quickstart", *words])
    return quickstart.Quickstart(quickstart.parse_args())


@pytest.mark.hosts
def test_whole_flow_leaves_its_files_and_says_that_nothing_was_learned(
    tmp_path, monkeypatch
):
    """The tools run in this process, which saves their imports."""

    def run_here(self, stage, tool, *args):
        if "--cfg-options" in args:
            loaders = ("train",) if stage == "pretrain" else ("train", "val")
            args += tuple(f"{name}_dataloader.num_workers=0" for name in loaders)
            # One process has one visualizer of a name.
            args += (f"visualizer.name={stage}",)
        with self.timed(stage):
            run_main(str(tool), *args)

    monkeypatch.setattr(quickstart.Quickstart, "run_tool", run_here)
    short_run(monkeypatch, tmp_path)
    with pytest.raises(SystemExit, match="a detector did not learn"):
        quickstart.main()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["pretrain"]) == {"loss_first", "loss_last", "top1_p5_last"}
    assert 3 < summary["pretrain"]["loss_first"] < 6
    assert set(summary["detection"]) == {"mcl", "random"}
    report = (tmp_path / "report.md").read_text()
    for start, ap in summary["detection"].items():
        box, mask = (100 * ap[k] for k in ("bbox_mAP", "segm_mAP"))
        assert f"| {start} | {box:.1f} | {mask:.1f} |" in report
    stages = {"data", "pretrain", "export", "finetune_mcl", "finetune_random"}
    assert set(summary["seconds"]) == stages | {"total"}
    for picture in ("canvases.png", "detections.png"):
        assert cv2.imread(str(tmp_path / picture)).shape[1] > 500


def test_detectors_that_learned_are_compared(tmp_path, monkeypatch, capsys):
    short_run(monkeypatch, tmp_path)
    (tmp_path / "report.md").write_text("the report")
    ap = dict(bbox_mAP=0.1, segm_mAP=0.0)
    summary = dict(detection=dict(mcl=ap, random=ap))
    monkeypatch.setattr(quickstart.Quickstart, "run", lambda self: summary)
    quickstart.main()
    assert "the report" in capsys.readouterr().out


def test_stages_see_the_projects_and_a_failure_is_named(tmp_path, monkeypatch):
    run = short_run(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    code = "import projects.quickstart as q; print(q.__file__); exit('error: why')"
    with pytest.raises(InputError, match="stage pretrain failed, .*pretrain.log") as e:
        run.run_tool("pretrain", "-c", code)
    assert str(e.value).splitlines()[1:] == [
        quickstart.__file__.replace("__main__", "__init__"),
        "error: why",
    ]


def test_the_command_names_what_is_wrong(tmp_path):
    none = tmp_path / "none"
    words = ("--work-dir", tmp_path / "out", "--cutouts", none)
    done = run_tool("-m", "projects.quickstart", *words, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"--cutouts {none}" in done.stderr
