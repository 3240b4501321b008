"""Batches of images that share their ground, so that it does not tell them apart."""

from collections.abc import Iterator

import numpy as np
from mmpretrain.registry import DATA_SAMPLERS

from mcl.datasets import ReplayableSampler


@DATA_SAMPLERS.register_module()
class SameNameSampler(ReplayableSampler):
    """Fill batches with files of one name, one of each folder, as far as there are.

    A composed picture is called ``<object>/<ground>.jpg``. Images of one batch are then
    of different objects on one ground.

    Args:
        dataset: a :class:`~mcl.datasets.ReplayableDataset` on such folders.
        **kwargs: of :class:`~mcl.datasets.ReplayableSampler`.
    """

    def __init__(self, dataset, **kwargs) -> None:
        super().__init__(dataset, distinct_folders=True, **kwargs)

    def rounds(self, rng: np.random.Generator) -> Iterator[dict[int, int]]:
        """Folder to image, one of each: files of one name, in random order."""
        names = sorted(set().union(*self.folders))
        rng.shuffle(names)
        for name in names:
            yield {
                k: folder[name]
                for k, folder in enumerate(self.folders)
                if name in folder
            }
