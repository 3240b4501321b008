"""Colors on the device and in the workers, against torchvision image by image."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as ops

from mcl.datasets import MultiLevelViews, colors
from mcl.datasets.colors import NEVER, Colors, ColorSampler
from mcl.datasets.transforms import NUM_RANDOM, VIEWS
from mcl.errors import InputError
from mcl.models import MCLDataPreprocessor, augment

JITTER = dict(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
# In the order of `Colors.factors`.
STEPS = (
    ops.adjust_brightness,
    ops.adjust_contrast,
    ops.adjust_saturation,
    ops.adjust_hue,
)


def draw(number: int, seed: int = 0, **change) -> Colors:
    settings = dict(
        color_jitter=JITTER,
        color_jitter_prob=0.8,
        gray_prob=0.2,
        blur_prob=[0.5] * number,
        solarize_prob=[0.2] * number,
        blur_sigma=[(0.1, 2.0)] * number,
        solarize_threshold=128,
    )
    uniform = np.random.default_rng(seed).random((number, colors.NUM_RANDOM))
    return ColorSampler(**{**settings, **change})(uniform)


def random_crops(number: int, side: int = 40) -> torch.Tensor:
    """Smooth uint8 crops, some with black, white and plain gray parts."""
    torch.manual_seed(3)
    coarse = 1.4 * torch.rand(number, 3, 6, 6) - 0.2
    crops = torch.nn.functional.interpolate(coarse, side, mode="bicubic").clamp(0, 1)
    crops[::4, 1:] = crops[::4, :1]
    return crops.mul(255).round().byte()


def by_torchvision(pixels: torch.Tensor, drawn: Colors, row: int) -> torch.Tensor:
    """One crop (3, h, w), 0..1, step by step."""
    for step in drawn.order[row].tolist():
        factor = float(drawn.factors[row, step])
        if factor != colors.NEUTRAL[step]:
            pixels = STEPS[step](pixels, factor)
    if drawn.gray[row]:
        pixels = ops.rgb_to_grayscale(pixels, num_output_channels=3)
    sigma = float(drawn.sigma[row])
    if sigma > 0:
        pixels = ops.gaussian_blur(pixels, [41, 41], [sigma, sigma])
    threshold = float(drawn.solarize[row]) / 255
    return ops.solarize(pixels, threshold) if threshold <= 1 else pixels


def reference(crops: torch.Tensor, drawn: Colors) -> torch.Tensor:
    each = [by_torchvision(c / 255, drawn, i) for i, c in enumerate(crops)]
    return torch.stack(each)


def test_a_batch_is_what_torchvision_makes_of_each_crop():
    # A blur's cut-off tails could carry a value over the solarize threshold.
    drawn = draw(64)
    drawn.solarize[drawn.sigma > 0] = NEVER
    assert len({tuple(order) for order in drawn.order.tolist()}) > 15
    assert 0 < drawn.gray.sum() < 64 and 0 < (drawn.solarize < NEVER).sum() < 64
    crops = random_crops(64)
    error = augment.apply(crops / 255, drawn) - reference(crops, drawn)
    blurred = drawn.sigma > 0
    assert error[~blurred].abs().max() < 2e-5
    assert error[blurred].abs().max() < 4e-3


@pytest.mark.parametrize("step", range(4))
def test_each_step_of_jitter_alone(step):
    for value in (0.5, -0.5, 0.31) if step == colors.HUE else (0.0, 0.4, 1.7):
        drawn = draw(8, color_jitter_prob=0.0, gray_prob=0.0, blur_prob=[0.0] * 8,
                     solarize_prob=[0.0] * 8)  # fmt: skip
        drawn.factors[:, step] = value
        crops = random_crops(8)
        error = augment.apply(crops / 255, drawn) - reference(crops, drawn)
        assert error.abs().max() < 2e-5


def test_blur_mirrors_and_fades_as_the_formula_says():
    sigma = torch.tensor([0.1, 0.7, 2.0], dtype=torch.float64)
    pixels = torch.rand(3, 3, 20, 17)
    blurred = augment.blur(pixels.clone(), sigma)
    for i, s in enumerate(sigma.tolist()):
        expected = ops.gaussian_blur(pixels[i], [13, 13], [s, s])
        assert (blurred[i] - expected).abs().max() < 1e-5
    # A tile smaller than the kernel is mirrored again and again.
    for side in (1, 2, 4):
        small = pixels[..., :side, :side]
        wide = np.pad(small, [(0, 0)] * 2 + [(8, 8)] * 2, mode="reflect")
        expected = augment.blur(torch.from_numpy(wide), sigma)[..., 8:-8, 8:-8]
        assert torch.allclose(augment.blur(small, sigma), expected, atol=1e-6)


@pytest.mark.parametrize("rows", [slice(0, 32), slice(32, 64)])
def test_a_worker_paints_what_torchvision_makes_of_a_crop(rows):
    drawn = draw(64).take(rows)
    drawn.solarize[drawn.sigma > 0] = NEVER
    crops = random_crops(64)[rows]
    expected = reference(crops, drawn) * 255
    for row, crop in enumerate(crops):
        pixels = crop.permute(1, 2, 0).contiguous().numpy()
        got = torch.from_numpy(colors.paint(pixels, drawn, row)).permute(2, 0, 1)
        error = (got - expected[row]).abs()
        if drawn.solarize[row] < NEVER:  # a value on the threshold goes either way
            error = error[error < 100]
        assert error.max() < (2 if drawn.sigma[row] else 0.6)


def test_workers_and_device_agree_crop_by_crop():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8).repeat(12, 0)
    image = coarse.repeat(12, 1)
    # Where a value sits on the threshold, a rounding decides whether it is inverted.
    sharp = [{**view, "solarize_prob": 0.0} for view in VIEWS]
    options = dict(size=64, ratios=(1, 2, 4), views=sharp)
    painted, plain = [], []
    for place, out in (("worker", painted), ("device", plain)):
        views = MultiLevelViews(**options, colors_on=place)
        torch.manual_seed(0)
        out += [views(dict(img=image))["img"] for _ in range(40)]
    table = torch.stack([sample[-1] for sample in plain])
    crops = [torch.stack(c) for c in zip(*(s[:-1] for s in plain), strict=True)]
    batches = augment.paint_levels(crops, table)
    workers = [torch.stack(c) for c in zip(*painted, strict=True)]
    for batch, worker, crop in zip(batches, workers, crops, strict=True):
        assert batch.dtype == torch.uint8
        error = (batch.int() - worker.int()).abs().float()
        assert error.max() <= 1 and error.mean() < 0.01
        assert (batch != crop).float().mean() > 0.5
        for dims in ((0, 2, 3), (0, 1, 2, 3)):
            means = [x.float().mean(dims) for x in (batch, worker)]
            stds = [x.float().std(dims) for x in (batch, worker)]
            assert torch.allclose(*means, atol=0.05)
            assert torch.allclose(*stds, atol=0.05)


def test_draws_have_torchvisions_ranges_and_the_given_chances():
    drawn = draw(6000)
    on = (drawn.factors != torch.tensor(colors.NEUTRAL)).all(1)
    assert abs(on.float().mean() - 0.8) < 0.02
    assert ((drawn.factors[~on] == torch.tensor(colors.NEUTRAL)).all(1)).all()
    for column, (low, high) in zip(
        drawn.factors[on].t(), ((0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)),
        strict=True,
    ):  # fmt: skip
        # Uniform: by a fifth of the range in each fifth of it.
        share = torch.histc(column.float(), 5, low, high) / on.sum()
        assert low <= column.min() and column.max() <= high
        assert (share - 0.2).abs().max() < 0.03
    assert (drawn.order.sort(1).values == torch.arange(4)).all()
    codes = (drawn.order * torch.tensor([64, 16, 4, 1])).sum(1)
    counts = codes.unique(return_counts=True)[1]
    assert len(counts) == 24 and counts.min() > 180 and counts.max() < 320
    assert abs(drawn.gray.float().mean() - 0.2) < 0.02
    assert abs((drawn.sigma > 0).float().mean() - 0.5) < 0.03
    sigma = drawn.sigma[drawn.sigma > 0]
    assert 0.1 <= sigma.min() < 0.12 and 1.98 < sigma.max() <= 2.0
    assert abs(sigma.mean() - 1.05) < 0.05
    assert abs((drawn.solarize == 128).float().mean() - 0.2) < 0.02
    assert ((drawn.solarize == 128) | (drawn.solarize == NEVER)).all()


def table(number: int = 400, **options) -> torch.Tensor:
    """Tables of ``number`` images: (number, crops, 11)."""
    views = MultiLevelViews(32, (1, 2, 4, 8), colors_on="device", **options)
    image = np.zeros((40, 40, 3), np.uint8)
    return torch.stack([views(dict(img=image))["img"][-1] for _ in range(number)])


def test_each_crop_has_draws_of_its_own():
    rows = table()
    assert rows.shape == (400, 8, 11)
    for column in (0, 1, 2, 3, 8, 10):
        values = rows[:, 4:, column] if column == 10 else rows[..., column]
        between = np.corrcoef(values.T.numpy())
        assert np.abs(between - np.eye(len(between))).max() < 0.25
    jittered = rows[rows[..., 0] != 1]
    between = np.corrcoef(jittered[:, :4].T.numpy())
    assert np.abs(between - np.eye(4)).max() < 0.1


def test_views_and_levels_have_their_own_chances_and_lengths():
    rows = table()
    blurred, solarized = rows[..., 9] > 0, rows[..., 10] < NEVER
    assert blurred[:, :4].all() and abs(blurred[:, 4:].float().mean() - 0.1) < 0.03
    assert not solarized[:, :4].any()
    assert abs(solarized[:, 4:].float().mean() - 0.2) < 0.04
    longest = rows[:, :4, 9].amax(0)
    for level, ratio in enumerate((1, 2, 4, 8)):
        assert 1.9 / ratio < longest[level] <= 2.0 / ratio + 1e-6


def test_colors_survive_the_way_through_a_loader():
    drawn = draw(20)
    back = Colors.from_table(drawn.to_table())
    for before, after in zip(drawn, back, strict=True):
        assert torch.equal(before.float(), after.float())


def test_nothing_on_the_device_is_waited_for():
    """A tensor without values refuses whatever would have to look at them."""
    drawn = draw(16)
    crops = random_crops(16).float().to("meta")
    assert augment.apply(crops, drawn).shape == crops.shape
    with pytest.raises(RuntimeError):
        crops.amax().item()


def test_mixed_precision_leaves_colors_alone():
    drawn, crops = draw(16), random_crops(16)
    expected = augment.paint_batch(crops, drawn)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment.paint_batch(crops, drawn), expected)


@pytest.mark.parametrize("num_views, shared", [(2, False), (2, True), (1, False)])
def test_a_batch_is_the_same_whoever_paints_it(num_views, shared):
    rng = np.random.default_rng(1)
    images = rng.integers(60, 190, (8, 50, 60, 3), dtype=np.uint8)
    ratios = (1, 2)
    preprocessor = MCLDataPreprocessor(
        dict(type="Montage", size=64, ratios=ratios), num_views=num_views
    )
    canvases = []
    for place in ("worker", "device"):
        views = MultiLevelViews(
            64, ratios, VIEWS[:num_views], shared, solarize_threshold=255,
            colors_on=place,
        )  # fmt: skip
        torch.manual_seed(5)
        samples = [views(dict(img=image))["img"] for image in images]
        inputs = [torch.stack(crops) for crops in zip(*samples, strict=True)]
        preprocessor.seed(7)
        batch = preprocessor(dict(inputs=inputs), training=True)["inputs"]
        canvases.append([c for view in batch for c in view.canvases])
    assert len(canvases[0]) == len(canvases[1]) == num_views * len(ratios)
    for worker, device in zip(*canvases, strict=True):
        assert worker.shape == device.shape
        # Half a level of rounding, on a scale on which a level is 1 / 57.
        assert (worker - device).abs().mean() < 5e-3
        assert (worker - device).abs().max() < 2.5 / 57


def test_the_same_seed_gives_the_same_draws():
    torch.manual_seed(2)
    first = table(3)
    torch.manual_seed(2)
    assert torch.equal(table(3), first)
    assert not torch.equal(table(3), first)
    assert NUM_RANDOM == 36


def test_crops_of_too_few_levels_are_no_shared_ones():
    preprocessor = MCLDataPreprocessor(dict(type="Montage", size=64, ratios=(1, 2)))
    views = MultiLevelViews(64, (1,), colors_on="device")
    image = np.zeros((70, 70, 3), np.uint8)
    samples = [views(dict(img=image))["img"] for _ in range(4)]
    inputs = [torch.stack(crops) for crops in zip(*samples, strict=True)]
    with pytest.raises(InputError, match="inputs hold 2 crops"):
        preprocessor(dict(inputs=inputs), training=True)
