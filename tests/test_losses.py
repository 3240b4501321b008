import math

import pytest
import torch

from mcl.errors import InputError
from mcl.models import MCLHead, MultiLevelContrastiveLoss
from mcl.models.losses import contrastive_cross_entropy, normalize

SIZES = dict(in_channels=6, hid_channels=8, out_channels=6)


def brute_force(online, targets, labels, temperature):
    """Cross-entropy and figures, tile by tile, from the paper's formula."""
    losses, positives, negatives, hits = [], [], [], 0
    for tile, label in zip(online.tolist(), labels.tolist(), strict=True):
        cosines = []
        for target in targets.tolist():
            dot = sum(a * b for a, b in zip(tile, target, strict=True))
            norms = math.hypot(*tile) * math.hypot(*target)
            cosines.append(dot / norms)
        exps = [math.exp(c / temperature) for c in cosines]
        losses.append(-math.log(exps[label] / sum(exps)))
        positives.append(cosines[label])
        negatives += [c for i, c in enumerate(cosines) if i != label]
        hits += cosines[label] == max(cosines)
    means = [sum(v) / len(v) for v in (losses, positives, negatives)]
    return *means, hits / len(losses)


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_against_brute_force(temperature):
    online, targets = torch.randn(12, 6), torch.randn(5, 6)
    labels = torch.randint(0, 5, (12,))
    term = contrastive_cross_entropy(
        normalize(online), normalize(targets), labels, temperature
    )
    expected = brute_force(online, targets, labels, temperature)
    for got, want in zip(term, expected, strict=True):
        assert got.item() == pytest.approx(want, rel=1e-5, abs=1e-6)


def test_weight_and_temperature():
    loss = MultiLevelContrastiveLoss((0.5, 0.25), temperature=0.2)
    online, targets = normalize(torch.randn(4, 6)), normalize(torch.randn(4, 6))
    weighted, term = loss(1, online, targets, torch.arange(4))
    assert weighted.item() == pytest.approx(0.25 * 0.4 * term.cross_entropy.item())


def test_float32_under_autocast():
    online = torch.randn(4, 6, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        unit = normalize(online)
        term = contrastive_cross_entropy(unit, unit, torch.arange(4), 1.0)
    assert unit.dtype == term.cross_entropy.dtype == torch.float32
    assert torch.allclose(unit.norm(dim=1), torch.ones(4), atol=1e-6)


def test_a_single_image_has_no_negative():
    unit = normalize(torch.randn(1, 6))
    term = contrastive_cross_entropy(unit, unit, torch.zeros(1, dtype=torch.long), 1.0)
    assert term.cross_entropy.item() == 0 and term.negative.item() == 0


def test_head_matches_each_level_with_its_images():
    head = MCLHead(
        (1, 2),
        SIZES,
        dict(type="MultiLevelContrastiveLoss", level_weights=(1 / 2, 1 / 4)),
    )
    embeddings = [torch.randn(4, 6), torch.randn(8, 6)]
    index = [torch.arange(4), torch.randperm(8) % 4]
    bank = head.gather_targets([torch.randn(4, 6)], index)
    targets = bank.embeddings[0]
    got = head.loss(embeddings, index, bank)
    for level, (name, weight) in enumerate((("p5", 0.5), ("p4", 0.25))):
        online = head.predictors[level]((embeddings[level],))[0].detach()
        ce, positive, negative, top1 = brute_force(online, targets, index[level], 1.0)
        assert got[f"ce_{name}"].item() == pytest.approx(ce, rel=1e-5)
        assert got[f"loss_{name}"].item() == pytest.approx(2 * weight * ce, rel=1e-5)
        assert got[f"positive_cosine_{name}"].item() == pytest.approx(
            positive, abs=1e-5
        )
        assert got[f"negative_cosine_{name}"].item() == pytest.approx(
            negative, abs=1e-5
        )
        assert got[f"top1_{name}"].item() == pytest.approx(top1)


def test_wrong_settings_are_named():
    for temperature in (0, "low", None):
        with pytest.raises(InputError, match=f"temperature={temperature!r}"):
            MultiLevelContrastiveLoss(temperature=temperature)
    with pytest.raises(InputError, match="level_weights"):
        MCLHead((1, 2), SIZES, dict(type="MultiLevelContrastiveLoss"))
