"""Show the canvases that a pre-training config makes of its images.

    python tools/browse_montage.py CONFIG OUT [--cfg-options KEY=VALUE ...]

The config's own loader, pipeline and preprocessor give the first batch of a run. For
each view and level a picture goes into the folder OUT, such as view1_p5.png, its tiles
outlined and numbered: an image has its number and color in all of them. OUT/images.txt
says which image a number is.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config, DictAction

from mcl.checks import check_data
from mcl.config import merge_options, read_config, settle_loaders
from mcl.errors import InputError, run_cli
from mcl.levels import level_name
from mcl.picture import Batch, draw_grid, first_batch


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="config file of a pre-training")
    parser.add_argument("out", help="folder to write pictures into")
    parser.add_argument(
        "--views", nargs="+", type=int, choices=[1, 2], help="1, 2; by default all"
    )
    parser.add_argument(
        "--seed", type=int, help="of the run; by default the config's, else 0"
    )
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
            raise InputError(f"--{name.replace('_', '-')} {value}: give 1 or more")
    cfg = read_config(args.config)
    if args.cfg_options:
        merge_options(cfg, args.cfg_options)
    model = cfg.get("model") or {}
    if "montage" not in (model.get("data_preprocessor") or {}):
        raise InputError(
            f"config {args.config}: its model.data_preprocessor has no montage, so it "
            "lays no canvases; give a pre-training config"
        )
    if args.batch_size:
        cfg.train_dataloader.batch_size = args.batch_size
    settle_loaders(cfg)
    check_data(cfg, ["train_dataloader"])
    return cfg


def make_folder(path: str) -> Path:
    """The folder OUT.

    Raises:
        InputError: when it cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"OUT={path}: no folder can be made there ({error})") from (
            error
        )
    return Path(path)


def choose_views(batch: Batch, wanted: list[int] | None) -> list[int]:
    """Numbers of the views to draw.

    Raises:
        InputError: when the recipe has no such view.
    """
    number = len(batch.views)
    if wanted and max(wanted) > number:
        raise InputError(f"--views {max(wanted)}: this recipe has {number} view")
    return sorted(set(wanted)) if wanted else list(range(1, number + 1))


def draw(batch: Batch, views: list[int], most: int, out: Path) -> None:
    """Write a picture for each view and level, and say what it shows."""
    mean, std = batch.preprocessor.mean, batch.preprocessor.std
    levels = [level_name(r) for r in batch.preprocessor.montage.ratios]
    for number in views:
        view = batch.views[number - 1]
        for level, canvases, index in zip(
            levels, view.canvases, view.image_index, strict=True
        ):
            tiles = len(index) // len(canvases)
            ratio, side = round(tiles**0.5), canvases.shape[-1]
            shown = min(most, len(canvases))
            picture = draw_grid(canvases[:shown], index[: shown * tiles], mean, std)
            path = out / f"view{number}_{level}.png"
            write(path, picture)
            images = len(set(index[: shown * tiles].tolist()))
            first = "the first " if shown < len(canvases) else ""
            print(
                f"{path}: view {number}, {level.upper()}, {first}{shown} of "
                f"{len(canvases)} canvases of {side} x {side} pixels, each with "
                f"{ratio} x {ratio} tiles of {side // ratio}; "
                f"{images} of {len(batch.samples)} images"
            )


def write(path: Path, picture: np.ndarray) -> None:
    """Write an RGB picture.

    Raises:
        InputError: when that cannot be done.
    """
    if not cv2.imwrite(str(path), picture[..., ::-1]):
        raise InputError(f"{path}: it cannot be written; name another folder OUT")


def name_images(batch: Batch, out: Path) -> None:
    """Write which image each number is; name those that could not be read.

    Raises:
        InputError: when the file cannot be written.
    """
    lines = [f"{i} {s.get('img_path')}" for i, s in enumerate(batch.samples)]
    path, text = out / "images.txt", "\n".join(lines) + "\n"
    try:
        # Names of files may be bytes that are no UTF-8: they are written as they are.
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
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
    out = make_folder(args.out)
    seed = args.seed
    if seed is None:
        seed = (cfg.get("randomness") or {}).get("seed") or 0
    batch = first_batch(cfg, seed)
    draw(batch, choose_views(batch, args.views), args.most, out)
    name_images(batch, out)


if __name__ == "__main__":
    run_cli(main)
