"""Assignments, queue and loss without negatives, against loops from the paper."""

import math

import pytest
import torch

from mcl.errors import InputError
from mcl.models import MCLHead
from mcl.models.losses import normalize
from mcl.models.matching import TargetQueue, Targets, gather_targets, matched_levels

from .conftest import random_views, shrunk_model

RATIOS = (1, 2, 4)
SIZES = dict(in_channels=6, hid_channels=8, out_channels=6)
WEIGHTS = (1 / 2, 1 / 4, 1 / 8)
LEVELS = ("p5", "p4", "p3")
# From the paper's figure, for three levels.
MATCHED = dict(
    image=[[0], [0], [0]],
    same=[[0], [1], [2]],
    neighbors=[[0, 1], [0, 1, 2], [1, 2]],
    all=[[0, 1, 2]] * 3,
)


def head(**options) -> MCLHead:
    loss = dict(type="MultiLevelContrastiveLoss", level_weights=WEIGHTS)
    loss.update(options.pop("loss", {}))
    model = MCLHead(RATIOS, SIZES, loss, **options)
    model.init_weights()
    return model.train()


def draw(batch_size: int, tiles=(None, 8, 16)) -> tuple[list, list]:
    """Embeddings of a view's tiles, and the images on them; not all where few."""
    counts = [batch_size, *tiles[1:]]
    index = [torch.arange(batch_size)]
    for count in counts[1:]:
        index.append(torch.randperm(max(count, batch_size))[:count] % batch_size)
    return [torch.randn(n, 6) for n in counts], index


def unit(vector: list[float]) -> list[float]:
    length = math.hypot(*vector)
    return [x / length for x in vector]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def image_targets(embeddings, index, batch_size: int) -> list:
    """Normalized mean of the normalized embeddings of each image's tiles, or None."""
    targets = []
    for image in range(batch_size):
        tiles = [unit(e) for e in embeddings[index == image].tolist()]
        total = [sum(column) for column in zip(*tiles, strict=True)]
        targets.append(unit(total) if tiles else None)
    return targets


def cross_entropies(online, index, targets, extra=()) -> list[float]:
    """Of the tiles whose image has a target; targets that are absent do not count."""
    losses = []
    negatives = [t for t in targets if t is not None] + list(extra)
    for tile, image in zip(online.tolist(), index.tolist(), strict=True):
        if targets[image] is None:
            continue
        cosines = [dot(unit(tile), t) for t in negatives]
        positive = dot(unit(tile), targets[image])
        losses.append(math.log(sum(map(math.exp, cosines))) - positive)
    return losses


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.hosts
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("tiles", [(None, 8, 16), (None, 4, 16)], ids=["all", "few"])
@pytest.mark.parametrize("assignment", MATCHED)
def test_assignments_against_brute_force(assignment, tiles, reduction):
    """With few tiles some images are on none of a level's, and have no target there."""
    model = head(assignment=assignment, reduction=reduction)
    online, index = draw(7, tiles)
    theirs, their_index = draw(7, tiles)
    targets = model.gather_targets(theirs, their_index)
    got = model.loss(online, index, targets)
    for level, name in enumerate(LEVELS):
        embedded = model.predictors[level]((online[level],))[0].detach()
        entropies = []
        for k in MATCHED[assignment][level]:
            of_level = image_targets(theirs[k], their_index[k], 7)
            entropies.append(mean(cross_entropies(embedded, index[level], of_level)))
        total = sum(entropies) if reduction == "sum" else mean(entropies)
        expected = 2 * WEIGHTS[level] * total
        assert got[f"loss_{name}"].item() == pytest.approx(expected, rel=1e-5)
        assert got[f"ce_{name}"].item() == pytest.approx(mean(entropies), rel=1e-5)


def test_a_tile_without_a_target_has_no_gradient():
    model = head(assignment="same")
    online, index = draw(7, (None, 4, 16))
    theirs, their_index = draw(7, (None, 4, 16))
    for embedding in online:
        embedding.requires_grad_()
    model.eval()  # batch statistics would tie the tiles together
    targets = model.gather_targets(theirs, their_index)
    losses = model.loss(online, index, targets)
    sum(v for k, v in losses.items() if k.startswith("loss")).backward()
    present = torch.isin(index[1], their_index[1])
    assert 0 < present.sum() < 4
    moved = online[1].grad.abs().sum(dim=1) > 0
    assert torch.equal(moved, present)
    assert all(e.grad.isfinite().all() for e in online)


def test_the_levels_that_exist():
    assert matched_levels("neighbors", 4) == ((0, 1), (0, 1, 2), (1, 2, 3), (2, 3))
    assert matched_levels("all", 1) == ((0,),)
    with pytest.raises(InputError, match="assignment='b'"):
        matched_levels("b", 4)


@pytest.mark.parametrize("computation", ["selected", "full"])
def test_the_target_network_runs_on_what_is_read(computation):
    for assignment, levels in (("image", 1), ("same", 4)):
        model = shrunk_model(
            **{"head.assignment": assignment, "neck.computation": computation}
        ).train()
        canvases = []
        model.target.register_forward_pre_hook(
            lambda module, args, seen=canvases: seen.append(len(args[0]))
        )
        losses = model.loss(random_views(model))
        assert canvases == [4 if computation == "full" else levels] * 2
        assert all(v.isfinite() for v in losses.values())


def test_assignments_agree_in_selected_and_full_computation():
    selected = shrunk_model(**{"head.assignment": "all"}).eval()
    full = shrunk_model(**{"head.assignment": "all", "neck.computation": "full"}).eval()
    full.load_state_dict(selected.state_dict())
    views = random_views(selected)
    a, b = selected.loss(views), full.loss(views)
    for name in a:
        assert a[name].item() == pytest.approx(b[name].item(), rel=1e-4, abs=1e-5)


# --- queue


def test_queue_gives_further_negatives():
    model = head(queue=5)
    past = []
    for step in range(4):
        online, index = draw(3)
        theirs, their_index = draw(3)
        targets = model.gather_targets(theirs, their_index)
        got = model.loss(online, index, targets)
        embedded = model.predictors[1]((online[1],))[0].detach()
        own = image_targets(theirs[0], their_index[0], 3)
        expected = mean(cross_entropies(embedded, index[1], own, past))
        assert got["ce_p4"].item() == pytest.approx(expected, rel=1e-5), step
        model.remember(targets)
        past = (own + past)[:5]


def test_queue_keeps_the_newest_of_every_level_and_process():
    queue = TargetQueue(4, num_levels=2, channels=3)
    first, second = torch.randn(2, 3, 3), torch.randn(2, 2, 3)
    valid = torch.tensor([[True, True], [True, False]])
    queue.put(Targets(first, None))
    assert queue.valid.tolist() == [[True, True, True, False]] * 2
    queue.put(Targets(second, valid))
    assert torch.equal(queue.embeddings, torch.cat([second, first[:, :2]], dim=1))
    assert queue.valid.tolist() == [[True] * 4, [True, False, True, True]]
    queue.put(Targets(torch.ones(2, 9, 3), None))
    assert queue.embeddings.eq(1).all() and queue.valid.all()


def test_queue_is_off_by_default_and_in_the_checkpoint():
    assert not any("queue" in name for name in shrunk_model().state_dict())
    model = shrunk_model(**{"head.queue": 20}).train()
    model.loss(random_views(model))
    state = model.state_dict()
    assert state["head.queue.valid"].sum() == 2 * 8  # both views of 8 images
    other = shrunk_model(**{"head.queue": 20})
    other.load_state_dict(state)
    assert torch.equal(other.head.queue.embeddings, state["head.queue.embeddings"])
    other.eval().loss(random_views(other))
    assert torch.equal(other.head.queue.embeddings, state["head.queue.embeddings"])


# --- no negatives


def test_regression_against_brute_force():
    model = head(assignment="same", loss=dict(type="MultiLevelRegressionLoss"))
    online, index = draw(7, (None, 4, 16))
    theirs, their_index = draw(7, (None, 4, 16))
    targets = model.gather_targets(theirs, their_index)
    got = model.loss(online, index, targets)
    for level, name in enumerate(LEVELS):
        of_level = image_targets(theirs[level], their_index[level], 7)
        embedded = model.predictors[level]((online[level],))[0].detach()
        losses = []
        for tile, image in zip(embedded.tolist(), index[level].tolist(), strict=True):
            if of_level[image] is not None:
                losses.append(2 - 2 * dot(unit(tile), of_level[image]))
        expected = WEIGHTS[level] * mean(losses)
        assert got[f"loss_{name}"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind, negatives", [("Regression", 0), ("Contrastive", 1)])
def test_regression_has_no_gradient_from_other_images(kind, negatives):
    model = head(loss=dict(type=f"MultiLevel{kind}Loss"))
    model.eval()  # batch statistics would tie the tiles together
    online, index = draw(7)
    targets, gradients = normalize(torch.randn(7, 6)), []
    for _ in range(2):
        tiles = [e.clone().requires_grad_() for e in online]
        losses = model.loss(tiles, index, Targets(targets[None], None))
        sum(v for k, v in losses.items() if k.startswith("loss")).backward()
        gradients.append([t.grad[i == 0] for t, i in zip(tiles, index, strict=True)])
        targets = torch.cat([targets[:1], normalize(torch.randn(6, 6))])
    for before, after in zip(*gradients, strict=True):
        assert before.abs().sum() > 0
        assert torch.equal(before, after) == (not negatives)


# --- several processes


def test_gathered_targets_are_process_after_process(monkeypatch):
    """Two mocked processes, of which the second has images without a tile."""
    batches = [draw(5, (None, 4, 16)) for _ in range(2)]
    alone = [gather_targets(e, i, [0, 1]) for e, i in batches]
    sent = [[targets.embeddings, targets.valid.float()] for targets in alone]

    def all_gather(own):
        assert torch.equal(own, sent[1][0])
        return [parts.pop(0) for parts in sent]

    monkeypatch.setattr("mcl.models.matching.all_gather", all_gather)
    targets = gather_targets(*batches[1], [0, 1])
    assert targets.embeddings.shape == (2, 10, 6)
    for level in (0, 1):
        for rank, (embeddings, index) in enumerate(batches):
            expected = image_targets(embeddings[level], index[level], 5)
            for image, target in enumerate(expected):
                row = targets.embeddings[level, 5 * rank + image]
                assert targets.valid[level, 5 * rank + image] == (target is not None)
                if target is not None:
                    torch.testing.assert_close(row, torch.tensor(target))


def test_wrong_options_are_named():
    for options, words in (
        (dict(assignment="e"), "assignment='e'"),
        (dict(reduction="max"), "reduction='max'"),
        (dict(queue=-1), "queue=-1"),
        (dict(queue=True), "queue=True"),
    ):
        with pytest.raises(InputError, match=words):
            head(**options)
