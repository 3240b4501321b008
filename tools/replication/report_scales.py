"""What the scales of the document say together."""

from collections.abc import Iterator, Sequence
from math import exp

from collected import Scale, without_key
from report_tables import COMPARED, FIGURES, MAIN_STARTS, MORE_FIGURES, statements
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
CYCLE_FIGURES = (*FIGURES, *MORE_FIGURES)
OWN_CYCLES = (
    "The second cycle starts from the weights that `{name}` fine-tunes, for as many "
    "steps, so a seed is compared with itself; AP is over the fine-tunings that both "
    "have. Steps are those of pre-training."
)
OTHER_CYCLES = (
    "The first cycles are other pre-trainings than those of `{name}`, with the same "
    "settings and seeds; AP is over the fine-tunings that both have. Steps are those "
    "of pre-training."
)
PLANNED = (
    "Box AP was planned, the other figures were put here when a run of MCL was known."
)
LEADS = (
    "Ratios and differences are MCL's against the other start, over the fine-tunings "
    "that all have. The quotient of the two ratios, below one where the second is "
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
                f"In `{other.name}`, over {other.pretrainings} pre-trainings of "
                f"{trained_steps(other)} steps for each row and with {other.steps} "
                f"steps of fine-tuning, MCL's box AP is {mcl}, {listed(ratios)}."
            )
    return " ".join(parts)


def ratio(compared: Comparison) -> str:
    """The ratio of means, and its interval where there is one."""
    ends = compared.ratio_interval
    return times(compared.ratio) + (f" ({bounds(ends, times)})" if ends else "")


def trained_steps(scale: Scale) -> str:
    """How long MCL was pre-trained, or where it was not run the first row that was."""
    rows = ("mcl", *scale.rows)
    known = (scale.pretraining(row).get("steps") for row in rows)
    return plain(next(filter(None, known), None), ",")


def longer_section(scale: Scale, scales: list[Scale]) -> list[str]:
    """The section on longer fine-tunings of another scale's pre-trainings."""
    before = next((other for other in scales if scale.lengthens(other)), None)
    if before is None:
        return []
    leads = lead_changes(before, scale, [f"{s.steps} steps" for s in (before, scale)])
    if not leads:
        return []
    weights = SAME_WEIGHTS if same_weights(before, scale) else OTHER_WEIGHTS
    return [
        "### What longer fine-tuning changes",
        paragraph(f"{weights.format(name=before.name)} {LEADS}"),
        *leads,
        *map(paragraph, instead_of_pretraining(before, scale)),
    ]


def cycles_section(scale: Scale, scales: list[Scale]) -> list[str]:
    """The section on a further cycle of another scale's pre-trainings."""
    before = next((other for other in scales if scale.repeats(other)), None)
    if before is None:
        return []
    rows = "mcl", *MAIN_STARTS[1:]
    lines = [line for row in rows for line in cycle_changes(row, before, scale)]
    if not lines:
        return []
    steps = [f"{trained_steps(s)} steps" for s in (before, scale)]
    headings = ("start", "by", *steps, *COMPARED[3:])
    # The random start has no other cycle, so that it would say MCL's change again.
    leads = lead_changes(before, scale, steps, MAIN_STARTS[1:])
    origin = OWN_CYCLES if goes_on(before, scale) else OTHER_CYCLES
    return [
        "### What a second cycle of pre-training changes",
        paragraph(f"{origin.format(name=before.name)} {PLANNED}"),
        table(headings, lines),
        *([paragraph(LEADS), *leads] if leads else []),
    ]


def cycle_changes(row: str, before: Scale, after: Scale) -> Iterator[list[str]]:
    """What a further cycle does for a row, a line a figure of two seeds or more."""
    common = before.tuning_seeds(row) & after.tuning_seeds(row)
    scales = after, before
    found = [
        (title, [s.values(row, figure=name, among=common) for s in scales])
        for name, title in CYCLE_FIGURES
    ]
    found.append(("kNN", [votes(s, row) for s in scales]))
    for title, pair in found:
        compared = compare(*pair)
        if compared.enough:
            means = map(with_spread, (compared.second, compared.first))
            yield [TITLES[row], title, *means, *statements(compared)]


def votes(scale: Scale, row: str) -> dict[int, float]:
    """The kNN of a row's pre-trainings by seed."""
    return {run["seed"]: run["knn"] for run in runs_of(scale, row)}


def lead_changes(
    before: Scale, after: Scale, words: list[str], rows: Sequence[str] = MAIN_STARTS
) -> list[str]:
    """How MCL's leads over rows change, as a table; empty where nothing can be said.

    ``words``: what tells the two scales apart.
    """
    found = (lead_change(row, before, after) for row in rows)
    lines = [line for line in found if line]
    headings = (
        "MCL against",
        *(f"ratio, {each}" for each in words),
        "quotient of the ratios",
        f"{percent(CONFIDENCE)} interval",
        "p",
        "p, unpaired",
        *(f"difference, {each}" for each in words),
        "pre-trainings",
    )
    return [table(headings, lines)] if lines else []


def same_weights(*scales: Scale) -> bool:
    """Whether two scales have the figures of the same pre-trainings."""
    ours, theirs = ({r: runs_of(s, r) for r in s.rows} for s in scales)
    return all(ours[row] == theirs[row] for row in ours.keys() & theirs.keys())


def runs_of(scale: Scale, row: str) -> list[dict]:
    """Figures of a row's pre-trainings."""
    return [without_key(run) for run in scale.pretraining(row).get("runs") or []]


def goes_on(before: Scale, after: Scale) -> bool:
    """Whether the first cycles of ``after`` are the pre-trainings of ``before``."""
    rows = (row for row in before.rows if row in after.rows)
    return all(
        [without_key((run.get("earlier") or [{}])[0]) for run in runs_of(after, row)]
        == runs_of(before, row)
        for row in rows
    )


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
    random, mcl = map(with_spread, (compared.first, compared.second))
    return [
        f"From the random start {after.steps} steps lead to {random} box AP, from "
        f"MCL's weights {before.steps} steps to {mcl} (difference "
        f"{signed(compared.difference)}{shown}), after {trained_steps(before)} steps "
        "of pre-training. The seconds of all are under Cost."
    ]
