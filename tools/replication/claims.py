"""The claims of the replication, and what the numbers say to each.

A claim holds by its numbers alone. It needs two seeds that both rows have: one seed
says nothing about the spread, so such a claim is not judged.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from collected import LABELS, Scale
from scipy import stats
from spread import Comparison, compare, mean
from titles import NAMES, TITLES
from wording import counted, describe, listed, percent, plain, share, signed, times

HELD, NOT_HELD, MISSING = "held", "not held", "not judged"
VERDICTS = (NOT_HELD, HELD, MISSING)  # in the order of the document
GAIN, LEAD, NEAR = 1.4, 1.1, 0.1
MARGIN = 0.05  # of non-inferiority: a loss that would not matter
ALL, FEW = LABELS
# Ratios are compared after rounding errors are taken off, 0.9 / 1.0 is within 10 %.
ROUNDING = 1e-9


class Verdict(NamedTuple):
    """What became of a claim: its text, one of VERDICTS, the reason and numbers."""

    text: str
    verdict: str
    detail: str


class Ruling(NamedTuple):
    """Whether a comparison bears a claim out, and why."""

    held: bool
    why: str


Test = Callable[[Comparison], Ruling]


def at_least(factor: float) -> Test:
    """The ratio of means reaches a factor and the seeds do not overlap."""

    def rule(compared: Comparison) -> Ruling:
        needed = factor * mean(compared.second) - ROUNDING
        faults = []
        if mean(compared.first) < needed:
            faults.append(f"the ratio is below {factor:g}")
        if not compared.outside:
            faults.append("the lowest seed is not above the highest of the other")
        words = (
            f"the ratio is {factor:g} or more and the lowest seed above the highest of "
            "the other"
        )
        return Ruling(not faults, listed(faults) if faults else words)

    return rule


def above(compared: Comparison) -> Ruling:
    """The whole interval of the difference is above 0."""
    low, high = compared.interval
    if low > 0:
        return Ruling(True, "the interval of the difference is above 0")
    if high < 0:
        return Ruling(False, "it is the other way round")
    return Ruling(False, "the interval of the difference includes 0")


def at_most_below(share_of_other: float) -> Test:
    """The whole interval of the difference is above a loss that is allowed.

    The loss is a share of the other row's mean. A wide interval is no evidence, so it
    bears nothing out.
    """

    def rule(compared: Comparison) -> Ruling:
        low, high = compared.interval
        allowed = -share_of_other * mean(compared.second)
        part = percent(share_of_other)
        limit = f"{signed(allowed)}, a loss of {part} of the other's mean"
        if low > allowed:
            loss = ", though below 0" if high < 0 else ""
            words = f"the interval of the difference is above {limit}{loss}"
            return Ruling(True, words)
        found = "shown to be worse" if high < 0 else "not shown"
        side = "is below 0 and " if high < 0 else ""
        words = (
            f"it is {found}: the interval of the difference {side}reaches down to "
            f"{signed(low)}; the limit is {limit}"
        )
        return Ruling(False, words)

    return rule


def within(share_of_one: float) -> Test:
    """The ratio of means is near 1, to either side."""

    def rule(compared: Comparison) -> Ruling:
        limit = share_of_one * mean(compared.second) + ROUNDING
        near = abs(compared.difference) <= limit
        words = "at most" if near else "more than"
        higher = "first" if compared.difference > 0 else "second"
        why = f"the means are {words} {percent(share_of_one)} apart"
        if not near:
            why += f", the {higher} the higher"
        if near and not inside(compared.ratio_interval, share_of_one):
            why += ", though the interval of the ratio is wider than that"
        return Ruling(near, why)

    return rule


def inside(interval: tuple[float, float] | None, share_of_one: float) -> bool:
    """Whether an interval of a ratio is within a share of 1."""
    return interval is not None and max(abs(end - 1) for end in interval) <= (
        share_of_one + ROUNDING
    )


@dataclass(frozen=True)
class Against:
    """A row against another, or against the better of several, by box AP.

    One of several can refute the claim; to bear it out takes all of them.
    """

    text: str
    test: Test
    first: str
    others: tuple[str, ...]
    labels: int = ALL

    def planned(self, scale: Scale) -> bool:
        """Whether the scale has the rows and the labels."""
        rows = {self.first, *self.others}
        return rows <= set(scale.planned) and self.labels in scale.labels

    def judge(self, scale: Scale) -> Verdict:
        found = {o: scale.compare(self.first, o, self.labels) for o in self.others}
        usable = {o: c for o, c in found.items() if c.enough}
        lacking = [self._lack(scale, o, c) for o, c in found.items() if not c.enough]
        if not usable:
            return Verdict(self.text, MISSING, sentences(*lacking))
        best = max(usable, key=lambda other: mean(usable[other].second))
        ruling = self.test(usable[best])
        figure = f"box AP with {share(self.labels)}"
        numbers = describe(TITLES[self.first], TITLES[best], usable[best], figure)
        if ruling.held and lacking:
            alone = f"against {TITLES[best]} alone it would hold: {ruling.why}"
            return Verdict(self.text, MISSING, sentences(*lacking, alone, numbers))
        chosen = ""
        if len(self.others) > 1:
            how = "which refutes it alone" if lacking else "the better one"
            chosen = f"judged against {TITLES[best]}, {how}"
        verdict = HELD if ruling.held else NOT_HELD
        rates = other_rates(scale, self.first, best)
        detail = sentences(ruling.why, numbers, rates, chosen, *lacking)
        return Verdict(self.text, verdict, detail)

    def _lack(self, scale: Scale, other: str, compared: Comparison) -> str:
        """Why two rows cannot be compared."""
        return shortage(scale, (self.first, other), self.labels) or (
            f"{TITLES[self.first]} and {TITLES[other]} have "
            + ("one seed" if compared.seeds else "no seed")
            + " in common, which allows no statement"
        )


@dataclass(frozen=True)
class MoreWithFewLabels:
    """The ratio to the random start is larger with few labels than with all."""

    text: str
    first: str = "mcl"
    second: str = "random"

    def planned(self, scale: Scale) -> bool:
        """Whether the scale has both parts of the labels."""
        return set(LABELS) <= set(scale.labels)

    def judge(self, scale: Scale) -> Verdict:
        pair = self.first, self.second
        few, all_ = (self._logs(scale, labels) for labels in (FEW, ALL))
        lacking = [shortage(scale, pair, labels) for labels in LABELS]
        if any(lacking):
            return Verdict(self.text, MISSING, sentences(*lacking))
        compared = compare(few, all_)
        if not compared.enough:
            words = "fewer than two seeds have a ratio with all and with few labels"
            return Verdict(self.text, MISSING, sentences(words))
        held = compared.interval[0] > 0
        side = "above" if held else "not wholly above"
        quotient, low, high = np.exp([compared.difference, *compared.interval])
        parts = [
            f"with {share(labels)} {describe(*map(TITLES.get, pair), c, 'box AP')}"
            for labels, c in ((n, scale.compare(*pair, n)) for n in (FEW, ALL))
        ]
        why = (
            "the interval of the quotient of both ratios, of geometric means, is "
            f"{side} 1: {times(quotient)} ({times(low)} to {times(high)})"
        )
        return Verdict(self.text, HELD if held else NOT_HELD, sentences(why, *parts))

    def _logs(self, scale: Scale, labels: int) -> dict[int, float]:
        """Log ratio by seed, of the seeds where neither AP is 0."""
        values = [scale.values(row, labels) for row in (self.first, self.second)]
        common = compare(*({s: v for s, v in d.items() if v > 0} for d in values))
        logs = common.log_ratios
        return {} if logs is None else dict(zip(common.seeds, logs, strict=True))


@dataclass(frozen=True)
class MaskFollowsBox:
    """Where two rows differ in box AP, they differ in mask AP the same way."""

    text: str

    def planned(self, scale: Scale) -> bool:
        """In every scale."""
        return True

    def judge(self, scale: Scale) -> Verdict:
        pairs = [p for p in combinations(NAMES, 2) if scale.compare(*p).enough]
        apart = list(self._apart(scale, pairs))
        if not apart:
            words = "no two rows differ in box AP so that the interval excludes 0"
            return Verdict(self.text, MISSING, sentences(words))
        against = [
            f"{TITLES[a]} and {TITLES[b]} (box {signed(box)}, mask {signed(mask)})"
            for a, b, box, mask in apart
            if box * mask <= 0
        ]
        alike = len(apart) - len(against)
        words = (
            f"with {share(ALL)} box AP differs, the interval excluding 0, in "
            f"{len(apart)} of {counted(len(pairs), 'pair')} of rows, and in {alike} of "
            f"these {len(apart)} mask AP differs the same way"
        )
        others = f"not so {listed(against)}" if against else ""
        verdict = NOT_HELD if against else HELD
        return Verdict(self.text, verdict, sentences(words, others, ranks(scale)))

    def _apart(
        self, scale: Scale, pairs: Iterable[tuple[str, str]]
    ) -> Iterator[tuple[str, str, float, float]]:
        for first, second in pairs:
            box = scale.compare(first, second)
            mask = scale.compare(first, second, figure="segm")
            if box.interval[0] > 0 or box.interval[1] < 0:
                yield first, second, box.difference, mask.difference


def ranks(scale: Scale) -> str:
    """Spearman's coefficient of the rows' means; empty of fewer than three rows."""
    means = [
        [mean(list(scale.values(row, ALL, f).values())) for f in ("bbox", "segm")]
        for row in NAMES
        if scale.values(row)
    ]
    if len(means) < 3:
        return ""
    box, mask = zip(*means, strict=True)
    if len(set(box)) == 1 or len(set(mask)) == 1:
        return ""
    found = stats.spearmanr(box, mask).statistic
    return f"over {len(means)} rows the rank correlation is {found:.2f}"


def shortage(scale: Scale, rows: tuple[str, ...], labels: int) -> str:
    """Which rows have no fine-tuning; empty where all have one."""
    lacking = [TITLES[row] for row in rows if not scale.values(row, labels)]
    if not lacking:
        return ""
    were = "was" if len(lacking) == 1 else "were"
    return f"with {share(labels)}, {listed(lacking)} {were} not run"


def other_rates(scale: Scale, first: str, second: str) -> str:
    """That two rows were not pre-trained at one rate; empty where they were."""
    rates = [scale.pretraining(row).get("lr") for row in (first, second)]
    if None in rates or len(set(rates)) == 1:
        return ""
    words = listed([plain(rate) for rate in rates])
    return f"their learning rates of pre-training differ, {words}"


def sentences(*parts: str) -> str:
    """Parts as sentences, each once; empty ones are left out."""
    kept = dict.fromkeys(p for p in parts if p)
    return " ".join(f"{p[0].upper()}{p[1:]}." for p in kept)


def of_others(text: str, first: str, other: str) -> Against:
    """The claim that a row is better than another."""
    return Against(text, above, first, (other,))


CLAIMS = (
    Against(
        f"MCL's box AP is at least {GAIN:g} times the random start's",
        at_least(GAIN),
        "mcl",
        ("random",),
    ),
    Against(
        f"MCL's box AP is at least {LEAD:g} times that of the better of MoCo v2 and "
        "DenseCL",
        at_least(LEAD),
        "mcl",
        ("mocov2", "densecl"),
    ),
    Against(
        f"Supervised MCL is within {percent(NEAR)} of MCL",
        within(NEAR),
        "mcl-sup",
        ("mcl",),
    ),
    Against(
        "Supervised MCL that is given as much compute is within "
        f"{percent(NEAR)} of MCL",
        within(NEAR),
        "mcl-sup-compute",
        ("mcl",),
    ),
    of_others(
        "Transferring FPN and box convs helps: MCL is above its backbone alone",
        "mcl",
        "mcl-backbone",
    ),
    of_others(
        "The montage helps: MCL is above MCL on stacked crops", "mcl", "mcl-crops"
    ),
    of_others(
        "Several levels help: MCL is above MCL with one level", "mcl", "mcl-level1"
    ),
    of_others(
        "Several levels help the backbone: MCL's alone is above one-level MCL's alone",
        "mcl-backbone",
        "mcl-level1-backbone",
    ),
    Against(
        "Computing only what the loss reads costs little AP: MCL is at most "
        f"{percent(MARGIN)} below MCL with full computation",
        at_most_below(MARGIN),
        "mcl",
        ("mcl-full",),
    ),
    of_others("MCL is above BYOL", "mcl", "byol"),
    of_others("MCL is above supervised classification", "mcl", "sup"),
    of_others(
        "MCL is above MoCo v2 that is given as much compute", "mcl", "mocov2-compute"
    ),
    MoreWithFewLabels(
        "MCL's gain over the random start, as a ratio, is larger with "
        f"{share(FEW)} than with {share(ALL)}"
    ),
    of_others(
        "Longer pre-training is better: MCL is above MCL at a quarter of the length",
        "mcl",
        "mcl-quarter",
    ),
    MaskFollowsBox("Mask AP follows box AP"),
)


def judge_all(scale: Scale) -> list[Verdict]:
    """A verdict for every claim that the scale has rows for, in their order."""
    return [claim.judge(scale) for claim in CLAIMS if claim.planned(scale)]
