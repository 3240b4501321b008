"""What a measurement found: a table to read and the same for a machine."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
    """A column of a table: key of the rows, heading, format of a number."""

    key: str
    heading: str
    form: str = ""


class Report(NamedTuple):
    """Rows of figures, and how to show them.

    Attributes:
        rows: one for each line, figures by key; keys that no column names are for
            the json only.
        columns: of the table.
        notes: sentences under it.
        facts: of the whole measurement, such as the batch size.
    """

    rows: list[dict[str, Any]]
    columns: Sequence[Column]
    notes: Sequence[str] = ()
    facts: dict[str, Any] = {}

    def table(self) -> str:
        """The rows in columns, the first to the left and figures to the right."""
        lines = [[c.heading for c in self.columns]]
        lines += [
            [show(row.get(c.key), c.form) for c in self.columns] for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = []
        for line in lines:
            cells = [line[0].ljust(widths[0])]
            cells += [v.rjust(w) for v, w in zip(line[1:], widths[1:], strict=True)]
            text.append("  ".join(cells).rstrip())
        return "\n".join([*text, *self.notes])


def show(value: Any, form: str) -> str:
    """A cell: ``-`` where there is no figure."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else format(value, form)


def ratio_to(baseline: Sequence[float], values: Sequence[float]) -> dict[str, Any]:
    """How many times less than the baseline, pair by pair.

    Returns:
        ``ratio``, the median of the pairs, ``ratio_min``, ``ratio_max``, and
        ``spread``, the latter two as text.
    """
    ratios = [b / v for b, v in zip(baseline, values, strict=True)]
    low, high = min(ratios), max(ratios)
    return dict(
        ratio=statistics.median(ratios),
        ratio_min=low,
        ratio_max=high,
        spread=f"{low:.2f}-{high:.2f}",
    )


RATIO = (Column("ratio", "ratio", ".2f"), Column("spread", "min-max"))
