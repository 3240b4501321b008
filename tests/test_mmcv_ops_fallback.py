"""The stand-in for ``mmcv._ext`` against plain arithmetic, through MMCV's own code.

Every test below gives MMCV's wrappers the stand-in, also where real ops exist.
"""

import importlib
import math
import os
import pickle
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.utils.dl_utils import mmcv_full_available
from torch.utils.data import DataLoader

import mmcv_ops_fallback
from mmcv_ops_fallback import FallbackOps

pytestmark = pytest.mark.hosts

# Without real ops this import needs the stand-in, so it comes after it.
ops = importlib.import_module("mmcv.ops")

ROOT = Path(mmcv_ops_fallback.__file__).parent
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# Room for one rounding to the type (half an eps) and no more: sums made in half
# or bfloat16 fail.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 6e-4, torch.bfloat16: 4.5e-3}

# (x1, y1, x2, y2); numbers that bfloat16 holds exactly.
ROIS = [
    (0, 1.0, 2.0, 9.5, 7.25),  # inside
    (1, -6.0, -4.0, 30.0, 26.0),  # over every edge
    (1, 3.0, 3.0, 3.5, 3.25),  # smaller than one cell
    (0, 40.0, 40.0, 50.0, 50.0),  # off the map
]


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    module = FallbackOps("mmcv._ext")
    for name in ("nms", "roi_align", "focal_loss", "deform_conv"):
        monkeypatch.setattr(sys.modules[f"mmcv.ops.{name}"], "ext_module", module)
    return module


@pytest.fixture(params=product(DTYPES, DEVICES), ids=str)
def options(request):
    dtype, device = request.param
    return {"dtype": dtype, "device": device}


def assert_close(actual, expected):
    tolerance = TOLERANCE[actual.dtype]
    actual = actual.detach().double().cpu().numpy()
    scale = max(np.abs(expected).max(), 1e-3)
    np.testing.assert_allclose(actual, expected, tolerance, 1e-6 * scale)


# RoIAlign


def corner_weights(y, x, height, width):
    """Yield (cell, weight) of the bilinear value at row ``y`` and column ``x``."""
    if not (-1 <= y <= height and -1 <= x <= width):
        return
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    for row, col in product((int(y), int(y) + 1), (int(x), int(x) + 1)):
        weight = (1 - abs(y - row)) * (1 - abs(x - col))
        if weight > 0:
            yield row * width + col, weight


def roi_matrix(roi, shape, bins, scale, ratio, aligned):
    """One RoI's pooling as a matrix, (bins, cells): pooled = matrix @ map."""
    height, width = shape
    shift = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (value * scale - shift for value in roi[1:])
    size_y, size_x = y2 - y1, x2 - x1
    if not aligned:
        size_y, size_x = max(size_y, 1.0), max(size_x, 1.0)
    bin_y, bin_x = size_y / bins[0], size_x / bins[1]
    rows, cols = ratio or math.ceil(bin_y), ratio or math.ceil(bin_x)
    matrix = np.zeros((bins[0] * bins[1], height * width))
    for i, j, a, b in product(range(bins[0]), range(bins[1]), range(rows), range(cols)):
        y = y1 + (i + (a + 0.5) / rows) * bin_y
        x = x1 + (j + (b + 0.5) / cols) * bin_x
        for cell, weight in corner_weights(y, x, height, width):
            matrix[i * bins[1] + j, cell] += weight / (rows * cols)
    return matrix


def reference_roi_align(maps, grad, *geometry):
    """Pooled maps and the gradient of ``maps``, in float64."""
    pooled, spread = np.zeros(grad.shape), np.zeros(maps.shape)
    for n, roi in enumerate(ROIS):
        matrix = roi_matrix(roi, maps.shape[2:], grad.shape[2:], *geometry)
        for c in range(maps.shape[1]):
            pooled[n, c] = (matrix @ maps[roi[0], c].ravel()).reshape(grad.shape[2:])
            back = matrix.T @ grad[n, c].ravel()
            spread[roi[0], c] += back.reshape(maps.shape[2:])
    return pooled, spread


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_equals_loops(options, aligned, ratio):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 3, 7, 9, generator=generator).to(**options)
    grad = torch.rand(len(ROIS), 3, 2, 3, generator=generator).to(**options)
    maps.requires_grad_()
    layer = ops.RoIAlign((2, 3), 0.5, ratio, "avg", aligned)
    pooled = layer(maps, torch.tensor(ROIS, **options))
    pooled.backward(grad)

    arrays = [t.detach().double().cpu().numpy() for t in (maps, grad)]
    expected, spread = reference_roi_align(*arrays, 0.5, ratio, aligned)
    assert pooled.dtype == maps.grad.dtype == options["dtype"]
    assert_close(pooled, expected)
    assert_close(maps.grad, spread)


def test_roi_align_of_no_rois():
    maps = torch.rand(1, 2, 4, 4, requires_grad=True)
    pooled = ops.roi_align(maps, torch.zeros(0, 5), (2, 2))
    pooled.sum().backward()
    assert pooled.shape == (0, 2, 2, 2)
    assert maps.grad.eq(0).all()


def test_roi_align_takes_float32_rois_with_half_maps():
    maps = torch.rand(2, 1, 7, 9).half()
    rois = torch.tensor(ROIS)
    pooled = ops.roi_align(maps, rois, (2, 2))
    expected = ops.roi_align(maps.float(), rois, (2, 2)).half()
    assert torch.equal(pooled, expected)


def test_max_roi_align_is_refused():
    with pytest.raises(NotImplementedError, match="pool_mode=0.*pool_mode='avg'"):
        rois = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]])
        ops.roi_align(torch.rand(1, 1, 4, 4), rois, (2, 2), 1.0, 0, "max")


# NMS


def iou(a, b, offset):
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    overlap = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return overlap / (sum(areas) - overlap)


def reference_nms(boxes, scores, groups, threshold, offset=0):
    """Kept indices by falling score; only boxes of one group suppress each other."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        rivals = [j for j in kept if groups[j] == groups[i]]
        if all(iou(boxes[i], boxes[j], offset) <= threshold for j in rivals):
            kept.append(i)
    return kept


def random_boxes(count=60):
    """Boxes and scores that are exact in every tested type, scores all different."""
    generator = torch.Generator().manual_seed(1)
    corners = torch.randint(0, 24, (count, 2), generator=generator)
    sizes = torch.randint(4, 16, (count, 2), generator=generator)
    boxes = torch.cat([corners, corners + sizes], 1).float()
    scores = (torch.randperm(count, generator=generator) + 1) / 128
    groups = torch.randint(0, 4, (count,), generator=generator)
    return boxes, scores, groups


@pytest.mark.parametrize("offset", [0, 1])
def test_nms_equals_loops(options, offset):
    boxes, scores, _ = random_boxes()
    dets, kept = ops.nms(boxes.to(**options), scores.to(**options), 0.41, offset)
    alone = [0] * len(boxes)
    expected = reference_nms(boxes.tolist(), scores.tolist(), alone, 0.41, offset)
    assert kept.tolist() == expected
    assert dets.dtype == options["dtype"]
    assert torch.equal(dets.float().cpu(), torch.cat([boxes, scores[:, None]], 1)[kept])


def test_offset_changes_what_nms_keeps():
    boxes, scores, _ = random_boxes()
    kept = [ops.nms(boxes, scores, 0.41, offset)[1].tolist() for offset in (0, 1)]
    assert kept[0] != kept[1]


@pytest.mark.parametrize("split_thr", [10000, 10])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_batched_nms_equals_loops(options, class_agnostic, split_thr):
    boxes, scores, groups = random_boxes()
    config = {"type": "nms", "iou_threshold": 0.41, "split_thr": split_thr}
    inputs = boxes.to(**options), scores.to(**options), groups.to(options["device"])
    dets, kept = ops.batched_nms(*inputs, config, class_agnostic)
    # MMCV splits by class in any case: beyond split_thr it ignores class_agnostic.
    separate = not class_agnostic or split_thr < len(boxes)
    rivals = groups.tolist() if separate else [0] * len(boxes)
    expected = reference_nms(boxes.tolist(), scores.tolist(), rivals, 0.41)
    assert kept.tolist() == expected
    assert torch.equal(dets[:, 4].float().cpu(), scores[expected])


def test_nms_of_no_boxes():
    dets, kept = ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert dets.shape == (0, 5)
    assert kept.shape == (0,) and kept.dtype == torch.int64


def test_nms_keeps_a_box_exactly_at_the_threshold():
    # IoU 3/5: in float32 slightly above the float64 number 0.6.
    boxes = torch.tensor([[0.0, 0.0, 4.0, 1.0], [1.0, 0.0, 5.0, 1.0]])
    assert len(ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.6)[1]) == 2


# Sigmoid focal loss


def focal(x, positive, gamma, alpha):
    z = x if positive else -x
    log_right = -math.log1p(math.exp(-z))
    wrong = 1 / (1 + math.exp(z))
    return -(alpha if positive else 1 - alpha) * wrong**gamma * log_right


def reference_focal(logits, target, weight, gamma, alpha, step=1e-5):
    """Losses and slopes (by central differences) in float64."""
    loss, slope = np.zeros(logits.shape), np.zeros(logits.shape)
    for n, c in np.ndindex(*logits.shape):
        factor = weight[target[n]] if weight and target[n] < len(weight) else 1.0
        options = target[n] == c, gamma, alpha
        ahead, behind = (focal(logits[n, c] + s, *options) for s in (step, -step))
        loss[n, c] = factor * focal(logits[n, c], *options)
        slope[n, c] = factor * (ahead - behind) / (2 * step)
    return loss, slope


@pytest.mark.parametrize("weight", [None, [0.5, 2.0, 3.0]])
@pytest.mark.parametrize("gamma, alpha", [(2.0, 0.25), (1.5, 0.6), (0.0, 0.5)])
def test_focal_loss_equals_loops(options, gamma, alpha, weight):
    logits = torch.linspace(-7, 7, 15).view(5, 3).to(**options).requires_grad_()
    target = torch.tensor([0, 2, 3, 1, 3], device=options["device"])
    weights = None if weight is None else torch.tensor(weight, **options)
    inputs = logits, target, gamma, alpha, weights
    loss = ops.sigmoid_focal_loss(*inputs, "none")
    loss.sum().backward()

    values = logits.detach().double().cpu().numpy()
    expected, slope = reference_focal(values, target.tolist(), weight, gamma, alpha)
    assert loss.dtype == logits.grad.dtype == options["dtype"]
    assert_close(loss, expected)
    assert_close(logits.grad, slope)


def test_focal_loss_mean_divides_by_rows():
    logits = torch.linspace(-2, 2, 6).view(3, 2).requires_grad_()
    target = torch.tensor([0, 1, 2])
    ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, "mean").backward()
    values = logits.detach().double().numpy()
    _, slope = reference_focal(values, target.tolist(), None, 2, 0.25)
    assert_close(logits.grad, slope / 3)


def test_focal_loss_of_certain_mistakes_is_exact():
    logits = torch.tensor([[-100.0, 100.0]], requires_grad=True)
    target = torch.tensor([0])
    loss = ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, "none")
    loss.sum().backward()
    assert_close(loss, np.array([[0.25 * 100, 0.75 * 100]]))
    assert_close(logits.grad, np.array([[-0.25, 0.75]]))


# Ops that have no stand-in


def test_missing_ops_raise_when_called():
    with pytest.raises(NotImplementedError, match="'softnms'.*install the full mmcv"):
        ops.soft_nms(torch.rand(2, 4), torch.rand(2))
    offsets = torch.zeros(1, 18, 5, 5)
    with pytest.raises(NotImplementedError, match="'deform_conv_forward'"):
        kernel = torch.rand(3, 2, 3, 3)
        ops.deform_conv2d(torch.rand(1, 2, 5, 5), offsets, kernel, 1, 1)


def test_stand_in_is_an_orderly_module(stand_in):
    assert hasattr(stand_in, "any_op_of_tomorrow")
    assert not hasattr(stand_in, "__path__")
    assert not hasattr(stand_in, "_private")
    restored = pickle.loads(pickle.dumps(stand_in.softnms))
    with pytest.raises(NotImplementedError, match="softnms"):
        restored()


def test_mmengine_takes_mmcv_for_complete():
    assert mmcv_full_available()
    sgd = {"type": "SGD", "lr": 0.1, "weight_decay": 0.1}
    options = {"type": "OptimWrapper", "optimizer": sgd}
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    builder = DefaultOptimWrapperConstructor(options, {"norm_decay_mult": 0.0})
    groups = builder(model).param_groups
    assert {id(p) for p in model.parameters()} <= {
        id(p) for group in groups for p in group["params"]
    }


def kept_in_worker(_):
    return ops.nms(torch.tensor([[0.0, 0.0, 2.0, 2.0]] * 2), torch.rand(2), 0.5)[1]


def test_data_workers_inherit_it():
    loader = DataLoader([0, 1], num_workers=1, collate_fn=kept_in_worker)
    assert [len(kept) for kept in loader] == [1, 1]


# Whole processes


def python(*arguments, path=()):
    paths = os.pathsep.join([*map(str, path), str(ROOT)])
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


def make_mmcv(folder, *modules):
    """A package named mmcv in ``folder`` that holds nothing but ``modules``."""
    package = folder / "mmcv"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '9.9'\n")
    for name in modules:
        (package / f"{name}.py").write_text("MARK = 'real'\n")


def test_real_ops_win(tmp_path):
    make_mmcv(tmp_path, "_ext")
    code = "import mmcv_ops_fallback as f, mmcv._ext as e; print(f.install(), e.MARK)"
    result = python("-c", code, path=[tmp_path])
    assert result.stdout.split() == ["False", "real"], result.stderr


def test_install_fills_the_gap_once(tmp_path):
    make_mmcv(tmp_path)
    code = (
        "import sys, importlib.util as u, mmcv_ops_fallback as f\n"
        "before = len(sys.meta_path)\n"
        "import mmcv._ext\n"
        "print(f.install(), len(sys.meta_path) - before)\n"
        "print(u.find_spec('mmcv._ext').origin, u.find_spec('mmcv._other'))\n"
    )
    result = python("-c", code, path=[tmp_path])
    expected = ["True", "0", "mmcv_ops_fallback", "None"]
    assert result.stdout.split() == expected, result.stderr


def test_missing_mmcv_is_named():
    code = "import sys; sys.modules['mmcv'] = None; import mmcv_ops_fallback"
    result = python("-c", code)
    assert result.returncode == 1
    assert "mmcv is not installed; run 'pip install onedl-mmcv'" in result.stderr


def test_module_runs_a_script(tmp_path):
    (tmp_path / "neighbor.py").write_text("CODE = 3\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, neighbor, mmcv._ext\n"
        "print(__name__, *sys.argv[1:], mmcv._ext.nms.__name__)\n"
        "print(sys.argv[0] == __file__)\n"
        "sys.exit(neighbor.CODE)\n"
    )
    result = python("-m", "mmcv_ops_fallback", script, "a", "--b=1")
    expected = ["__main__", "a", "--b=1", "nms", "True"]
    assert result.stdout.split() == expected, result.stderr
    assert result.returncode == 3


def test_module_without_a_script_says_what_it_found(tmp_path):
    make_mmcv(tmp_path)
    result = python("-m", "mmcv_ops_fallback", path=[tmp_path])
    assert result.stdout.startswith("usage: python -m mmcv_ops_fallback SCRIPT")
    assert "mmcv 9.9: no compiled ops" in result.stdout
    (tmp_path / "mmcv" / "_ext.py").touch()
    result = python("-m", "mmcv_ops_fallback", path=[tmp_path])
    assert "mmcv 9.9: its own compiled ops are used" in result.stdout
    assert result.returncode == 0


def test_missing_script_is_one_sentence():
    result = python("-m", "mmcv_ops_fallback", "no/such.py")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        "SCRIPT 'no/such.py' is not a file; give the path of a Python script."
    )
