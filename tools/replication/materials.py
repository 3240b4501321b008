"""Make the pictures of the replication data set from packages of Debian.

    python tools/replication/materials.py OUT --root ROOT

writes the grounds (OUT/grounds/train and OUT/grounds/val: photographs and textures,
none in both), the cut-outs (OUT/cutouts/<class>: objects with an alpha channel) and
OUT/card.json (packages, checksums, Pillow's version). ROOT is a folder that holds the
packages' usr/share; where they are installed, that is /. Without installing:

    apt-get download PACKAGE && dpkg -x PACKAGE_*.deb ROOT

The pictures keep their packages' licenses (the cut-outs': GPL-2) and are not part of
this repository; materials.json beside this file only lists which ones are taken. The
bytes follow from the packages and from Pillow, whose versions may differ in them.
"""

import argparse
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import PIL
from PIL import Image

from mcl.errors import InputError, run_cli

sys.path.append(str(Path(__file__).resolve().parents[1] / "scenes"))

from cutouts import digest_files

LIST = Path(__file__).with_suffix(".json")
CARD, PARTIAL = "card.json", "card.json.partial"
LONGEST_SIDE = 192  # of a cut-out, in pixels
SHORTEST_SIDE = 1080  # of a ground, in pixels
FAINT = 32  # an alpha (of 255) that does not widen the box of a cut-out
JPEG_QUALITY = 92


@dataclass(frozen=True)
class Picture:
    """One picture to make: ``target`` below OUT of ``source`` below the root."""

    target: str
    source: str
    package: str


def pictures(listed: dict) -> list[Picture]:
    """What the list asks for, grounds first, each kind by package and name.

    Args:
        listed: the content of materials.json: ``packages`` (name to version) and, for
            each of ``grounds`` and ``cutouts``, package to name to path. A name is a
            folder and a stem, ``val/dune``.
    """
    return [
        Picture(f"{kind}/{name}.{suffix}", source, package)
        for kind, suffix in (("grounds", "jpg"), ("cutouts", "png"))
        for package, files in listed[kind].items()
        for name, source in files.items()
    ]


def make_cutout(picture: Image.Image) -> Image.Image:
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
    return rgba


def make_ground(picture: Image.Image) -> Image.Image:
    """RGB of any mode, the short side at most 1080 pixels."""
    rgb, scale = picture.convert("RGB"), SHORTEST_SIDE / min(picture.size)
    if scale >= 1:
        return rgb
    size = [max(SHORTEST_SIDE, round(side * scale)) for side in rgb.size]
    return rgb.resize(size, Image.Resampling.LANCZOS)


def check_sources(root: Path, wanted: list[Picture], versions: dict) -> None:
    """Whether all packages are there.

    Raises:
        InputError: with one line for each package that lacks a file.
    """
    missing = {}
    for picture in wanted:
        if not (root / picture.source).is_file():
            missing.setdefault(picture.package, []).append(root / picture.source)
    if missing:
        lines = [
            f"{files[0]}: no such file ({len(files)} missing of package {package}, "
            f"version {versions[package]}); run `apt-get download {package} && dpkg -x "
            f"{package}_*.deb ROOT` and give --root ROOT"
            for package, files in missing.items()
        ]
        raise InputError("\n".join(lines))


def check_folder(out: Path, wanted: list[Picture]) -> None:
    """Whether ``out`` may be written to.

    Raises:
        InputError: when it is a file, or holds one that this tool does not make.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"OUT={out}: that is a file; name a folder")
    own = {CARD, PARTIAL, *(picture.target for picture in wanted)}
    for file in sorted(out.rglob("*")):
        name = file.relative_to(out).as_posix()
        if not file.is_dir() and name not in own:
            raise InputError(
                f"OUT={out}: it holds {name}, which is not of these materials; name a "
                "new or empty folder"
            )


def make_card(out: Path, listed: dict, wanted: list[Picture]) -> dict:
    """What is in ``out``: packages, and files and SHA-256 for each set.

    A set's files are joined in the order of their names. ``list_sha256`` tells which
    list it was.
    """
    sets = {}
    for target in sorted(picture.target for picture in wanted):
        kind, folder = target.split("/")[:2]
        name = kind if kind == "cutouts" else f"{kind}/{folder}"
        sets.setdefault(name, []).append(out / target)
    content = json.dumps(listed, sort_keys=True).encode()
    return dict(
        packages=listed["packages"],
        list_sha256=hashlib.sha256(content).hexdigest(),
        pillow=PIL.__version__,
        sets={
            name: dict(files=len(files), sha256=digest_files(files))
            for name, files in sets.items()
        },
    )


def is_finished(out: Path, listed: dict, wanted: list[Picture]) -> bool:
    """Whether ``out`` holds what its card says, made by this list.

    Pillow's version does not count: pictures that an older one made stay.
    """
    try:
        stored = json.loads((out / CARD).read_text())
        found = make_card(out, listed, wanted)
    except (OSError, ValueError):
        return False
    return isinstance(stored, dict) and stored == {
        **found,
        "pillow": stored.get("pillow"),
    }


def make(out: Path, root: Path, listed: dict) -> tuple[dict, bool]:
    """Make all pictures and then the card, unless they are there.

    The card comes last and goes first, so that a folder without one is unfinished.

    Args:
        out: folder; created if missing.
        root: folder that holds the packages' ``usr/share``.
        listed: as for :func:`pictures`.

    Returns:
        The card and whether anything was written.

    Raises:
        InputError: when a file is missing or no picture, or ``out`` cannot be used.
    """
    wanted = pictures(listed)
    check_folder(out, wanted)
    if is_finished(out, listed, wanted):
        return json.loads((out / CARD).read_text()), False
    check_sources(root, wanted, listed["packages"])
    try:
        (out / CARD).unlink(missing_ok=True)
        for picture in wanted:
            _write(out / picture.target, root / picture.source, picture.package)
        card = make_card(out, listed, wanted)
        (out / PARTIAL).write_text(json.dumps(card, indent=2) + "\n")
        (out / PARTIAL).replace(out / CARD)
    except OSError as error:
        raise InputError(f"OUT={out}: it cannot be written to ({error})") from error
    return card, True


def _write(target: Path, source: Path, package: str) -> None:
    is_cutout = target.suffix == ".png"
    change = make_cutout if is_cutout else make_ground
    options = dict(optimize=True) if is_cutout else dict(quality=JPEG_QUALITY)
    try:
        with Image.open(source) as picture:
            made = change(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"{source}: it cannot be used ({error}); unpack package {package} again"
        ) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    made.save(target, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    parser.add_argument(
        "--root", type=Path, default=Path("/"), help="folder with usr/share (default /)"
    )
    args = parser.parse_args()
    card, written = make(args.out, args.root, json.loads(LIST.read_text()))
    print(f"{args.out}: {'made' if written else 'was finished, nothing to do'}")
    for name, content in card["sets"].items():
        print(f"{name}: {content['files']} pictures, sha256 {content['sha256']}")


if __name__ == "__main__":
    run_cli(main)
