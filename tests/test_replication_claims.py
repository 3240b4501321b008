"""The replication's statistics, and what its claims make of them."""

import importlib
import math
import re

import numpy as np
import pytest
from scipy import stats

from .replication_results import HIGH, LOW, scale

claims = importlib.import_module("claims")
spread = importlib.import_module("spread")

# Statistics


def test_a_comparison_by_hand():
    compared = spread.compare({0: 3, 1: 5, 2: 7, 9: 1}, {2: 4, 1: 3, 0: 2, 5: 1})
    assert compared.seeds == (0, 1, 2) and compared.differences.tolist() == [1, 2, 3]
    # Student's t of 2 degrees of freedom: 4.302653 at 95 %; p = 1 - t / sqrt(2 + t^2)
    reach, t = 4.302653 / math.sqrt(3), 2 * math.sqrt(3)
    assert compared.difference == 2
    assert compared.interval == pytest.approx((2 - reach, 2 + reach))
    assert compared.p == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert compared.ratio == pytest.approx(5 / 3)
    assert compared.outside is False


def test_comparisons_against_scipy():
    rng = np.random.default_rng(1)
    for n in (2, 3, 8):
        first, second = rng.uniform(0.1, 0.2, (2, n))
        compared = spread.compare(dict(enumerate(first)), dict(enumerate(second)))
        test = stats.ttest_rel(first, second)
        assert compared.p == pytest.approx(test.pvalue)
        # Welch's test: each row's own variance, degrees of freedom between n - 1 and
        # 2 n - 2.
        parts = [np.var(values, ddof=1) / n for values in (first, second)]
        freedom = sum(parts) ** 2 / sum(part**2 / (n - 1) for part in parts)
        t = (first.mean() - second.mean()) / math.sqrt(sum(parts))
        found = 2 * stats.t.sf(abs(t), freedom)
        assert compared.unpaired_p == pytest.approx(found)
        assert compared.interval == pytest.approx(tuple(test.confidence_interval(0.95)))
        logs = stats.ttest_1samp(np.log(first / second), 0).confidence_interval(0.95)
        assert compared.ratio_interval == pytest.approx(tuple(np.exp(logs)))
        assert compared.outside == all(a > b for a in first for b in second)
        assert spread.deviation(first) == pytest.approx(
            math.sqrt(sum((v - sum(first) / n) ** 2 for v in first) / (n - 1))
        )


def test_outside_is_about_every_pair():
    apart = spread.compare({0: 5, 1: 6}, {0: 3, 1: 4})
    touching = spread.compare({0: 5, 1: 6}, {0: 3, 1: 5})
    assert apart.outside is True and touching.outside is False


@pytest.mark.parametrize("seeds", [(), (4,)])
def test_fewer_than_two_seeds_say_nothing(seeds):
    compared = spread.compare(dict.fromkeys(seeds, 2), dict.fromkeys(seeds, 1))
    assert not compared.enough
    found = compared.interval, compared.p, compared.ratio_interval, compared.outside
    assert (*found, compared.unpaired_p) == (None,) * 5
    assert spread.deviation([1.0]) is None and spread.mean([]) is None


def test_what_cannot_be_divided_or_tested_is_none():
    zero = spread.compare({0: 0.1, 1: 0.3}, {0: 0.0, 1: 0.0})
    assert zero.ratio is None and zero.ratio_interval is None and zero.p is not None
    same = spread.compare({0: 0.3, 1: 0.2}, {0: 0.2, 1: 0.1})
    assert same.p is None and same.interval == pytest.approx((0.1, 0.1))
    assert same.unpaired_p is not None
    assert spread.compare({0: 3, 1: 3}, {0: 2, 1: 2}).unpaired_p is None


# Claims: for each, results that make it hold and results that do not.

ALIKE = (0.101, 0.109, 0.105)
CASES = [
    (dict(mcl=HIGH, random=LOW), dict(mcl=HIGH, random=(0.13, 0.14, 0.12))),
    (
        dict(mcl=HIGH, mocov2=LOW, densecl=(0.12, 0.13, 0.12)),
        dict(mcl=HIGH, mocov2=LOW, densecl=(0.15, 0.16, 0.155)),
    ),
    (dict(mcl=LOW, mcl_sup=ALIKE), dict(mcl=LOW, mcl_sup=HIGH)),
    (dict(mcl=LOW, mcl_sup_compute=ALIKE), dict(mcl=LOW, mcl_sup_compute=HIGH)),
    (dict(mcl=HIGH, mcl_backbone=LOW), dict(mcl=ALIKE, mcl_backbone=LOW)),
    (dict(mcl=HIGH, mcl_crops=LOW), dict(mcl=LOW, mcl_crops=HIGH)),
    (dict(mcl=HIGH, mcl_level1=LOW), dict(mcl=ALIKE, mcl_level1=LOW)),
    (
        dict(mcl_backbone=HIGH, mcl_level1_backbone=LOW),
        dict(mcl_backbone=ALIKE, mcl_level1_backbone=LOW),
    ),
    (dict(mcl=ALIKE, mcl_full=LOW), dict(mcl=LOW, mcl_full=HIGH)),
    (dict(mcl=HIGH, byol=LOW), dict(mcl=ALIKE, byol=LOW)),
    (dict(mcl=HIGH, sup=LOW), dict(mcl=ALIKE, sup=LOW)),
    (dict(mcl=HIGH, mocov2_compute=LOW), dict(mcl=ALIKE, mocov2_compute=LOW)),
    (
        dict(mcl={100: HIGH, 10: HIGH}, random={100: LOW, 10: (0.05, 0.06, 0.055)}),
        dict(mcl={100: HIGH, 10: HIGH}, random={100: LOW, 10: LOW}),
    ),
    (dict(mcl=HIGH, mcl_quarter=LOW), dict(mcl=ALIKE, mcl_quarter=LOW)),
]


@pytest.mark.parametrize("index", range(len(CASES)))
def test_every_verdict_can_be_reached(index):
    assert len(CASES) == len(claims.CLAIMS) - 1  # the last has a test of its own
    claim, (held, refuted) = claims.CLAIMS[index], CASES[index]
    assert claim.judge(scale(**held)).verdict == claims.HELD
    assert claim.judge(scale(**refuted)).verdict == claims.NOT_HELD
    assert claim.judge(scale(mcl=HIGH)).verdict == claims.MISSING
    single = {
        name: {
            k: v[:1] for k, v in (aps if isinstance(aps, dict) else {100: aps}).items()
        }
        for name, aps in held.items()
    }
    assert claim.judge(scale(**single)).verdict == claims.MISSING


def test_mask_follows_box():
    claim, both = claims.CLAIMS[-1], scale(mcl=HIGH, random=LOW, byol=LOW)
    verdict = claim.judge(both)
    assert verdict.verdict == claims.HELD
    # MCL and the random start, MCL and BYOL; the latter two are equal.
    words = "excluding 0, in 2 of 3 pairs of rows, and in 2 of these 2 mask"
    assert words in verdict.detail
    for run in both.rows["mcl"]["finetuning"]:
        run["segm"] = 0.01
    verdict = claim.judge(both)
    assert verdict.verdict == claims.NOT_HELD and "in 0 of these 2" in verdict.detail
    assert "(box -6.00, mask +8.45)" in verdict.detail
    assert claim.judge(scale(mcl=ALIKE, random=LOW)).verdict == claims.MISSING


def test_a_factor_needs_the_spread_too_and_a_rounding_error_does_no_harm():
    claim = claims.CLAIMS[0]
    overlapping = claim.judge(scale(mcl=(0.5, 0.1, 0.5), random=(0.2, 0.1, 0.1)))
    assert overlapping.verdict == claims.NOT_HELD
    assert overlapping.detail.startswith("The lowest seed is not above the highest")
    equal = (0.1, 0.1, 0.1)
    exact = scale(mcl=[claims.GAIN * v for v in equal], random=equal)
    assert claim.judge(exact).verdict == claims.HELD


def test_the_better_of_two_or_the_one_that_was_run():
    claim = claims.CLAIMS[1]
    both = claim.judge(scale(mcl=HIGH, mocov2=LOW, densecl=(0.12, 0.13, 0.12)))
    assert "Judged against DenseCL, the better one." in both.detail
    short = claim.judge(scale(mcl=HIGH, mocov2=LOW, densecl=(0.9,)))
    assert short.verdict == claims.MISSING and "one seed in common" in short.detail


@pytest.mark.parametrize("other, title", [("mocov2", "DenseCL"), ("densecl", "MoCo")])
def test_one_of_two_refutes_but_does_not_bear_out(other, title):
    claim = claims.CLAIMS[1]
    alone = claim.judge(scale(mcl=HIGH, **{other: LOW}))
    assert alone.verdict == claims.MISSING
    assert alone.detail.startswith(f"With all labels, {title}")
    assert " alone it would hold: the ratio is 1.1 or more" in alone.detail
    assert "10.5 ± 0.50 box AP with all labels (seeds 0, 1 and 2)" in alone.detail
    refuted = claim.judge(scale(mcl=LOW, **{other: HIGH}))
    assert refuted.verdict == claims.NOT_HELD
    assert "which refutes it alone. With all labels, " in refuted.detail


def test_supervised_may_be_too_high_as_well_as_too_low():
    claim = claims.CLAIMS[2]
    for factor, verdict in ((0.9, "held"), (1.1, "held"), (0.89, "not held")):
        found = scale(mcl=LOW, mcl_sup=[factor * v for v in LOW])
        assert claim.judge(found).verdict == verdict
    assert ", the second the higher." in claim.judge(found).detail
    above = claim.judge(scale(mcl=LOW, mcl_sup=HIGH))
    assert above.verdict == "not held" and ", the first the higher." in above.detail


def test_near_means_with_a_wide_interval_are_said_to_be_so():
    claim = claims.CLAIMS[2]
    wide = claim.judge(scale(mcl=(0.1, 0.2, 0.3), mcl_sup=(0.2, 0.1, 0.3)))
    narrow = claim.judge(scale(mcl=LOW, mcl_sup=[1.05 * v for v in LOW]))
    assert wide.verdict == narrow.verdict == claims.HELD
    assert "though the interval of the ratio is wider than that" in wide.detail
    assert "though" not in narrow.detail


def test_other_learning_rates_are_said():
    found = scale(mcl=HIGH, mcl_crops=LOW, mocov2=LOW, densecl=LOW)
    rates = dict(mcl=3e-3, mcl_crops=1e-3, mocov2=3.3e-4, densecl=3.3e-4)
    for name, lr in rates.items():
        found.rows[name.replace("_", "-")]["pretraining"] = dict(lr=lr)
    crops = next(c for c in claims.CLAIMS if getattr(c, "others", ()) == ("mcl-crops",))
    words = "Their learning rates of pre-training differ, 0.003 and 0.001."
    assert words in crops.judge(found).detail
    others = "Their learning rates of pre-training differ, 0.003 and 0.00033."
    assert others in claims.CLAIMS[1].judge(found).detail
    found.rows["mcl-crops"]["pretraining"]["lr"] = 3e-3
    assert "learning rates" not in crops.judge(found).detail


FULL = (0.4, 0.4, 0.4)  # of which the limit is 0.02


@pytest.mark.parametrize(
    "differences, held, begins",
    [
        # Three seeds m - d, m, m + d: the interval reaches 2.484 d to each side.
        ((-0.004, 0.0, 0.004), True, "the interval of the difference is above -2.00"),
        ((-0.012, -0.01, -0.008), True, "the interval of the difference is above -2"),
        (
            (-0.01, 0.0, 0.01),
            False,
            "it is not shown: .* reaches down to -2.48; .*-2.0",
        ),
        ((-0.2, 0.1, 0.4), False, "it is not shown"),
        ((-0.018, -0.015, -0.012), False, "it is shown to be worse: .* down to -2.25"),
        ((-0.032, -0.03, -0.028), False, "it is shown to be worse"),
    ],
)
def test_little_loss_takes_evidence(differences, held, begins):
    first = {k: f + d for k, (f, d) in enumerate(zip(FULL, differences, strict=True))}
    compared = spread.compare(first, dict(enumerate(FULL)))
    ruling = claims.at_most_below(claims.MARGIN)(compared)
    assert ruling.held == held and re.match(begins, ruling.why)
    assert ruling.why.endswith("5 % of the other's mean") != (
        ", though below 0" in ruling.why
    )
    assert (", though below 0" in ruling.why) == (held and max(differences) < 0)


def test_a_gain_without_a_ratio_is_not_judged():
    zeros = dict(mcl={100: HIGH, 10: HIGH}, random={100: LOW, 10: (0, 0, 0)})
    kind = claims.MoreWithFewLabels
    (claim,) = (c for c in claims.CLAIMS if isinstance(c, kind))
    verdict = claim.judge(scale(**zeros))
    assert verdict.verdict == claims.MISSING and "two seeds" in verdict.detail
