"""What the scales of the document say together."""

from math import exp

from collected import LABELS, Scale
from report_tables import MAIN_STARTS
from spread import CONFIDENCE, Comparison, compare, mean
from titles import TITLES
from wording import (
    NOTHING,
    bounds,
    equals,
    listed,
    number,
    p_value,
    paragraph,
    percent,
    signed,
    table,
    times,
    with_spread,
)

ALL = LABELS[0]
LONGER = (
    "The same weights, fine-tuned for longer. Ratios and differences are MCL's against "
    "the other start. The quotient of the two ratios, below one where the lead has "
    "become smaller, is of geometric means, with the t interval and the p of its "
    "logarithms over pre-trainings."
)


def elsewhere(scale: Scale, scales: list[Scale]) -> str:
    """What MCL's leads come to in other scales that have several pre-trainings."""
    parts = []
    for other in scales:
        own = other.name == scale.name or not scale.shares_data(other)
        if own or other.pretrainings == 1:
            continue
        found = {row: other.compare("mcl", row) for row in MAIN_STARTS}
        ratios = [
            f"{times(c.ratio)} ({bounds(c.ratio_interval, times)}) times that of "
            f"{TITLES[row]}"
            for row, c in found.items()
            if c.enough and c.ratio_interval
        ]
        if ratios:
            parts.append(
                f"In `{other.name}`, over {other.pretrainings} pre-trainings a row and "
                f"with {other.steps} steps of fine-tuning, MCL's box AP is "
                f"{reached(other, 'mcl')}, {listed(ratios)}."
            )
    return " ".join(parts)


def reached(scale: Scale, row: str) -> str:
    """Box AP of a row with all labels."""
    return with_spread(list(scale.values(row).values()))


def shorter(scale: Scale, scales: list[Scale]) -> Scale | None:
    """The scale with the same pre-trainings and shorter fine-tunings, if any."""
    return next((other for other in scales if scale.lengthens(other)), None)


def longer(scale: Scale, scales: list[Scale]) -> list[str]:
    """The section on longer fine-tunings of the weights of another scale."""
    before = shorter(scale, scales)
    if before is None:
        return []
    lines = [
        line
        for row in MAIN_STARTS
        if (line := changed(row, *(s.compare("mcl", row) for s in (before, scale))))
    ]
    steps = [f"{s.steps} steps" for s in (before, scale)]
    headings = (
        "MCL against",
        *(f"ratio, {words}" for words in steps),
        "quotient of the ratios",
        f"{percent(CONFIDENCE)} interval",
        "p",
        *(f"difference, {words}" for words in steps),
        "pre-trainings",
    )
    found = [paragraph(LONGER), table(headings, lines)] if lines else []
    if instead := paid(before, scale):
        found.append(paragraph(instead))
    return ["### What longer fine-tuning changes", *found] if found else []


def changed(row: str, before: Comparison, after: Comparison) -> list[str]:
    """How MCL's lead over a row changes, as a line; empty of fewer than two seeds."""
    if before.log_ratios is None or after.log_ratios is None:
        return []
    pair = (dict(zip(c.seeds, c.log_ratios, strict=True)) for c in (after, before))
    quotient = compare(*pair)
    if not quotient.enough:
        return []
    return [
        TITLES[row],
        times(before.ratio),
        times(after.ratio),
        times(exp(quotient.difference)),
        bounds(quotient.interval, lambda end: times(exp(end))),
        p_value(quotient.p),
        signed(before.difference),
        signed(after.difference),
        str(len(quotient.seeds)),
    ]


def paid(before: Scale, after: Scale) -> str:
    """Whether a longer fine-tuning from nothing does what pre-training does."""
    compared = compare(after.values("random"), before.values("mcl"))
    if not compared.enough:
        return ""
    p = equals(p_value(compared.unpaired_p))
    once = number(before.pretraining("mcl").get("seconds"))
    return (
        f"After {after.steps} steps from the random start box AP is "
        f"{reached(after, 'random')}, after {before.steps} steps from MCL's weights "
        f"{reached(before, 'mcl')} (difference {signed(compared.difference)}, p of the "
        f"unpaired test {p}). The former takes {seconds(after, 'random')} seconds of "
        f"training, the latter {seconds(before, 'mcl')} and, once, {once} of "
        "pre-training."
    )


def seconds(scale: Scale, row: str) -> str:
    """Mean of a row's fine-tunings with all labels."""
    found = [run["seconds"] for run in scale.runs(row, ALL) if run.get("seconds")]
    return number(mean(found)) if found else NOTHING
