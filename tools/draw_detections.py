"""Draw ground truth and detections side by side into one PNG.

Rows are pictures, columns the ground truth and then every named result file. A
result file is the ``PREFIX.segm.json`` (or ``PREFIX.bbox.json``) that MMDetection's
``CocoMetric`` writes with ``outfile_prefix=PREFIX``.

    python tools/draw_detections.py IMAGES ANN.json OUT.png --result ours=ours.segm.json
"""

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

CELL = 320  # px: longest side of a picture in the grid
GAP = 6  # px between cells
HEADER = 26  # px for the names of the columns
OPACITY = 0.45
# Color-blind friendly and bright enough for black text.
COLORS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 190, 140),
    (240, 228, 66),
    (120, 150, 255),
    (255, 120, 60),
    (230, 140, 190),
    (200, 200, 200),
)


def is_detection(row):
    """Whether ``row`` has the keys of a COCO detection."""
    return (
        isinstance(row, dict)
        and {"image_id", "category_id", "score"} <= set(row)
        and bool(row.get("bbox") or row.get("segmentation"))
    )


def load_results(name, file):
    """Read a result file; returns its detections per image id, best last.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is no COCO result list.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(
            f"result {name}: {file} is missing; give the PREFIX.segm.json that "
            "CocoMetric writes with outfile_prefix=PREFIX."
        )
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        fits = isinstance(rows, list) and all(map(is_detection, rows))
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"result {name}: {file} is no list of COCO detections; give a "
            "PREFIX.segm.json or PREFIX.bbox.json of CocoMetric."
        )
    found = {}
    for row in sorted(rows, key=lambda row: row["score"]):
        found.setdefault(row["image_id"], []).append(row)
    return found


def load_truth(ann_file):
    """Open the annotations without the progress lines of pycocotools.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file holds no COCO annotations.
    """
    if not Path(ann_file).is_file():
        raise FileNotFoundError(
            f"annotations {ann_file} are missing; give the COCO file of the pictures."
        )
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(ann_file))
    except (ValueError, TypeError, KeyError, AssertionError):
        truth = None
    if truth is None or not truth.imgs or not truth.cats:
        raise ValueError(
            f"annotations {ann_file} are no COCO file with images, annotations and "
            "categories; give the one of the pictures."
        )
    return truth


def read_mask(row, info):
    """Mask of an annotation or detection (bool, H x W), or None for a box alone."""
    shape = row.get("segmentation")
    if not shape:
        return None
    if isinstance(shape, list):
        codes = mask_utils.frPyObjects(shape, info["height"], info["width"])
        shape = mask_utils.merge(codes)
    elif isinstance(shape["counts"], list):
        shape = mask_utils.frPyObjects(shape, info["height"], info["width"])
    return mask_utils.decode(shape).astype(bool)


def read_box(row, mask):
    """Box x, y, width, height in px: the given one, else around the mask."""
    if row.get("bbox") or mask is None:
        return row["bbox"]
    return mask_utils.toBbox(mask_utils.encode(np.asfortranarray(mask, np.uint8)))


def overlay(picture, rows, info, names):
    """An enlarged picture with masks, boxes and labels of ``rows`` (PIL image)."""
    scale = CELL / max(info["width"], info["height"])
    size = round(info["width"] * scale), round(info["height"] * scale)
    canvas = np.asarray(picture.resize(size, Image.Resampling.BICUBIC)).copy()
    boxes = []
    for k, row in enumerate(rows):
        color, mask = COLORS[k % len(COLORS)], read_mask(row, info)
        if mask is not None:
            inside = np.asarray(Image.fromarray(mask).resize(size))
            mixed = (1 - OPACITY) * canvas[inside] + OPACITY * np.array(color)
            canvas[inside] = mixed.astype(np.uint8)
        boxes.append((np.asarray(read_box(row, mask)) * scale, color))
    image = Image.fromarray(canvas)
    pen = ImageDraw.Draw(image)
    for (x, y, width, height), color in boxes:
        corners = [x, y, max(x, x + width - 1), max(y, y + height - 1)]
        pen.rectangle(corners, outline=color, width=2)
    for row, ((x, y, *_), color) in zip(rows, boxes, strict=True):
        text = names.get(row["category_id"], str(row["category_id"]))
        if "score" in row:
            text += f" {row['score']:.2f}"
        write_label(pen, x, y, text, color, size)
    return image


def write_label(pen, x, y, text, color, size):
    """Black text on a filled tag above (x, y) px, kept inside the picture."""
    font = ImageFont.load_default(13)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 5
    x = min(max(0, x), max(0, size[0] - width))
    y = min(max(0, y - height), size[1] - height)
    pen.rectangle([x, y, x + width, y + height], fill=color)
    pen.text((x + 3 - left, y + 2 - top), text, fill=(0, 0, 0), font=font)


def read_picture(images_dir, info):
    """Open a picture as RGB.

    Raises:
        FileNotFoundError: the folder lacks the annotated picture.
    """
    file = Path(images_dir) / info["file_name"]
    if not file.is_file():
        raise FileNotFoundError(
            f"picture {file} is missing; give the folder that the annotations refer to."
        )
    with Image.open(file) as picture:
        return picture.convert("RGB")


def draw(images_dir, ann_file, results, out_png, count=8, score_thr=0.3):
    """Write the grid of ground truth and results to ``out_png``.

    Args:
        images_dir: folder of the pictures.
        ann_file: COCO annotations of the pictures.
        results: dict of column name to COCO result file.
        out_png: PNG file to write; its folder is created.
        count: number of pictures, from the first image id on, at least 1.
        score_thr: lowest score (0-1) of a drawn detection.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file or number does not fit.
    """
    if count < 1:
        raise ValueError(f"count is {count}; give an integer of at least 1.")
    if not 0 <= score_thr <= 1:
        raise ValueError(f"score_thr is {score_thr}; give a number from 0 to 1.")
    truth = load_truth(ann_file)
    names = {key: entry["name"] for key, entry in truth.cats.items()}
    found = {name: load_results(name, file) for name, file in results.items()}
    for name, rows in found.items():
        unknown = sorted(set(rows) - set(truth.imgs))
        if unknown:
            raise ValueError(
                f"result {name}: image_id {unknown[0]} is not in {ann_file}; give the "
                "annotations that the detector was evaluated on."
            )
    grid = []
    for key in sorted(truth.imgs)[:count]:
        info = truth.imgs[key]
        picture, columns = read_picture(images_dir, info), [truth.imgToAnns[key]]
        for rows in found.values():
            columns.append([r for r in rows.get(key, []) if r["score"] >= score_thr])
        grid.append([overlay(picture, rows, info, names) for rows in columns])
    sheet = arrange(grid, ["ground truth", *results])
    Path(out_png).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out_png, format="PNG")


def arrange(grid, titles):
    """Put rows of PIL images under column titles on one white sheet."""
    step = CELL + GAP
    heights = [row[0].height + GAP for row in grid]
    size = GAP + len(titles) * step, HEADER + sum(heights)
    sheet = Image.new("RGB", size, (255, 255, 255))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for column, title in enumerate(titles):
        pen.text((GAP + column * step, 4), title, fill=(0, 0, 0), font=font)
    top = HEADER
    for row, height in zip(grid, heights, strict=True):
        for column, image in enumerate(row):
            sheet.paste(image, (GAP + column * step, top))
        top += height
    return sheet


def parse_results(pairs):
    """Turn ``NAME=FILE`` words into a dict.

    Raises:
        ValueError: a word has no name or no file.
    """
    results = {}
    for pair in pairs:
        name, _, file = pair.partition("=")
        if not name or not file:
            raise ValueError(f"--result is {pair!r}; give NAME=FILE.")
        results[name] = file
    return results


def parse_args(argv):
    """Command line to namespace."""
    parser = argparse.ArgumentParser(
        description="Draw ground truth and detections side by side into one PNG."
    )
    parser.add_argument("images", metavar="IMAGES", help="folder of the pictures")
    parser.add_argument("annotations", metavar="ANN", help="COCO annotations")
    parser.add_argument("out", metavar="OUT", help="PNG file to write")
    parser.add_argument(
        "--result",
        metavar="NAME=FILE",
        action="append",
        default=[],
        help="a column: PREFIX.segm.json of CocoMetric; repeatable",
    )
    parser.add_argument(
        "--count", type=int, default=8, help="number of pictures (default %(default)s)"
    )
    parser.add_argument(
        "--score-thr",
        type=float,
        default=0.3,
        help="lowest drawn score (default %(default)s)",
    )
    return parser.parse_args(argv)


def main(argv=None):
    """Run the command line; returns the exit status."""
    args = parse_args(argv)
    try:
        draw(
            args.images,
            args.annotations,
            parse_results(args.result),
            args.out,
            args.count,
            args.score_thr,
        )
    except (OSError, ValueError) as error:
        print(f"draw_detections: {error}", file=sys.stderr)
        return 1
    print(f"wrote {args.out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
