"""The quickstart from end to end, far too short to learn anything."""

import json

import cv2
import pytest

from .conftest import run_tool


@pytest.mark.hosts
def test_whole_flow_leaves_its_files_and_says_that_nothing_was_learned(tmp_path):
    out = tmp_path / "out"
    short = "--images 80 --scenes 8 --val-scenes 4 --pretrain-iters 4"
    done = run_tool(
        "tools/quickstart.py",
        "--work-dir",
        out,
        *short.split(),
        "--finetune-iters",
        2,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "a detector did not learn" in done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["pretrain"]) == {"loss_first", "loss_last", "top1_p5_last"}
    assert 3 < summary["pretrain"]["loss_first"] < 6
    for start in ("mcl", "random"):
        assert set(summary["detection"][start]) == {"bbox_mAP", "segm_mAP"}
    stages = {"data", "pretrain", "export", "finetune_mcl", "finetune_random", "total"}
    assert stages <= set(summary["seconds"])
    report = (out / "report.md").read_text()
    assert "the comparison means nothing" in report.replace("\n", " ")
    for picture in ("canvases.png", "detections.png"):
        assert cv2.imread(str(out / picture)).shape[1] > 500


def test_a_stage_that_fails_is_named(tmp_path):
    done = run_tool(
        "tools/quickstart.py",
        "--work-dir",
        tmp_path / "out",
        "--cutouts",
        tmp_path / "none",
        check=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "data failed" in done.stderr and str(tmp_path / "none") in done.stderr
