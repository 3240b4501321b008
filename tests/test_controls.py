"""The control experiments: what each leaves of the montage and of its views."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torchvision.transforms.v2 import functional as image_ops

from mcl.config import adapt_to_cpu
from mcl.datasets import Montage, MultiLevelViews
from mcl.errors import InputError

from .conftest import ROOT, random_views, shrunk_config, shrunk_model

CROPS = [torch.arange(8).view(8, 1, 1, 1).expand(8, 3, s, s).byte() for s in (64, 32)]


def test_crops_off_the_canvas_are_those_of_its_tiles():
    """As many, of the same images: only where they lie differs."""
    views = []
    for on_canvas in (True, False):
        montage = Montage(64, (1, 2), on_canvas=on_canvas)
        generator = torch.Generator().manual_seed(0)
        draw = dict(crops=CROPS, generator=generator)
        views.append(montage(draw)["view"])
    laid, stacked = views
    assert torch.equal(laid.image_index[1], stacked.image_index[1])
    assert stacked.canvases[1].shape == (16, 3, 32, 32)
    shown = stacked.canvases[1][:, 0, 0, 0].long()
    assert torch.equal(shown, stacked.image_index[1])
    assert torch.equal(stacked.canvases[0], laid.canvases[0])


def test_a_crop_off_the_canvas_is_embedded_from_its_own_map():
    model = shrunk_model(**{"data_preprocessor.montage.on_canvas": False}).eval()
    (view, _) = random_views(model)
    seen = []
    model.backbone.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        losses = model.loss([view, view])
        assert all(v.isfinite() for v in losses.values())
        sides = {crops.shape[-1] for crops in seen}
        assert sides == {32, 16, 8, 4}
        for level, index in enumerate((3, 2, 1, 0)):
            maps = model.backbone(view.canvases[level])
            got = model.neck.embed_alone(maps, level)
            alone = model.neck.pyramid(maps)[index]
            assert alone.shape[-1] == 1  # S / 32 cells at every level
            torch.testing.assert_close(got, model.neck.embed(alone, 1))


def test_full_computation_needs_canvases():
    options = {
        "data_preprocessor.montage.on_canvas": False,
        "neck.computation": "full",
    }
    with pytest.raises(InputError, match="on_canvas=False"):
        shrunk_model(**options)


@pytest.mark.parametrize("mixed", ["AmpOptimWrapper", "BFloat16OptimWrapper"])
def test_small_crops_off_the_canvas_train_in_float32_on_a_cpu(tmp_path, mixed):
    for on_canvas, wrapper in ((True, "BFloat16OptimWrapper"), (False, "OptimWrapper")):
        cfg = shrunk_config(tmp_path)
        cfg.model.data_preprocessor.montage.on_canvas = on_canvas
        cfg.optim_wrapper.type = mixed
        assert ("bfloat16 autocast" in adapt_to_cpu(cfg)) == on_canvas
        assert cfg.optim_wrapper.type.removeprefix("mmpretrain.") == wrapper


@pytest.mark.parametrize("size", [32, 96, 128, 160, 192, 224])
def test_crops_are_small_where_a_strided_conv_has_one_cell(tmp_path, size):
    seen, backbone = [], shrunk_model().eval().backbone
    for module in backbone.modules():
        if getattr(module, "stride", None) == (2, 2) and module.kernel_size == (3, 3):
            module.register_forward_pre_hook(lambda m, x: seen.append(x[0].shape[-1]))
    backbone(torch.zeros(1, 3, size // 8, size // 8))
    cfg = shrunk_config(tmp_path)
    cfg.model.size = size
    cfg.model.data_preprocessor.montage.on_canvas = False
    cfg.optim_wrapper.type = "BFloat16OptimWrapper"
    assert ("gradients for crops so small" in adapt_to_cpu(cfg)) == (1 in seen)


def test_the_shipped_crops_train_in_what_is_right_on_a_cpu():
    large = "configs/mcl/mcl_resnet50-fpn_multicrop_32xb128-amp-coslr-100e_in1k"
    for name, small in (
        ("projects/replication/configs/mcl", False),
        ("projects/replication/configs/mcl-crops", True),
        (large, False),
    ):
        said = adapt_to_cpu(Config.fromfile(ROOT / f"{name}.py"))
        assert ("float32" in said) == small
        assert ("bfloat16 autocast" in said) != small


def test_fixed_tiles_lie_in_the_order_of_the_batch():
    montage = Montage(64, (1, 2), shuffle=False)
    for _ in range(2):
        view = montage(dict(crops=CROPS))["view"]
        assert view.image_index[1].tolist() == [*range(8), *range(8)]


def test_shared_views_show_one_crop_at_every_level():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)
    transform = MultiLevelViews(64, (1, 2, 4), shared_levels=True)
    crops = transform(dict(img=image))["img"]
    assert [c.shape[-1] for c in crops] == [64, 32, 16] * 2
    for view in (crops[:3], crops[3:]):
        for crop in view[1:]:
            side = crop.shape[-1]
            expected = image_ops.resize(view[0], [side, side], antialias=True)
            assert torch.equal(crop, expected)
    assert not torch.equal(crops[0], crops[3])


def test_images_alone_leave_the_finer_maps_untrained():
    model = shrunk_model(ratios=(1,), **{"head.loss.level_weights": (1,)}).train()
    losses = model.loss(random_views(model))
    assert [k for k in losses if "loss" in k] == ["loss_p5"]
    trained = {n for n, p in model.neck.named_parameters() if p.requires_grad}
    assert any(n.startswith("fpn_convs.3") for n in trained)
    assert not any(n.startswith(("fpn_convs.0", "lateral_convs.0")) for n in trained)
