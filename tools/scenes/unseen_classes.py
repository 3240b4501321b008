"""Do features tell the classes of cut-outs that no training showed?

    python tools/scenes/unseen_classes.py CONFIG DATA CHECKPOINT ...

DATA is a data set of make_scenes.py. Each object of its val scenes gets the class that
its nearest neighbours among the objects of the train scenes vote for; the figures are
top-1 accuracies, of every map of the backbone. An object is its box, a fifth larger and
as large as CONFIG's images. CHECKPOINT is one of CONFIG's pre-training, or the word
random.
"""

import argparse
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from PIL import Image
from pycocotools.coco import COCO
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from mcl.engine.knn import knn_vote
from mcl.errors import exit_in_words
from mcl.export import load_weights
from mcl.models.losses import normalise

NEIGHBOURS = 8
CHUNK = 128
MARGIN = 1.2  # of a crop's side by the longer one of its box
SMALLEST = 24  # longer side of a box, in pixels: smaller ones say little
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def cut_objects(data: Path, split: str, side: int) -> tuple[Tensor, Tensor]:
    """Crops (N, 3, side, side), normalised, and classes (N) of a split's objects."""
    truth = COCO(str(data / f"annotations/{split}.json"))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    crops, classes = [], []
    for index, file in ((i, truth.imgs[i]["file_name"]) for i in truth.getImgIds()):
        with Image.open(data / split / file) as image:
            picture = F.pil_to_tensor(image.convert("RGB"))
        for note in truth.imgToAnns[index]:
            x, y, width, height = note["bbox"]
            if max(width, height) >= SMALLEST:
                length = round(MARGIN * max(width, height))
                left, top = (round(x + width / 2), round(y + height / 2))
                corner = (top - length // 2, left - length // 2)
                crop = F.resized_crop(picture, *corner, length, length, [side, side])
                crops.append((crop - mean) / std)
                classes.append(note["category_id"])
    return torch.stack(crops), torch.tensor(classes)


@torch.no_grad()
def judge(
    backbone: nn.Module,
    bank: tuple[Tensor, Tensor],
    queries: tuple[Tensor, Tensor],
) -> list[float]:
    """Accuracy of every map, 0..1. The bank gives the backbone's BN its statistics."""
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean of all batches
    backbone.train()
    embed(backbone, bank[0])
    backbone.eval()  # MMPretrain's returns nothing
    found = []
    for known, asked in zip(
        embed(backbone, bank[0]), embed(backbone, queries[0]), strict=True
    ):
        mean, std = known.mean(0), known.std(0) + 1e-6
        known, asked = (normalise((f - mean) / std) for f in (known, asked))
        votes = knn_vote(asked, known, bank[1], NEIGHBOURS)
        found.append((votes == queries[1]).float().mean().item())
    return found


def embed(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    """Averages (N, C) of every map."""
    parts = [[m.mean((2, 3)) for m in backbone(i)] for i in images.split(CHUNK)]
    return [torch.cat(maps) for maps in zip(*parts, strict=True)]


def build_backbone(cfg: Config, checkpoint: str) -> nn.Module:
    """The backbone of CONFIG, with all its maps.

    Raises:
        InputError: when the checkpoint cannot be read.
    """
    cfg = cfg.copy()
    cfg.model.backbone.out_indices = (0, 1, 2, 3)
    model = MODELS.build(cfg.model)
    model.init_weights()
    if checkpoint != "random":
        model.load_state_dict(load_weights(checkpoint))
    return model.backbone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("data", type=Path)
    parser.add_argument("checkpoint", nargs="+")
    args = parser.parse_args()
    cfg = Config.fromfile(args.config)
    init_default_scope(cfg.get("default_scope", "mmpretrain"))
    bank, queries = (cut_objects(args.data, s, cfg.size) for s in ("train", "val"))
    common = queries[1].bincount().max().item() / len(queries[1])
    print(f"{len(queries[1])} objects, the commonest class: {common:.3f}")
    for checkpoint in args.checkpoint:
        torch.manual_seed(0)
        found = judge(build_backbone(cfg, checkpoint), bank, queries)
        words = ", ".join(f"C{k} {value:.3f}" for k, value in enumerate(found, 2))
        print(f"{checkpoint}: {words}")


if __name__ == "__main__":
    exit_in_words(main)
