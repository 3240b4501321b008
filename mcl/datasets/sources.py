"""Where images come from, besides MMPretrain's folders and lists."""

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
    """The images that a file in COCO's format lists; annotations are ignored.

    For several files wrap several of these in a ``ConcatDataset``. A path that the
    file names twice is taken once.

    Args:
        ann_file: JSON file with a list ``images``, each with a ``file_name``; relative
            to ``data_root``.
        data_prefix: folder that ``file_name`` is relative to, itself relative to
            ``data_root``.
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
        # Folders are listed whole: a look at each file takes minutes on a network.
        folders = {os.path.dirname(path) for path in paths}
        there = {folder: _list_folder(folder) for folder in folders}
        missing = [
            index
            for index, path in enumerate(paths)
            if os.path.basename(path) not in there[os.path.dirname(path)]
        ]
        if missing:
            first = missing[0]
            raise InputError(
                f"ann_file={self.ann_file}: {len(missing)} of its {len(names)} images "
                f"are not below {self.img_prefix or '.'}, such as images[{first}]."
                f"file_name={names[first]!r}; set data_prefix to the folder that "
                "file_name is relative to, or complete the folder"
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
        raise InputError(
            f"ann_file={path}: it cannot be read ({error.strerror})"
        ) from error
    except ValueError as error:
        raise InputError(
            f"ann_file={path}: it is no JSON file ({error}); give a file in COCO's "
            "format"
        ) from error
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise InputError(
            f"ann_file={path}: it has no list `images`; give a file in COCO's format"
        )
    if not images:
        raise InputError(
            f"ann_file={path}: its list `images` is empty; give a file that lists some"
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

    A tar must not be compressed. The files lie on a disk that this machine mounts;
    members are read in any order, a few times 100 kB each. An image is called
    ``<archive>/<member>`` in messages. Links and hidden files are left out.

    Args:
        archives: paths or globs, relative to ``data_root``, of one or many shards.
        data_root: folder of the archives.
        inside: folder inside the archives that images are taken from; all by default.
        with_label: whether images have the number of their class: of all classes, in
            the order of their names.
        label_from: what names the class: ``"folder"``, the first one on the member's
            path below ``inside``; ``"archive"``, the archive's name without ending.
        index_file: JSON file that keeps where members lie, for the next run. By
            default each process finds that out for itself and forgets it.
        extensions: what the names of images end with.
        **kwargs: of MMPretrain's ``BaseDataset``, such as ``pipeline``, ``metainfo``.

    Raises:
        InputError: when an archive is missing, compressed or damaged, or there are no
            images, or an image has no class.
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
                f"label_from={label_from!r}: say 'folder' or 'archive', which names "
                "an image's class"
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
            # A tuple of plain values takes half the memory.
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
                "its class; say label_from='archive' if the archive's name does"
            )
        return folder
