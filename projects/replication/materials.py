"""The pictures that scenes are made of, from packages of Debian 12.

Grounds (grounds/train and grounds/val: photographs and textures, none in both) and
cut-outs (cutouts/<class>: objects with an alpha channel). They keep their packages'
licenses (the cut-outs': GPL-2) and are not part of this repository; materials.json
lists which ones are taken.
"""

import json
from pathlib import Path

from PIL import Image

from mcl.errors import InputError

LISTED = json.loads(Path(__file__).with_suffix(".json").read_text())
LONGEST_SIDE = 192  # of a cut-out, in pixels
SHORTEST_SIDE = 1080  # of a ground, in pixels
FAINT = 32  # an alpha (of 255) that does not widen the box of a cut-out
JPEG_QUALITY = 92


def make(out: Path, root: Path, listed: dict = LISTED) -> None:
    """Make all pictures below ``out``, of packages that were unpacked in ``root``.

    ``listed`` has ``packages`` (name to version) and, for each of ``grounds`` and
    ``cutouts``, package to name to path. A name is a folder and a stem, ``val/dune``.

    Raises:
        InputError: when a file is missing or no picture.
    """
    for kind, change in (("grounds", write_ground), ("cutouts", write_cutout)):
        for package, files in listed[kind].items():
            for name, path in files.items():
                target, source = out / kind / name, root / path
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with Image.open(source) as picture:
                        change(picture, target)
                except (OSError, SyntaxError, ValueError) as error:
                    raise InputError(
                        f"{source}: it cannot be used ({error}); run `apt-get download "
                        f"{package} && dpkg -x {package}_*.deb ROOT` (version "
                        f"{listed['packages'][package]}) and give --root ROOT"
                    ) from error


def write_cutout(picture: Image.Image, target: Path) -> None:
    """RGBA of any mode, cropped to what is opaque, at most 192 pixels long.

    Raises:
        ValueError: when the picture is nowhere opaque.
    """
    rgba = picture.convert("RGBA")
    box = rgba.getchannel("A").point(lambda alpha: 255 * (alpha > FAINT)).getbbox()
    if box is None:
        raise ValueError("it is nowhere opaque")
    rgba = rgba.crop(box)
    rgba.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    rgba.save(target.with_name(f"{target.name}.png"), optimize=True)


def write_ground(picture: Image.Image, target: Path) -> None:
    """RGB of any mode, the short side at most 1080 pixels."""
    rgb, scale = picture.convert("RGB"), SHORTEST_SIDE / min(picture.size)
    if scale < 1:
        size = [max(SHORTEST_SIDE, round(side * scale)) for side in rgb.size]
        rgb = rgb.resize(size, Image.Resampling.LANCZOS)
    rgb.save(target.with_name(f"{target.name}.jpg"), quality=JPEG_QUALITY)
