"""tools/browse_montage.py: what its pictures show, for every pre-training config."""

import os
import sys

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mcl.config import adapt_to_cpu, datasets
from mcl.errors import InputError
from mcl.levels import level_name
from tools.browse_montage import GAP, first_batch, image_color, main

from .conftest import (
    ROOT,
    SMALL_DETECTOR,
    TINY,
    give_images,
    run_tool,
    shrink_recipe,
    shrunk_config,
)

CONFIGS = sorted((ROOT / "configs/mcl").glob("*.py"))
MOST = 16  # canvases in a picture
DATA_ROOT = "train_dataloader.dataset.dataset.data_root"


def browse(*args) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["browse_montage.py", *map(str, args)])
        main()


def shipped(path, root) -> Config:
    """A shipped config made small, with images, and as a file at ``root``/cfg.py."""
    cfg = Config.fromfile(path)
    shrink_recipe(cfg)
    give_images(cfg, root, 24)
    if cfg.get("val_dataloader"):  # which is not read
        for dataset in datasets(cfg.val_dataloader.dataset):
            dataset.data_root = f"{root}/none"
    cfg.dump(root / "cfg.py")
    return cfg


def tiles(picture, canvases: int, ratio: int):
    """The tiles of a picture in the order of their canvases."""
    columns = int(canvases**0.5 + 0.999)
    side = (picture.shape[1] + GAP) // columns - GAP
    tile = side // ratio
    for canvas in range(canvases):
        top, left = (
            (side + GAP) * (canvas // columns),
            (side + GAP) * (canvas % columns),
        )
        for place in range(ratio**2):
            row, column = divmod(place, ratio)
            y, x = top + row * tile, left + column * tile
            yield picture[y : y + tile, x : x + tile]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_an_image_has_one_color_at_every_level(path, tmp_path, capsys):
    cfg = shipped(path, tmp_path)
    browse(tmp_path / "cfg.py", tmp_path / "out")
    printed = capsys.readouterr().out
    batch = first_batch(cfg, cfg.randomness.seed)
    names = [level_name(r) for r in cfg.model.ratios]
    for number, view in enumerate(batch.views, 1):
        for name, canvases, index in zip(
            names, view.canvases, view.image_index, strict=True
        ):
            ratio = round((len(index) / len(canvases)) ** 0.5)
            file = tmp_path / "out" / f"view{number}_{name}.png"
            assert f"{file}: " in printed
            picture = cv2.imread(str(file))[..., ::-1]
            found = list(tiles(picture, min(len(canvases), MOST), ratio))
            index = index[: len(found)]
            assert len(found) == len(index)
            for tile, image in zip(found, index.tolist(), strict=True):
                assert min(tile.shape[:2]) >= 48
                corners = tile[[0, 0, -1, -1], [0, -1, 0, -1]].tolist()
                assert corners == [list(image_color(image))] * 4
    pictures = {p.name for p in (tmp_path / "out").iterdir()} - {"images.txt"}
    views = range(1, len(batch.views) + 1)
    assert len(views) == (1 if "-sup" in path.stem else 2)
    assert pictures == {f"view{v}_{name}.png" for v in views for name in names}
    lines = (tmp_path / "out" / "images.txt").read_text().splitlines()
    paths = [sample.img_path for sample in batch.samples]
    assert lines == [f"{i} {path}" for i, path in enumerate(paths)]


def test_pictures_show_the_first_batch_of_a_run(tmp_path, image_folder, monkeypatch):
    cfg = shrunk_config(image_folder, **{"train_cfg.max_iters": 1})
    adapt_to_cpu(cfg)
    cfg.work_dir, seen = str(tmp_path), []
    expected = first_batch(cfg, cfg.randomness.seed)
    runner = Runner.from_cfg(cfg)
    loss = runner.model.loss

    def watched(inputs, *args, **kwargs):
        seen.extend(inputs)
        return loss(inputs, *args, **kwargs)

    monkeypatch.setattr(runner.model, "loss", watched)
    runner.train()
    for a, b in zip(seen, expected.views, strict=True):
        assert all(map(torch.equal, a.canvases, b.canvases))
        assert all(map(torch.equal, a.image_index, b.image_index))
    other = first_batch(cfg, 1).views[0]
    assert not torch.equal(other.canvases[0], expected.views[0].canvases[0])


def test_a_large_batch_is_shown_in_part_and_that_is_said(tmp_path, capsys):
    shipped(TINY, tmp_path)
    browse(
        tmp_path / "cfg.py",
        tmp_path / "out",
        *("--most", 3, "--views", 2, "--batch-size", 16, "--seed", 5),
    )
    printed = capsys.readouterr().out
    shown = "view2_p5.png: 3 of 16 canvases of 32 x 32 pixels, 1 tiles each; 3 of 16"
    assert shown in printed and "view2_p2.png: 1 of 1 canvases" in printed
    assert "view1" not in printed
    # Two rows of two canvases of 128 pixels.
    shape = cv2.imread(str(tmp_path / "out" / "view2_p5.png")).shape
    assert shape == (2 * 128 + GAP, 2 * 128 + GAP, 3)


def test_an_image_that_cannot_be_read_is_named(tmp_path, capsys):
    """Both have names in Latin-1, which are no UTF-8."""
    shipped(TINY, tmp_path)
    folder = os.fsencode(tmp_path / "source0")
    os.rename(folder + b"/002.jpg", folder + b"/caf\xe9.jpg")
    with open(folder + b"/th\xe9.jpg", "wb") as file:
        file.write(b"no image")
    browse(tmp_path / "cfg.py", tmp_path / "out", "--batch-size", 25)
    named = f"unreadable image replaced: {tmp_path}/source0/th\\udce9.jpg"
    assert named in capsys.readouterr().out
    assert b"source0/caf\xe9.jpg\n" in (tmp_path / "out/images.txt").read_bytes()


def test_what_is_wrong_is_said_in_words(tmp_path):
    def said(*args) -> str:
        with pytest.raises(InputError) as error:
            browse(*args)
        return str(error.value)

    shipped(TINY, tmp_path)
    cfg, out = tmp_path / "cfg.py", tmp_path / "out"
    assert "none.py: there is no such file" in said(tmp_path / "none.py", out)
    assert "--most must be >= 1, got 0" in said(cfg, out, "--most", 0)
    assert "--batch-size must be >= 1" in said(cfg, out, "--batch-size", -1)
    missing = f"{DATA_ROOT}={tmp_path}/none"
    assert "data_root=" in said(cfg, out, "--cfg-options", missing)
    few = "24 images are fewer than one batch of 25"
    assert few in said(cfg, out, "--batch-size", 25)
    assert "batch_size=1" in said(cfg, out, "--batch-size", 1)
    assert not out.exists() or not list(out.iterdir())
    (out / "images.txt").mkdir(parents=True)
    assert f"{out}/images.txt: it cannot be written" in said(cfg, out)
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert f"OUT {blocked}: it cannot be made" in said(cfg, blocked)
    for other in (ROOT / "configs/_base_/default_runtime.py", SMALL_DETECTOR):
        assert "has no montage" in said(other, out)
    done = run_tool("tools/browse_montage.py", tmp_path / "none.py", out, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
