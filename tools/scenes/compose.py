"""Compose pictures from cut-outs and photographs for ``make_scenes.py``."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import skimage
from drawings import trim
from PIL import Image
from pycocotools import mask as mask_utils

# Photographs and textures; coffee.png is left out, its mug is one of the classes.
GROUNDS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "rocket.jpg",
)
GROUND_CROP = (0.2, 0.45)  # of the short side: too little to show a whole object
DISTRACTOR_CORNERS = (4, 9)
MAIN_SCALE = (0.4, 0.95)  # the same for the main object of a pretrain picture
SOLID = 128  # alpha from which a pixel belongs to the object
TILT = 35.0  # degrees of rotation to either side
MIN_VISIBLE = 0.4  # of an object's own area, or it is not placed
MIN_PIXELS = 32  # visible pixels of an object, or it is not placed
TRIES = 30  # cut-outs tried per wanted object


@dataclass(frozen=True)
class SceneRules:
    """What a scene holds.

    ``objects`` and ``distractors`` are (least, most) per scene; ``scale`` is the
    range of an object's longest side by the side of the scene.
    """

    objects: tuple = (1, 6)
    scale: tuple = (0.16, 0.8)
    distractors: tuple = (0, 0)


def load_grounds(folder=None):
    """Read photographs: a folder's, used as they are, or scikit-image's own.

    Raises:
        FileNotFoundError: there is none, or the installed package lacks one.
    """
    if folder is not None:
        files = sorted(
            f for f in Path(folder).glob("*") if f.suffix in (".jpg", ".png")
        )
        if not files:
            raise FileNotFoundError(
                f"{folder} holds no .jpg or .png picture; put photographs there, see "
                "tools/replication/materials.py."
            )
        return Grounds([read_ground(file) for file in files], recolor=False)
    folder = Path(skimage.__file__).parent / "data"
    grounds = []
    for name in GROUNDS:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing; reinstall scikit-image from its wheel."
            )
        grounds.append(read_ground(folder / name))
    return Grounds(grounds)


def read_ground(file):
    """One photograph as an RGB uint8 array."""
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


@dataclass(frozen=True)
class Grounds:
    """Photographs, and whether their crops are recolored: few ones need that."""

    photos: list
    recolor: bool = True

    def sample(self, rng, height, width):
        """A random crop of one photograph (float32, H x W x 3, 0-255)."""
        image = crop_ground(rng, self.photos, height, width)
        return recolored(rng, image) if self.recolor else image.astype(np.float32)


@dataclass(frozen=True)
class Fixed:
    """One ground for many pictures (float32, H x W x 3, 0-255); its corner is used."""

    ground: np.ndarray

    def sample(self, rng, height, width):
        """The same part each time, for pictures up to the ground's size."""
        return self.ground[:height, :width]


def crop_ground(rng, grounds, height, width):
    """A random crop of one photograph, resized (uint8, H x W x 3)."""
    photo = grounds[rng.integers(len(grounds))]
    side = rng.uniform(*GROUND_CROP) * min(photo.shape[:2]) / max(height, width)
    tall, wide = max(8, int(height * side)), max(8, int(width * side))
    top = rng.integers(photo.shape[0] - tall + 1)
    left = rng.integers(photo.shape[1] - wide + 1)
    crop = photo[top : top + tall, left : left + wide]
    crop = crop[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    method = cv2.INTER_AREA if tall > height else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(crop), (width, height), interpolation=method)


def recolored(rng, image):
    """Turn the hues of an RGB image, dim and tint it (float32, 0-255)."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + rng.integers(180)) % 180
    hsv[..., 1] = (hsv[..., 1] * rng.uniform(0.3, 1.0)).astype(np.uint8)
    image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)
    # Gray photographs have no hue to turn, a tint colors them as well.
    tint = rng.uniform(0.6, 1.25) * rng.uniform(0.8, 1.2, 3)
    return np.clip(image * tint.astype(np.float32), 0, 255)


def make_layer(rng, rgba, longest):
    """Flip, dim, turn and resize a cut-out to ``longest`` px on its longest side.

    Returns a float32 array (H x W x 4, 0-255) with premultiplied alpha: resizing
    straight alpha would pull the hidden color of clear pixels into the edge.
    """
    layer = rgba.astype(np.float32)
    if rng.random() < 0.5:
        layer = layer[:, ::-1]
    layer[..., :3] = np.clip(layer[..., :3] * rng.uniform(0.7, 1.2), 0, 255)
    layer[..., :3] *= layer[..., 3:] / 255
    height, width = layer.shape[:2]
    side = int(np.hypot(height, width)) + 3
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-TILT, TILT), 1)
    turn[:, 2] += side / 2 - width / 2, side / 2 - height / 2
    layer = trim(cv2.warpAffine(np.ascontiguousarray(layer), turn, (side, side)))
    scale = longest / max(layer.shape[:2])
    size = [max(1, round(n * scale)) for n in layer.shape[1::-1]]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(layer, size, interpolation=method)


def pick_offset(rng, length, room, overhang):
    """A start for ``length`` px inside ``room`` px; part ``overhang`` may stick out."""
    low, high = -overhang * length, room - (1 - overhang) * length
    return round(rng.uniform(low, high) if high > low else (low + high) / 2)


def place(layer, left, top, height, width):
    """Put a layer on an empty H x W x 4 canvas; what sticks out is cut off."""
    canvas = np.zeros((height, width, 4), np.float32)
    tall, wide = layer.shape[:2]
    y, x = max(0, top), max(0, left)
    part = layer[y - top : height - top, x - left : width - left]
    canvas[y : top + tall, x : left + wide] = part
    return canvas


def blend(image, canvas):
    """Cover an RGB image with a premultiplied RGBA canvas of the same size."""
    return image * (1 - canvas[..., 3:] / 255) + canvas[..., :3]


def compose_object(rng, source, grounds, longest_side, main=None, scale=MAIN_SCALE):
    """A picture of one main object, in part with a small one behind it.

    ``main`` is the RGBA cut-out of the main object, drawn from ``source`` when None;
    ``scale`` is the range of its longest side by the shorter side of the picture.
    Returns an RGB array (uint8); its longest side is ``longest_side`` px, the
    other one at least three quarters of it.
    """
    short = longest_side
    if rng.random() < 0.5:
        short = round(longest_side * rng.uniform(0.75, 1))
    height, width = (short, longest_side)[:: rng.choice([-1, 1])]
    image = grounds.sample(rng, height, width)
    wanted = [(rng.uniform(*scale), 0.0)]
    if rng.random() < 0.25:
        wanted.insert(0, (rng.uniform(0.12, 0.28), 0.3))
    for number, (part, overhang) in enumerate(wanted, 1):
        is_given = main is not None and number == len(wanted)
        rgba = main if is_given else source.sample(rng)[0]
        layer = make_layer(rng, rgba, part * short)
        left = pick_offset(rng, layer.shape[1], width, overhang)
        top = pick_offset(rng, layer.shape[0], height, overhang)
        image = blend(image, place(layer, left, top, height, width))
    return np.round(image).astype(np.uint8)


def make_distractor(rng, grounds, longest):
    """A shard of another photograph: no object, yet with an outline like one.

    Returns a float32 array (H x W x 4, 0-255) with premultiplied alpha.
    """
    side = max(4, round(longest))
    corners = rng.integers(*DISTRACTOR_CORNERS)
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    reach = rng.uniform(0.4, 1, corners) * side / 2
    points = np.stack([np.cos(angle), np.sin(angle)], 1) * reach[:, None] + side / 2
    alpha = np.zeros((side, side), np.uint8)
    cv2.fillPoly(alpha, [np.round(points).astype(np.int32)], 255)
    alpha = cv2.blur(alpha, (3, 3)).astype(np.float32)
    colors = grounds.sample(rng, side, side) * (alpha[..., None] / 255)
    return np.dstack([colors, alpha])


class Scene:
    """A square picture that is filled layer by layer; later ones cover earlier."""

    def __init__(self, rng, grounds, side):
        self.rng, self.side = rng, side
        self.image = grounds.sample(rng, side, side)
        # Of every pixel: -1 for ground and distractors, else the object's place.
        self.owner = np.full((side, side), -1)
        self.areas, self.classes = [], []

    def add(self, layer, index=None):
        """Put a layer somewhere; no object's visible part may become too small.

        ``index`` is the class of an object, None for a distractor. Returns
        whether it was placed.
        """
        left = pick_offset(self.rng, layer.shape[1], self.side, 0.15)
        top = pick_offset(self.rng, layer.shape[0], self.side, 0.15)
        canvas = place(layer, left, top, self.side, self.side)
        areas = list(self.areas)
        if index is not None:
            areas.append(np.count_nonzero(layer[..., 3] >= SOLID))
        code = len(self.areas) if index is not None else -1
        covered = np.where(canvas[..., 3] >= SOLID, code, self.owner)
        total = np.array(areas)
        seen = np.bincount(covered.ravel() + 1, minlength=len(total) + 1)[1:]
        if (seen < np.maximum(MIN_PIXELS, MIN_VISIBLE * total)).any():
            return False
        self.image = blend(self.image, canvas)
        self.owner, self.areas = covered, areas
        if index is not None:
            self.classes.append(index)
        return True


def compose_scene(rng, source, grounds, side, rules=None):
    """A square scene of ``side`` px with the objects that ``rules`` ask for.

    Returns the RGB picture (uint8), the owner of every pixel (int, -1 for the
    ground, else the place in the next list) and the class index per object.
    Later objects cover earlier ones; a draw that would hide too much of any
    object is dropped, so a full scene may end up with fewer objects than drawn.

    Raises:
        ValueError: no cut-out of the source shows enough pixels at this size.
    """
    rules = rules or SceneRules()
    scene = Scene(rng, grounds, side)

    def longest():
        return side * np.exp(rng.uniform(*np.log(rules.scale)))

    wanted = rng.integers(rules.objects[0], rules.objects[1] + 1)
    distractors = 0
    if rules.distractors[1]:
        distractors = rng.integers(rules.distractors[0], rules.distractors[1] + 1)
    for _ in range(TRIES * wanted):
        # Chances that spread the distractors over the layers.
        if distractors and rng.random() * (wanted + distractors) < distractors:
            scene.add(make_distractor(rng, grounds, longest()))
            distractors -= 1
            continue
        rgba, index = source.sample(rng)
        scene.add(make_layer(rng, rgba, longest()), index)
        if len(scene.classes) == wanted:
            break
    if not scene.classes:
        raise ValueError(
            f"no cut-out shows {MIN_PIXELS} pixels in a scene of {side} px; raise "
            "--scene-size or use cut-outs with a larger solid part."
        )
    return np.round(scene.image).astype(np.uint8), scene.owner, scene.classes


def describe(owner, classes):
    """COCO annotations (without ids) of the visible part of every object."""
    notes = []
    for k, index in enumerate(classes):
        code = mask_utils.encode(np.asfortranarray(owner == k, dtype=np.uint8))
        box, area = mask_utils.toBbox(code).tolist(), int(mask_utils.area(code))
        code["counts"] = code["counts"].decode()
        notes.append(
            dict(
                category_id=index + 1, segmentation=code, bbox=box, area=area, iscrowd=0
            )
        )
    return notes
