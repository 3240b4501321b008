"""tools/scenes/unseen_classes.py: classes of objects by their neighbors' votes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mcl.errors import InputError

from .conftest import ROOT, run_main
from .test_make_scenes import load

unseen_classes = load("unseen_classes")
COLORS = {1: (200, 0, 0), 2: (0, 0, 200)}


class Colors(nn.Module):
    """A backbone of two maps: a constant one, and the picture itself."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return torch.zeros_like(x), self.norm(x)


@pytest.fixture
def scenes(tmp_path):
    """Red and blue objects on gray, as many of each; one more is too small.

    In val the second scene's reaches the picture's border.
    """
    (tmp_path / "annotations").mkdir()
    for split, count in dict(train=40, val=8).items():
        (tmp_path / split).mkdir()
        images, notes = [], []
        for k in range(count):
            picture = np.full((96, 96, 3), 128 if split == "train" else 90, np.uint8)
            kind, left = 1 + k // 2 % 2, 66 if (split, k) == ("val", 1) else 10 + k
            picture[20:50, left : left + 30] = COLORS[kind]
            Image.fromarray(picture).save(tmp_path / split / f"{k}.png")
            images.append(dict(id=k + 1, file_name=f"{k}.png", height=96, width=96))
            notes.append(
                dict(image_id=k + 1, category_id=kind, bbox=[left, 20, 30, 30])
            )
        notes.append(dict(image_id=1, category_id=2, bbox=[0, 0, 9, 9]))
        for k, note in enumerate(notes):
            note.update(id=k + 1, area=note["bbox"][2] * note["bbox"][3], iscrowd=0)
        content = dict(images=images, annotations=notes, categories=[])
        (tmp_path / f"annotations/{split}.json").write_text(json.dumps(content))
    card = dict(options=dict(split_cutouts=True))
    (tmp_path / "card.json").write_text(json.dumps(card))
    return tmp_path


def bank_and_queries(scenes, side=36):
    found = (
        unseen_classes.cut_objects(scenes, "train", side, slice(0, None, 2)),
        unseen_classes.cut_objects(scenes, "train", side, slice(1, None, 2)),
        unseen_classes.cut_objects(scenes, "val", side),
    )
    return [(crops.float(), classes) for crops, classes in found]


def test_crops_show_their_objects(scenes):
    crops, classes = unseen_classes.cut_objects(scenes, "val", 36)
    assert classes.tolist() == [1, 1, 2, 2] * 2
    assert crops.shape == (8, 3, 36, 36)
    for crop, kind in zip(crops, classes.tolist(), strict=True):
        assert crop[:, 18, 18].tolist() == list(COLORS[kind])
        assert crop[:, 0, 0].tolist() == [90] * 3  # a fifth larger than the box
    # The one at the border is not in the middle, and nothing is filled in.
    assert crops[1][:, 18, 35].tolist() == list(COLORS[1])
    assert crops[3][:, 18, 35].tolist() == [90] * 3
    some, kinds = unseen_classes.cut_objects(scenes, "val", 36, slice(1, None, 2))
    assert torch.equal(some, crops[1::2]) and kinds.tolist() == [1, 2, 1, 2]


def test_classes_are_told_by_what_the_maps_hold(scenes):
    bank, known, new = bank_and_queries(scenes)
    swapped = (known[0], 3 - known[1])
    found = unseen_classes.judge(Colors(), bank, [known, new, swapped])
    assert [seeing for _, seeing in found] == [1, 1, 0]
    assert [blind for blind, _ in found] == [0.5, 0.5, 0.5]  # one class gets all votes


def test_statistics_are_those_of_the_bank(scenes):
    bank, _, new = bank_and_queries(scenes)
    backbone = Colors()
    backbone.norm.running_mean += 7
    backbone.norm.num_batches_tracked += 1000
    unseen_classes.judge(backbone, bank, [new])
    means = [crops.mean((0, 2, 3)) for crops, _ in (bank, new)]
    assert torch.allclose(backbone.norm.running_mean, means[0], rtol=1e-4)
    assert not torch.allclose(means[0], means[1], rtol=1e-2)


def test_command_compares_starts(scenes, capsys):
    config = str(ROOT / "configs/replication/sup.py")
    run_main("tools/scenes/unseen_classes.py", config, str(scenes), "random", "random")
    # Building a model logs a great deal in between.
    printed = capsys.readouterr().out.splitlines()
    known, new, first, second = (
        line for line in printed if line.startswith(("known: ", "new: ", "random: C2"))
    )
    assert known == "known: 20 objects, the commonest class 0.500"
    assert new == "new: 8 objects, the commonest class 0.500"
    assert first == second  # one seed
    assert first.startswith("random: C2 known 1.000 new") and first.count("new") == 4


def test_weights_of_another_model_are_refused(scenes, tmp_path):
    file = tmp_path / "other.pth"
    torch.save(dict(state_dict=dict(weight=torch.zeros(1))), file)
    config = str(ROOT / "configs/replication/sup.py")
    with pytest.raises(InputError, match="other.pth: .* not those of .*sup.py"):
        run_main("tools/scenes/unseen_classes.py", config, str(scenes), str(file))


def test_data_without_new_cutouts_are_refused(scenes):
    (scenes / "card.json").write_text(json.dumps(dict(options={})))
    with pytest.raises(InputError, match="--split-cutouts"):
        unseen_classes.read_objects(None, scenes)
    (scenes / "card.json").unlink()
    with pytest.raises(InputError, match="--split-cutouts"):
        unseen_classes.read_objects(None, scenes)


def test_splits_without_objects_are_refused(scenes):
    file = scenes / "annotations/val.json"
    content = json.loads(file.read_text())
    for note in content["annotations"]:
        note["bbox"] = [0, 0, 9, 9]
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="val has no object"):
        unseen_classes.cut_objects(scenes, "val", 32)
