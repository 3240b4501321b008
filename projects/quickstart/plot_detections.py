"""Plot ground truth and detections side by side."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pycocotools.coco import COCO
from skimage.io import imread

SIDE = 3.0  # inches of a picture
OPACITY = 0.45  # of a mask
LEAST_SCORE = 0.3  # of a detection that is shown
# Color-blind friendly, and bright enough for black text.
COLORS = "#e69f00 #56b4e9 #00be8c #f0e442 #7896ff #ff783c #e68cbe #c8c8c8".split()


def plot_detections(
    images: Path, ann_file: Path, results: dict[str, Path], out: Path, count: int = 6
) -> None:
    """Write a PNG: a row for each picture, the ground truth and a column per result.

    Args:
        images: folder of the pictures.
        ann_file: their COCO annotations.
        results: title to the ``PREFIX.segm.json`` that MMDetection's ``CocoMetric``
            writes with ``outfile_prefix=PREFIX``.
        out: file to write.
        count: pictures, those of the lowest ids.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(ann_file))
    columns = {"ground truth": list(truth.anns.values())}
    for title, file in results.items():
        found = json.loads(Path(file).read_text())
        columns[title] = [row for row in found if row["score"] >= LEAST_SCORE]
    keys = sorted(truth.imgs)[:count]
    size = SIDE * len(columns), SIDE * len(keys)
    figure = Figure(figsize=size, layout="compressed")
    axes = figure.subplots(len(keys), len(columns), squeeze=False)
    for key, line in zip(keys, axes, strict=True):
        picture = imread(Path(images) / truth.imgs[key]["file_name"])
        for axis, rows in zip(line, columns.values(), strict=True):
            rows = [row for row in rows if row["image_id"] == key]
            plot_objects(axis, picture, rows, truth)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title)
    figure.savefig(out, dpi=110)


def plot_objects(axis: Axes, picture: np.ndarray, rows: list, truth: COCO) -> None:
    """Masks, boxes, classes and scores of COCO annotations on their picture."""
    axis.imshow(picture, interpolation="bicubic")
    axis.set_axis_off()
    # Scores rise, so the best is on top.
    for k, row in enumerate(sorted(rows, key=lambda row: row.get("score", 1))):
        color = to_rgb(COLORS[k % len(COLORS)])
        mask = truth.annToMask(row)[..., None] > 0
        axis.imshow(np.where(mask, (*color, OPACITY), 0.0), interpolation="nearest")
        x, y, width, height = row["bbox"]
        corner = (x - 0.5, y - 0.5)  # pixel 0 lies around 0
        frame = Rectangle(corner, width, height, fill=False, color=color, lw=1.5)
        axis.add_patch(frame)
        text = truth.cats[row["category_id"]]["name"]
        text += f" {row['score']:.2f}" if "score" in row else ""
        # The tag lies above the box, but inside the picture.
        place = min(x, 0.75 * picture.shape[1]), max(y, 0.06 * picture.shape[0])
        axis.text(*place, text, fontsize=7, bbox=dict(color=color, pad=1))
