"""JPEGs that decode as slowly as photographs, made by code."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

# Of ImageNet's usual photograph; at this quality they take some 100 kB each.
WIDTH, HEIGHT, QUALITY = 500, 375, 92
SHAPES = 12
# Spread of the sensor's noise, of 255.
NOISE = 3.0


def make_pictures(folder: Path, number: int) -> int:
    """Write random JPEGs of 500 x 375 pixels; return their mean size in bytes."""
    folder.mkdir(exist_ok=True)
    sizes = []
    for i in range(number):
        path = folder / f"{i:05}.jpg"
        picture = make_picture(np.random.default_rng(i))
        Image.fromarray(picture).save(path, quality=QUALITY)
        sizes.append(path.stat().st_size)
    return round(sum(sizes) / number)


def make_picture(rng: np.random.Generator) -> np.ndarray:
    """Texture as of natural scenes, shapes with their own, and noise: uint8 RGB."""
    picture = _texture(rng)
    for _ in range(SHAPES):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        center = int(rng.integers(WIDTH)), int(rng.integers(HEIGHT))
        axes = [int(a) for a in rng.integers(10, 120, 2)]
        angle = float(rng.uniform(0, 180))
        cv2.ellipse(mask, center, axes, angle, 0, 360, 255, -1, cv2.LINE_AA)
        share = mask[..., None] / 255.0
        picture = picture * (1 - share) + _texture(rng) * share
    picture += rng.normal(0, NOISE, picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Random picture whose amplitude falls as 1 / frequency, (H, W, 3), 0..255."""
    y = np.fft.fftfreq(HEIGHT)[:, None]
    x = np.fft.rfftfreq(WIDTH)[None]
    frequency = np.maximum(np.hypot(x, y), 1 / WIDTH)
    spectra = np.fft.rfft2(rng.normal(size=(2, HEIGHT, WIDTH))) / frequency
    light, hue = np.fft.irfft2(spectra, (HEIGHT, WIDTH))
    light, hue = light / light.std(), hue / hue.std()
    color, turn = rng.uniform(40, 215, 3), rng.uniform(-15, 15, 3)
    return color + 45 * light[..., None] + turn * hue[..., None]
