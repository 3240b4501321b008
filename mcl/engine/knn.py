"""Quality of the features during a run: nearest neighbors of labeled images."""

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
from .guards import compare_classes, name_unreadable
from .steps import unwrap

# Rows of the similarity matrix that are computed at a time.
CHUNK = 1024


@torch.no_grad()
def knn_vote(
    queries: Tensor,
    bank: Tensor,
    labels: Tensor,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Classify each query by the votes of its k nearest neighbors.

    A neighbor of cosine s votes with exp(s / temperature) for its class (Wu et al.
    2018, Unsupervised Feature Learning via Non-Parametric Instance Discrimination,
    section 3.4; k = 20 as in DINO, Caron et al. 2021).

    Args:
        queries: (N, C), L2-normalized.
        bank: (M, C), L2-normalized.
        labels: (M,), the bank's classes from 0 on.
        k: neighbors, 1..M.
        temperature: above 0.

    Returns:
        (N,), classes.
    """
    predictions = []
    for chunk in queries.split(CHUNK):  # (n, C)
        near, index = (chunk @ bank.t()).topk(k)  # (n, k), (n, k)
        # A common factor changes no vote. This one makes the largest weight 1.
        weights = ((near - near[:, :1]) / temperature).exp()
        votes = weights.new_zeros(len(chunk), int(labels.max()) + 1)  # (n, classes)
        votes.scatter_add_(1, labels[index], weights)
        predictions.append(votes.argmax(1))  # (n,)
    return torch.cat(predictions)  # (N,)


def plain_pipeline(size: int) -> list[dict]:
    """Resize the short side to 8/7 of ``size`` pixels, antialiased; crop the center."""
    return [
        dict(type="LoadImageOrRaise"),
        dict(type="ResizeEdge", scale=size * 8 // 7, edge="short", backend="pillow"),
        dict(type="CenterCrop", crop_size=size),
        dict(type="PackInputs"),
    ]


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Use evaluation mode; afterwards restore the modes and the random generators."""
    modes = {module: module.training for module in model.modules()}
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices):
        model.eval()
        try:
            yield
        finally:
            # One by one: train() would also change layers that were in eval mode.
            for module, training in modes.items():
                module.training = training
            np.random.set_state(numpy_state)
            random.setstate(python_state)


@HOOKS.register_module()
class KNNHook(Hook):
    """Log the top-1 accuracy of nearest neighbors every ``interval`` iterations.

    Images of ``val`` take the class that their neighbors in ``train`` vote for
    (:func:`knn_vote`). Features come from the online network in evaluation mode, in
    float32. ``knn_backbone`` uses the backbone's last map, averaged. ``knn_p5`` uses
    the box head's convs on P5, averaged, before the projector.

    The hook also runs at the end of training. It does not change the training by a
    single bit. Unreadable images are replaced by others and named.

    Args:
        train, val: labeled images. A folder with one sub-folder per class, or the
            config of a classification data set of MMPretrain. A pipeline in this
            config gives BGR images of one size and ends with ``PackInputs``.
        interval: iterations between evaluations.
        k, temperature: see :func:`knn_vote`.
        images_per_class: most images of a class in each part, evenly spaced in the
            data set's order; by default all.
        batch_size: images per forward pass and process.
        num_workers: of the loader, per process; 0 loads in the process itself.

    Raises:
        InputError: before the run, when a folder is missing, the classes of both parts
            differ, or a part has no labels, only one class, a class without images, or
            fewer images than k.
    """

    # After the line of LoggerHook.
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
                raise InputError(f"KNNHook.{name}={value}: give an integer >= 1")
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
            self.parts[part] = Subset(dataset, _evenly(labels, self.images_per_class))
            seen = np.unique(labels).tolist()
            names = dict(enumerate(dataset.metainfo.get("classes") or ()))
            names = names or {label: label for label in seen}
            if seen[-1] not in names:
                raise InputError(
                    f"KNNHook.{part}: it has a label {seen[-1]}, but metainfo.classes "
                    f"has {len(names)} names: give one for each label"
                )
            present[part] = [names[label] for label in seen]
            classes[part] = list(names.values())
        self._check(classes, present)

    def _check(self, classes: dict[str, list], present: dict[str, list]) -> None:
        """Compare both parts' classes, and the classes that have images."""
        if len(present["train"]) < 2:
            raise InputError(
                f"KNNHook.train={self.sources['train']}: it has images of one class "
                f"only, {present['train']}; give a sub-folder for each class"
            )
        compare_classes({f"KNNHook.{part}": names for part, names in classes.items()})
        for part, names in present.items():
            if empty := sorted(set(classes[part]) - set(names), key=str):
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
        if not last and not self.every_n_train_iters(runner, self.interval):
            return
        start = time.monotonic()
        scores = self.evaluate(unwrap(runner.model))
        name_unreadable(runner, self.replaced, self.named)
        known = {name: s for name, s in scores.items() if not math.isnan(s)}
        unknown = "no score, features are not finite; lower the learning rate"
        listed = "  ".join(
            f"{name}: {f'{known[name]:.4f}' if name in known else unknown}"
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
        """Top-1 accuracy, 0..1, of each kind of features, the same in all processes.

        NaN where features are not finite, since neighbors would be meaningless.

        Args:
            model: :class:`~mcl.models.MCL`, without a wrapper.
        """
        train, val = self.parts["train"], self.parts["val"]
        with undisturbed(model):
            bank, labels = self._embed(model, train)
            bank = {name: _in_order(f, len(train)) for name, f in bank.items()}
            labels = _in_order(labels, len(train))
            queries, wanted = self._embed(model, val)
        scores = {}
        for name, features in queries.items():
            votes = knn_vote(features, bank[name], labels, self.k, self.temperature)
            # One NaN in any process makes the mean over all processes NaN.
            finite = features.isfinite().all(dim=1) & bank[name].isfinite().all()
            right = torch.where(finite, (votes == wanted).float(), math.nan)
            scores[f"knn_{name}"] = _in_order(right, len(val)).mean().item()
        return scores

    def _embed(self, model: nn.Module, part: Dataset) -> tuple[dict, Tensor]:
        """Features (n, C) of this process' share of a part, and its labels (n,).

        Process r of w takes the images r, r + w, and so on. Images from the beginning
        fill up the last round, so all processes have equally many.
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
        found = {name: torch.cat(values) for name, values in found.items()}  # (n, C)
        device = next(iter(found.values())).device
        return found, torch.tensor(labels, device=device)


def _features(model: nn.Module, images: list[Tensor]) -> dict[str, Tensor]:
    """Averaged C5 and averaged convs on P5, (n, C), of n BGR uint8 images (3, S, S)."""
    inputs = model.data_preprocessor(dict(inputs=images))["inputs"]  # (n, 3, S, S)
    c5 = model.backbone(inputs)[-1]  # (n, C_5, S / 32, S / 32)
    # No coarser map is added at the top of the pyramid.
    p5 = model.neck.fpn_convs[-1](model.neck.lateral_convs[-1](c5))
    tiles = model.neck.shared_convs(p5)  # (n, C, S / 32, S / 32)
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
    try:
        return ReplayableDataset({"pipeline": plain_pipeline(size), **source})
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
    """Indices of at most ``most`` images of each class, evenly spaced."""
    chosen = []
    for label in np.unique(labels):
        (members,) = np.nonzero(labels == label)
        number = min(most or len(members), len(members))
        chosen += members[np.arange(number) * len(members) // number].tolist()
    return sorted(chosen)
