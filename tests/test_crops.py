"""Boxes, reduced decoding and lazily opened images."""

import io

import mmcv
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as ops

from mcl.datasets import LoadImageOrRaise, MultiLevelViews, crops
from mcl.datasets.crops import Box, BoxSampler, cut, largest_reduction
from mcl.datasets.loading import LazyImage, UnreadableImage
from mcl.errors import InputError

SCALE, ASPECT = (0.2, 1.0), (3 / 4, 4 / 3)
PLAIN = dict(
    color_jitter_prob=0.0,
    gray_prob=0.0,
    views=(dict(blur_prob=0.0, solarize_prob=0.0),) * 2,
)


def boxes(number: int, height: int, width: int, flip_prob=0.5) -> list[Box]:
    uniform = np.random.default_rng(0).random((number, crops.NUM_RANDOM))
    return BoxSampler(SCALE, ASPECT, flip_prob)(uniform, height, width)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 40 + 2, width // 40 + 2, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("height, width", [(375, 500), (400, 260), (64, 300)])
def test_boxes_are_distributed_as_torchvisions(height, width):
    ours = np.array(boxes(2000, height, width))
    image = torch.zeros(1, height, width)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, SCALE, ASPECT) for _ in range(2000)]
    )
    assert (ours[:, 0] + ours[:, 2] <= height).all() and (ours[:, :2] >= 0).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all() and (ours[:, 2:4] >= 1).all()
    for column, side in zip(range(4), (height, width, height, width), strict=True):
        points = [np.quantile(x[:, column], np.linspace(0, 1, 11)) for x in
                  (ours, theirs)]  # fmt: skip
        assert np.abs(points[0] - points[1]).max() < 0.06 * side
    assert abs(ours[:, 4].mean() - 0.5) < 0.05


def test_a_crop_is_torchvisions_resized_crop():
    image = torch.from_numpy(np.asarray(picture(90, 120)).copy()).permute(2, 0, 1)
    for flip in (False, True):
        box = Box(10, 20, 55, 70, flip)
        expected = ops.resized_crop(image, 10, 20, 55, 70, [32, 32], antialias=True)
        expected = ops.horizontal_flip(expected) if flip else expected
        assert torch.equal(cut(image, box, 32), expected)


def test_no_tile_gets_fewer_pixels_than_it_shows():
    def box(height, width):
        return Box(0, 0, height, width, False)

    assert largest_reduction([box(64, 64)], [32]) == 2
    assert largest_reduction([box(63, 640)], [32]) == 1
    assert largest_reduction([box(640, 127)], [32]) == 2
    assert largest_reduction([box(256, 256), box(128, 99)], [32, 16]) == 4
    assert largest_reduction([box(9999, 9999)], [32]) == 8
    for reduction in (2, 4, 8):
        height, width = 1499, 2003
        small = -(-height // reduction), -(-width // reduction)
        for full in boxes(300, height, width):
            part = full.shrink(reduction, *small)
            assert part.top + part.height <= small[0]
            assert part.left + part.width <= small[1]
            for a, b in zip(full[:4], part[:4], strict=True):
                assert abs(a - b * reduction) <= reduction


def tensor(bgr: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(bgr)).permute(2, 0, 1)


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("height, width", [(1500, 2000), (701, 1003)])
def test_a_reduced_decode_shows_the_same_crop(height, width, reduction):
    content = encoded(picture(height, width), quality=95)
    full = tensor(LazyImage(content, "x").decode()[0])
    small = tensor(LazyImage(content, "x").decode(reduction)[0])
    for box in boxes(5, height, width):
        part = box.shrink(reduction, *small.shape[1:])
        side = min(part.height, part.width)
        top, left = part.top * reduction, part.left * reduction
        same = Box(
            top,
            left,
            min(part.height * reduction, height - top),
            min(part.width * reduction, width - left),
            box.flip,
        )
        difference = cut(full, same, side).float() - cut(small, part, side).float()
        assert difference.abs().mean() < 1 and difference.abs().max() < 16


def test_views_ask_for_no_more_pixels_than_they_need(tmp_path, monkeypatch):
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded(picture(700, 1000), quality=95))
    views = MultiLevelViews(64, (1, 2), **PLAIN)
    asked, shown, shrunk, decode = [], [], [], LazyImage.decode
    monkeypatch.setattr(
        LazyImage, "decode", lambda s, k: (asked.append(k), decode(s, k))[1]
    )
    for defer, out in ((False, shown), (True, shrunk)):
        torch.manual_seed(0)
        load = LoadImageOrRaise(defer=defer)
        for _ in range(4):
            out += views(load(dict(img_path=str(path))))["img"]
    assert len(asked) == 4 and min(asked) > 1
    for full, reduced in zip(shown, shrunk, strict=True):
        # Half a pixel of the reduced image is up to half a pixel of the tile.
        assert np.corrcoef(full.flatten(), reduced.flatten())[0, 1] > 0.95


def test_a_reduced_image_has_the_whole_picture():
    content = encoded(picture(301, 402), quality=95)
    for asked in (1, 2, 4, 8):
        pixels, done = LazyImage(content, "x").decode(asked)
        assert done == asked
        assert pixels.shape == (-(-301 // asked), -(-402 // asked), 3)
    pixels, done = LazyImage(encoded(picture(301, 402), "PNG"), "x").decode(4)
    assert done == 1 and pixels.shape == (301, 402, 3)


def modes() -> dict[str, bytes]:
    image = picture(60, 90)
    alpha = Image.linear_gradient("L").resize(image.size)
    gray = image.convert("L")
    gray_alpha = Image.merge("LA", (gray, alpha))
    rgba = image.copy()
    rgba.putalpha(alpha)
    turned = {}
    for value in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = value
        turned[f"orientation {value}"] = encoded(image, exif=exif)
        turned[f"tiff {value}"] = encoded(image, "TIFF", exif=exif)
    return {
        "gray": encoded(gray),
        "cmyk": encoded(image.convert("CMYK")),
        "palette": encoded(image.convert("P"), "PNG"),
        "rgba": encoded(rgba, "PNG"),
        "la": encoded(gray_alpha, "PNG"),
        "1 bit": encoded(image.convert("1"), "PNG"),
        "progressive": encoded(image, progressive=True),
        "webp": encoded(image, "WEBP"),
        **turned,
    }


@pytest.mark.parametrize("mode", modes())
def test_every_kind_of_image_is_decoded_as_by_the_host(mode, tmp_path):
    content = modes()[mode]
    (tmp_path / "image").write_bytes(content)
    deferred, now = (
        LoadImageOrRaise(defer=defer)(dict(img_path=str(tmp_path / "image")))
        for defer in (True, False)
    )
    assert deferred["ori_shape"] == now["ori_shape"] == now["img"].shape[:2]
    if not isinstance(deferred["img"], LazyImage):
        assert (deferred["img"] == now["img"]).all()
        return
    lazy = LazyImage(content, "x")
    expected = mmcv.imfrombytes(content, backend="pillow")
    assert lazy.shape == expected.shape[:2]
    pixels, _ = lazy.decode()
    assert (pixels == expected).all()
    small, done = LazyImage(content, "x").decode(2)
    sides = [-(-side // done) for side in expected.shape[:2]]
    assert list(small.shape) == [*sides, 3]
    shrunk = np.asarray(Image.fromarray(expected).reduce(done)).astype(int)
    assert np.abs(shrunk - small).mean() < 4


@pytest.mark.parametrize("reduction", [1, 2, 8])
def test_a_truncated_file_is_refused_by_its_path(tmp_path, reduction):
    content = encoded(picture(400, 600))
    path = tmp_path / "cut.jpg"
    path.write_bytes(content[: len(content) // 2])
    image = LoadImageOrRaise(defer=True)(dict(img_path=str(path)))["img"]
    with pytest.raises(UnreadableImage, match="cut.jpg: OSError.*truncated"):
        image.decode(reduction)


def test_what_is_no_image_is_refused_when_it_is_opened(tmp_path):
    path = tmp_path / "no.jpg"
    path.write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match="no.jpg: UnidentifiedImageError"):
        LoadImageOrRaise(defer=True)(dict(img_path=str(path)))


@pytest.mark.parametrize(
    "option",
    [dict(imdecode_backend="cv2"), dict(to_float32=True), dict(color_type="grayscale")],
)
def test_deferring_goes_with_no_other_decoder(option):
    with pytest.raises(InputError, match="defer=True"):
        LoadImageOrRaise(defer=True, **option)
