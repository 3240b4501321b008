"""What do features hold? Two looks at the maps C2 to C5 of a backbone.

    python -m projects.replication.features classes CONFIG DATA CHECKPOINT ...
    python -m projects.replication.features shares CONFIG MATERIALS CHECKPOINT ...

`classes`: objects of scenes get the class that their neighbors in every second train
scene vote for. Top-1 on the other train scenes, and on the val scenes, whose cut-outs
and grounds no other split shows. `shares`: some cut-outs are each put on some grounds.
The shares of the features' variance due to the ground alone and to the object alone.
CHECKPOINT is of CONFIG's pre-training, or the word random; `run.py` makes the folders.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
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
from mcl.errors import run_cli
from mcl.models.losses import normalize
from projects.quickstart.compose import Fixed, blend, load_grounds, make_layer, place
from projects.quickstart.cutouts import FolderCutouts

from .measure import NEIGHBORS, load_backbone, mean_and_std

CHUNK = 128
MARGIN = 1.2  # of a square's side by the longer one of its box
SMALLEST = 24  # longer side of a box, in pixels: smaller ones say little
NUMBER = 14  # objects, and grounds, of which shares are told
PART = 0.75  # longest side of such an object by the image's
Objects = tuple[Tensor, Tensor]


def cut_objects(data: Path, split: str, side: int, scenes: slice) -> Objects:
    """Crops (N, 3, side, side), uint8 RGB, and classes (N) of some scenes' objects."""
    truth = COCO(str(data / f"annotations/{split}.json"))
    crops, classes = [], []
    for index in sorted(truth.getImgIds())[scenes]:
        with Image.open(data / split / truth.imgs[index]["file_name"]) as image:
            picture = F.pil_to_tensor(image.convert("RGB"))
        for note in truth.imgToAnns[index]:
            if max(note["bbox"][2:]) >= SMALLEST:
                crops.append(cut(picture, note["bbox"], side))
                classes.append(note["category_id"])
    return torch.stack(crops), torch.tensor(classes)


def cut(picture: Tensor, box: list[float], side: int) -> Tensor:
    """The square around a box, moved into the picture where it would leave it."""
    x, y, width, height = box
    length = min(round(MARGIN * max(width, height)), *picture.shape[1:])
    middles = (y + height / 2, x + width / 2)
    top, left = (
        min(max(0, round(middle - length / 2)), most - length)
        for middle, most in zip(middles, picture.shape[1:], strict=True)
    )
    return F.resized_crop(picture, top, left, length, length, [side, side])


def compose_grid(materials: Path, side: int) -> Tensor:
    """Every ground with every object: (grounds, objects, 3, side, side), 0..255 RGB."""
    source, rng = FolderCutouts(materials / "cutouts"), np.random.default_rng(0)
    photos = load_grounds(materials / "grounds/train")
    grounds = [Fixed(photos.sample(rng, side, side)) for _ in range(NUMBER)]
    objects = []
    for choice in rng.choice(len(source), NUMBER, replace=False):
        layer = make_layer(rng, source.single(int(choice))[2], PART * side)
        top, left = ((side - length) // 2 for length in layer.shape[:2])
        objects.append(place(layer, left, top, side, side))
    images = [[blend(g.ground, o) for o in objects] for g in grounds]
    return torch.from_numpy(np.array(images, np.float32)).permute(0, 1, 4, 2, 3)


@torch.no_grad()
def embed(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    """Averages (N, C) of every map."""
    parts = [[m.mean((2, 3)) for m in backbone(i)] for i in images.split(CHUNK)]
    return [torch.cat(maps) for maps in zip(*parts, strict=True)]


def tell_classes(backbone: nn.Module, bank: Objects, queries: Objects) -> list[float]:
    """Top-1 (0..1) of every map. Crops are normalized.

    BN takes its statistics from the bank, as it would in fine-tuning; features are
    standardized over the bank.
    """
    update_bn(bank[0].split(CHUNK), backbone)
    backbone.eval()  # MMPretrain's returns nothing
    found = []
    maps = (embed(backbone, crops) for crops, _ in (bank, queries))
    for known, new in zip(*maps, strict=True):
        mean, std = known.mean(0), known.std(0)
        std[std < 1e-6] = 1  # a channel that says nothing
        new, known = (normalize((f - mean) / std) for f in (new, known))
        right = knn_vote(new, known, bank[1], NEIGHBORS) == queries[1]
        found.append(right.float().mean().item())
    return found


def shares(features: Tensor) -> tuple[float, float]:
    """Shares of the variance of (grounds, objects, C) due to each alone, 0..1."""
    mean = features.mean((0, 1))
    total = (features - mean).square().mean((0, 1)).sum()
    ground = (features.mean(1) - mean).square().mean(0).sum()
    thing = (features.mean(0) - mean).square().mean(0).sum()
    return (ground / total).item(), (thing / total).item()


def judge(kind: str, cfg: Config, folder: Path, checkpoints: list[str]) -> None:
    """Print two numbers for every map of each checkpoint's backbone."""
    mean, std = mean_and_std(cfg)
    if kind == "classes":
        scenes = (slice(0, None, 2), slice(1, None, 2), slice(None))
        found = (
            cut_objects(folder, split, cfg.size, part)
            for split, part in zip(("train", "train", "val"), scenes, strict=True)
        )
        bank, *queries = [((crops - mean) / std, classes) for crops, classes in found]
    else:
        grid = (compose_grid(folder, cfg.size) - mean) / std
    for checkpoint in checkpoints:
        backbone = load_backbone(cfg, checkpoint)
        if kind == "classes":
            told = (tell_classes(backbone, bank, query) for query in queries)
            pairs = zip(*told, strict=True)
        else:
            maps = embed(backbone, grid.flatten(0, 1))
            pairs = [shares(normalize(m).view(*grid.shape[:2], -1)) for m in maps]
        for k, (first, second) in enumerate(pairs, 2):
            print(f"{checkpoint}: C{k} {first:.3f} {second:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("classes", "shares"))
    parser.add_argument("config")
    parser.add_argument("folder", type=Path, help="DATA or MATERIALS")
    parser.add_argument("checkpoint", nargs="+")
    args = parser.parse_args()
    # Building a model logs a line for every weight.
    MMLogger.get_instance("features", log_level="WARNING")
    init_default_scope("mmpretrain")
    judge(args.kind, read_config(args.config), args.folder, args.checkpoint)


if __name__ == "__main__":
    run_cli(main)
