"""The data pipeline alone: from JPEG files to normalized canvases, on one thread."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import mmpretrain
import numpy as np
from mmengine.config import Config
from mmengine.model import ImgDataPreprocessor
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from mcl.config import datasets
from mcl.errors import InputError

from .images import check_number, read_folder
from .machine import one_thread, synchronize
from .photographs import make_photographs
from .report import RATIO, Column, Report, ratio_to
from .variants import Variant

BYOL = ".mim/configs/_base_/datasets/imagenet_bs32_byol.py"
BASELINE = "byol"


class Pipeline:
    """Batches of a config's loader and preprocessor, in this process.

    Args:
        name: in the table.
        cfg: whose loader reads a folder of images.
        batch: images.
        device: where the preprocessor works.
    """

    def __init__(self, name: str, cfg: Config, batch: int, device: str) -> None:
        self.name, self.batch, self.device = name, batch, device
        loader = cfg.train_dataloader.to_dict()
        for option in ("prefetch_factor", "multiprocessing_context"):
            loader.pop(option, None)
        loader.update(
            batch_size=batch, num_workers=0, persistent_workers=False, pin_memory=False
        )
        if "batch_size" in loader["sampler"]:
            loader["sampler"]["batch_size"] = batch
        self.loader = Runner.build_dataloader(loader, seed=0)
        self.preprocessor: ImgDataPreprocessor = MODELS.build(
            cfg.model.data_preprocessor
        ).to(device)
        self.preprocessor.seed(0)
        self.batches = self._forever()

    def _forever(self) -> Iterator[dict]:
        while True:
            yield from self.loader

    def seconds(self) -> dict[str, float]:
        """Seconds that the next batch takes: in the loader, in the preprocessor."""
        start = time.perf_counter()
        batch = next(self.batches)
        loaded = time.perf_counter()
        self.preprocessor(batch, training=True)
        synchronize(self.device)
        done = time.perf_counter()
        return dict(loader=loaded - start, device=done - loaded, total=done - start)


def byol_pipeline(size: int, ratios: Sequence[int], views: int) -> list:
    """MMPretrain's own BYOL transforms, a crop of ``size`` for each view and level.

    As shipped (Pillow, bicubic) but for the number of crops. Then every r-th pixel is
    kept, which takes no time to speak of.

    Raises:
        InputError: when MMPretrain was installed without its configs.
    """
    file = Path(mmpretrain.__file__).parent / BYOL
    if not file.is_file():
        raise InputError(f"{file} is missing: install MMPretrain from its wheel")
    shipped = Config.fromfile(file)
    transforms = [shipped.view_pipeline1, shipped.view_pipeline2][:views]
    for pipeline in transforms:
        pipeline[0]["scale"] = size
    load, *_, pack = shipped.train_pipeline
    multi = dict(
        type="MultiView", num_views=[len(ratios)] * views, transforms=transforms
    )
    return [dict(load), multi, shrink_to_tiles(ratios), dict(pack)]


def shrink_to_tiles(ratios: Sequence[int]) -> Callable[[dict], dict]:
    """A transform that keeps every r-th pixel of the crops, and turns BGR to RGB."""

    def shrink(results: dict) -> dict:
        results["img"] = [
            np.ascontiguousarray(
                crop[:: ratios[i % len(ratios)], :: ratios[i % len(ratios)], ::-1]
            )
            for i, crop in enumerate(results["img"])
        ]
        return results

    return shrink


def byol(cfg: Config) -> None:
    """Replace the crops of a config by those of MMPretrain's BYOL, in place."""
    montage = cfg.model.data_preprocessor.montage
    size, ratios = montage.get("size", 224), tuple(montage.get("ratios", (1, 2, 4, 8)))
    views = cfg.model.data_preprocessor.get("num_views", 2)
    cfg.model.data_preprocessor = dict(
        type="MCLDataPreprocessor",
        montage=dict(type="Montage", size=size, ratios=ratios),
        num_views=views,
    )
    for innermost in datasets(cfg.train_dataloader.dataset):
        innermost.pipeline = byol_pipeline(size, ratios, views)


def compare_data(
    variants: Sequence[Variant], images: str | None, number: int, batch: int, pairs: int
) -> Report:
    """Time the variants' pipelines in turn, on one thread, against BYOL's.

    Args:
        variants: at least one.
        images: folder; None: drawn photographs in a temporary one.
        number: how many of those to draw.
        batch, pairs: images of a batch, and batches of each.
    """
    if pairs < 1:
        raise InputError(f"--pairs {pairs}: give 1 or more")
    with tempfile.TemporaryDirectory() as folder:
        note = f"images of {images}"
        if images is None:
            size = make_photographs(Path(folder), max(number, batch))
            note = (
                f"{max(number, batch)} drawn JPEGs of 500 x 375 pixels, {size} bytes "
                "on average: textures, shapes and noise, no photographs"
            )
        with one_thread():
            return _compare(variants, images or folder, batch, pairs, note)


def _compare(
    variants: Sequence[Variant], folder: str, batch: int, pairs: int, note: str
) -> Report:
    pipelines = []
    for i, variant in enumerate([variants[0], *variants]):
        cfg = variant.load()
        read_folder(cfg, folder, with_label=False)
        check_number(folder, batch)
        if i == 0:
            byol(cfg)
        name = variant.name if i else BASELINE
        pipelines.append(Pipeline(name, cfg, batch, variant.device))
    seconds: list[list[dict]] = [[] for _ in pipelines]
    for pair in range(pairs + 1):
        for found, pipeline in zip(seconds, pipelines, strict=True):
            taken = pipeline.seconds()
            if pair:  # the first one loads libraries and files
                found.append(taken)
    baseline = [s["total"] for s in seconds[0]]
    rows = [
        dict(
            _row(pipeline, found),
            **ratio_to(baseline, [s["total"] for s in found]),
        )
        for pipeline, found in zip(pipelines, seconds, strict=True)
    ]
    notes = [
        note,
        "one process, one thread; loader: what a worker does; device: montage, "
        "normalization and whatever else the preprocessor does; byol: a crop of full "
        "size for each tile by MMPretrain's BYOL transforms, then every r-th pixel",
    ]
    return Report(rows, COLUMNS, notes, dict(batch=batch, pairs=pairs))


COLUMNS = (
    Column("name", "pipeline"),
    Column("loader_ms", "loader ms/image", ".2f"),
    Column("device_ms", "device ms/image", ".2f"),
    Column("images_per_second", "images/s per core", ".1f"),
    Column("loader_images_per_second", "of loader alone", ".1f"),
    *RATIO,
)


def _row(pipeline: Pipeline, seconds: list[dict]) -> dict:
    """Figures of a pipeline: those of its median batch."""
    middle = statistics.median_low([s["total"] for s in seconds])
    chosen = next(s for s in seconds if s["total"] == middle)
    batch = pipeline.batch
    return dict(
        name=pipeline.name,
        loader_ms=1000 * chosen["loader"] / batch,
        device_ms=1000 * chosen["device"] / batch,
        images_per_second=batch / middle,
        loader_images_per_second=batch / chosen["loader"],
        seconds=seconds,
    )
