"""The data pipeline alone: from JPEG files to normalized canvases, on one thread."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import mmpretrain
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from mcl.config import datasets, share_batch_size
from mcl.datasets.sources import IMAGE_EXTENSIONS
from mcl.errors import InputError
from mcl.models import build_preprocessor
from mcl.models.parts import share_model

from .pictures import make_pictures
from .report import RATIO, Report, compare, synchronize
from .variants import Variant

BYOL = ".mim/configs/_base_/datasets/imagenet_bs32_byol.py"


def read_folder(cfg: Config, folder: str, labels: bool) -> None:
    """Let the training loader read all images of a folder, by the config's pipeline.

    Args:
        cfg: of a pre-training run, changed in place.
        folder: searched recursively.
        labels: whether its sub-folders are classes where the config reads labels.

    Raises:
        InputError: when there is no such folder.
    """
    if not Path(folder).is_dir():
        raise InputError(f"--images {folder}: there is no such folder")
    for innermost in list(datasets(cfg.train_dataloader.dataset)):
        found = ConfigDict(
            type="CustomDataset",
            data_root=str(Path(folder).resolve()),
            with_label=labels and bool(innermost.get("with_label")),
            extensions=IMAGE_EXTENSIONS,
            pipeline=innermost.pipeline,
        )
        innermost.clear()
        innermost.update(found)


class Pipeline:
    """Batches of a config's loader and preprocessor, in this process.

    Args:
        cfg: whose loader reads a folder of images.
        batch: images.
        device: where the preprocessor works.
    """

    def __init__(self, cfg: Config, batch: int, device: str) -> None:
        self.device = device
        loader = cfg.train_dataloader.to_dict()
        for option in ("prefetch_factor", "multiprocessing_context"):
            loader.pop(option, None)
        loader["sampler"].pop("batch_size", None)
        loader.update(
            batch_size=batch, num_workers=0, persistent_workers=False, pin_memory=False
        )
        loader = Runner.build_dataloader(share_batch_size(loader), seed=0)
        self.preprocessor = build_preprocessor(cfg.model).to(device)
        self.preprocessor.seed(0)
        self.batches = iter(loader)  # the sampler never ends

    def seconds(self) -> dict[str, float]:
        """Seconds that the next batch takes: in the loader, in the preprocessor."""
        start = time.perf_counter()
        batch = next(self.batches)
        loaded = time.perf_counter()
        self.preprocessor(batch, training=True)
        synchronize(self.device)
        return dict(loader=loaded - start, device=time.perf_counter() - loaded)


def use_byol(cfg: Config) -> None:
    """Replace a config's crops by those of MMPretrain's BYOL, for the same canvases.

    The transforms are as shipped (Pillow, bicubic): a crop of full size for each view
    and level. Then every r-th pixel is kept, which takes no time to speak of.

    Args:
        cfg: of a pre-training run, changed in place.

    Raises:
        InputError: when MMPretrain was installed without its configs.
    """
    file = Path(mmpretrain.__file__).parent / BYOL
    if not file.is_file():
        raise InputError(f"{file} is missing: install MMPretrain from its wheel")
    shipped = Config.fromfile(file)
    montage = share_model(cfg.model)["data_preprocessor"]["montage"]
    size, ratios = montage["size"], montage["ratios"]
    views = cfg.model.data_preprocessor.get("num_views", 2)
    transforms = [shipped.view_pipeline1, shipped.view_pipeline2][:views]
    for pipeline in transforms:
        pipeline[0]["scale"] = size
    load, *_, pack = shipped.train_pipeline
    multi = dict(
        type="MultiView", num_views=[len(ratios)] * views, transforms=transforms
    )
    for innermost in datasets(cfg.train_dataloader.dataset):
        innermost.pipeline = [load, multi, shrink_to_tiles(ratios), pack]
    plain = dict(type="Montage", size=size, ratios=ratios)
    cfg.model.data_preprocessor = dict(
        type="MCLDataPreprocessor", montage=plain, num_views=views
    )


def shrink_to_tiles(ratios: Sequence[int]) -> Callable[[dict], dict]:
    """A transform that keeps every r-th pixel of the crops, and turns BGR to RGB."""

    def shrink(results: dict) -> dict:
        steps = [ratios[i % len(ratios)] for i in range(len(results["img"]))]
        crops = zip(results["img"], steps, strict=True)
        small = [np.ascontiguousarray(crop[::r, ::r, ::-1]) for crop, r in crops]
        return dict(results, img=small)

    return shrink


def compare_data(
    variants: Sequence[Variant], batch: int, pairs: int, images: str | None, number: int
) -> Report:
    """Time the variants' data pipelines in turn, on one thread, against BYOL's.

    Args:
        variants: at least one.
        batch, pairs: images of a batch, and batches of each.
        images: folder; None: made-up photographs in a temporary one.
        number: how many of those to make.
    """
    # For the rest of the process: nothing else is measured in it.
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        facts = dict(batch=batch, pairs=pairs, images=images)
        if images is None:
            number = max(number, batch)
            size = make_pictures(Path(folder), number)
            facts.update(images=f"{number} made-up JPEGs", bytes_per_image=size)
        pipelines = {}
        for name, variant in [("byol", variants[0]), *((v.name, v) for v in variants)]:
            cfg = variant.load()
            read_folder(cfg, images or folder, labels=False)
            if name == "byol":
                use_byol(cfg)
            pipelines[name] = Pipeline(cfg, batch, variant.device)
            pipelines[name].seconds()  # loads libraries and files
        rows = compare({name: p.seconds for name, p in pipelines.items()}, pairs)
    for row in rows:
        row.update(
            loader_ms=1000 * row["loader"] / batch,
            device_ms=1000 * row["device"] / batch,
            images_per_second=batch / row["total"],
            of_loader_alone=batch / row["loader"],
        )
    return Report(rows, COLUMNS, NOTE, facts)


COLUMNS = dict(name="", loader_ms=".2f", device_ms=".2f", images_per_second=".1f")
COLUMNS |= dict(of_loader_alone=".1f", **RATIO)
NOTE = """ms: per image, on one thread; loader: what a worker does; device: what the
preprocessor does; byol: crops of full size by MMPretrain's BYOL transforms, then every
r-th pixel; ratio: byol's total by this one's, median of the pairs"""
