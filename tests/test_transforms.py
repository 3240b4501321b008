import numpy as np
import pytest
import torch

from mcl.datasets import MultiLevelViews
from mcl.datasets.transforms import VIEWS

OFF = dict(flip_prob=0.0, color_jitter_prob=0.0, gray_prob=0.0)
PLAIN_VIEWS = (dict(blur_prob=0.0, solarize_prob=0.0),) * 2


def photo(height=75, width=100) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("ratios", [(1,), (1, 2), (1, 4), (1, 2, 4, 8)])
def test_shapes_and_order(ratios):
    crops = MultiLevelViews(64, ratios)(dict(img=photo()))["img"]
    sides = [64 // r for r in ratios] * 2
    assert [tuple(c.shape) for c in crops] == [(3, s, s) for s in sides]
    assert all(c.dtype == torch.uint8 and c.is_contiguous() for c in crops)


def test_crops_differ_between_levels_and_views_and_repeat_with_the_seed():
    views = MultiLevelViews(64, (1, 2))
    torch.manual_seed(1)
    first = views(dict(img=photo()))["img"]
    second = views(dict(img=photo()))["img"]
    torch.manual_seed(1)
    again = views(dict(img=photo()))["img"]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[0], first[2])


def test_the_whole_image_shrinks_to_its_mean_without_aliasing():
    # Stripes one pixel wide: nearest-neighbor sampling would keep one color.
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    views = MultiLevelViews(
        64, (1, 8), views=PLAIN_VIEWS, crop_scale=(1, 1), aspect_ratio=(1, 1), **OFF
    )
    small = views(dict(img=stripes))["img"][1].float()
    assert small.shape == (3, 8, 8)
    assert (small - 127.5).abs().max() < 10


def test_bgr_becomes_rgb():
    blue = np.zeros((40, 40, 3), dtype=np.uint8)
    blue[..., 0] = 200
    views = MultiLevelViews(32, (1,), views=PLAIN_VIEWS, **OFF)
    crop = views(dict(img=blue))["img"][0]
    assert crop.amax(dim=(1, 2)).tolist() == [0, 0, 200]


@pytest.mark.parametrize("view, prob", [(0, 0.0), (1, 0.2)])
def test_share_of_solarized_crops(view, prob):
    white = np.full((32, 32, 3), 255, dtype=np.uint8)
    views = MultiLevelViews(
        32, (1,), views=[{**v, "blur_prob": 0.0} for v in VIEWS], **OFF
    )
    turned = [views(dict(img=white))["img"][view].max().item() == 0 for _ in range(400)]
    assert abs(np.mean(turned) - prob) < 0.08 if prob else not any(turned)


@pytest.mark.parametrize(
    "arguments, field",
    [
        (dict(size=50), "size"),
        (dict(ratios=(1, 5)), "ratios"),
        (dict(views=VIEWS * 2), "views"),
        (dict(views=[dict(blur=1)] * 2), "views"),
        (dict(flip_prob=1.5), "flip_prob"),
        (dict(crop_scale=(0.5, 0.1)), "crop_scale"),
        (dict(blur_sigma=(0, 1)), "blur_sigma"),
        (dict(color_jitter=dict(hue=0.7)), "color_jitter"),
        (dict(color_jitter=dict(tint=0.7)), "color_jitter"),
        (dict(colors_on="gpu"), "colors_on='gpu'"),
    ],
)
def test_wrong_settings_are_named(arguments, field):
    with pytest.raises(ValueError, match=field):
        MultiLevelViews(**arguments)
