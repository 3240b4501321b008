"""Point a config's loader at a folder of images."""

from pathlib import Path

from mmengine.config import Config, ConfigDict

from mcl.config import datasets
from mcl.datasets.sources import IMAGE_EXTENSIONS
from mcl.errors import InputError


def read_folder(cfg: Config, folder: str, with_label: bool | None = None) -> None:
    """Let the training loader read all images of a folder, by the config's pipeline.

    Args:
        cfg: of a pre-training run, changed in place.
        folder: searched recursively.
        with_label: whether its sub-folders are classes; None: as the config has it.

    Raises:
        InputError: when there is no such folder.
    """
    if not Path(folder).is_dir():
        raise InputError(f"--images {folder}: there is no such folder")
    for innermost in list(datasets(cfg.train_dataloader.dataset)):
        labeled = (
            bool(innermost.get("with_label")) if with_label is None else with_label
        )
        found = ConfigDict(
            type="CustomDataset",
            data_root=str(Path(folder).resolve()),
            with_label=labeled,
            extensions=IMAGE_EXTENSIONS,
            pipeline=innermost.pipeline,
        )
        innermost.clear()
        innermost.update(found)


def check_number(folder: str, batch: int) -> None:
    """Say so when a folder holds fewer images than a batch.

    Raises:
        InputError: naming both numbers.
    """
    number = sum(p.suffix.lower() in IMAGE_EXTENSIONS for p in Path(folder).rglob("*"))
    if number < batch:
        raise InputError(
            f"--images {folder}: its {number} images are fewer than one batch of "
            f"{batch}; add images or lower --batch"
        )
