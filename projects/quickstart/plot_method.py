"""Plot the method on scikit-image's photographs.

python -m projects.quickstart.plot_method OUT.png
"""

import argparse
from pathlib import Path

import numpy as np
import skimage
import torch
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from skimage.io import imread

from mcl.datasets import Montage, MultiLevelViews
from tools.browse_montage import image_color, plot_canvas

# Photographs inside scikit-image's wheel, all in the public domain.
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
SIZE, RATIOS, BATCH = 224, (1, 2, 4, 8), 16
LEVELS = ("P5, stride 32", "P4, stride 16", "P3, stride 8", "P2, stride 4")
# The image whose tiles are linked to its target, one that several levels show.
LINKED = 4
MEAN, STD = torch.zeros(3), torch.ones(3)  # the canvases are not normalized


def crops() -> list[torch.Tensor]:
    """Crops of BATCH parts of the photographs: (BATCH, 3, S / r, S / r) per level."""
    folder = Path(skimage.__file__).parent / "data"
    photos = [imread(folder / name)[..., :3] for name in PHOTOS]
    views = MultiLevelViews(SIZE, RATIOS, crop_scale=(0.5, 1.0))
    samples = []
    for i in range(BATCH):
        photo = photos[i % len(photos)]
        half = np.array(photo.shape[:2]) // 2
        top, left = half * divmod(i // len(photos), 2)
        part = photo[top : top + half[0], left : left + half[1], ::-1]
        samples.append(views(dict(img=part))["img"])
    return [torch.stack(level) for level in zip(*samples, strict=True)]


def plot_method(out: str) -> None:
    """Write the picture: a canvas per level, the targets, and arrows between them."""
    torch.manual_seed(3)
    batch = crops()
    view = Montage(SIZE, RATIOS)(dict(crops=batch[: len(RATIOS)]))["view"]
    alone = batch[len(RATIOS)]
    figure = Figure(figsize=(12, 5.6), dpi=110)
    grid = figure.add_gridspec(2, 16, height_ratios=[3.2, 1], hspace=0.55, wspace=0.08)
    targets = [figure.add_subplot(grid[1, image]) for image in range(BATCH)]
    for image, axis in enumerate(targets):
        axis.imshow(plot_canvas(alone[image], [image], MEAN, STD))
    for level, ratio in enumerate(RATIOS):
        axis = figure.add_subplot(grid[0, 4 * level : 4 * level + 4])
        axis.set_title(f"{LEVELS[level]}\n{ratio} x {ratio} tiles of 7 x 7 cells")
        # The canvas that shows the linked image.
        index = view.image_index[level].tolist()
        canvas = index.index(LINKED) // ratio**2
        tiles = index[canvas * ratio**2 : (canvas + 1) * ratio**2]
        axis.imshow(plot_canvas(view.canvases[level][canvas], tiles, MEAN, STD))
        row, column = divmod(tiles.index(LINKED), ratio)
        side = SIZE / ratio
        arrow = ConnectionPatch(
            ((column + 0.5) * side, (row + 0.5) * side),
            (SIZE / 2, 0),
            axis.transData,
            targets[LINKED].transData,
            arrowstyle="->",
            linewidth=2,
            color=np.array(image_color(LINKED)) / 255,
        )
        figure.add_artist(arrow)
    for axis in figure.axes:
        axis.set_axis_off()
    targets[0].set_title(
        "target network: the images alone, view 2 (level P5)", loc="left", y=-0.55
    )
    figure.suptitle("online network: canvases of view 1, one level each", y=1.02)
    figure.savefig(out, bbox_inches="tight")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="PNG file to write")
    plot_method(parser.parse_args().out)
