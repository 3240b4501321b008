"""What the seeds say: means, deviations and the comparison of two rows by pairs.

Two fine-tunings of one seed see the same images in the same order, and with few labels
the same labels, so rows are compared seed by seed. Where that order matters little,
pairing three values can make an interval narrow or wide by chance: the p of a test that
does not pair them stands beside it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
# Differences that agree to this have no spread to test against, only rounding.
SAME = 1e-12


def mean(values: Sequence[float]) -> float | None:
    """Arithmetic mean; None of nothing."""
    return float(np.mean(values)) if len(values) else None


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1); None of fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def pooled_deviation(groups: Iterable[Sequence[float]]) -> float | None:
    """Standard deviation within groups, each about its own mean.

    None where no group has two values.
    """
    groups = [values for values in groups if len(values) > 1]
    squares = sum((len(values) - 1) * deviation(values) ** 2 for values in groups)
    freedom = sum(len(values) - 1 for values in groups)
    return (squares / freedom) ** 0.5 if groups else None


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's t interval of the mean at ``CONFIDENCE``; None of fewer than two."""
    if len(values) < 2:
        return None
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    reach *= deviation(values) / len(values) ** 0.5
    return mean(values) - float(reach), mean(values) + float(reach)


@dataclass(frozen=True)
class Comparison:
    """One row against another, over the seeds that both have.

    Attributes:
        seeds: in increasing order; the values follow them.
        first: values of the row that is looked at.
        second: values of the row that it is compared with.
    """

    seeds: tuple[int, ...]
    first: tuple[float, ...]
    second: tuple[float, ...]

    @property
    def enough(self) -> bool:
        """Whether there are pairs to speak of: two seeds or more."""
        return len(self.seeds) > 1

    @property
    def differences(self) -> np.ndarray:
        return np.subtract(self.first, self.second)

    @property
    def difference(self) -> float | None:
        """Mean of the first less that of the second."""
        return mean(self.differences)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the mean difference."""
        return interval(self.differences)

    @property
    def p(self) -> float | None:
        """Two-sided, of the paired t test; None where the differences do not vary."""
        if not self.enough or np.ptp(self.differences) < SAME:
            return None
        return float(stats.ttest_rel(self.first, self.second).pvalue)

    @property
    def unpaired_p(self) -> float | None:
        """Two-sided, of Welch's t test; None where no row varies."""
        if not self.enough or max(map(np.ptp, (self.first, self.second))) < SAME:
            return None
        found = stats.ttest_ind(self.first, self.second, equal_var=False)
        return float(found.pvalue)

    @property
    def ratio(self) -> float | None:
        """Ratio of the means; None where the second is 0."""
        below = mean(self.second)
        return mean(self.first) / below if below else None

    @property
    def log_ratios(self) -> np.ndarray | None:
        """Logarithms of the seeds' ratios; None where a value is 0."""
        if min((*self.first, *self.second), default=0) <= 0:
            return None
        return np.log(self.first) - np.log(self.second)

    @property
    def ratio_interval(self) -> tuple[float, float] | None:
        """t interval of the log ratios, as ratios."""
        if self.log_ratios is None or not self.enough:
            return None
        low, high = interval(self.log_ratios)
        return float(np.exp(low)), float(np.exp(high))

    @property
    def outside(self) -> bool | None:
        """Whether the lowest of the first is above the highest of the second."""
        return min(self.first) > max(self.second) if self.enough else None


def compare(first: Mapping[int, float], second: Mapping[int, float]) -> Comparison:
    """Compare two rows, each a value by seed, over the seeds that both have."""
    seeds = tuple(sorted(set(first) & set(second)))
    return Comparison(
        seeds, tuple(first[s] for s in seeds), tuple(second[s] for s in seeds)
    )
