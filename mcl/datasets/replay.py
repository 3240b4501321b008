"""Reproducible samples: the same seed, epoch and index give the same sample.

A resumed run must continue as if it had never stopped, with any number of workers.
The sampler therefore yields keys in place of indices. The data set seeds every
generator from the key before it runs its pipeline.
"""

import random
from collections.abc import Iterator, Sized
from typing import NamedTuple

import numpy as np
import torch
from mmengine.dist import get_dist_info, sync_random_seed
from mmpretrain.registry import DATA_SAMPLERS, DATASETS
from torch.utils.data import Dataset, Sampler

from ..errors import InputError
from .loading import UnreadableImage

# A sample gives up after this many unreadable files in a row.
MAX_REPLACEMENTS = 100


class SampleKey(NamedTuple):
    """All that the random numbers of a sample depend on."""

    seed: int
    epoch: int
    index: int


@DATASETS.register_module()
class ReplayableDataset(Dataset):
    """Wrap a data set so that a :class:`SampleKey` always gives the same sample.

    Another image, sampled from the same key, replaces an unreadable one. The sample's
    ``replaced`` metainfo maps the unreadable paths to the reasons.

    Args:
        dataset: config or instance of any data set of MMPretrain whose samples
            have ``data_samples``.

    Raises:
        InputError: when 100 files in a row cannot be read.
    """

    def __init__(self, dataset: dict | Dataset) -> None:
        try:
            built = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        except RuntimeError as error:  # MMPretrain found no images
            raise InputError(f"dataset: {error}; put images there") from error
        if len(built) == 0:
            raise InputError("dataset: it holds no images; check its data_root")
        self.dataset = built

    @property
    def metainfo(self) -> dict:
        return self.dataset.metainfo

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey | int) -> dict:
        if not isinstance(key, SampleKey):
            key = SampleKey(0, 0, int(key))
        index, replaced = key.index, {}
        for attempt in range(MAX_REPLACEMENTS):
            sequence = np.random.SeedSequence([*key, attempt])
            _seed_generators(sequence)
            try:
                sample = self.dataset[index]
            except UnreadableImage as error:
                replaced[error.path] = str(error)
                index = int(np.random.default_rng(sequence).integers(len(self)))
                continue
            sample["data_samples"].set_metainfo(dict(replaced=replaced))
            return sample
        raise InputError(
            f"dataset: {MAX_REPLACEMENTS} images in a row are unreadable, among them "
            f"{next(iter(replaced.items()))}; check the folder"
        )


def _seed_generators(sequence: np.random.SeedSequence) -> None:
    """Seed the generators that transforms use: Python, NumPy, torch (CPU)."""
    numpy_seed, torch_seed, python_seed = map(int, sequence.generate_state(3))
    np.random.seed(numpy_seed)
    torch.default_generator.manual_seed(torch_seed)
    random.seed(python_seed)


@DATA_SAMPLERS.register_module()
class ReplayableSampler(Sampler):
    """Endless stream of keys, one permutation of the data set after the other.

    Short batches are dropped: an epoch has N // (batch_size * processes) batches. A
    resumed run skips the samples it has seen without loading them.

    Args:
        dataset: a :class:`ReplayableDataset`.
        batch_size: images per process and iteration. ``MCLTrainLoop`` passes the data
            loader's.
        seed: the run's seed. None samples one for all processes.
        shuffle: whether an epoch is a permutation or the data set's order.
        distinct_folders: put at most one image of a folder into a batch (of all
            processes), while enough folders have images left. Frames of one video, or
            pictures of one object, would otherwise be each other's negatives.

    Raises:
        InputError: when the batch size is missing or larger than the data set, or
            ``distinct_folders`` is given without ``shuffle`` or without folders.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int | None = None,
        seed: int | None = None,
        shuffle: bool = True,
        distinct_folders: bool = False,
    ) -> None:
        if batch_size is None:
            raise InputError(
                "train_dataloader.sampler.batch_size is not given: set train_cfg.type="
                "'MCLTrainLoop', which passes the loader's, with max_epochs or "
                "max_iters"
            )
        self.rank, self.world_size = get_dist_info()
        self.num_images = len(dataset)
        self.together = batch_size * self.world_size  # images of all processes
        self.per_epoch = self.num_images // self.together * batch_size
        if self.per_epoch == 0:
            raise InputError(
                f"dataset: {self.num_images} images are fewer than one batch of "
                f"{batch_size} x {self.world_size} processes; lower batch_size"
            )
        self.seed = sync_random_seed() if seed is None else seed
        self.shuffle = shuffle
        self.folders = _by_folder(dataset, shuffle) if distinct_folders else None
        self.skipped = 0

    def skip(self, num_samples: int) -> None:
        """Start ``num_samples`` samples (of this process) later."""
        self.skipped = num_samples

    def __iter__(self) -> Iterator[SampleKey]:
        epoch, offset = divmod(self.skipped, self.per_epoch)
        while True:
            for index in self._epoch(epoch)[offset:]:
                yield SampleKey(self.seed, epoch, int(index))
            epoch, offset = epoch + 1, 0

    def _epoch(self, epoch: int) -> np.ndarray:
        order = np.arange(self.num_images)
        rng = np.random.default_rng([self.seed, epoch])
        if self.folders:
            order = self._one_of_each(rng)
        elif self.shuffle:
            rng.shuffle(order)
        return order[: self.per_epoch * self.world_size][self.rank :: self.world_size]

    def _one_of_each(self, rng: np.random.Generator) -> np.ndarray:
        """All images in rounds, with one image of every remaining folder in each.

        The first images of a round complete the last batch of the round before. A
        round therefore begins with folders that are not in that batch.
        """
        order, owners = [], []
        for images in self.rounds(rng):
            present = list(images)
            rng.shuffle(present)
            recent = set(owners[len(owners) // self.together * self.together :])
            present.sort(key=recent.__contains__)
            owners += present
            order += [images[folder] for folder in present]
        return np.array(order)

    def rounds(self, rng: np.random.Generator) -> Iterator[dict[int, int]]:
        """Yield rounds: folder to the next image in this folder's random order."""
        members = [rng.permutation(list(folder.values())) for folder in self.folders]
        for depth in range(max(map(len, members))):
            yield {k: int(m[depth]) for k, m in enumerate(members) if depth < len(m)}

    def __len__(self) -> int:
        """Samples of one process in an epoch."""
        return self.per_epoch


def _by_folder(dataset: ReplayableDataset, shuffle: bool) -> list[dict[str, int]]:
    """For every folder a dict of its images' names and their indices."""
    if not shuffle:
        raise InputError("distinct_folders=True: it needs shuffle=True")
    folders: dict[str, dict[str, int]] = {}
    for index in range(len(dataset)):
        path = str(dataset.dataset.get_data_info(index)["img_path"])
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, {})[name] = index
    if len(folders) < 2:
        raise InputError(
            "distinct_folders=True: all images are in one folder; sort them into one "
            "folder per object or video, or leave the option out"
        )
    return list(folders.values())
