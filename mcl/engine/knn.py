"""How good are the features? Nearest neighbors on labeled images, during a run."""

import logging
import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import all_gather, get_dist_info
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from ..datasets.replay import ReplayableDataset
from ..datasets.sources import IMAGE_EXTENSIONS
from ..errors import InputError
from ..models.losses import normalize
from .guards import name_unreadable
from .steps import unwrap

# Rows of the table of similarities that are held at a time.
CHUNK = 1024


@torch.no_grad()
def knn_vote(
    queries: Tensor,
    bank: Tensor,
    labels: Tensor,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Class of each query by the votes of its k nearest neighbors.

    A neighbor of cosine s votes with exp(s / temperature) for its class (Wu et al.
    2018, Unsupervised Feature Learning via Non-Parametric Instance Discrimination,
    section 3.4; k = 20 as in DINO, Caron et al. 2021).

    Args:
        queries: (N, C), bank: (M, C), both L2-normalized.
        labels: (M,), the bank's classes from 0 on.
        k: neighbors, 1..M.
        temperature: above 0.

    Returns:
        (N,), classes.
    """
    predictions = []
    for chunk in queries.split(CHUNK):
        near, index = (chunk @ bank.t()).topk(k)
        # A common factor changes no vote; with this one the largest is 1.
        weights = ((near - near[:, :1]) / temperature).exp()
        votes = weights.new_zeros(len(chunk), int(labels.max()) + 1)
        predictions.append(votes.scatter_add_(1, labels[index], weights).argmax(1))
    return torch.cat(predictions)


def plain_pipeline(size: int) -> list[dict]:
    """Short side to 8/7 of ``size`` pixels, antialiased, and the center crop."""
    return [
        dict(type="LoadImageOrRaise"),
        dict(type="ResizeEdge", scale=size * 8 // 7, edge="short", backend="pillow"),
        dict(type="CenterCrop", crop_size=size),
        dict(type="PackInputs"),
    ]


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; modes and random generators are set back after it."""
    modes = {module: module.training for module in model.modules()}
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices):
        model.eval()
        try:
            yield
        finally:
            # One by one: train() would wake layers that were in eval mode before.
            for module, training in modes.items():
                module.training = training
            np.random.set_state(numpy_state)
            random.setstate(python_state)


@HOOKS.register_module()
class KNNHook(Hook):
    """Log the top-1 accuracy of nearest neighbors every ``interval`` iterations.

    Images of ``val`` take the class that their neighbors among those of ``train``
    vote for (:func:`knn_vote`). The features are those of the online network in
    evaluation mode, in float32: ``knn_backbone``, the last map of the backbone
    averaged, and ``knn_p5``, what the box head's convs make of P5, averaged, before
    the projector. It is also done at the end of the run. Training goes on as without
    the hook, bit for bit; its running statistics are used and not changed. Images
    that cannot be read are replaced by others, and named.

    Args:
        train, val: labeled images: a folder with one sub-folder for each class, or
            the config of a classification data set of MMPretrain. A pipeline of
            one's own gives BGR images of one size and ends with ``PackInputs``.
        interval: iterations between evaluations.
        k, temperature: see :func:`knn_vote`.
        images_per_class: take so many images at most of each class and part, at
            even distances in the data set's order; by default all.
        batch_size: images per forward pass and process.
        num_workers: of the loader, per process; 0 loads in the process itself.

    Raises:
        InputError: before the run, when a folder is missing or holds no classes, a
            part has no labels, one class only, a class without images or fewer images
            than k, or the two parts have different classes.
    """

    # Behind the line of LoggerHook.
    priority = "LOW"

    def __init__(
        self,
        train: str | dict,
        val: str | dict,
        interval: int = 5000,
        k: int = 20,
        temperature: float = 0.07,
        images_per_class: int | None = None,
        batch_size: int = 64,
        num_workers: int = 4,
    ) -> None:
        if not isinstance(temperature, (int, float)) or not temperature > 0:
            raise InputError(
                f"KNNHook.temperature={temperature!r}: give a number above 0"
            )
        numbers = dict(k=k, interval=interval, batch_size=batch_size)
        for name, value in {**numbers, "images_per_class": images_per_class}.items():
            if value is not None and value < 1:
                raise InputError(f"KNNHook.{name}={value}: it is 1 or more")
        self.sources = dict(train=train, val=val)
        self.interval = interval
        self.k = k
        self.temperature = temperature
        self.images_per_class = images_per_class
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.parts: dict[str, Dataset] = {}
        self.replaced: dict[str, str] = {}
        self.named: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        size = unwrap(runner.model).data_preprocessor.montage.size
        classes, present = {}, {}
        for part, source in self.sources.items():
            dataset = _build(part, source, size)
            labels = _labels(part, dataset)
            chosen = _evenly(labels, self.images_per_class)
            self.parts[part] = Subset(dataset, chosen)
            seen = np.unique(labels).tolist()
            names = dataset.metainfo.get("classes") or ()
            if names and seen[-1] >= len(names):
                raise InputError(
                    f"KNNHook.{part}: it has a label {seen[-1]}, but metainfo.classes "
                    f"has {len(names)} names: make them fit"
                )
            present[part] = [names[label] for label in seen] if names else seen
            classes[part] = list(names) or seen
        self._check(classes, present)

    def _check(self, classes: dict[str, list], present: dict[str, list]) -> None:
        """Both parts' names of classes, and those that have images."""
        if len(present["train"]) < 2:
            raise InputError(
                f"KNNHook.train={self.sources['train']}: it has images of one class "
                f"only, {present['train']}; give a sub-folder for each class"
            )
        train, val = classes["train"], classes["val"]
        if set(train) != set(val):
            differ = sorted(set(train) ^ set(val), key=str)
            raise InputError(
                f"KNNHook: train has {len(train)} classes and val {len(val)}; {differ} "
                "are in one of them only"
            )
        if train != val:
            raise InputError(
                f"KNNHook: train has the classes {train[:5]} and val {val[:5]}, the "
                "same in another order, so labels differ; give both one "
                "metainfo.classes, and labels that follow it"
            )
        for part, names in present.items():
            if empty := sorted(set(train) - set(names), key=str):
                raise InputError(
                    f"KNNHook.{part}: it has no images of the classes {empty[:5]}; add "
                    "some, or leave these classes out of both parts"
                )
        if len(self.parts["train"]) < self.k:
            raise InputError(
                f"KNNHook.k={self.k}: train has {len(self.parts['train'])} images "
                "only; lower k or add images"
            )

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        last = self.is_last_train_iter(runner)
        if last or self.every_n_train_iters(runner, self.interval):
            start = time.monotonic()
            scores = self.evaluate(unwrap(runner.model))
            name_unreadable(runner, self.replaced, self.named)
            known = {name: s for name, s in scores.items() if not math.isnan(s)}
            listed = "  ".join(
                f"{name}: {known[name]:.4f}"
                if name in known
                else f"{name}: no score, "
                "for features are not finite; lower the learning rate"
                for name in scores
            )
            runner.logger.log(
                logging.INFO if known == scores else logging.WARNING,
                f"kNN [{runner.iter + 1}/{runner.max_iters}]  {listed}  (k = {self.k}, "
                f"{len(self.parts['train'])} and {len(self.parts['val'])} images, "
                f"{time.monotonic() - start:.1f} s)",
            )
            if known:
                runner.visualizer.add_scalars(known, step=runner.iter + 1)

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Top-1 accuracy, 0..1, of each kind of features; the same in all processes.

        NaN where features are not finite: neighbors would mean nothing.

        Args:
            model: :class:`~mcl.models.MCL`, without a wrapper.
        """
        with undisturbed(model):
            bank, labels = self._embed(model, self.parts["train"])
            total = len(self.parts["train"])
            bank = {name: _in_order(f, total) for name, f in bank.items()}
            labels = _in_order(labels, total)
            queries, wanted = self._embed(model, self.parts["val"])
        scores, total_val = {}, len(self.parts["val"])
        for name, features in queries.items():
            votes = knn_vote(features, bank[name], labels, self.k, self.temperature)
            # The mean over all processes is NaN if a row of any one is.
            finite = features.isfinite().all(dim=1) & bank[name].isfinite().all()
            right = torch.where(finite, (votes == wanted).float(), math.nan)
            scores[f"knn_{name}"] = _in_order(right, total_val).mean().item()
        return scores

    def _embed(self, model: nn.Module, part: Dataset) -> tuple[dict, Tensor]:
        """Features of this process' share of a part, and its labels.

        Process r of w takes the images r, r + w, and so on; the first images again
        where the last round is short, so that all processes have equally many.
        """
        rank, processes = get_dist_info()
        rounds = -(-len(part) // processes)
        share = [(i * processes + rank) % len(part) for i in range(rounds)]
        loader = DataLoader(
            Subset(part, share),
            self.batch_size,
            num_workers=self.num_workers,
            collate_fn=pseudo_collate,
        )
        found, labels = {}, []
        for batch in loader:
            for name, values in _features(model, batch["inputs"]).items():
                found.setdefault(name, []).append(normalize(values))
            for sample in batch["data_samples"]:
                labels.append(int(sample.gt_label))
                self.replaced.update(sample.get("replaced", {}))
        found = {name: torch.cat(values) for name, values in found.items()}
        device = next(iter(found.values())).device
        return found, torch.tensor(labels, device=device)


def _features(model: nn.Module, images: list[Tensor]) -> dict[str, Tensor]:
    """Averaged maps of BGR uint8 images (3, S, S): of C5, of the convs over P5."""
    inputs = model.data_preprocessor(dict(inputs=images))["inputs"]
    c5 = model.backbone(inputs)[-1]
    # The top of the pyramid has nothing above it to add.
    p5 = model.neck.fpn_convs[-1](model.neck.lateral_convs[-1](c5))
    tiles = model.neck.shared_convs(p5)
    return dict(backbone=c5.mean((2, 3)), p5=tiles.mean((2, 3)))


def _in_order(values: Tensor, total: int) -> Tensor:
    """Gather all processes' shares (n, ...) to (total, ...) in the part's order."""
    return torch.stack(all_gather(values), dim=1).flatten(0, 1)[:total]


def _build(part: str, source: str | dict, size: int) -> ReplayableDataset:
    if isinstance(source, str):
        folder = Path(source)
        if not folder.is_dir():
            raise InputError(f"KNNHook.{part}={source}: there is no such folder")
        if not any(entry.is_dir() for entry in folder.iterdir()):
            raise InputError(
                f"KNNHook.{part}={source}: it has no sub-folders, so no labels; make "
                "one for each class"
            )
        source = dict(
            type="CustomDataset", data_root=source, extensions=IMAGE_EXTENSIONS
        )
    cfg = {"pipeline": plain_pipeline(size), **source}
    try:
        # It puts another image in the place of one that cannot be read.
        return ReplayableDataset(cfg)
    except (InputError, OSError) as error:
        raise InputError(f"KNNHook.{part}: {error}") from error


def _labels(part: str, dataset: ReplayableDataset) -> np.ndarray:
    """The class of every image, (N,)."""
    try:
        labels = dataset.dataset.get_gt_labels()
    except (AttributeError, KeyError) as error:
        raise InputError(
            f"KNNHook.{part}: this data set has no labels; give a folder with a "
            "sub-folder for each class, or a data set of one label per image"
        ) from error
    if labels.ndim != 1:
        raise InputError(f"KNNHook.{part}: give a data set of one label per image")
    return labels


def _evenly(labels: np.ndarray, most: int | None) -> list[int]:
    """Indices of at most so many images of each class, at even distances."""
    if most is None:
        return list(range(len(labels)))
    chosen = []
    for label in np.unique(labels):
        (members,) = np.nonzero(labels == label)
        number = min(most, len(members))
        chosen += members[np.arange(number) * len(members) // number].tolist()
    return sorted(chosen)
