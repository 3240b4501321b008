"""Show the canvases that a pre-training config makes of its images.

    python tools/browse_montage.py CONFIG OUT [--cfg-options KEY=VALUE ...]

The config's own loader, pipeline and preprocessor give the first batch of a run. The
folder OUT gets a picture for each view and level, such as view1_p5.png. Tiles are
outlined and numbered; an image has its number and color in all pictures. OUT/images.txt
says which image a number is.
"""

import argparse
import colorsys
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from mmengine.config import Config, DictAction
from mmengine.model import ImgDataPreprocessor
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import Tensor

from mcl.checks import check_data
from mcl.config import (
    merge_options,
    read_config,
    settle_loaders,
    share_batch_size,
)
from mcl.datasets.montage import View
from mcl.errors import InputError, run_cli
from mcl.levels import level_name
from mcl.models import build_preprocessor

# Pixels: sides from which a tile has room for a number, and of a tile and a canvas in a
# grid.
LEAST_NUMBERED, LEAST_TILE, LEAST_CANVAS = 32, 48, 128
# White between pictures.
GAP = 8


class Batch(NamedTuple):
    """The first batch of a run, as the model gets it.

    Attributes:
        views: both views.
        samples: of each image what the data set says of it, such as ``img_path``.
        preprocessor: which normalized the views.
    """

    views: list[View]
    samples: list
    preprocessor: ImgDataPreprocessor


def first_batch(cfg: Config, seed: int) -> Batch:
    """The batch that a pre-training run of one process with this seed begins with.

    It is loaded without workers: a sample depends on the seed, the epoch and its index
    only.

    Args:
        cfg: of a pre-training run, its paths checked.
        seed: of the run.

    Raises:
        InputError: when the data set holds fewer images than a batch, or no readable
            ones.
    """
    init_default_scope(cfg.default_scope)
    loader = cfg.train_dataloader.to_dict()
    for option in ("prefetch_factor", "multiprocessing_context"):
        loader.pop(option, None)
    loader.update(num_workers=0, persistent_workers=False, pin_memory=False)
    preprocessor = build_preprocessor(cfg.model)
    batch = next(iter(Runner.build_dataloader(share_batch_size(loader), seed=seed)))
    preprocessor.seed(seed, 0, 0)
    prepared = preprocessor(batch, training=True)
    return Batch(prepared["inputs"], prepared["data_samples"], preprocessor)


def image_color(index: int) -> tuple[int, int, int]:
    """RGB color of image ``index``: neighbors in number differ most."""
    hue = (index * 0.618034) % 1.0
    return tuple(int(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.85, 1.0))


def plot_canvas(
    canvas: Tensor,
    image_index: Sequence[int],
    mean: Tensor,
    std: Tensor,
    scale: int = 1,
) -> np.ndarray:
    """Undo the normalization of one canvas and outline its tiles.

    Args:
        canvas: (3, S, S) normalized.
        image_index: r * r indices of its tiles, row by row.
        mean, std: 3 numbers each, of the preprocessor, scale 0..255.
        scale: whole number of output pixels for a pixel.

    Returns:
        uint8 RGB (S * scale, S * scale, 3).
    """
    pixels = canvas.float().cpu() * std.view(3, 1, 1) + mean.view(3, 1, 1)
    picture = pixels.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    picture = np.ascontiguousarray(picture.repeat(scale, 0).repeat(scale, 1))
    ratio = round(len(image_index) ** 0.5)
    side = len(picture) // ratio
    thick = max(2 if side >= LEAST_TILE else 1, side // 60)
    for tile, index in enumerate(image_index):
        top, left = tile // ratio * side, tile % ratio * side
        # A view of the picture: what is drawn beyond the tile is cut off.
        part = picture[top : top + side, left : left + side]
        color = image_color(index)
        cv2.rectangle(part, (0, 0), (side - 1, side - 1), color, 2 * thick - 1)
        if side >= LEAST_NUMBERED:
            plot_number(part, index, color)
    return picture


def plot_number(picture: np.ndarray, number: int, color: tuple[int, int, int]) -> None:
    """Write a number into the upper left corner, on a ground of its color (RGB)."""
    size = max(0.35, len(picture) / 350)
    (width, height), _ = cv2.getTextSize(str(number), 0, size, 1)
    cv2.rectangle(picture, (0, 0), (width + 4, height + 5), color, -1)
    # Rec. 601's weights: black on what looks bright.
    bright = np.dot(color, (0.299, 0.587, 0.114)) > 110
    ink = (0, 0, 0) if bright else (255, 255, 255)
    cv2.putText(picture, str(number), (3, height + 2), 0, size, ink, 1, cv2.LINE_AA)


def plot_levels(view: View, mean: Tensor, std: Tensor, side: int = 256) -> np.ndarray:
    """The first canvas of each level of a view, side by side.

    Args:
        view: of the preprocessor, normalized with ``mean`` and ``std``.
        side: least height of the picture in pixels.

    Returns:
        uint8 RGB.
    """
    scale = max(1, -(-side // view.canvases[0].shape[-1]))
    row = []
    for canvases, index in zip(view.canvases, view.image_index, strict=True):
        tiles = len(index) // len(canvases)
        row.append(plot_canvas(canvases[0], index[:tiles].tolist(), mean, std, scale))
    return lay_grid(row, len(row))


def plot_grid(
    canvases: Tensor, image_index: Tensor, mean: Tensor, std: Tensor
) -> np.ndarray:
    """Canvases of a level in a grid as square as can be, large enough to read numbers.

    Args:
        canvases: (n, 3, S, S) normalized.
        image_index: (n * r * r,) image of each tile, row by row, canvas after canvas.
        mean, std: 3 numbers each, of the preprocessor, scale 0..255.

    Returns:
        uint8 RGB.
    """
    number, side = len(canvases), canvases.shape[-1]
    tiles = image_index.view(number, -1).tolist()
    ratio = round(len(tiles[0]) ** 0.5)
    scale = max(-(-LEAST_TILE * ratio // side), -(-LEAST_CANVAS // side))
    pictures = [
        plot_canvas(canvas, index, mean, std, scale)
        for canvas, index in zip(canvases, tiles, strict=True)
    ]
    return lay_grid(pictures, math.ceil(number**0.5))


def lay_grid(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Pictures of one size in rows, white between them and where the last row ends."""
    height, width, channels = pictures[0].shape
    rows = -(-len(pictures) // columns)
    shape = rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels
    grid = np.full(shape, 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        grid[top : top + height, left : left + width] = picture
    return grid


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="config file of a pre-training")
    parser.add_argument("out", type=Path, help="folder to write pictures into")
    parser.add_argument(
        "--views", nargs="+", type=int, choices=[1, 2], help="1, 2; by default all"
    )
    parser.add_argument("--seed", type=int, help="of the run; by default the config's")
    parser.add_argument(
        "--batch-size", type=int, help="images of the batch; by default the config's"
    )
    parser.add_argument(
        "--most", type=int, default=16, help="canvases in a picture, at most (16)"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        help="overrides of the config, such as "
        "train_dataloader.dataset.dataset.data_root=FOLDER",
    )
    return parser.parse_args()


def load_config(args: argparse.Namespace) -> Config:
    """The config with what the command line says of it.

    Raises:
        InputError: when it is no pre-training config, or its images are not there.
    """
    for name in ("most", "batch_size"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be >= 1, got {value}")
    cfg = read_config(args.config)
    if args.cfg_options:
        merge_options(cfg, args.cfg_options)
    model = cfg.get("model") or {}
    if "montage" not in (model.get("data_preprocessor") or {}):
        raise InputError(
            f"config {args.config}: its model.data_preprocessor has no montage; give a "
            "pre-training config"
        )
    if args.batch_size:
        cfg.train_dataloader.batch_size = args.batch_size
    settle_loaders(cfg)
    check_data(cfg, ["train_dataloader"])
    return cfg


def write_pictures(batch: Batch, views: list[int], most: int, out: Path) -> None:
    """Write a picture for each view and level, and print what it shows."""
    mean, std = batch.preprocessor.mean, batch.preprocessor.std
    levels = [level_name(r) for r in batch.preprocessor.montage.ratios]
    for number in views:
        view = batch.views[number - 1]
        for level, canvases, index in zip(
            levels, view.canvases, view.image_index, strict=True
        ):
            shown, side = min(most, len(canvases)), canvases.shape[-1]
            tiles = len(index) // len(canvases)
            index = index[: shown * tiles]
            picture = plot_grid(canvases[:shown], index, mean, std)
            path = out / f"view{number}_{level}.png"
            if not cv2.imwrite(str(path), picture[..., ::-1]):
                raise InputError(f"{path}: it cannot be written; name another folder")
            images = len(set(index.tolist()))
            print(
                f"{path}: {shown} of {len(canvases)} canvases of {side} x {side} "
                f"pixels, {tiles} tiles each; {images} of {len(batch.samples)} images"
            )


def write_names(batch: Batch, path: Path) -> None:
    """Write which image each number is; print those that could not be read.

    Raises:
        InputError: when the file cannot be written.
    """
    lines = [f"{i} {s.get('img_path')}" for i, s in enumerate(batch.samples)]
    try:
        # Names of files may be bytes that are no UTF-8: they are written as they are.
        path.write_text("\n".join([*lines, ""]), "utf-8", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"{path}: it cannot be written ({error.strerror})") from error
    print(f"{path}: number and path of the {len(lines)} images of the batch")
    for sample in batch.samples:
        for reason in sample.get("replaced", {}).values():
            shown = reason.encode(errors="backslashreplace").decode()
            print(f"unreadable image replaced: {shown}")


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"OUT {args.out}: it cannot be made ({error})") from error
    seed = args.seed
    if seed is None:
        seed = (cfg.get("randomness") or {}).get("seed") or 0
    batch = first_batch(cfg, seed)
    views = args.views or range(1, len(batch.views) + 1)
    if max(views) > len(batch.views):
        raise InputError(f"--views {max(views)}: this recipe has one view")
    write_pictures(batch, sorted(set(views)), args.most, args.out)
    write_names(batch, args.out / "images.txt")


if __name__ == "__main__":
    run_cli(main)
