"""Do features tell the classes of objects, of cut-outs seen before and of new ones?

    python tools/scenes/unseen_classes.py CONFIG DATA CHECKPOINT ...

DATA is a data set of make_scenes.py with --split-cutouts. Objects get the class that
their nearest neighbors among those of every second train scene vote for; the figures
are top-1 accuracies, of every map of the backbone: `known` of the other train scenes,
`new` of the val scenes, whose cut-outs and photographs no other split shows. An object
of 24 pixels or more is cut out as a square around its box, resized to CONFIG's size.
As fine-tuning would, the backbone's BN takes its statistics from the neighbors, and
features are standardised over them. CHECKPOINT is one of CONFIG's pre-training, or the
word random.
"""

import argparse
import contextlib
import io
import json
from pathlib import Path

import torch
from backbones import load_backbone
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from PIL import Image
from pycocotools.coco import COCO
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torchvision.transforms.v2 import functional as F

from mcl.config import read_config
from mcl.engine.knn import knn_vote
from mcl.errors import InputError, run_cli
from mcl.models.losses import normalize

NEIGHBORS = 8
CHUNK = 128
MARGIN = 1.2  # of a square's side by the longer one of its box
SMALLEST = 24  # longer side of a box, in pixels: smaller ones say little
Objects = tuple[Tensor, Tensor]


def cut_objects(
    data: Path, split: str, side: int, scenes: slice = slice(None)
) -> Objects:
    """Crops (N, 3, side, side), uint8 RGB, and classes (N) of a split's objects.

    ``scenes`` chooses among those of the split, in the order of their numbers.

    Raises:
        InputError: when there is no object.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(data / f"annotations/{split}.json"))
    crops, classes = [], []
    for index in sorted(truth.getImgIds())[scenes]:
        with Image.open(data / split / truth.imgs[index]["file_name"]) as image:
            picture = F.pil_to_tensor(image.convert("RGB"))
        for note in truth.imgToAnns[index]:
            if max(note["bbox"][2:]) >= SMALLEST:
                crops.append(cut(picture, note["bbox"], side))
                classes.append(note["category_id"])
    if not crops:
        raise InputError(
            f"DATA={data}: {split} has no object of {SMALLEST} pixels; make more scenes"
        )
    return torch.stack(crops), torch.tensor(classes)


def cut(picture: Tensor, box: list[float], side: int) -> Tensor:
    """The square around a box, moved into the picture where it would leave it."""
    x, y, width, height = box
    length = min(round(MARGIN * max(width, height)), *picture.shape[1:])
    top, left = (
        min(max(0, round(middle - length / 2)), most - length)
        for middle, most in zip(
            (y + height / 2, x + width / 2), picture.shape[1:], strict=True
        )
    )
    return F.resized_crop(picture, top, left, length, length, [side, side])


@torch.no_grad()
def judge(backbone: nn.Module, bank: Objects, queries: list[Objects]) -> list[list]:
    """Accuracy (0..1) of every map, for each of the queries. Crops are normalized."""
    update_bn(bank[0].split(CHUNK), backbone)
    backbone.eval()  # MMPretrain's returns nothing
    known = embed(backbone, bank[0])
    return [
        [
            accuracy(maps, labels, own, bank[1])
            for maps, own in zip(embed(backbone, crops), known, strict=True)
        ]
        for crops, labels in queries
    ]


def accuracy(features: Tensor, labels: Tensor, bank: Tensor, known: Tensor) -> float:
    """Top-1 of the vote on (N, C), standardised over the bank's (M, C)."""
    mean, std = bank.mean(0), bank.std(0)
    std[std < 1e-6] = 1  # a channel that says nothing
    features, bank = (normalize((f - mean) / std) for f in (features, bank))
    votes = knn_vote(features, bank, known, NEIGHBORS)
    return (votes == labels).float().mean().item()


def embed(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    """Averages (N, C) of every map."""
    parts = [[m.mean((2, 3)) for m in backbone(i)] for i in images.split(CHUNK)]
    return [torch.cat(maps) for maps in zip(*parts, strict=True)]


def read_objects(cfg: Config, data: Path) -> list[Objects]:
    """Bank, known and new objects, normalized.

    Raises:
        InputError: when the data set has no cut-outs that only val shows.
    """
    card = data / "card.json"
    if not card.is_file() or not json.loads(card.read_text())["options"].get(
        "split_cutouts"
    ):
        raise InputError(
            f"DATA={data}: give a data set of make_scenes.py with --split-cutouts"
        )
    mean, std = (
        torch.tensor(cfg.model.data_preprocessor[key]).view(3, 1, 1)
        for key in ("mean", "std")
    )
    found = (
        cut_objects(data, "train", cfg.size, slice(0, None, 2)),
        cut_objects(data, "train", cfg.size, slice(1, None, 2)),
        cut_objects(data, "val", cfg.size),
    )
    return [((crops - mean) / std, classes) for crops, classes in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("data", type=Path)
    parser.add_argument("checkpoint", nargs="+")
    args = parser.parse_args()
    # Building a model logs a line for every weight.
    MMLogger.get_instance("unseen_classes", log_level="WARNING")
    cfg = read_config(args.config)
    init_default_scope(cfg.get("default_scope", "mmpretrain"))
    bank, *queries = read_objects(cfg, args.data)
    for name, (_, classes) in zip(("known", "new"), queries, strict=True):
        common = classes.bincount().max().item() / len(classes)
        print(f"{name}: {len(classes)} objects, the commonest class {common:.3f}")
    for checkpoint in args.checkpoint:
        known, new = judge(load_backbone(cfg, checkpoint), bank, queries)
        words = ", ".join(
            f"C{k} known {a:.3f} new {b:.3f}"
            for k, (a, b) in enumerate(zip(known, new, strict=True), 2)
        )
        print(f"{checkpoint}: {words}")


if __name__ == "__main__":
    run_cli(main)
