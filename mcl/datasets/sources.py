"""Data sets of images besides MMPretrain's folders and lists."""

import json
import os
from collections.abc import Sequence

from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

from ..errors import InputError
from .archives import find_archives, index_archives

IMAGE_EXTENSIONS = tuple(
    f".{e}" for e in "jpg jpeg jfif png webp ppm pgm bmp tif tiff".split()
)


@DATASETS.register_module()
class COCOImages(BaseDataset):
    """The images listed in a file in COCO's format. Annotations are ignored.

    Wrap several of these in a ``ConcatDataset`` to use several files. A path that the
    file lists twice is taken once.

    Args:
        ann_file: JSON file with a list ``images``, each with a ``file_name``;
            relative to ``data_root``.
        data_prefix: folder of the images, relative to ``data_root``.
        **kwargs: of MMPretrain's ``BaseDataset``, such as ``data_root``, ``pipeline``.

    Raises:
        InputError: when the file lists no images, or images that are not there.
    """

    def load_data_list(self) -> list[dict]:
        names = _file_names(self.ann_file)
        paths = [os.path.normpath(os.path.join(self.img_prefix, n)) for n in names]
        self._check_presence(names, paths)
        unique = dict.fromkeys(paths)
        if len(unique) < len(paths):
            print_log(
                f"{self.ann_file}: {len(paths) - len(unique)} of {len(paths)} entries "
                "name an image again; each image is taken once",
                logger="current",
            )
        return [dict(img_path=path) for path in unique]

    def _check_presence(self, names: list[str], paths: list[str]) -> None:
        # Listing whole folders is fast; testing each file takes minutes on a network.
        split = [os.path.split(path) for path in paths]
        present = {folder: _list_folder(folder) for folder in {f for f, _ in split}}
        missing = [
            name
            for name, (folder, file) in zip(names, split, strict=True)
            if file not in present[folder]
        ]
        if missing:
            first = missing[0]
            raise InputError(
                f"ann_file={self.ann_file}: {len(missing)} of its {len(names)} images "
                f"are not below {self.img_prefix or '.'}, such as images"
                f"[{names.index(first)}].file_name={first!r}; set data_prefix to the "
                "folder that file_name is relative to, or complete the folder"
            )


def _list_folder(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder or "."))
    except OSError:
        return set()


def _file_names(path: str) -> list[str]:
    """``file_name`` of each image of a file in COCO's format."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        message = f"ann_file={path}: it cannot be read ({error.strerror})"
        raise InputError(message) from error
    except ValueError as error:
        raise InputError(
            f"ann_file={path}: it is no JSON file ({error}); give a file in COCO's "
            "format"
        ) from error
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        raise InputError(
            f"ann_file={path}: its list `images` is missing or empty; give a file in "
            "COCO's format that lists images"
        )
    for index, image in enumerate(images):
        name = image.get("file_name") if isinstance(image, dict) else None
        if not isinstance(name, str) or not name:
            raise InputError(
                f"ann_file={path}: images[{index}] has no `file_name`; add to each "
                "image its path relative to data_prefix"
            )
    return [image["file_name"] for image in images]


@DATASETS.register_module()
class ArchiveImages(BaseDataset):
    """The images inside tar and zip files, read without unpacking them.

    A tar must not be compressed. The files must be on a mounted disk: members of some
    100 kB are read in any order. Messages call an image ``<archive>/<member>``. Links
    and hidden files are left out.

    Args:
        archives: paths or globs of one or many archives, relative to ``data_root``.
        data_root: folder of the archives.
        inside: folder inside the archives to take images from; all by default.
        with_label: whether to label each image with the number of its class. Classes
            are numbered in the order of their names.
        label_from: what names the class. ``"folder"``: the first folder of the
            member's path below ``inside``. ``"archive"``: the archive's name without
            its ending.
        index_file: JSON file that keeps the members' places for the next run. By
            default each process finds them for itself and keeps no file.
        extensions: endings of the images' names.
        **kwargs: of MMPretrain's ``BaseDataset``, such as ``pipeline``, ``metainfo``.

    Raises:
        InputError: when an archive is missing, compressed or damaged, when there are
            no images, or an image has no class.
    """

    def __init__(
        self,
        archives: str | Sequence[str],
        data_root: str = "",
        inside: str = "",
        with_label: bool = False,
        label_from: str = "folder",
        index_file: str | None = None,
        extensions: Sequence[str] = IMAGE_EXTENSIONS,
        **kwargs,
    ) -> None:
        if label_from not in ("folder", "archive"):
            raise InputError(
                f"label_from={label_from!r}: give 'folder' or 'archive', whichever "
                "names an image's class"
            )
        self.archives = archives
        self.inside = f"{inside.strip('/')}/" if inside.strip("/") else ""
        self.with_label = with_label
        self.label_from = label_from
        self.index_file = index_file
        self.extensions = [e.lower() for e in extensions]
        super().__init__(ann_file="", data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        paths = find_archives(self.archives, self.data_root)
        found = index_archives(paths, self.extensions, self.index_file)
        images = [
            (archive, member)
            for archive, members in found.items()
            for member in members
            if member.name.startswith(self.inside)
        ]
        if not images:
            where = f" below {self.inside}" if self.inside else ""
            raise InputError(
                f"archives={self.archives}: {len(paths)} of them hold no image{where}; "
                f"the names of images end with {' '.join(self.extensions)}"
            )
        data = [
            # A tuple of plain values takes half the memory of a Member.
            dict(img_path=f"{archive}/{m.name}", member=(archive, *m[1:]))
            for archive, m in images
        ]
        if self.with_label:
            self._add_labels(data, [self._class(a, m.name) for a, m in images])
        return data

    def _add_labels(self, data: list[dict], names: list[str]) -> None:
        classes = sorted(set(names))
        given = self._metainfo.setdefault("classes", tuple(classes))
        if len(given) != len(classes):
            raise InputError(
                f"metainfo.classes has {len(given)} names, but the archives have "
                f"{len(classes)} classes: make them equal"
            )
        number = {name: i for i, name in enumerate(classes)}
        for info, name in zip(data, names, strict=True):
            info["gt_label"] = number[name]

    def _class(self, archive: str, name: str) -> str:
        if self.label_from == "archive":
            return os.path.splitext(os.path.basename(archive))[0]
        folder, slash, _ = name.removeprefix(self.inside).partition("/")
        if not slash:
            raise InputError(
                f"with_label=True: {archive}/{name} lies in no folder that would name "
                "its class; give label_from='archive' if the archive's name does"
            )
        return folder
