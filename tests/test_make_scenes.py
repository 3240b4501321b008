"""Tests of tools/scenes/make_scenes.py and of what is composed there."""

import contextlib
import importlib
import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

TOOLS = Path(__file__).resolve().parents[1] / "tools"
COUNTS = dict(pretrain=5, train=24, val=4, object_size=64, scene_size=96)


def load(name):
    """Import a module of tools/, also for the worker processes it starts."""
    for folder in (TOOLS, TOOLS / "scenes"):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    return importlib.import_module(name)


compose = load("compose")
cutouts = load("cutouts")
make_scenes = load("make_scenes")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A small data set: its folder and its card."""
    out = tmp_path_factory.mktemp("scenes") / "set"
    card, written = make_scenes.build(out, make_scenes.Options(**COUNTS))
    assert written
    return out, card


def open_coco(file):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(file))


def save_disc(file, color=(255, 0, 255), mode="RGBA"):
    """Save a disc on a transparent ground; 120 px, so that scenes shrink it."""
    rgba = np.zeros((128, 128, 4), np.uint8)
    cv2.circle(rgba, (64, 64), 60, (*color, 255), -1)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgba).convert(mode).save(file)


def run(capsys, *words):
    """Run the command line; returns exit status, stdout and stderr."""
    status = make_scenes.main([str(word) for word in words])
    return status, *capsys.readouterr()


def test_two_processes_write_the_same_bytes(data, tmp_path):
    _, card = data
    options = make_scenes.Options(**COUNTS)
    again, _ = make_scenes.build(tmp_path / "set", options, workers=2)
    assert again == card


def test_seed_changes_every_set(data, tmp_path):
    _, card = data
    options = make_scenes.Options(**COUNTS, seed=1)
    other, _ = make_scenes.build(tmp_path / "set", options)
    for name, digest in card["sha256"].items():
        assert other["sha256"][name] != digest


def test_pictures_have_the_asked_sizes(data):
    out, card = data
    assert card["images"] == {k: COUNTS[k] for k in ("pretrain", "train", "val")}
    for split, count in card["images"].items():
        files = sorted((out / split).glob("*.jpg"))
        assert len(files) == count
        for file in files:
            with Image.open(file) as picture:
                size = picture.size
            if split == "pretrain":
                assert max(size) == 64 and min(size) >= 48
            else:
                assert size == (96, 96)


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_are_disjoint_and_boxes_tight(data, split):
    out, card = data
    coco = open_coco(out / "annotations" / f"{split}.json")
    assert len(coco.anns) == card["objects"][split]
    for key in coco.imgs:
        rows = coco.imgToAnns[key]
        assert 1 <= len(rows) <= 6
        masks = np.stack([coco.annToMask(row) for row in rows])
        assert masks.sum(0).max() == 1
        for row, mask in zip(rows, masks, strict=True):
            y, x = np.nonzero(mask)
            tight = [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            assert row["bbox"] == tight
            assert row["area"] == mask.sum() >= compose.MIN_PIXELS
            assert row["iscrowd"] == 0
            assert isinstance(row["segmentation"]["counts"], str)


def test_masks_follow_the_painted_pixels(tmp_path):
    black = compose.Grounds([np.zeros((96, 96, 3), np.uint8)], recolor=False)
    save_disc(tmp_path / "disc.png")
    source = cutouts.FolderCutouts(tmp_path)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        image, owner, classes = compose.compose_scene(rng, source, black, 96)
        assert set(np.unique(owner)) - {-1} == set(range(len(classes)))
        kernel = np.ones((3, 3), np.uint8)
        # The disc is dimmed to 0.7 at most; its soft edge is one pixel wide.
        for k in range(len(classes)):
            own = np.pad((owner == k).astype(np.uint8), 1)
            inner = cv2.erode(own, kernel)[1:-1, 1:-1] > 0
            assert image[inner][:, 0].min() >= 0.65 * 255
        outer = cv2.dilate((owner >= 0).astype(np.uint8), kernel) > 0
        assert image[..., 1].max() == 0
        assert image[~outer].max() <= 40


def test_objects_span_a_scale_range_of_four(data):
    coco = open_coco(data[0] / "annotations" / "train.json")
    sides = [max(row["bbox"][2:]) for row in coco.anns.values()]
    assert max(sides) >= 4 * min(sides)
    assert max(sides) <= 0.8 * 96 + 1


def test_mmdet_reads_the_scenes(data):
    # An MMCV without compiled ops needs the stand-in before MMDetection.
    importlib.import_module("mmcv_ops_fallback")
    datasets = importlib.import_module("mmdet.datasets")
    out, card = data
    dataset = datasets.CocoDataset(
        data_root=str(out),
        ann_file="annotations/train.json",
        data_prefix=dict(img="train/"),
        metainfo=dict(classes=tuple(card["categories"])),
        pipeline=[],
    )
    assert len(dataset) == card["images"]["train"]
    count = sum(len(dataset.get_data_info(k)["instances"]) for k in range(len(dataset)))
    assert count == card["objects"]["train"]


def test_every_class_is_drawn_with_a_soft_edge():
    source = cutouts.DrawnCutouts()
    assert len(source.names) >= 8
    seen = set()
    for seed in range(80):
        rgba, index = source.sample(np.random.default_rng(seed))
        seen.add(index)
        assert rgba.dtype == np.uint8 and rgba.shape[2] == 4
        assert 80 <= max(rgba.shape) <= 160
        alpha = rgba[..., 3]
        assert alpha.max() == 255 and ((alpha > 0) & (alpha < 255)).any()
    assert seen == set(range(len(source.names)))


def test_second_run_does_nothing(tmp_path, capsys):
    words = [tmp_path / "set", "--pretrain", 2, "--train", 1, "--val", 1]
    status, text, _ = run(capsys, *words)
    assert status == 0 and "wrote 2 pretrain, 1 train, 1 val" in text
    before = (tmp_path / "set" / "card.json").stat().st_mtime_ns
    status, text, _ = run(capsys, *words)
    assert status == 0 and "nothing to do" in text and len(text.splitlines()) == 1
    assert (tmp_path / "set" / "card.json").stat().st_mtime_ns == before


def test_other_options_are_refused(tmp_path, capsys):
    out = tmp_path / "set"
    words = [out, "--pretrain", 2, "--train", 1, "--val", 1]
    run(capsys, *words)
    status, _, error = run(capsys, *words, "--seed", 3)
    assert status == 1
    assert str(out) in error and "--overwrite" in error and "seed" in error
    status, _, _ = run(capsys, *words, "--seed", 3, "--overwrite")
    assert status == 0
    _, text, _ = run(capsys, *words, "--seed", 3, "--overwrite")
    assert "nothing to do" in text
    assert json.loads((out / "card.json").read_text())["options"]["seed"] == 3


def test_unfinished_set_is_rebuilt(tmp_path, monkeypatch):
    options = make_scenes.Options(pretrain=2, train=2, val=1)
    whole, _ = make_scenes.build(tmp_path / "whole", options)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(make_scenes, "write_annotations", stop)
        make_scenes.build(tmp_path / "set", options)
    assert not (tmp_path / "set" / "card.json").exists()
    card, written = make_scenes.build(tmp_path / "set", options)
    assert written and card == whole
    (tmp_path / "set" / "train" / "000001.jpg").unlink()
    card, written = make_scenes.build(tmp_path / "set", options)
    assert written and card == whole


def test_foreign_folder_is_left_alone(tmp_path, capsys):
    precious = tmp_path / "train" / "mine.jpg"
    precious.parent.mkdir()
    precious.write_text("mine")
    for extra in ([], ["--overwrite"]):
        status, _, error = run(capsys, tmp_path, *extra)
        assert status == 1 and str(tmp_path) in error
    (tmp_path / "card.json").write_text("[]")
    status, _, error = run(capsys, tmp_path, "--overwrite")
    assert status == 1 and "card.json" in error
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("classes", ["all", "one"])
def test_folder_of_cutouts(tmp_path, classes):
    save_disc(tmp_path / "cut" / "red" / "a.png", (255, 0, 0))
    save_disc(tmp_path / "cut" / "blue" / "b.png", (0, 0, 255))
    (tmp_path / "cut" / "empty").mkdir()
    options = make_scenes.Options(
        pretrain=1, train=4, val=1, cutouts=str(tmp_path / "cut"), classes=classes
    )
    card, _ = make_scenes.build(tmp_path / "set", options)
    names = ["object"] if classes == "one" else ["blue", "red"]
    assert card["categories"] == names
    assert "same cut-outs" in card["reuse"]
    assert card["options"]["cutouts"] == "cut"
    coco = open_coco(tmp_path / "set" / "annotations" / "train.json")
    assert sorted(entry["name"] for entry in coco.cats.values()) == names
    # A changed folder is another data set.
    save_disc(tmp_path / "cut" / "red" / "c.png", (200, 0, 0))
    with pytest.raises(ValueError, match="cutouts_sha256"):
        make_scenes.build(tmp_path / "set", options)


def test_flat_folder_is_one_class(tmp_path):
    save_disc(tmp_path / "a.png")
    assert cutouts.FolderCutouts(tmp_path).names == ["object"]


def test_unusable_cutouts_are_named(tmp_path, capsys):
    out = tmp_path / "set"
    status, _, error = run(capsys, out, "--cutouts", tmp_path / "none")
    assert status == 1 and "none" in error and "folder" in error
    (tmp_path / "empty").mkdir()
    status, _, error = run(capsys, out, "--cutouts", tmp_path / "empty")
    assert status == 1 and "holds no .png" in error
    save_disc(tmp_path / "plain" / "rgb.png", mode="RGB")
    status, _, error = run(capsys, out, "--cutouts", tmp_path / "plain")
    assert status == 1 and "rgb.png" in error and "alpha" in error
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "bad.png").write_bytes(b"no picture")
    status, _, error = run(capsys, out, "--cutouts", tmp_path / "broken")
    assert status == 1 and "bad.png" in error and "cannot be read" in error
    Image.new("RGBA", (20, 20)).save(tmp_path / "empty" / "clear.png")
    status, _, error = run(capsys, out, "--cutouts", tmp_path / "empty")
    assert status == 1 and "clear.png" in error and "opaque" in error
    assert not out.exists()


@pytest.mark.parametrize(
    "flag, value",
    [("--train", -1), ("--scene-size", 10), ("--object-size", 3), ("--workers", 0)],
)
def test_bad_numbers_are_named(tmp_path, capsys, flag, value):
    status, _, error = run(capsys, tmp_path / "set", flag, value)
    assert status == 1
    assert f"{flag} is {value}" in error and len(error.splitlines()) == 1


@pytest.fixture(scope="module")
def parted(tmp_path_factory):
    """A set with split cut-outs on own grounds: its folder, card and cut-outs."""
    root = tmp_path_factory.mktemp("parted")
    rng = np.random.default_rng(0)
    for name, count in dict(red=7, blue=10).items():
        for k in range(count):
            save_disc(root / "cutouts" / name / f"{k}.png", (255, 20 * k, 0))
    for split, low in dict(train=0, val=128).items():
        (root / "grounds" / split).mkdir(parents=True)
        noise = rng.integers(low, low + 128, (300, 300, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "grounds" / split / "a.png")
    options = make_scenes.Options(
        pretrain=28,
        train=6,
        val=6,
        probe=14,
        object_size=48,
        scene_size=96,
        cutouts=str(root / "cutouts"),
        grounds=str(root / "grounds"),
        split_cutouts=True,
        objects=8,
        distractors=3,
        smallest=0.13,
    )
    card, _ = make_scenes.build(root / "set", options, workers=2)
    return root, card, options


def test_parts_of_cutouts_are_disjoint_and_whole():
    source = cutouts.FolderCutouts.__new__(cutouts.FolderCutouts)
    source.names, source.digest = ["a", "b"], None
    source.stems = [[f"a{k}" for k in range(7)], [f"b{k}" for k in range(65)]]
    source.pictures = source.stems
    parts = {name: source.part(*p) for name, p in make_scenes.PARTS.items()}
    assert parts["pretrain"].stems == parts["train"].stems == parts["probe"].stems
    for index, stems in enumerate(source.stems):
        found = [parts[p].stems[index] for p in ("train", "val")]
        assert sorted(sum(found, [])) == sorted(stems)
        assert min(map(len, found)) >= 1
    assert [parts["train"].single(k)[1] for k in range(len(parts["train"]))] == sum(
        parts["train"].stems, []
    )
    source.stems, source.pictures, source.names = [["a"]], [["a"]], ["a"]
    with pytest.raises(ValueError, match="class a has 1 cut-outs"):
        source.part(0.8, 1)


def test_split_set_is_sorted_into_folders(parted):
    root, card, _ = parted
    assert card["images"] == dict(pretrain=28, train=6, val=6, probe=14)
    seen = {
        split: {f.parent.relative_to(root / "set" / split).as_posix() for f in files}
        for split in ("pretrain", "probe")
        if (files := list((root / "set" / split).rglob("*.jpg")))
    }
    assert len(seen["pretrain"]) == 6 + 8 and seen["probe"] == seen["pretrain"]
    counts = [
        len(list((root / "set/pretrain" / f).iterdir())) for f in seen["pretrain"]
    ]
    assert set(counts) == {2}
    assert "no other split" in card["reuse"]
    assert card["grounds"] == ["train/a.png", "val/a.png"]


def test_cutouts_of_val_are_seen_nowhere_else(tmp_path):
    """On blue grounds val's part of the cut-outs is green, the others are red."""
    folder = tmp_path / "cutouts"
    for name in ("a", "b"):
        for k in range(10):
            save_disc(folder / name / f"{k}.png", (255, 0, 0))
    val = cutouts.FolderCutouts(folder).part(0.8, 1)
    for name, stems in zip(val.names, val.stems, strict=True):
        for stem in stems:
            save_disc(folder / name / f"{stem}.png", (0, 255, 0))
    blue = np.zeros((300, 300, 3), np.uint8)
    blue[..., 2] = np.random.default_rng(0).integers(0, 255, (300, 300))
    for split in ("train", "val"):
        (tmp_path / "grounds" / split).mkdir(parents=True)
        Image.fromarray(blue).save(tmp_path / "grounds" / split / "a.png")
    counts = dict(pretrain=32, train=8, val=8, probe=16)
    options = make_scenes.Options(
        **counts,
        object_size=48,
        scene_size=96,
        cutouts=str(tmp_path / "cutouts"),
        grounds=str(tmp_path / "grounds"),
        split_cutouts=True,
        distractors=3,
    )
    make_scenes.build(tmp_path / "set", options)
    for split, count in counts.items():
        files = list((tmp_path / "set" / split).rglob("*.jpg"))
        assert len(files) == count
        for file in files:
            with Image.open(file) as picture:
                red, green, _ = np.moveaxis(np.asarray(picture).astype(int), 2, 0)
            shown = [(a - b > 120).sum() > 20 for a, b in ((red, green), (green, red))]
            assert shown == [split != "val", split == "val"], file


def test_every_split_shows_its_own_grounds(parted):
    root, _, _ = parted
    for split, dark in dict(train=True, val=False, pretrain=True).items():
        file = sorted((root / "set" / split).rglob("*.jpg"))[0]
        with Image.open(file) as picture:
            blue = np.asarray(picture)[..., 2]  # the discs have none of it
        assert (np.percentile(blue, 90) < 128) == dark


def test_pictures_of_one_name_have_one_ground(parted):
    """Objects have no blue, so blue is the ground's where pictures show it."""
    root, _, _ = parted
    found = {}
    for file in (root / "set/pretrain").rglob("*.jpg"):
        with Image.open(file) as picture:
            found.setdefault(file.name, []).append(np.asarray(picture)[:4, :4, 2])
    assert sorted(found) == ["000000.jpg", "000001.jpg"]
    means = {name: np.median(corners, axis=0) for name, corners in found.items()}
    apart = np.abs(means["000000.jpg"] - means["000001.jpg"]).mean()
    for name, corners in found.items():
        near = [np.abs(c.astype(int) - means[name]).mean() for c in corners]
        assert np.median(near) < apart / 2


def test_grounds_are_shared_by_as_many_pictures_as_asked(tmp_path):
    """Most pairs have a place at the left or the top that no object covers."""
    options = make_scenes.Options(
        pretrain=8, train=1, val=1, object_size=48, per_ground=3
    )
    make_scenes.build(tmp_path, options)
    files = sorted(f.relative_to(tmp_path) for f in tmp_path.glob("pretrain/*/*"))
    wanted = [(k, name) for k in range(3) for name in range(3 if k < 2 else 2)]
    assert [str(f) for f in files] == [
        f"pretrain/{k:04d}/{name:06d}.jpg" for k, name in wanted
    ]

    def apart(one, two):
        """Least mean difference of two pictures' corners at the left and at the top."""
        with Image.open(tmp_path / one) as a, Image.open(tmp_path / two) as b:
            a, b = np.asarray(a).astype(int), np.asarray(b).astype(int)
        corners = np.s_[:4, :4], np.s_[30:34, :4], np.s_[:4, 30:34]
        return min(np.abs(a[c] - b[c]).mean() for c in corners)

    pairs = [(a, b) for a in files for b in files if a < b]
    same = [apart(a, b) for a, b in pairs if a.name == b.name]
    other = [apart(a, b) for a, b in pairs if a.name != b.name]
    assert np.median(same) < 8 < np.median(other)


def test_split_set_is_the_same_from_one_process(parted, tmp_path):
    _, card, options = parted
    again, _ = make_scenes.build(tmp_path / "set", options)
    assert again["sha256"] == card["sha256"]


def test_changed_grounds_are_another_set(parted, tmp_path):
    root, _, options = parted
    copy = tmp_path / "grounds"
    shutil.copytree(root / "grounds", copy)
    Image.new("RGB", (300, 300)).save(copy / "train/b.png")
    changed = replace(options, grounds=str(copy))
    with pytest.raises(ValueError, match="grounds_sha256"):
        make_scenes.build(root / "set", changed)


def test_cutouts_that_are_left_out(parted):
    root, _, _ = parted
    folder = root / "cutouts"
    every = [f"red/{k}" for k in range(7)]
    assert len(cutouts.FolderCutouts(folder, ["red/3"])) == 16
    assert cutouts.FolderCutouts(folder, every).names == ["blue"]
    with pytest.raises(ValueError, match="green/1: there is no such"):
        cutouts.FolderCutouts(folder, ["green/1"])
    with pytest.raises(ValueError, match="leaves no cut-out"):
        cutouts.FolderCutouts(folder, [*every, *(f"blue/{k}" for k in range(10))])


def test_rules_of_a_scene_are_kept(tmp_path):
    save_disc(tmp_path / "disc.png")
    source = cutouts.FolderCutouts(tmp_path)
    dark = compose.Grounds([np.zeros((96, 96, 3), np.uint8)], recolor=False)
    rules = compose.SceneRules((2, 3), (0.2, 0.3), (2, 2))
    for seed in range(8):
        rng = np.random.default_rng(seed)
        _, owner, classes = compose.compose_scene(rng, source, dark, 128, rules)
        assert 1 <= len(classes) <= 3
        for k in range(len(classes)):
            y, x = np.nonzero(owner == k)
            assert max(np.ptp(x), np.ptp(y)) + 1 <= 0.3 * 128 + 1


def test_distractors_are_no_objects():
    rng = np.random.default_rng(0)
    bright = compose.Grounds([np.full((96, 96, 3), 200, np.uint8)], recolor=False)
    scene = compose.Scene(rng, compose.Grounds([np.zeros((9, 9, 3), np.uint8)]), 96)
    assert scene.add(compose.make_distractor(rng, bright, 80))
    assert (scene.image[..., 0] > 150).sum() > 100
    assert scene.classes == [] and (scene.owner == -1).all()


@pytest.mark.parametrize(
    "given, words",
    [
        (dict(split_cutouts=True), "--cutouts DIR"),
        (dict(probe=3), "--split-cutouts"),
        (dict(per_ground=-1), "--per-ground is -1"),
        (dict(per_ground=4, cutouts="/none", split_cutouts=True), "--per-ground is 4"),
        (dict(smallest=0.9), "--smallest is 0.9"),
        (dict(main=1.5), "--main is 1.5"),
        (dict(objects=0), "--objects is 0"),
        (dict(grounds="/none"), "holds no .jpg or .png"),
    ],
)
def test_options_that_cannot_be_are_named(tmp_path, given, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        make_scenes.build(tmp_path / "set", make_scenes.Options(train=1, **given))
