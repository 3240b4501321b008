"""Write docs/replication.md and its plots from the committed result files.

    python tools/replication/report.py            # write both
    python tools/replication/report.py --check    # exit 1 when the document differs

Every number of the document comes from docs/replication/results/<scale>/: a json for
each row and data.json. Of notes.md, remarks by hand, there is a link.
"""

import argparse
import os
import sys
from pathlib import Path

import claims
import report_card as card
import report_tables as tables
from claims import NOT_HELD, VERDICTS, Verdict
from collected import LABELS, SCALES, Scale, read_scales
from report_plots import draw_all, plots_of
from report_scales import cycles_section, elsewhere, longer_section
from spread import CONFIDENCE, Comparison
from titles import TITLES
from wording import bullet, counted, describe, listed, paragraph, percent, share

from mcl.errors import InputError, exit_in_words

DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULTS, DOCUMENT = DOCS / "replication/results", DOCS / "replication.md"
HEADINGS = dict(
    zip(VERDICTS, ("did not hold", "held", "could not be judged"), strict=True)
)
TITLE = "# Does MCL pre-training make a better detector?"
READING = (
    "Mask R-CNN is fine-tuned from the weights of each row and measured by COCO's AP, "
    "in points of 100; detectors of few points have barely begun to learn. A value is "
    "the mean ± the sample standard deviation over seeds. Two rows are compared seed "
    f"by seed: mean difference, its {percent(CONFIDENCE)} t interval and the two-sided "
    "p of the paired t test; ratio of the means, its interval from the t interval of "
    "the seeds' log ratios. The unpaired p is of Welch's test of the same values, "
    "because three pairs may agree by chance. The p values are of single comparisons "
    "and not corrected for their number. Of so few seeds only large differences are "
    "significant. In `small` and `medium` a row has one pre-training. In the others it "
    "has several, and a seed's value is the mean of the fine-tunings of one "
    "pre-training: only there does the spread tell whether another one would show the "
    "same difference. `python tools/replication/report.py` writes this document from "
    "`docs/replication/results/`; no number in it is typed by hand."
)
RULES = (
    "Claims hold by these rules. One that did not hold may be refuted or just not "
    "shown: its interval tells. *At least a factor*: the ratio of the means reaches "
    "it, and the lowest seed is above the highest of the other row; against the better "
    "of two rows, both have to be run. This rule asks for no significance; the p "
    "values are given beside it. Single fine-tunings behind the seeds may overlap. "
    "*Above*: the interval of the difference is above 0. *At most a share below*: the "
    "interval of the difference is above a loss of that share. *Within a share*: the "
    "means are no farther apart, whatever the interval. *Larger with few labels*: the "
    "interval of the quotient of two ratios is above one. *Mask follows box*: no pair "
    "of rows differs in box AP one way and in mask AP the other."
)
MEASURES = (
    "MCL against the main starts by other figures of the same detections, an "
    "afterthought: they were chosen when the first rows of `small` and `small-seeds` "
    "were known."
)
NOTES = (
    "What was tried before and beside the rows, and what it showed, is told by hand in "
    "[notes]({link}); no number here comes from them."
)
COMMANDS = (
    ("--root packages", "data and all rows; goes on where it ended"),
    ("--report", "this document from the results"),
)
PACKAGES = (
    "`packages` is a folder into which the Debian packages of the cut-outs and grounds "
    "were unpacked with `dpkg -x`; the [README]"
    "(../README.md#does-it-help-a-replication-that-you-can-rerun) says which."
)


def lead(compared: Comparison) -> str:
    """What a comparison answers, in a word or two."""
    if not compared.enough:
        return "not run"
    low, high = compared.interval
    if low > 0:
        return "better"
    return "worse" if high < 0 else "no significant difference"


def tally(verdicts: list[Verdict]) -> str:
    """How many claims there are of each verdict; names those that did not hold."""
    parts = []
    for kind, words in HEADINGS.items():
        texts = [v.text for v in verdicts if v.verdict == kind]
        named = f" ({'; '.join(texts)})" if kind == NOT_HELD and texts else ""
        if texts:
            parts.append(f"{len(texts)} {words}{named}")
    return f"Of {counted(len(verdicts), 'claim')}, {listed(parts)}."


def answer(scale: Scale, verdicts: list[Verdict], scales: list[Scale]) -> list[str]:
    """What answers the title's question; what did not hold comes first."""
    questions = [("random", n) for n in scale.labels]
    questions += [(row, LABELS[0]) for row in (*tables.MAIN_STARTS[1:], "sup")]
    before, parts = f"{tally(verdicts)} {elsewhere(scale, scales)}", []
    for other, labels in questions:
        if other not in scale.planned:
            continue
        compared = scale.compare("mcl", other, labels)
        words = f"MCL against {TITLES[other]}, {share(labels)}: {lead(compared)}"
        if compared.enough:
            numbers = describe(TITLES["mcl"], TITLES[other], compared, "box AP")
            words = f"**{words}.** {numbers}"
        parts.append(bullet(f"{words}."))
    return [paragraph(before), "\n".join(parts)]


def judged(verdicts: list[Verdict], kind: str) -> list[str]:
    """The claims of one verdict as a section."""
    items = [bullet(f"**{v.text}.** {v.detail}") for v in verdicts if v.verdict == kind]
    return [
        f"### Claims that {HEADINGS[kind]}",
        "\n".join(items) if items else "None.",
    ]


def picture(scale: Scale, kind: str, folder: str) -> list[str]:
    """A plot and its caption; nothing where it cannot be drawn."""
    plot = plots_of(scale).get(kind)
    if plot is None:
        return []
    image = f"![{scale.name}: {kind}]({folder}/{plot.file})"
    return [image, paragraph(plot.title)]


def results(scale: Scale, folder: str) -> list[str]:
    """Sections of tables and plots."""
    sections = ["### Results", tables.results(scale)]
    if card.missing(scale):
        sections.append(paragraph(card.missing(scale)))
    sections += picture(scale, "rows", folder)
    sections += [tables.more_results(scale), *card.within(scale)]
    sections += ["### Against the random start", tables.gains(scale)]
    sections += ["### What each part does", tables.effects(scale)]
    sections += ["### By other measures", paragraph(MEASURES), tables.measures(scale)]
    return [
        *sections,
        *picture(scale, "length", folder),
        *picture(scale, "curves", folder),
        *detections(scale, folder),
    ]


def detections(scale: Scale, folder: str) -> list[str]:
    """The section of detections side by side."""
    found = picture(scale, "detections", folder)
    note = "Boxes alone are drawn; the pictures are not part of this repository."
    return ["### Detections", *found, paragraph(note)] if found else []


def chapter(scale: Scale, scales: list[Scale], out_file: Path) -> list[str]:
    """All that is said about a scale."""
    verdicts, folder = claims.judge_all(scale), out_file.with_suffix("").name
    parts = [f"## Scale `{scale.name}`", *card.purpose(scale)]
    parts += answer(scale, verdicts, scales)
    for kind in VERDICTS:
        parts += judged(verdicts, kind)
    if scale.notes:
        link = Path(os.path.relpath(scale.notes, out_file.parent)).as_posix()
        parts += ["### What moved it", paragraph(NOTES.format(link=link))]
    parts += results(scale, folder)
    parts += [*longer_section(scale, scales), *cycles_section(scale, scales)]
    parts += ["### Search of the learning rate", *card.search(scale)]
    parts += ["### Cost", *card.cost(scale, scales)]
    return [*parts, "### Protocol", *card.protocol(scale, scales)]


def document(scales: list[Scale], out_file: Path) -> str:
    """The text of the document that is written to ``out_file``."""
    parts = [TITLE, paragraph(READING), paragraph(RULES)]
    for scale in scales:
        parts += chapter(scale, scales, out_file)
    absent = [f"Scale `{n}` was not run." for n in SCALES if n not in names(scales)]
    parts += [*absent, "## Run it again", paragraph(PACKAGES)]
    parts += [commands(scale) for scale in scales]
    parts += ["## The rows", tables.rows_explained()]
    return "\n\n".join(parts) + "\n"


def commands(scale: Scale) -> str:
    """What to type, as a block of code."""
    tool = f"python tools/replicate.py {scale.name}"
    typed = [(f"{tool} {options}", why) for options, why in COMMANDS]
    width = max(len(command) for command, _ in typed)
    return "\n".join(f"    {c.ljust(width)}  # {why}" for c, why in typed)


def names(scales: list[Scale]) -> list[str]:
    return [scale.name for scale in scales]


def write_report(results_root: Path, out_file: Path) -> None:
    """Write the document, and its plots into a folder of its name beside it.

    Args:
        results_root: folder with a folder of results for each scale.
        out_file: Markdown file to write.

    Raises:
        InputError: when there are no results, or they do not fit together.
    """
    results_root, out_file = Path(results_root), Path(out_file)
    scales = read_scales(results_root)
    folder = out_file.with_suffix("")
    for scale in scales:
        draw_all(scale, folder)
    out_file.write_text(document(scales, out_file), encoding="utf-8")


def differences(results_root: Path, out_file: Path) -> str:
    """What is not as it would be written, in words; empty where all is.

    Plots have to be there; their bytes depend on matplotlib.
    """
    scales, folder = read_scales(results_root), out_file.with_suffix("")
    stored = out_file.read_text(encoding="utf-8") if out_file.is_file() else ""
    if stored != document(scales, out_file):
        return f"{out_file} is not what the results yield"
    files = [folder / p.file for s in scales for p in plots_of(s).values()]
    lacking = [str(file) for file in files if not file.is_file()]
    return f"{', '.join(lacking)} missing" if lacking else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to read")
    parser.add_argument("--out", type=Path, default=DOCUMENT, help="file to write")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if it would change"
    )
    args = parser.parse_args()
    if not args.check:
        write_report(args.results, args.out)
        print(f"wrote {args.out}")
        return
    found = differences(args.results, args.out)
    if found:
        raise InputError(f"{found}; run `python {Path(sys.argv[0])}` and commit")
    print(f"{args.out} is what the results yield")


if __name__ == "__main__":
    exit_in_words(main)
