"""Tests of tools/draw_detections.py."""

import json

import numpy as np
import pytest
from PIL import Image

from .test_make_scenes import COUNTS, load, make_scenes

draw_detections = load("draw_detections")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A small data set: its folder and its card."""
    out = tmp_path_factory.mktemp("scenes") / "set"
    return out, make_scenes.build(out, make_scenes.Options(**COUNTS))[0]


def fake_results(out, tmp_path):
    """Result files that repeat the truth with falling scores."""
    content = json.loads((out / "annotations" / "val.json").read_text())
    keys = ("image_id", "category_id", "segmentation", "bbox")
    rows = [{k: row[k] for k in keys} for row in content["annotations"]]
    for k, row in enumerate(rows):
        row["score"] = 1 - k / len(rows)
    segm, bbox = tmp_path / "ours.segm.json", tmp_path / "ours.bbox.json"
    bbox.write_text(json.dumps([row | dict(segmentation=None) for row in rows]))
    segm.write_text(json.dumps([row | dict(bbox=None) for row in rows]))
    return segm, bbox


def test_draw_detections_writes_the_grid(data, tmp_path):
    out, _ = data
    segm, bbox = fake_results(out, tmp_path)
    words = [
        out / "val",
        out / "annotations" / "val.json",
        tmp_path / "new" / "grid.png",
    ]
    words += ["--count", 2, "--result", f"masks={segm}", "--result", f"boxes={bbox}"]
    assert draw_detections.main([str(word) for word in words]) == 0
    with Image.open(tmp_path / "new" / "grid.png") as picture:
        sheet = np.asarray(picture.convert("RGB")).astype(int)
    cell, step = draw_detections.CELL, draw_detections.CELL + draw_detections.GAP
    assert sheet.shape[:2] == (
        draw_detections.HEADER + 2 * step,
        draw_detections.GAP + 3 * step,
    )
    top, left = draw_detections.HEADER, draw_detections.GAP
    truth, masks, boxes = (
        sheet[top : top + cell, left + k * step : left + k * step + cell]
        for k in range(3)
    )
    assert np.abs(truth - masks).max() > 0  # the scores in the labels
    assert np.abs(masks - boxes).max() > 0  # the masks


def test_draw_detections_names_bad_files(data, tmp_path, capsys):
    out, _ = data
    truth = out / "annotations" / "val.json"
    (tmp_path / "dict.json").write_text("{}")
    foreign = dict(image_id=999, category_id=1, score=0.5, bbox=[0, 0, 5, 5])
    (tmp_path / "foreign.json").write_text(json.dumps([foreign]))
    cases = [
        ([truth, "--result", "ours"], "NAME=FILE"),
        ([truth, "--result", f"ours={tmp_path / 'none.json'}"], "none.json is missing"),
        ([truth, "--result", f"ours={tmp_path / 'dict.json'}"], "no list of COCO"),
        ([truth, "--result", f"ours={tmp_path / 'foreign.json'}"], "image_id 999"),
        ([tmp_path / "none.json"], "none.json are missing"),
        ([tmp_path / "dict.json"], "no COCO file"),
        ([truth, "--count", 0], "count is 0"),
        ([truth, "--score-thr", 2], "score_thr is 2"),
    ]
    for words, part in cases:
        target = [out / "val", words[0], tmp_path / "grid.png", *words[1:]]
        assert draw_detections.main([str(word) for word in target]) == 1
        error = capsys.readouterr().err
        assert part in error and len(error.splitlines()) == 1
    assert not (tmp_path / "grid.png").exists()
