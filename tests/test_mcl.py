import copy

import pytest
import torch
from torch import nn

from mcl.errors import InputError
from mcl.models import TargetNetwork

from .conftest import random_views, shrunk_model


def test_every_trainable_weight_gets_a_gradient_and_no_target_does():
    model = shrunk_model().train()
    losses = model.loss(random_views(model))
    sum(v for k, v in losses.items() if k.startswith("loss")).backward()
    for name, weight in model.named_parameters():
        if name.startswith("target."):
            assert not weight.requires_grad and weight.grad is None, name
        else:
            assert weight.requires_grad and weight.grad.isfinite().all(), name


def test_loss_names():
    model = shrunk_model().train()
    losses = model.loss(random_views(model))
    assert [k for k in losses if "loss" in k] == [
        "loss_p5",
        "loss_p4",
        "loss_p3",
        "loss_p2",
    ]
    for level, weight in zip(
        ("p5", "p4", "p3", "p2"), (1 / 2, 1 / 4, 1 / 8, 1 / 8), strict=True
    ):
        # two views, 2T = 0.2
        expected = 2 * weight * 0.2 * losses[f"ce_{level}"]
        assert losses[f"loss_{level}"].item() == pytest.approx(
            expected.item(), rel=1e-5
        )


def test_selected_and_full_agree_with_bn_in_eval_mode():
    selected = shrunk_model().eval()
    full = shrunk_model(**{"neck.computation": "full"}).eval()
    full.load_state_dict(selected.state_dict())
    views = random_views(selected)
    a, b = selected.loss(views), full.loss(views)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].item() == pytest.approx(b[name].item(), rel=1e-4, abs=1e-5), name


def test_each_view_is_matched_with_the_other():
    model = shrunk_model().eval()
    views = random_views(model)
    with torch.no_grad():
        targets = [
            model.head.gather_targets(model.target(v.canvases[:1]), v.image_index)
            for v in views
        ]
        by_hand = 0
        for view, other in ((0, 1), (1, 0)):
            canvases = torch.cat(views[view].canvases)
            counts = [len(c) for c in views[view].canvases]
            embeddings = model.neck(model.backbone(canvases), counts)
            got = model.head.loss(embeddings, views[view].image_index, targets[other])
            by_hand += got["loss_p4"]
        assert model.loss(views)["loss_p4"].item() == pytest.approx(by_hand.item())


def test_target_starts_as_a_copy_of_the_initialized_network():
    model = shrunk_model()
    online = dict(model.named_parameters())
    for name, weight in model.target.named_parameters():
        assert torch.equal(weight, online[name]), name
        assert weight is not online[name]


def test_target_moves_by_the_formula_at_updates_1_2_and_3():
    online = nn.Linear(3, 2)
    target = TargetNetwork(online, nn.BatchNorm1d(2))
    expected = online.weight.detach().clone()
    # 1 - (1 - 0.99) (cos(pi k / 4) + 1) / 2 for k = 0, 1, 2
    for kept in (0.99, 0.9914644660940673, 0.995):
        nn.init.normal_(online.weight)
        expected = kept * expected + (1 - kept) * online.weight.detach()
        target.update(online, nn.BatchNorm1d(2), total_steps=4)
        torch.testing.assert_close(target.backbone.weight, expected)
    assert target.step == 3


def test_buffers_of_the_target_are_its_own():
    online = nn.BatchNorm1d(4).train()
    target = TargetNetwork(nn.Identity(), online)
    online(torch.randn(8, 4) + 5)
    target.update(nn.Identity(), online, total_steps=10)
    assert not target.neck.running_mean.any()
    assert target.neck.training


def test_the_target_moves_by_a_share():
    for share in (-0.1, 1.1, "0.01"):
        with pytest.raises(InputError, match=f"base_momentum={share!r}"):
            TargetNetwork(nn.Identity(), nn.Identity(), share)


def test_target_step_is_in_the_state_dict():
    model = shrunk_model()
    model.update_target(10)
    other = shrunk_model()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert other.target.step == 1


def test_autocast_keeps_the_loss_in_float32():
    model = shrunk_model().train()
    calls = []
    loss = model.head.loss_module
    hook = loss.register_forward_hook(lambda _, got, gave: calls.append((got, gave)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model.loss(random_views(model))
    hook.remove()
    assert {figure.dtype for figure in low.values()} == {torch.float32}
    assert len(calls) == 2 * len(model.head.ratios)
    for got, gave in calls:
        torch.testing.assert_close(gave, loss(*got), rtol=0, atol=0)


def test_inference_gives_the_backbones_maps():
    model = shrunk_model().eval()
    data = dict(inputs=torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    inputs = model.data_preprocessor(data)["inputs"]
    # plain images come in the order of the hosts' loaders, blue first
    red = (data["inputs"][:, 2].float() - 123.675) / 58.395
    torch.testing.assert_close(inputs[:, 0], red)
    maps = model(inputs, mode="tensor")
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 2]


@pytest.mark.parametrize(
    "backbone, channels",
    [
        (dict(type="ResNet", depth=18, out_indices=(0, 1, 2, 3)), [64, 128, 256, 512]),
        (dict(type="mmdet.ResNet", depth=18, init_cfg=None, norm_eval=False),
         [64, 128, 256, 512]),
        (
            dict(type="SwinTransformer", arch="tiny", img_size=64, window_size=2,
                 pad_small_map=True, out_indices=(0, 1, 2, 3)),
            [96, 192, 384, 768],
        ),
        (
            dict(type="ConvNeXt", arch="atto", out_indices=(0, 1, 2, 3),
                 gap_before_final_norm=False),
            [40, 80, 160, 320],
        ),
    ],
    ids=["resnet", "mmdet-resnet", "swin", "convnext"],
)  # fmt: skip
def test_backbones_of_either_host(backbone, channels):
    replaced = dict(_delete_=True, **backbone)
    model = shrunk_model(backbone=replaced, **{"neck.in_channels": channels}).train()
    losses = model.loss(random_views(model, batch_size=4))
    sum(v for k, v in losses.items() if k.startswith("loss")).backward()
    assert all(v.isfinite() for v in losses.values())


def test_preprocessor_counts_the_crops():
    model = shrunk_model()
    crops = [torch.zeros(2, 3, 32, 32, dtype=torch.uint8)] * 5
    with pytest.raises(ValueError, match="5 crops"):
        model.data_preprocessor(dict(inputs=crops), training=True)


def test_a_preprocessor_without_a_montage_is_named():
    other = dict(_delete_=True, type="SelfSupDataPreprocessor")
    with pytest.raises(InputError, match="SelfSupDataPreprocessor.*MCLDataPre"):
        shrunk_model(data_preprocessor=other)
