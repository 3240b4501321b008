"""Figures as text: one form for each kind, in tables and in sentences."""

import re
import textwrap
from collections.abc import Sequence

from spread import CONFIDENCE, Comparison, deviation, mean

NOT_RUN, NOTHING = "not run", "-"
WIDTH = 88
SMALLEST_P = 0.001
# Spaces that no line ends with: before what would begin a list or a heading, and
# within a figure.
GLUED = re.compile(r" (?=(?:\d+[.)]|[-+*#>=%±]+)(?: |$))|(?<=[=<±]) ")


def table(headings: Sequence[str], rows: Sequence[Sequence]) -> str:
    """A Markdown table; a word where it would have no line."""
    if not rows:
        return "None."
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def paragraph(text: str, first: str = "", later: str = "") -> str:
    """Text in lines of 88, none of which Markdown takes for a list or heading.

    Args:
        text: words.
        first: what the first line begins with.
        later: what the other lines begin with.
    """
    glued = GLUED.sub("\0", " ".join(text.split()))
    return textwrap.fill(
        glued,
        WIDTH,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    ).replace("\0", " ")


def bullet(text: str) -> str:
    """An item of a list."""
    return paragraph(text, "- ", "  ")


def points(value: float) -> str:
    """A share of 1 as per cent with one decimal."""
    return f"{100 * value:.1f}"


def signed(value: float) -> str:
    """A difference of shares in points, with its sign; 0 is positive."""
    return f"{round(100 * value, 2) + 0.0:+.2f}"


def number(value: float | None) -> str:
    """Three digits at most, without an exponent."""
    if value is None:
        return NOTHING
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2g}"


def plain(value: float | None, form: str = "g") -> str:
    """A figure in the given form, a dash where there is none."""
    return NOTHING if value is None else format(value, form)


def with_spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation of shares, in points."""
    if not len(values):
        return NOT_RUN
    if len(values) == 1:
        return f"{points(values[0])} (one seed)"
    return f"{points(mean(values))} ± {spread(deviation(values))}"


def spread(value: float | None) -> str:
    """A standard deviation of shares, in points."""
    return NOTHING if value is None else f"{100 * value:.2f}"


def p_value(p: float | None) -> str:
    """With two digits; what is very small as a bound."""
    if p is None:
        return NOTHING
    return f"< {SMALLEST_P:g}" if p < SMALLEST_P else f"{p:.2g}"


def bounds(pair: tuple[float, float] | None, form=signed) -> str:
    """The ends of an interval."""
    return NOTHING if pair is None else f"{form(pair[0])} to {form(pair[1])}"


def times(value: float | None) -> str:
    """A ratio."""
    return plain(value, ".2f")


def share(labels: int) -> str:
    """How many of the labels, in words."""
    return "all labels" if labels == 100 else f"{labels} % of the labels"


def listed(words: Sequence[str]) -> str:
    """Words with commas and an and."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def counted(count: int, noun: str) -> str:
    """A number of things."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def seeds(compared: Comparison) -> str:
    """Which seeds two rows share."""
    if not compared.seeds:
        return "no seed in common"
    plural = "s" if compared.enough else ""
    return f"seed{plural} {listed([str(s) for s in compared.seeds])}"


def describe(first: str, second: str, compared: Comparison, figure: str) -> str:
    """All that a comparison over two or more seeds yields, without a full stop.

    Args:
        first: title of the row that is looked at.
        second: title of the other.
        compared: what they reached.
        figure: what was compared, such as ``box AP with all labels``.
    """
    p = "" if compared.p is None else f", p {equals(p_value(compared.p))}"
    if compared.unpaired_p is not None:
        p += f", unpaired p {equals(p_value(compared.unpaired_p))}"
    ratio = ""
    if compared.ratio is not None:
        ratio = f", ratio {times(compared.ratio)}"
    if compared.ratio_interval:
        ratio += f" ({bounds(compared.ratio_interval, times)})"
    return (
        f"{first} {with_spread(compared.first)}, {second} "
        f"{with_spread(compared.second)} {figure} ({seeds(compared)}): difference "
        f"{signed(compared.difference)} ({percent(CONFIDENCE)} interval "
        f"{bounds(compared.interval)}{p}){ratio}, {apart(compared)}"
    )


def apart(compared: Comparison) -> str:
    """Whether the seeds of two rows lie apart, on whichever side."""
    below = max(compared.first) < min(compared.second)
    lie = "do not overlap" if compared.outside or below else "overlap"
    return f"the seeds {lie}"


def percent(value: float) -> str:
    """A share of 1 without decimals that it does not have."""
    return f"{100 * value:g} %"


def equals(text: str) -> str:
    """A value or a bound after its name."""
    return text if text.startswith("<") else f"= {text}"
