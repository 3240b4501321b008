import pytest
import torch

from mcl.datasets.montage import Montage, cut_tiles, lay_tiles, sample_image_index
from mcl.errors import InputError


@pytest.mark.parametrize(
    "batch_size, counts",
    [(128, (128, 32, 8, 4)), (16, (16, 4, 1, 1)), (3, (3, 1, 1, 1))],
)
def test_default_number_of_canvases(batch_size, counts):
    assert Montage().num_canvases(batch_size) == counts


def test_every_tile_shows_the_image_it_names():
    batch_size, size, ratios = 16, 64, (1, 2, 4, 8)
    # The pixels of image i are all i, so a tile tells which image it is.
    crops = [
        torch.arange(batch_size, dtype=torch.uint8)
        .view(-1, 1, 1, 1)
        .expand(-1, 3, size // r, size // r)
        for r in ratios
    ]
    view = Montage(size, ratios)(dict(crops=crops))["view"]
    for ratio, canvases, index in zip(
        ratios, view.canvases, view.image_index, strict=True
    ):
        side = size // ratio
        tile = 0
        for canvas in canvases:
            for row in range(ratio):
                for column in range(ratio):
                    pixels = canvas[
                        :,
                        row * side : (row + 1) * side,
                        column * side : (column + 1) * side,
                    ]
                    assert (pixels == index[tile]).all()
                    tile += 1
        assert tile == len(index)
    assert view.image_index[0].tolist() == list(range(batch_size))


@pytest.mark.parametrize("batch_size, slots", [(16, 16), (16, 64), (10, 16)])
def test_slots_hold_every_image_equally_often(batch_size, slots):
    counts = torch.bincount(sample_image_index(batch_size, slots), minlength=batch_size)
    assert set(counts.tolist()) <= {slots // batch_size, -(-slots // batch_size)}


def test_fewer_slots_than_images_hold_distinct_ones():
    index = sample_image_index(20, 16)
    assert len(set(index.tolist())) == 16 and index.max() < 20


def test_draws_follow_the_generator():
    crops = [torch.rand(8, 3, 64, 64), torch.rand(8, 3, 32, 32)]

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        montage = Montage(64, (1, 2))
        return montage(dict(crops=crops, generator=generator))["view"].image_index[1]

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_cut_undoes_lay():
    tiles = torch.rand(2 * 16, 3, 5, 5)
    assert torch.equal(cut_tiles(lay_tiles(tiles, 4), 4), tiles)


@pytest.mark.parametrize(
    "arguments, field",
    [
        (dict(size=100), "size=100"),
        (dict(size=0), "size=0"),
        (dict(ratios=(1, 3)), "ratios"),
        (dict(ratios=(2, 4)), "ratios"),
        (dict(ratios=(1, 2, 4, 8, 16)), "ratios"),
        (dict(ratios=()), "ratios"),
        (dict(canvases=(None, 2)), "canvases"),
        (dict(canvases=(4, 2, 1, 1)), "canvases"),
        (dict(canvases=(None, 2, 1, 0)), "canvases"),
        (dict(canvases=(None, 2.5, 1, 1)), "canvases"),
        (dict(canvases=()), "canvases"),
        (dict(size=224.0), "size=224.0"),
        (dict(ratios=(1, 2.0)), "ratios"),
        (dict(ratios=4), "ratios"),
        (dict(shuffle="no"), "shuffle='no'"),
        (dict(on_canvas=0), "on_canvas=0"),
    ],
)
def test_wrong_settings_are_named(arguments, field):
    with pytest.raises(ValueError, match=field):
        Montage(**arguments)


def test_crops_of_another_size_are_named():
    with pytest.raises(InputError, match="MultiLevelViews"):
        Montage(64, (1, 2))(dict(crops=[torch.rand(4, 3, 64, 64)] * 2))


def test_number_of_canvases_can_be_set():
    montage = Montage(64, (1, 2), canvases=(None, 3))
    crops = [torch.rand(8, 3, 64, 64), torch.rand(8, 3, 32, 32)]
    view = montage(dict(crops=crops))["view"]
    assert len(view.canvases[1]) == 3 and len(view.image_index[1]) == 12
