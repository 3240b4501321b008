"""The quickstart's data set, what is composed for it, and pictures of detections."""

import contextlib
import io
import json
import shutil
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mcl.errors import InputError
from projects.quickstart import compose, cutouts, make_scenes
from projects.quickstart.make_scenes import Options, build
from projects.quickstart.plot_detections import plot_detections

COUNTS = dict(pretrain=5, train=24, val=4, object_size=64, scene_size=96)
BLACK = compose.Grounds([np.zeros((96, 96, 3), np.uint8)], recolor=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A small data set: its folder and its card."""
    out = tmp_path_factory.mktemp("scenes") / "set"
    return out, build(out, Options(**COUNTS))[0]


@pytest.fixture(scope="module")
def parted(tmp_path_factory):
    """A set with split cut-outs on own grounds: its folder, card and options.

    In val cut-outs are green and grounds bright, elsewhere red and dark. Only grounds
    have blue.
    """
    root = tmp_path_factory.mktemp("parted")
    for name, count in dict(a=7, b=10).items():
        for k in range(count):
            save_disc(root / "cutouts" / name / f"{k}.png", (255, k, 0))
    val = cutouts.FolderCutouts(root / "cutouts").part(0.8, 1)
    for name, group in zip(val.names, val.groups, strict=True):
        for stem, _ in group:
            save_disc(root / "cutouts" / name / f"{stem}.png", (0, 255, 0))
    rng = np.random.default_rng(0)
    for split, low in dict(train=0, val=128).items():
        noise = np.zeros((300, 300, 3), np.uint8)
        noise[..., 2] = rng.integers(low, low + 128, (300, 300))
        (root / "grounds" / split).mkdir(parents=True)
        Image.fromarray(noise).save(root / "grounds" / split / "a.png")
    options = Options(
        **dict(COUNTS, pretrain=28, train=8, val=8, probe=14, object_size=48),
        cutouts=str(root / "cutouts"),
        grounds=str(root / "grounds"),
        split_cutouts=True,
        distractors=3,
        smallest=0.2,
    )
    return root / "set", build(root / "set", options, workers=2)[0], options


def save_disc(file, color=(255, 0, 255), mode="RGBA"):
    """Save a disc on a transparent ground; 120 px, so that scenes shrink it."""
    rgba = np.zeros((128, 128, 4), np.uint8)
    cv2.circle(rgba, (64, 64), 60, (*color, 255), -1)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgba).convert(mode).save(file)


def opened(file):
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


# --- the data set


def test_pictures_depend_on_the_seed_not_on_the_number_of_processes(data, tmp_path):
    _, card = data
    assert build(tmp_path / "same", Options(**COUNTS), workers=2) == (card, True)
    other, _ = build(tmp_path / "other", Options(**COUNTS, seed=1))
    assert all(other["sha256"][name] != card["sha256"][name] for name in card["sha256"])


def test_a_finished_set_is_kept_and_a_broken_one_made_anew(data):
    out, card = data
    assert build(out, Options(**COUNTS)) == (card, False)
    (out / "train/000001.jpg").unlink()
    assert build(out, Options(**COUNTS)) == (card, True)
    (out / "card.json").rename(out / "partial.json")  # as an interrupted run leaves it
    assert build(out, Options(**COUNTS)) == (card, True)


def test_other_options_and_foreign_folders_are_refused(tmp_path):
    out, few = tmp_path / "set", Options(pretrain=1, train=1, val=1)
    build(out, few)
    with pytest.raises(InputError, match="with other options .seed.*--overwrite"):
        build(out, replace(few, seed=3))
    card, written = build(out, replace(few, seed=3), overwrite=True)
    assert written and card["options"]["seed"] == 3
    mine = tmp_path / "train/mine.jpg"
    mine.parent.mkdir()
    mine.write_text("mine")
    for content in (None, "[]"):
        if content:
            (tmp_path / "card.json").write_text(content)
        with pytest.raises(InputError, match="no data set"):
            build(tmp_path, few, overwrite=True)
    assert mine.read_text() == "mine"
    with pytest.raises(InputError, match="no data set"):
        build(mine, few)


def test_pictures_of_one_object_have_the_asked_size(data):
    sizes = [opened(f).shape[:2] for f in (data[0] / "pretrain").iterdir()]
    assert len(sizes) == 5
    assert all(max(size) == 64 and min(size) >= 48 for size in sizes)


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_fit_the_scenes(data, split):
    out, card = data
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(out / f"annotations/{split}.json"))
    assert len(coco.imgs) == card["images"][split] == COUNTS[split]
    assert len(coco.anns) == card["objects"][split]
    assert [c["name"] for c in coco.cats.values()] == cutouts.DrawnCutouts.names
    for key, info in coco.imgs.items():
        assert opened(out / split / info["file_name"]).shape == (96, 96, 3)
        rows = coco.imgToAnns[key]
        masks = np.stack([coco.annToMask(row) for row in rows])
        assert 1 <= len(rows) <= 6 and masks.sum(0).max() == 1
        for row, mask in zip(rows, masks, strict=True):
            y, x = np.nonzero(mask)
            assert row["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            assert row["area"] == mask.sum() >= compose.MIN_PIXELS
    sides = [max(row["bbox"][2:]) for row in coco.anns.values()]
    assert max(sides) <= 0.8 * 96 + 1
    assert split == "val" or max(sides) >= 4 * min(sides)


def test_val_has_its_own_cutouts_and_grounds(parted):
    out, card, options = parted
    assert card["images"] == dict(pretrain=28, train=8, val=8, probe=14)
    for split, count in card["images"].items():
        files = list((out / split).rglob("*.jpg"))
        assert len(files) == count
        for file in files:
            red, green, blue = np.moveaxis(opened(file), 2, 0)
            shown = [(a - b > 120).sum() > 20 for a, b in ((red, green), (green, red))]
            assert shown == [split != "val", split == "val"], file
            assert (np.percentile(blue, 95) < 128) == (split != "val"), file
    folders = {f.parent.relative_to(out / "probe") for f in out.glob("probe/*/*/*")}
    assert len(folders) == 6 + 8
    for folder in folders:  # the second pictures of a cut-out are on a second ground
        names = sorted(f.name for f in (out / "pretrain" / folder).iterdir())
        assert names == ["000000.jpg", "000001.jpg"]
    assert build(out.parent / "one", options)[0]["sha256"] == card["sha256"]


def test_a_changed_folder_is_another_set(parted, tmp_path):
    out, _, options = parted
    for name in ("cutouts", "grounds"):
        shutil.copytree(getattr(options, name), tmp_path / name)
        changed = replace(options, **{name: str(tmp_path / name)})
        assert not build(out, changed)[1]  # the same content elsewhere
        save_disc(next((tmp_path / name).iterdir()) / "new.png")
        with pytest.raises(InputError, match=f"{name}_sha256"):
            build(out, changed)


def test_grounds_are_shared_by_as_many_pictures_as_asked(tmp_path):
    """Most pairs have a place at the left or the top that no object covers."""
    build(tmp_path, Options(pretrain=8, train=1, val=1, object_size=48, per_ground=3))
    files = sorted(f.relative_to(tmp_path) for f in tmp_path.glob("pretrain/*/*"))
    numbers = [(int(f.parent.name), int(f.stem)) for f in files]
    assert numbers == [(k, name) for k in range(3) for name in range(3)][:-1]

    def apart(one, two):
        """Least mean difference of two pictures' corners at the left and at the top."""
        a, b = opened(tmp_path / one), opened(tmp_path / two)
        corners = np.s_[:4, :4], np.s_[30:34, :4], np.s_[:4, 30:34]
        return min(np.abs(a[c] - b[c]).mean() for c in corners)

    pairs = [(a, b) for a in files for b in files if a < b]
    same = [apart(a, b) for a, b in pairs if a.name == b.name]
    other = [apart(a, b) for a, b in pairs if a.name != b.name]
    assert np.median(same) < 8 < np.median(other)


@pytest.mark.parametrize(
    "given, words",
    [
        (dict(train=-1), "--train must be >= 0, got -1"),
        (dict(smallest=0.9), "--smallest must be from 0.02 to 0.5, got 0.9"),
        (dict(classes="two"), "--classes must be all or one, got two"),
        (dict(split_cutouts=True), "--split-cutouts needs --cutouts"),
        (dict(per_ground=4, cutouts="/x", split_cutouts=True), "--per-ground 4: "),
        (dict(grounds="/none"), "--grounds: /none/train holds no .jpg or .png"),
        (dict(cutouts="/none"), "--cutouts /none: there is no such folder"),
    ],
)
def test_options_that_cannot_be_are_named(tmp_path, given, words):
    with pytest.raises(InputError, match=words):
        build(tmp_path / "set", Options(**dict(dict(train=1), **given)))
    assert not list(tmp_path.iterdir())


def test_options_of_the_command(tmp_path, monkeypatch):
    words = "make_scenes --pretrain 1 --train 1 --val 1 --classes one --smallest 0.3"
    monkeypatch.setattr(sys, "argv", [*words.split(), str(tmp_path / "set")])
    make_scenes.main()
    options = json.loads((tmp_path / "set/card.json").read_text())["options"]
    assert (options["smallest"], options["classes"]) == (0.3, "one")
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--workers", "0"])
    with pytest.raises(InputError, match="--workers must be >= 1, got 0"):
        make_scenes.main()


# --- cut-outs


def test_every_class_is_drawn_with_a_soft_edge():
    source, seen = cutouts.DrawnCutouts(), set()
    for seed in range(80):
        rgba, index = source.sample(np.random.default_rng(seed))
        seen.add(index)
        assert rgba.dtype == np.uint8 and 80 <= max(rgba.shape) <= 160
        alpha = rgba[..., 3]
        assert alpha.max() == 255 and ((alpha > 0) & (alpha < 255)).any()
    assert seen == set(range(len(source.names)))


def test_parts_of_cutouts_are_disjoint_and_whole(parted):
    source = cutouts.FolderCutouts(parted[2].cutouts, ["a/3"])
    train, val = source.part(0, 0.8), source.part(0.8, 1)
    for whole, *parts in zip(source.groups, train.groups, val.groups, strict=True):
        stems = [[stem for stem, _ in group] for group in (whole, *parts)]
        assert sorted(stems[1] + stems[2]) == stems[0] and all(stems)
    assert list(map(len, source.groups)) == [6, 10]
    assert [source.single(k)[:2] for k in range(len(source))] == [
        (k, stem) for k, group in enumerate(source.groups) for stem, _ in group
    ]
    with pytest.raises(InputError, match="c/1: .* has no such cut-out"):
        cutouts.FolderCutouts(parted[2].cutouts, ["c/1"])


def test_unusable_cutouts_are_named(tmp_path):
    save_disc(tmp_path / "flat/a.png")
    flat = cutouts.FolderCutouts(tmp_path / "flat")
    assert flat.names == ["object"]
    with pytest.raises(InputError, match="class object has 1 cut-outs"):
        flat.part(0, 0)
    save_disc(tmp_path / "plain/rgb.png", mode="RGB")
    for name in ("empty", "broken", "clear"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken/bad.png").write_bytes(b"no picture")
    Image.new("RGBA", (20, 20)).save(tmp_path / "clear/clear.png")
    for name, words in dict(
        empty="holds no .png",
        plain="rgb.png: it has no alpha",
        broken="bad.png: it cannot be read",
        clear="clear.png: it is nowhere opaque",
    ).items():
        with pytest.raises(InputError, match=words):
            cutouts.FolderCutouts(tmp_path / name)


# --- scenes


def test_masks_follow_the_painted_pixels(tmp_path):
    save_disc(tmp_path / "disc.png")
    source, kernel = cutouts.FolderCutouts(tmp_path), np.ones((3, 3), np.uint8)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        image, owner, classes = compose.compose_scene(rng, source, BLACK, 96, 0.2, 3)
        assert set(np.unique(owner)) - {-1} == set(range(len(classes)))
        assert 1 <= len(classes) <= 3
        # The disc is dimmed to 0.7 at most; its soft edge is one pixel wide.
        for k in range(len(classes)):
            own = np.pad((owner == k).astype(np.uint8), 1)
            inner = cv2.erode(own, kernel)[1:-1, 1:-1] > 0
            assert image[inner][:, 0].min() >= 0.65 * 255
        outer = cv2.dilate((owner >= 0).astype(np.uint8), kernel) > 0
        assert image[..., 1].max() == 0
        assert image[~outer].max() <= 40


def test_distractors_are_no_objects():
    rng = np.random.default_rng(0)
    bright = compose.Grounds([np.full((96, 96, 3), 200, np.uint8)], recolor=False)
    scene = compose.Scene(rng, BLACK, 96)
    scene.add(compose.make_distractor(rng, bright, 80))
    assert (scene.image[..., 0] > 150).sum() > 100
    assert scene.classes == [] and (scene.owner == -1).all()


def test_detections_are_plotted_beside_the_ground_truth(data, tmp_path):
    """Columns: the truth, all of it as detections, and these below the threshold."""
    out, _ = data
    notes = json.loads((out / "annotations/val.json").read_text())["annotations"]
    files = {}
    for title, score in dict(ours=0.9, weak=0.1).items():
        files[title] = tmp_path / f"{title}.json"
        files[title].write_text(json.dumps([dict(n, score=score) for n in notes]))
    truth, picture = out / "annotations/val.json", tmp_path / "plot.png"
    plot_detections(out / "val", truth, files, picture, count=2)
    columns = np.array_split(opened(picture)[60:], 3, axis=1)
    colorful = [np.ptp(c, axis=2).mean() for c in columns]
    assert colorful[0] > 1.1 * colorful[2] and colorful[1] > 1.1 * colorful[2]
