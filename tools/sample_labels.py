"""Sample a few per cent of the labeled images of a COCO-format file.

    python tools/sample_labels.py ANN OUT_DIR --percent 1 2 5 10 --seed 1

writes OUT_DIR/<name of ANN>.seed1@1.json and so on, each with all fields of ANN. The
seed and the images' ids give an order, whose first images are taken: none twice, 1 %
is a part of 2 %, and any machine takes the same. MMDetection's
tools/misc/split_coco.py samples with replacement and drops repeated images: its 10 %
are about 100 % x (1 - exp(-0.1)) = 9.5 % of the images.
"""

import argparse
import hashlib
import json
from pathlib import Path

from mcl.errors import InputError, run_cli


def read_annotations(path: Path) -> dict:
    """The content of a COCO-format file.

    Raises:
        InputError: when there is no such file, or it is in another format.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"ANN={path}: it cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"ANN={path}: it is no JSON file ({error})") from error
    if not isinstance(content, dict) or not {"images", "annotations"} <= set(content):
        raise InputError(
            f"ANN={path}: it has no `images` and `annotations`; give a file in COCO's "
            "format"
        )
    try:
        ids = [image["id"] for image in content["images"]]
        {note["image_id"] for note in content["annotations"]}
    except (KeyError, TypeError) as error:
        raise InputError(
            f"ANN={path}: an image without `id` or an annotation without `image_id`; "
            "give a file in COCO's format"
        ) from error
    if len(set(ids)) < len(ids):
        raise InputError(f"ANN={path}: {len(ids) - len(set(ids))} image ids come twice")
    return content


def sample(content: dict, percent: float, seed: int) -> dict:
    """``content`` with ``percent`` % of its images and what is annotated on them.

    Raises:
        InputError: when that is no image at all, or more than there are.
    """
    ids = [image["id"] for image in content["images"]]
    number = round(len(ids) * percent / 100) if 0 < percent <= 100 else 0
    if not number:
        raise InputError(
            f"--percent {percent:g}: that is no part of {len(ids)} images; give more "
            "than 0 and at most 100, and enough for one image"
        )
    chosen = set(sorted(ids, key=lambda image: _place(image, seed))[:number])
    return {
        **content,
        "images": [i for i in content["images"] if i["id"] in chosen],
        "annotations": [a for a in content["annotations"] if a["image_id"] in chosen],
    }


def _place(image: int | str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {image}".encode()).digest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "annotations", metavar="ANN", type=Path, help="COCO-format file"
    )
    parser.add_argument("out_dir", metavar="OUT_DIR", type=Path, help="folder to write")
    parser.add_argument(
        "--percent", nargs="+", type=float, required=True, help="parts of the images"
    )
    parser.add_argument("--seed", type=int, default=1, help="which images")
    args = parser.parse_args()
    content = read_annotations(args.annotations)
    parts = {percent: sample(content, percent, args.seed) for percent in args.percent}
    for percent, part in parts.items():
        name = f"{args.annotations.stem}.seed{args.seed}@{percent:g}.json"
        try:
            args.out_dir.mkdir(parents=True, exist_ok=True)
            partial = args.out_dir / f"{name}.partial"
            partial.write_text(json.dumps(part))
            partial.replace(args.out_dir / name)
        except OSError as error:
            raise InputError(
                f"OUT_DIR={args.out_dir}: it cannot be written to ({error.strerror})"
            ) from error
        images, boxes = len(part["images"]), len(part["annotations"])
        print(f"{args.out_dir / name}: {images} images, {boxes} annotations")


if __name__ == "__main__":
    run_cli(main)
