"""Object cut-outs for ``make_scenes.py``: drawn by code, or read from a folder.

Both sources offer ``names`` (class names, sorted) and ``sample(rng)``, which
returns an RGBA picture (uint8, H x W x 4, straight alpha) and a class index.
"""

import copy
import hashlib
import math
from pathlib import Path

import numpy as np
from drawings import DRAWERS, Pen, trim
from PIL import Image


class DrawnCutouts:
    """Cut-outs drawn anew for every call, classes with equal chance."""

    names = list(DRAWERS)
    digest = None

    def sample(self, rng):
        """Return (RGBA uint8 H x W x 4, class index); sides up to 160 px."""
        index = int(rng.integers(len(self.names)))
        pen = Pen(rng)
        DRAWERS[self.names[index]](pen, rng)
        return pen.lift(rng), index


class FolderCutouts:
    """RGBA pictures of ``folder``: a class per sub-folder, equal chance each.

    Pictures (``.png``, ``.webp``) beside sub-folders are not used; a folder
    without sub-folders is one class, ``object``. ``leave_out`` names pictures that
    are not used, as ``class/name`` without suffix.

    Raises:
        FileNotFoundError: the folder is missing or holds no picture.
        ValueError: a picture cannot be read or has no usable alpha channel, or one
            that is to be left out is not there.
    """

    def __init__(self, folder, leave_out=()):
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"--cutouts {folder} is no folder; name a folder of RGBA pictures."
            )
        groups = {
            sub.name: list_pictures(sub) for sub in folder.iterdir() if sub.is_dir()
        }
        groups = {name: files for name, files in sorted(groups.items()) if files}
        groups = groups or {"object": list_pictures(folder)}
        if not any(groups.values()):
            raise FileNotFoundError(
                f"--cutouts {folder} holds no .png or .webp picture; put RGBA "
                "cut-outs into it, best in one sub-folder per class."
            )
        known = {f"{name}/{f.stem}" for name, files in groups.items() for f in files}
        if unknown := sorted(set(leave_out) - known):
            raise ValueError(
                f"--leave-out {unknown[0]}: there is no such cut-out in {folder}."
            )
        groups = {
            name: [f for f in files if f"{name}/{f.stem}" not in leave_out]
            for name, files in groups.items()
        }
        groups = {name: files for name, files in groups.items() if files}
        if not groups:
            raise ValueError(f"--leave-out leaves no cut-out of {folder}; keep some.")
        self.names = list(groups)
        self.pictures = [[read_cutout(f) for f in files] for files in groups.values()]
        self.stems = [[f.stem for f in files] for files in groups.values()]
        self.digest = digest_files([f for files in groups.values() for f in files])

    def part(self, first, last):
        """The same classes, of each the cut-outs from part ``first`` to ``last``.

        Parts are fractions of a class's cut-outs, in an order that only the class's
        name decides.

        Raises:
            ValueError: a class would be left without a cut-out.
        """
        part = copy.copy(self)
        part.pictures, part.stems = [], []
        for name, pictures, stems in zip(
            self.names, self.pictures, self.stems, strict=True
        ):
            seed = list(hashlib.sha256(name.encode()).digest())
            order = np.random.default_rng(seed).permutation(len(pictures))
            bounds = [math.ceil(f * len(pictures) - 1e-9) for f in (first, last)]
            taken = sorted(order[slice(*bounds)])
            if not taken:
                raise ValueError(
                    f"class {name} has {len(pictures)} cut-outs, too few to "
                    "split; give more."
                )
            part.pictures.append([pictures[k] for k in taken])
            part.stems.append([stems[k] for k in taken])
        return part

    def single(self, number):
        """(class index, name, RGBA) of cut-out ``number``, counted over all classes."""
        for index, pictures in enumerate(self.pictures):
            if number < len(pictures):
                return index, self.stems[index][number], pictures[number]
            number -= len(pictures)
        raise IndexError(number)

    def __len__(self):
        return sum(map(len, self.pictures))

    def sample(self, rng):
        """Return (RGBA uint8 H x W x 4, class index) of one stored picture."""
        index = int(rng.integers(len(self.names)))
        group = self.pictures[index]
        return group[int(rng.integers(len(group)))], index


def list_pictures(folder):
    """The ``.png`` and ``.webp`` files of ``folder``, sorted by name."""
    files = [f for f in folder.iterdir() if f.suffix.lower() in (".png", ".webp")]
    return sorted(files, key=lambda file: file.name)


def digest_files(files):
    """SHA-256 (hex) of the bytes of ``files``, one after another."""
    total = hashlib.sha256()
    for file in files:
        total.update(Path(file).read_bytes())
    return total.hexdigest()


def read_cutout(file):
    """Read one RGBA cut-out, cropped to what is not transparent.

    Raises:
        ValueError: unreadable, without alpha, or nowhere opaque.
    """
    try:
        with Image.open(file) as picture:
            has_alpha = picture.has_transparency_data
            rgba = np.asarray(picture.convert("RGBA"))
    except (OSError, SyntaxError) as error:
        raise ValueError(
            f"cut-out {file} cannot be read ({error}); repair or remove it."
        ) from None
    if not has_alpha:
        raise ValueError(
            f"cut-out {file} has no alpha channel; save it as RGBA with a "
            "transparent surrounding or remove it."
        )
    if rgba[..., 3].max() < 128:
        raise ValueError(
            f"cut-out {file} is nowhere opaque; remove it or save it with an "
            "opaque object."
        )
    return trim(rgba)
