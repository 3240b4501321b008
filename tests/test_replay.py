"""Samples come from (seed, epoch, index); unreadable ones are replaced."""

from itertools import islice

import numpy as np
import pytest
import torch
from mmpretrain.registry import DATASETS

from mcl.datasets import ReplayableSampler, SampleKey
from mcl.errors import InputError

from .conftest import shrunk_config, write_images


def dataset(folder):
    return DATASETS.build(shrunk_config(folder).train_dataloader.dataset)


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a["inputs"], b["inputs"], strict=True))


def test_same_key_same_sample_whatever_came_before(image_folder):
    data = dataset(image_folder)
    first = data[SampleKey(1, 2, 3)]
    np.random.rand(7), torch.rand(7), data[SampleKey(1, 2, 4)]
    assert equal(first, data[SampleKey(1, 2, 3)])
    for other in (SampleKey(0, 2, 3), SampleKey(1, 1, 3)):
        assert not equal(first, data[other])


def test_folder_is_read_recursively_without_a_list(image_folder):
    assert len(dataset(image_folder)) == 24


def test_sampler_gives_each_image_once_an_epoch_and_drops_the_short_batch():
    keys = list(islice(ReplayableSampler(range(10), batch_size=4, seed=0), 16))
    assert [k.epoch for k in keys] == [0] * 8 + [1] * 8
    for epoch in (0, 1):
        assert len({k.index for k in keys if k.epoch == epoch}) == 8
    assert [k.index for k in keys[:8]] != [k.index for k in keys[8:]]


def test_skipping_goes_on_where_a_run_stopped():
    whole = list(islice(ReplayableSampler(range(10), batch_size=4, seed=0), 30))
    sampler = ReplayableSampler(range(10), batch_size=4, seed=0)
    sampler.skip(12)
    assert list(islice(sampler, 18)) == whole[12:]


def test_processes_share_an_epoch(monkeypatch):
    drawn = []
    for rank in (0, 1):
        monkeypatch.setattr("mcl.datasets.replay.get_dist_info", lambda r=rank: (r, 2))
        sampler = ReplayableSampler(range(11), batch_size=2, seed=0)
        assert len(sampler) == 4
        drawn += [k.index for k in islice(sampler, 4)]
    assert len(set(drawn)) == 8


class Folders:
    """As many images in each folder as told."""

    def __init__(self, sizes) -> None:
        self.paths = [f"{k}/{i}.jpg" for k, n in enumerate(sizes) for i in range(n)]
        self.dataset = self

    def __len__(self) -> int:
        return len(self.paths)

    def get_data_info(self, index) -> dict:
        return dict(img_path=self.paths[index])

    def folder(self, index) -> str:
        return self.paths[index].partition("/")[0]


@pytest.mark.parametrize("sizes", [[8] * 7, [9, 8, 8, 8, 8, 8, 8]])
def test_a_batch_holds_one_image_of_a_folder(sizes):
    data = Folders(sizes)
    sampler = ReplayableSampler(data, batch_size=5, seed=3, distinct_folders=True)
    keys = list(islice(sampler, 2 * len(sampler)))
    for start in range(0, len(keys), 5):
        assert len({data.folder(k.index) for k in keys[start : start + 5]}) == 5
    epochs = [[k.index for k in keys if k.epoch == e] for e in (0, 1)]
    assert epochs[0] != epochs[1]
    for drawn in epochs:
        assert len(set(drawn)) == len(drawn) == len(sampler)
    sampler.skip(10)
    assert list(islice(sampler, 20)) == keys[10:30]


def test_folders_are_distinct_over_processes(monkeypatch):
    data, drawn = Folders([6] * 7), []
    for rank in (0, 1):
        monkeypatch.setattr("mcl.datasets.replay.get_dist_info", lambda r=rank: (r, 2))
        sampler = ReplayableSampler(data, batch_size=3, seed=0, distinct_folders=True)
        drawn.append([data.folder(k.index) for k in islice(sampler, len(sampler))])
    for start in range(0, len(drawn[0]), 3):
        assert len({f for rank in drawn for f in rank[start : start + 3]}) == 6


def test_fewer_folders_than_a_batch_are_taken_in_turn():
    data = Folders([4] * 3)
    sampler = ReplayableSampler(data, batch_size=6, seed=0, distinct_folders=True)
    keys = list(islice(sampler, 12))
    assert len({k.index for k in keys}) == 12
    for start in range(0, 12, 3):
        assert len({data.folder(k.index) for k in keys[start : start + 3]}) == 3


def test_distinct_folders_need_folders_and_draws():
    for sizes, shuffle, words in [
        ([9], True, "one folder"),
        ([4, 4], False, "shuffle"),
    ]:
        with pytest.raises(InputError, match=f"distinct_folders=True.*{words}"):
            ReplayableSampler(
                Folders(sizes),
                batch_size=2,
                seed=0,
                shuffle=shuffle,
                distinct_folders=True,
            )


def test_fewer_images_than_a_batch_is_said():
    with pytest.raises(InputError, match="3 images are fewer than one batch of 8"):
        ReplayableSampler(range(3), batch_size=8, seed=0)


def truncate(path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_unreadable_image_is_replaced_and_named(tmp_path, damage):
    write_images(tmp_path, 6)
    bad = tmp_path / "001.jpg"
    if damage == "truncated":
        truncate(bad)
    else:
        bad.write_bytes(b"" if damage == "empty" else b"no image")
    data = dataset(tmp_path)
    index = next(
        i for i in range(6) if data.dataset.get_data_info(i)["img_path"] == str(bad)
    )
    sample = data[SampleKey(0, 0, index)]
    replaced = sample["data_samples"].replaced
    assert list(replaced) == [str(bad)] and str(bad) in replaced[str(bad)]
    assert sample["data_samples"].img_path != str(bad)
    assert equal(sample, data[SampleKey(0, 0, index)])
    healthy = data[SampleKey(0, 0, (index + 1) % 6)]["data_samples"]
    assert not healthy.replaced


def test_a_folder_without_a_readable_image_gives_up(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match="unreadable"):
        dataset(tmp_path)[SampleKey(0, 0, 0)]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_images_of_other_modes(tmp_path, mode):
    from PIL import Image

    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (40, 30)).save(tmp_path / f"a.{suffix}")
    sample = dataset(tmp_path)[SampleKey(0, 0, 0)]
    assert not sample["data_samples"].replaced
    assert [c.shape[0] for c in sample["inputs"]] == [3] * 8
