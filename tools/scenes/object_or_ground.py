"""What do features see, the object or its ground? Shares of their variance.

    python tools/scenes/object_or_ground.py CONFIG MATERIALS CHECKPOINT ...

Some cut-outs of MATERIALS (see tools/replication/materials.py) are each put on some
grounds, in the middle, and the maps of the backbone are averaged. Of the variance of
these features, `ground` is the share of their means over objects and `object` that of
their means over grounds; the rest depends on both. CHECKPOINT is one of CONFIG's
pre-training, or the word random.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from backbones import load_backbone
from compose import Fixed, blend, load_grounds, make_layer, place
from cutouts import FolderCutouts
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from torch import Tensor

from mcl.config import read_config
from mcl.errors import run_cli
from mcl.models.losses import normalize

NUMBER = 14  # objects, and grounds
PART = 0.75  # longest side of an object by the picture's
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def compose_grid(materials: Path, side: int, number: int = NUMBER) -> Tensor:
    """Every ground with every object: (grounds, objects, 3, side, side), normalized."""
    source, rng = FolderCutouts(materials / "cutouts"), np.random.default_rng(0)
    photos = load_grounds(materials / "grounds/train")
    grounds = [Fixed(photos.sample(rng, side, side)) for _ in range(number)]
    objects = []
    for choice in rng.choice(len(source), number, replace=False):
        layer = make_layer(rng, source.single(int(choice))[2], PART * side)
        top, left = ((side - length) // 2 for length in layer.shape[:2])
        objects.append(place(layer, left, top, side, side))
    images = [[blend(g.ground, o) for o in objects] for g in grounds]
    grid = torch.from_numpy(np.array(images, np.float32)).permute(0, 1, 4, 2, 3)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return (grid - mean) / std


def shares(features: Tensor) -> tuple[float, float]:
    """Shares of the variance due to ground and to object alone, 0..1.

    Args:
        features: (grounds, objects, C).
    """
    mean = features.mean((0, 1))
    total = (features - mean).square().mean((0, 1)).sum()
    ground = (features.mean(1) - mean).square().mean(0).sum()
    thing = (features.mean(0) - mean).square().mean(0).sum()
    return (ground / total).item(), (thing / total).item()


@torch.no_grad()
def judge(cfg: Config, checkpoint: str, grid: Tensor) -> list[tuple[float, float]]:
    """Shares of every map of the backbone.

    Raises:
        InputError: when the checkpoint cannot be read.
    """
    backbone = load_backbone(cfg, checkpoint)
    backbone.eval()
    maps = backbone(grid.flatten(0, 1))
    return [shares(normalize(m.mean((2, 3))).view(*grid.shape[:2], -1)) for m in maps]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("materials", type=Path)
    parser.add_argument("checkpoint", nargs="+")
    args = parser.parse_args()
    # Building a model logs a line for every weight.
    MMLogger.get_instance("object_or_ground", log_level="WARNING")
    cfg = read_config(args.config)
    init_default_scope(cfg.get("default_scope", "mmpretrain"))
    grid = compose_grid(args.materials, cfg.size)
    for checkpoint in args.checkpoint:
        found = judge(cfg, checkpoint, grid)
        words = ", ".join(
            f"C{k} ground {ground:.2f} object {thing:.2f}"
            for k, (ground, thing) in enumerate(found, 2)
        )
        print(f"{checkpoint}: {words}")


if __name__ == "__main__":
    run_cli(main)
