"""tools/scenes/unseen_classes.py: classes of objects by their neighbours' votes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from .test_make_scenes import load

unseen_classes = load("unseen_classes")
COLOURS = {1: (200, 0, 0), 2: (0, 0, 200)}


class Colours(nn.Module):
    """A backbone of two maps: a constant one, and the picture itself."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return torch.zeros_like(x), self.norm(x)


@pytest.fixture
def scenes(tmp_path):
    """Red and blue objects on grey, of either class as many; one is too small."""
    for split, count in dict(train=20, val=6).items():
        (tmp_path / split).mkdir()
        (tmp_path / "annotations").mkdir(exist_ok=True)
        images, notes = [], []
        for k in range(1, count + 1):
            picture = np.full((96, 96, 3), 128, np.uint8)
            kind, left = 1 + k % 2, 10 + k
            picture[20:50, left : left + 24] = COLOURS[kind]
            Image.fromarray(picture).save(tmp_path / split / f"{k}.png")
            images.append(dict(id=k, file_name=f"{k}.png", height=96, width=96))
            box = [left, 20, 24, 30]
            notes.append(dict(id=k, image_id=k, category_id=kind, bbox=box))
        notes.append(dict(id=99, image_id=1, category_id=1, bbox=[0, 0, 9, 9]))
        for note in notes:
            note.update(area=note["bbox"][2] * note["bbox"][3], iscrowd=0)
        content = dict(images=images, annotations=notes, categories=[])
        (tmp_path / f"annotations/{split}.json").write_text(json.dumps(content))
    return tmp_path


def test_crops_show_their_objects(scenes):
    crops, classes = unseen_classes.cut_objects(scenes, "val", 36)
    assert crops.shape == (6, 3, 36, 36) and sorted(classes) == [1] * 3 + [2] * 3
    mean, std = (torch.tensor(v) for v in (unseen_classes.MEAN, unseen_classes.STD))
    for crop, kind in zip(crops, classes.tolist(), strict=True):
        middle = crop[:, 18, 18] * std + mean
        assert torch.allclose(middle, torch.tensor(COLOURS[kind]).float(), atol=0.5)
        corner = crop[:, 0, 0] * std + mean  # a fifth larger than the box
        assert torch.allclose(corner, torch.full((3,), 128.0), atol=0.5)


def test_classes_are_told_by_what_the_maps_hold(scenes):
    bank, queries = (
        unseen_classes.cut_objects(scenes, s, 32) for s in ("train", "val")
    )
    blind, seeing = unseen_classes.judge(Colours(), bank, queries)
    assert seeing == 1
    assert blind == 0.5  # all are alike: one class gets every vote
    swapped = (queries[0], 3 - queries[1])
    assert unseen_classes.judge(Colours(), bank, swapped)[1] == 0


def test_statistics_are_those_of_the_bank(scenes):
    bank = unseen_classes.cut_objects(scenes, "train", 32)
    backbone = Colours()
    backbone.norm.running_mean += 7
    unseen_classes.judge(backbone, bank, bank)
    assert torch.allclose(backbone.norm.running_mean, bank[0].mean((0, 2, 3)))
