import pytest
import torch
from mmengine.registry import init_default_scope
from torch import nn

from mcl.datasets.montage import cut_tiles
from mcl.errors import InputError
from mcl.models import MCLHead, MCLNeck

CHANNELS = [6, 8, 10, 12]
SIZES = dict(hid_channels=16, out_channels=8)
RATIOS = (1, 2, 4, 8)
COUNTS = (8, 2, 1, 2)


def maps(counts=COUNTS, cells=3) -> list[torch.Tensor]:
    """Backbone maps C2..C5 of canvases whose tiles are 3 x 3 cells."""
    return [
        torch.randn(sum(counts), c, cells * r, cells * r)
        for c, r in zip(CHANNELS, (8, 4, 2, 1), strict=True)
    ]


def necks(ratios=RATIOS) -> dict[str, MCLNeck]:
    """The same neck in both computations, BN in eval mode with odd statistics."""
    both = {
        computation: MCLNeck(
            CHANNELS, 8, ratios=ratios, projector=SIZES, computation=computation
        )
        for computation in ("selected", "full")
    }
    both["full"].init_weights()
    for module in both["full"].modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    both["selected"].load_state_dict(both["full"].state_dict())
    return {name: neck.eval() for name, neck in both.items()}


@pytest.mark.parametrize(
    "ratios, counts",
    [
        (RATIOS, COUNTS),
        ((1,), (4,)),
        ((1, 2), (4, 1)),
        ((1, 4), (4, 2)),
        ((1, 8), (3, 1)),
    ],
)
def test_selected_agrees_with_full_in_eval_mode(ratios, counts):
    both, inputs = necks(ratios), maps(counts)
    selected = both["selected"](inputs, counts)
    full = both["full"](inputs, counts)
    assert [len(e) for e in selected] == [
        n * r * r for n, r in zip(counts, ratios, strict=True)
    ]
    for a, b in zip(selected, full, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_first_level_alone_is_what_the_target_computes():
    neck, inputs = necks()["selected"], maps()
    alone = neck([m[:8] for m in inputs], (8,))
    assert len(alone) == 1
    torch.testing.assert_close(alone[0], neck(inputs, COUNTS)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_a_tile_reads_its_own_cells_only(ratio):
    neck = necks()["selected"]
    feature_map = torch.randn(1, 8, 3 * ratio, 3 * ratio)
    before = neck.embed(feature_map, ratio)
    feature_map[:, :, :3, 3:6] += 10  # the second tile of the first row
    after = neck.embed(feature_map, ratio)
    changed = (before - after).abs().amax(dim=1) > 1e-6
    assert changed.nonzero().flatten().tolist() == [1]


def test_the_pyramid_is_the_detectors():
    from mmdet.models.necks import FPN

    neck, inputs = necks()["selected"], maps()
    fpn = FPN(CHANNELS, 8, num_outs=4, norm_cfg=dict(type="BN")).eval()
    fpn.load_state_dict(neck.state_dict(), strict=False)
    for ours, theirs in zip(neck.pyramid(inputs), fpn(inputs), strict=True):
        assert torch.equal(ours, theirs)


def test_initialization():
    neck = MCLNeck(CHANNELS, 32, projector=dict(hid_channels=512, out_channels=256))
    neck.init_weights()
    conv = neck.shared_convs[0].conv.weight  # Kaiming normal, fan_out = 32 * 9
    assert conv.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.05)
    fpn = neck.fpn_convs[0].conv.weight  # Xavier uniform, fans 32 * 9
    bound = (6 / (2 * 32 * 9)) ** 0.5
    assert bound * 0.98 < fpn.abs().max().item() <= bound
    linear = neck.projector.fc0  # Kaiming normal, fan_in = 32
    assert linear.weight.std().item() == pytest.approx((2 / 32) ** 0.5, rel=0.05)
    assert not linear.bias.any() and not neck.projector.fc1.bias.any()
    assert neck.projector.bn1.weight is None


def test_convs_that_no_level_reads_ask_for_no_gradient():
    neck = MCLNeck(CHANNELS, 8, ratios=(1, 2), projector=SIZES)
    neck.train()
    loss = sum(e.square().sum() for e in neck(maps((4, 1)), (4, 1)))
    loss.backward()
    for name, weight in neck.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad, name
    assert not neck.fpn_convs[0].conv.weight.requires_grad


def test_batch_statistics_of_the_region_part_are_per_level():
    neck = MCLNeck(CHANNELS, 8, projector=SIZES).train()
    neck(maps(), COUNTS)
    assert neck.shared_convs[0].bn.num_batches_tracked == len(RATIOS)
    assert neck.lateral_convs[0].bn.num_batches_tracked == 1


def test_full_runs_every_tile_of_every_map():
    neck = MCLNeck(CHANNELS, 8, projector=SIZES, computation="full").train()
    seen = []
    neck.shared_convs.register_forward_pre_hook(
        lambda m, args: seen.append(len(args[0]))
    )
    neck(maps(), COUNTS)
    assert seen == [13, 13 * 4, 13 * 16, 13 * 64]
    assert cut_tiles(torch.zeros(13, 8, 24, 24), 8).shape[0] == seen[-1]


def test_wrong_settings_are_named():
    with pytest.raises(InputError, match="computation='half'"):
        MCLNeck(CHANNELS, computation="half")
    with pytest.raises(InputError, match="ratios"):
        MCLNeck(CHANNELS[1:], ratios=(1, 2, 4, 8))
    for number in (-1, 1.5):
        with pytest.raises(InputError, match=f"num_shared_convs={number}"):
            MCLNeck(CHANNELS, num_shared_convs=number)


def test_one_image_in_a_process_needs_statistics_over_processes():
    neck = MCLNeck(CHANNELS, 8, ratios=(1, 2), projector=SIZES).train()
    one = maps((1, 1))
    with pytest.raises(InputError, match="batch_size=1.*sync_bn='torch'"):
        neck(one, (1, 1))
    assert len(neck.eval()(one, (1, 1))[0]) == 1
    pooled = dict(type="GlobalAveragePooling")  # no batch norm of rows
    neck = MCLNeck(CHANNELS, 8, ratios=(1, 2), projector=pooled).train()
    assert len(neck(one, (1, 1))[0]) == 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("cells, canvases", [(1, 1), (1, 2), (3, 1)])
def test_gradient_through_tiles_is_the_numerical_one(cells, canvases, layout):
    # One canvas with tiles of one cell: its gradient has strides that torch's batch
    # norm gets wrong on a CPU.
    neck = necks()["selected"].double().to(memory_format=layout)
    feature_map = torch.randn(canvases, 8, 4 * cells, 4 * cells, dtype=torch.float64)
    feature_map = feature_map.contiguous(memory_format=layout)
    weights = torch.randn(16 * canvases, 8, dtype=torch.float64)

    def function(x):
        return (neck.embed(neck.fpn_convs[1](x), 4) * weights).sum()

    assert torch.autograd.gradcheck(
        function,
        feature_map.requires_grad_(),
        fast_mode=True,
        check_undefined_grad=False,
    )


def test_default_parts_are_found_in_a_detectors_scope():
    init_default_scope("mmdet")
    neck = MCLNeck([4, 8, 16, 32], 8)
    assert type(neck.projector).__name__ == "NonLinearNeck"
    head = MCLHead()
    assert type(head.predictors[0]).__name__ == "NonLinearNeck"
    assert type(head.loss_module).__name__ == "MultiLevelContrastiveLoss"
