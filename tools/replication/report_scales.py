"""What the scales of the document say together."""

from math import exp

from collected import Scale, without_key
from report_tables import MAIN_STARTS
from spread import CONFIDENCE, Comparison, compare
from titles import TITLES
from wording import (
    bounds,
    equals,
    listed,
    p_value,
    paragraph,
    percent,
    plain,
    signed,
    table,
    times,
    with_spread,
)

SAME_WEIGHTS = "The weights of `{name}`, fine-tuned for longer."
OTHER_WEIGHTS = (
    "Other pre-trainings with the settings of `{name}`, fine-tuned for longer."
)
LONGER = (
    "Ratios and differences are MCL's against the other start, over the fine-tunings "
    "that all have. The quotient of the two ratios, below one where the later is "
    "smaller, is of geometric means, with the t interval and the p values of its "
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
            f"{ratio(compared)} times that of {TITLES[row]}"
            for row, compared in found.items()
            if compared.enough and compared.ratio
        ]
        if ratios:
            mcl = with_spread(list(other.values("mcl").values()))
            parts.append(
                f"In `{other.name}`, over {other.pretrainings} pre-trainings a row and "
                f"with {other.steps} steps of fine-tuning, MCL's box AP is {mcl}, "
                f"{listed(ratios)}."
            )
    return " ".join(parts)


def ratio(compared: Comparison) -> str:
    """The ratio of means, and its interval where there is one."""
    ends = compared.ratio_interval
    return times(compared.ratio) + (f" ({bounds(ends, times)})" if ends else "")


def longer_section(scale: Scale, scales: list[Scale]) -> list[str]:
    """The section on longer fine-tunings of another scale's pre-trainings."""
    before = next((other for other in scales if scale.lengthens(other)), None)
    if before is None:
        return []
    found = (lead_change(row, before, scale) for row in MAIN_STARTS)
    lines = [line for line in found if line]
    if not lines:
        return []
    weights = SAME_WEIGHTS if same_weights(before, scale) else OTHER_WEIGHTS
    steps = [f"{s.steps} steps" for s in (before, scale)]
    headings = (
        "MCL against",
        *(f"ratio, {words}" for words in steps),
        "quotient of the ratios",
        f"{percent(CONFIDENCE)} interval",
        "p",
        "p, unpaired",
        *(f"difference, {words}" for words in steps),
        "pre-trainings",
    )
    return [
        "### What longer fine-tuning changes",
        paragraph(f"{weights.format(name=before.name)} {LONGER}"),
        table(headings, lines),
        *map(paragraph, instead_of_pretraining(before, scale)),
    ]


def same_weights(*scales: Scale) -> bool:
    """Whether two scales have the figures of the same pre-trainings."""
    ours, theirs = ({r: runs_of(s, r) for r in s.rows} for s in scales)
    return all(ours[row] == theirs[row] for row in ours.keys() & theirs.keys())


def runs_of(scale: Scale, row: str) -> list[dict]:
    """Figures of a row's pre-trainings."""
    return [without_key(run) for run in scale.pretraining(row).get("runs") or []]


def lead_change(row: str, *scales: Scale) -> list[str]:
    """How MCL's lead over a row changes, as a line; empty of fewer than two seeds."""
    seeds = [s.tuning_seeds(r) for s in scales for r in ("mcl", row)]
    common = frozenset.intersection(*seeds)
    before, after = (s.compare("mcl", row, among=common) for s in scales)
    if before.log_ratios is None or after.log_ratios is None or not before.enough:
        return []
    pair = (dict(zip(c.seeds, c.log_ratios, strict=True)) for c in (after, before))
    quotient = compare(*pair)
    return [
        TITLES[row],
        times(before.ratio),
        times(after.ratio),
        times(exp(quotient.difference)),
        bounds(quotient.interval, lambda end: times(exp(end))),
        p_value(quotient.p),
        p_value(quotient.unpaired_p),
        signed(before.difference),
        signed(after.difference),
        str(len(quotient.seeds)),
    ]


def instead_of_pretraining(before: Scale, after: Scale) -> list[str]:
    """Whether longer fine-tunings from nothing do what pre-training does, if known."""
    common = before.tuning_seeds("mcl") & after.tuning_seeds("random")
    values = (after.values("random", among=common), before.values("mcl", among=common))
    compared = compare(*values)
    if not compared.enough:
        return []
    p = compared.unpaired_p
    shown = "" if p is None else f", unpaired p {equals(p_value(p))}"
    steps = plain(before.pretraining("mcl").get("steps"), ",")
    random, mcl = map(with_spread, (compared.first, compared.second))
    return [
        f"From the random start {after.steps} steps lead to {random} box AP, from "
        f"MCL's weights {before.steps} steps to {mcl} (difference "
        f"{signed(compared.difference)}{shown}), after {steps} steps of pre-training. "
        "The seconds of all are under Cost."
    ]
