"""Compose pictures from cut-outs and photographs."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import skimage
from PIL import Image
from pycocotools import mask as mask_utils

from mcl.errors import InputError

from .drawings import trim

# Photographs and textures; coffee.png is left out, its mug is one of the classes.
GROUNDS = (
    *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "grass.png"),
    *("gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png"),
    *("motorcycle_left.png", "rocket.jpg"),
)
GROUND_CROP = (0.2, 0.45)  # of the short side: too little to show a whole object
DISTRACTOR_CORNERS = (4, 9)
LARGEST_MAIN = 0.95  # longest side of a main object by its picture's short side
LARGEST = 0.8  # longest side of an object by its scene's side
SOLID = 128  # alpha from which a pixel belongs to the object
TILT = 35.0  # degrees of rotation to either side
MIN_VISIBLE = 0.4  # of an object's own area, or it is not placed
MIN_PIXELS = 32  # visible pixels of an object, or it is not placed
TRIES = 30  # cut-outs tried per wanted object


def load_grounds(folder=None):
    """Read photographs: a folder's, used as they are, or scikit-image's own.

    Raises:
        InputError: the folder holds none.
    """
    if folder is None:
        files = [Path(skimage.__file__).parent / "data" / name for name in GROUNDS]
    else:
        files = sorted(
            f for f in Path(folder).glob("*") if f.suffix in (".jpg", ".png")
        )
    if not files:
        raise InputError(f"--grounds: {folder} holds no .jpg or .png picture")
    return Grounds([read_ground(file) for file in files], recolor=folder is None)


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

    Returns a float32 array (H x W x 4, 0-255) with premultiplied alpha. Resizing
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


def compose_object(rng, source, grounds, longest_side, smallest, main=None):
    """A picture of one main object; a quarter of them have a small one behind it.

    Args:
        rng: NumPy generator.
        source: of cut-outs.
        grounds: a :class:`Grounds` or :class:`Fixed`.
        longest_side: of the picture, px; the other is at least three quarters of it.
        smallest: least longest side of the main object by the picture's shorter side.
        main: its RGBA cut-out, sampled from ``source`` when None.

    Returns:
        RGB array (uint8).
    """
    short = longest_side
    if rng.random() < 0.5:
        short = round(longest_side * rng.uniform(0.75, 1))
    height, width = (short, longest_side)[:: rng.choice([-1, 1])]
    image = grounds.sample(rng, height, width)
    wanted = [(rng.uniform(smallest, LARGEST_MAIN), 0.0)]
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
        """Put a layer somewhere, unless an object's visible part becomes too small.

        Args:
            layer: premultiplied RGBA.
            index: class of an object, None for a distractor.
        """
        left = pick_offset(self.rng, layer.shape[1], self.side, 0.15)
        top = pick_offset(self.rng, layer.shape[0], self.side, 0.15)
        canvas = place(layer, left, top, self.side, self.side)
        is_object = index is not None
        areas = list(self.areas)
        if is_object:
            areas.append(np.count_nonzero(layer[..., 3] >= SOLID))
        code = len(self.areas) if is_object else -1
        covered = np.where(canvas[..., 3] >= SOLID, code, self.owner)
        total = np.array(areas)
        seen = np.bincount(covered.ravel() + 1, minlength=len(total) + 1)[1:]
        if (seen < np.maximum(MIN_PIXELS, MIN_VISIBLE * total)).any():
            return
        self.image = blend(self.image, canvas)
        self.owner, self.areas = covered, areas
        if is_object:
            self.classes.append(index)


def compose_scene(rng, source, grounds, side, smallest, objects, distractors=0):
    """A square scene with objects and distractors.

    An object that would hide too much of another is left out, so a full scene may end
    up with fewer objects than asked for.

    Args:
        rng: NumPy generator.
        source: of cut-outs.
        grounds: a :class:`Grounds`.
        side: of the scene, px.
        smallest: least longest side of an object by the side of the scene.
        objects: at most; at least one.
        distractors: at most.

    Returns:
        The RGB picture (uint8), the owner of every pixel (int, -1 for the ground, else
        the place in the next list) and the class index of each object.

    Raises:
        InputError: no cut-out of the source shows enough pixels at this size.
    """
    scene = Scene(rng, grounds, side)

    def longest():
        return side * np.exp(rng.uniform(*np.log((smallest, LARGEST))))

    wanted = rng.integers(1, objects + 1)
    # No sample where none is asked for: that would change the rest of the scene.
    distractors = rng.integers(distractors + 1) if distractors else 0
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
        raise InputError(
            f"--scene-size {side}: no cut-out shows {MIN_PIXELS} pixels; raise it, or "
            "use cut-outs with a larger solid part"
        )
    return np.round(scene.image).astype(np.uint8), scene.owner, scene.classes


def describe(owner, classes):
    """COCO annotations (without ids) of the visible part of every object."""
    notes = []
    for k, index in enumerate(classes):
        code = mask_utils.encode(np.asfortranarray(owner == k, dtype=np.uint8))
        note = dict(category_id=index + 1, segmentation=code)
        note["bbox"] = mask_utils.toBbox(code).tolist()
        note["area"] = int(mask_utils.area(code))
        note["iscrowd"] = 0
        code["counts"] = code["counts"].decode()
        notes.append(note)
    return notes
