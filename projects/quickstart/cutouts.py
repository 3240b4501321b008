"""Sources of object cut-outs: drawn by code, or read from a folder.

Both have ``names``, the sorted classes, and ``sample(rng)``, which returns an RGBA
picture (uint8, H x W x 4, straight alpha) and a class index.
"""

import copy
import hashlib
import math
from pathlib import Path

import numpy as np
from PIL import Image

from mcl.errors import InputError

from .drawings import DRAWERS, Pen, trim


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

    Pictures (``.png``, ``.webp``) beside sub-folders are not used. A folder without
    sub-folders is one class, ``object``.

    Args:
        folder: of the pictures.
        leave_out: pictures that are not used, as ``class/name`` without suffix.

    Raises:
        InputError: the folder or a picture cannot be used, or a picture that is to be
            left out is not there.
    """

    def __init__(self, folder, leave_out=()):
        groups = list_classes(Path(folder))
        known = {f"{name}/{f.stem}" for name, files in groups.items() for f in files}
        if unknown := sorted(set(leave_out) - known):
            raise InputError(f"--leave-out {unknown[0]}: {folder} has no such cut-out")
        for name, files in groups.items():
            groups[name] = [f for f in files if f"{name}/{f.stem}" not in leave_out]
        groups = {name: files for name, files in groups.items() if files}
        if not groups:
            raise InputError(f"--leave-out leaves no cut-out of {folder}; keep some")
        self.names = list(groups)
        # Of every class: name and RGBA of each cut-out.
        self.groups = [
            [(f.stem, read_cutout(f)) for f in files] for files in groups.values()
        ]
        self.digest = digest_files([f for files in groups.values() for f in files])

    def part(self, first, last):
        """The same classes, of each the cut-outs from part ``first`` to ``last``.

        Parts are fractions of a class's cut-outs, in an order that only the class's
        name decides.

        Raises:
            InputError: a class would be left without a cut-out.
        """
        part = copy.copy(self)
        part.groups = []
        for name, group in zip(self.names, self.groups, strict=True):
            seed = list(hashlib.sha256(name.encode()).digest())
            order = np.random.default_rng(seed).permutation(len(group))
            bounds = [math.ceil(f * len(group) - 1e-9) for f in (first, last)]
            part.groups.append([group[k] for k in sorted(order[slice(*bounds)])])
            if not part.groups[-1]:
                raise InputError(
                    f"--split-cutouts: class {name} has {len(group)} cut-outs, too few "
                    "to split; give more"
                )
        return part

    def single(self, number):
        """(class index, name, RGBA) of cut-out ``number``, counted over all classes."""
        flat = [(k, *cutout) for k, group in enumerate(self.groups) for cutout in group]
        return flat[number]

    def __len__(self):
        return sum(map(len, self.groups))

    def sample(self, rng):
        """Return (RGBA uint8 H x W x 4, class index) of one stored picture."""
        index = int(rng.integers(len(self.names)))
        group = self.groups[index]
        return group[int(rng.integers(len(group)))][1], index


def list_classes(folder):
    """Pictures (paths) of each sub-folder, or else of the folder as ``object``.

    Raises:
        InputError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise InputError(f"--cutouts {folder}: there is no such folder")
    folders = sorted((f for f in folder.iterdir() if f.is_dir()), key=lambda f: f.name)
    groups = {f.name: files for f in folders if (files := list_pictures(f))}
    groups = groups or {"object": list_pictures(folder)}
    if not any(groups.values()):
        raise InputError(
            f"--cutouts {folder}: it holds no .png or .webp picture; put RGBA cut-outs "
            "into it, best in one sub-folder per class"
        )
    return groups


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
        InputError: unreadable, without alpha, or nowhere opaque.
    """
    try:
        with Image.open(file) as picture:
            has_alpha = picture.has_transparency_data
            rgba = np.asarray(picture.convert("RGBA"))
    except (OSError, SyntaxError) as error:
        raise InputError(
            f"cut-out {file}: it cannot be read ({error}); repair or remove it"
        ) from error
    if not has_alpha or rgba[..., 3].max() < 128:
        what = "is nowhere opaque" if has_alpha else "has no alpha channel"
        raise InputError(
            f"cut-out {file}: it {what}; remove it, or save it as RGBA with an opaque "
            "object on a transparent ground"
        )
    return trim(rgba)
