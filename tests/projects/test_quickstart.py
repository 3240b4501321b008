"""The quickstart: its sampler."""

from itertools import islice

from projects.quickstart.sampler import SameNameSampler

from ..test_replay import Folders


def test_batches_of_one_name():
    """Seven folders of images 0.jpg to 8.jpg, in batches of seven, then of five."""
    data = Folders([9] * 7)

    def names(key) -> str:
        return data.paths[key.index].partition("/")[2]

    sampler = SameNameSampler(data, batch_size=7, seed=0)
    keys = list(islice(sampler, len(sampler)))
    assert len({k.index for k in keys}) == 63
    batches = [{names(k) for k in keys[i : i + 7]} for i in range(0, 63, 7)]
    assert all(len(batch) == 1 for batch in batches)
    assert set.union(*batches) == {f"{i}.jpg" for i in range(9)}
    assert [min(b) for b in batches] != sorted(map(min, batches))
    keys = list(islice(SameNameSampler(data, batch_size=5, seed=0), 60))
    for start in range(0, 60, 5):
        batch = keys[start : start + 5]
        assert len({data.folder(k.index) for k in batch}) == 5
        assert len({names(k) for k in batch}) <= 2
