"""The replication's document: statistics, verdicts, and that files alone feed it."""

import copy
import importlib
import json
import math
import re
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from mcl.errors import InputError

from .conftest import ROOT, run_main

FOLDER = ROOT / "tools/replication"
if str(FOLDER) not in sys.path:
    sys.path.append(str(FOLDER))
claims = importlib.import_module("claims")
collected = importlib.import_module("collected")
plots = importlib.import_module("report_plots")
report = importlib.import_module("report")
spread = importlib.import_module("spread")
tables = importlib.import_module("report_tables")
titles = importlib.import_module("titles")
wording = importlib.import_module("wording")

SEEDS = (0, 1, 2)
LOW, HIGH = (0.10, 0.11, 0.105), (0.16, 0.17, 0.165)


def finetuning(labels, seed, ap, **figures):
    return dict(
        labels=labels,
        seed=seed,
        images=5 * labels,
        steps=4 * labels,
        seconds=200.0,
        bbox=ap,
        segm=0.9 * ap,
        curve=[],
        examples=None,
        **figures,
    )


def row(name, aps, few=(), pretraining=None):
    """A result file's content: box AP by seed with all labels, and with few."""
    runs = [finetuning(100, seed, ap) for seed, ap in enumerate(aps)]
    runs += [finetuning(10, seed, ap) for seed, ap in enumerate(few)]
    return dict(
        format=1,
        row=name,
        scale="small",
        config_sha256="ab" * 32,
        data_sha256="cd" * 32,
        machine=dict(cpu="A CPU", cores=2, gpu=None, torch="2.15.0", python="3.11.7"),
        pretraining=pretraining,
        finetuning=runs,
    )


def scale(**aps):
    """Results by row (``_`` for ``-``): box AP by seed, or all and few labels."""
    named = {name.replace("_", "-"): values for name, values in aps.items()}
    rows = {}
    for name in titles.NAMES:
        if name in named:
            given = named[name]
            pair = given if isinstance(given, dict) else {100: given}
            rows[name] = row(name, pair.get(100, ()), pair.get(10, ()))
    return collected.Scale("small", rows, {}, "")


def pretraining(name, factor=1.0):
    """Figures that no other part of the results has."""
    return dict(
        config=f"configs/replication/{name}.py",
        steps=round(1575 * factor),
        batch=round(64 * factor),
        images=round(100800 * factor),
        seed=round(7 * factor),
        lr=0.053 * factor,
        knn=0.417 * factor,
        seconds=1413.0 * factor,
        gmac_per_image=0.937 * factor,
        search=[
            dict(
                lr=0.053 * rate * factor,
                steps=round(394 * factor),
                knn=knn * factor,
                seconds=351 * factor,
            )
            for rate, knn in ((0.3, 0.31), (1, 0.42), (3, 0.23))
        ],
        curve=[],
    )


def box(x, score=None, category=1):
    size = [x, 10, 20, 20]
    return [*size, category] if score is None else [*size, score, category]


def full_rows(factor=1.0, seed=0):
    """Five rows with all that a result file can hold."""
    aps = dict(random=0.0712, mcl=0.1137, mocov2=0.0921, densecl=0.0957)
    aps["mcl-quarter"] = 0.0881
    rows, rng = {}, np.random.default_rng(seed)
    for name, ap in aps.items():
        values = ap * factor * (1 + rng.uniform(-0.04, 0.04, (2, 3)))
        length = 0.25 if "quarter" in name else 1
        before = None if name == "random" else pretraining(name, factor * length)
        rows[name] = row(name, values[0].tolist(), (values[1] / 3).tolist(), before)
        for k, run in enumerate(rows[name]["finetuning"]):
            others = (figure for figure, _ in tables.MORE_FIGURES)
            run |= {f: run["bbox"] * (1.3 + 0.1 * i) for i, f in enumerate(others)}
            run["curve"] = [dict(step=s, bbox=s * run["bbox"]) for s in (0.5, 1)]
            found = [dict(image_id=i, boxes=[box(12, 0.9)]) for i in (3, 4)]
            run["examples"] = found if k == 0 else None
    return rows


def full_data(factor=1.0):
    card = dict(
        options=dict(pretrain=round(10117 * factor), cutouts=None),
        images=dict(pretrain=round(10117 * factor), val=round(517 * factor)),
        objects=dict(val=round(1493 * factor)),
        categories=["bird", "tree"],
        reuse="Its own cut-outs for validation.",
        grounds=["a", "b", "c"],
        versions=dict(numpy="2.2.6"),
        sha256={"val": "ef" * 32},
    )
    examples = [dict(image_id=i, boxes=[box(10)]) for i in (3, 4)]
    return dict(card=card, scene_size=round(131 * factor), examples=examples)


def write(root, rows, data=None, notes=None, name="small"):
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for key, content in rows.items():
        (folder / f"{key}.json").write_text(json.dumps(dict(content, scale=name)))
    if data:
        (folder / "data.json").write_text(json.dumps(data))
    if notes:
        (folder / "notes.md").write_text(notes)
    return root


def text(root):
    return report.document(collected.read_scales(root), "replication")


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
    assert found == (None,) * 4
    assert spread.deviation([1.0]) is None and spread.mean([]) is None


def test_what_cannot_be_divided_or_tested_is_none():
    zero = spread.compare({0: 0.1, 1: 0.3}, {0: 0.0, 1: 0.0})
    assert zero.ratio is None and zero.ratio_interval is None and zero.p is not None
    same = spread.compare({0: 0.3, 1: 0.2}, {0: 0.2, 1: 0.1})
    assert same.p is None and same.interval == pytest.approx((0.1, 0.1))


# Claims: for each, results that make it hold and results that do not.

ALIKE = (0.101, 0.109, 0.105)
CASES = [
    (dict(mcl=HIGH, random=LOW), dict(mcl=HIGH, random=(0.13, 0.14, 0.12))),
    (
        dict(mcl=HIGH, mocov2=LOW, densecl=(0.12, 0.13, 0.12)),
        dict(mcl=HIGH, mocov2=LOW, densecl=(0.15, 0.16, 0.155)),
    ),
    (dict(mcl=LOW, mcl_sup=ALIKE), dict(mcl=LOW, mcl_sup=HIGH)),
    (dict(mcl=HIGH, mcl_backbone=LOW), dict(mcl=ALIKE, mcl_backbone=LOW)),
    (dict(mcl=HIGH, mcl_crops=LOW), dict(mcl=LOW, mcl_crops=HIGH)),
    (dict(mcl=HIGH, mcl_level1=LOW), dict(mcl=ALIKE, mcl_level1=LOW)),
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
    assert verdict.detail.startswith("2 of the 2 pairs")
    for run in both.rows["mcl"]["finetuning"]:
        run["segm"] = 0.01
    verdict = claim.judge(both)
    assert verdict.verdict == claims.NOT_HELD and "0 of the 2 pairs" in verdict.detail
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
    one = claim.judge(scale(mcl=HIGH, mocov2=LOW))
    assert one.verdict == claims.HELD
    assert "Judged against MoCo v2, the only one that can be." in one.detail
    assert "With all labels, DenseCL not run." in one.detail
    short = claim.judge(scale(mcl=HIGH, mocov2=LOW, densecl=(0.9,)))
    assert short.verdict == claims.HELD and "one seed in common" in short.detail


def test_supervised_may_be_too_high_as_well_as_too_low():
    claim = claims.CLAIMS[2]
    for factor, verdict in ((0.9, "held"), (1.1, "held"), (0.89, "not held")):
        found = scale(mcl=LOW, mcl_sup=[factor * v for v in LOW])
        assert claim.judge(found).verdict == verdict
    assert claim.judge(scale(mcl=LOW, mcl_sup=HIGH)).verdict == "not held"


def test_no_loss_names_the_loss_that_is_possible():
    compared = spread.compare({0: 0.10, 1: 0.12}, {0: 0.11, 1: 0.11})
    ruling = claims.not_below(compared)
    loss = -100 * compared.interval[0]
    assert ruling.held and ruling.why.endswith(f"a loss of {loss:.2f} is not excluded")


def test_a_gain_without_a_ratio_is_not_judged():
    zeros = dict(mcl={100: HIGH, 10: HIGH}, random={100: LOW, 10: (0, 0, 0)})
    verdict = claims.CLAIMS[10].judge(scale(**zeros))
    assert verdict.verdict == claims.MISSING and "two seeds" in verdict.detail


# Files


def test_result_files_are_checked(tmp_path):
    good = row("mcl", HIGH)
    wrong = {
        "format=2": dict(good, format=2),
        "row='byol'": dict(good, row="byol"),
        "labels=50": dict(good, finetuning=[finetuning(50, 0, 0.1)]),
        "seed=None": dict(good, finetuning=[finetuning(10, None, 0.1)]),
        "bbox=11.5": dict(good, finetuning=[finetuning(10, 0, 11.5)]),
        "bbox=None": dict(good, finetuning=[finetuning(10, 0, 0.1) | {"bbox": None}]),
        "there twice": dict(good, finetuning=[finetuning(10, 0, 0.1)] * 2),
    }
    for words, content in wrong.items():
        write(tmp_path, dict(mcl=content))
        with pytest.raises(InputError, match=re.escape(words)):
            collected.read_scales(tmp_path)
    write(tmp_path, dict(mcl=good))
    assert collected.read_scales(tmp_path)[0].values("mcl") == dict(enumerate(HIGH))
    write(tmp_path, dict(other=good))
    with pytest.raises(InputError, match="no such row"):
        collected.read_scales(tmp_path)


def test_broken_files_and_other_scales_are_refused(tmp_path):
    file = write(tmp_path, dict(mcl=row("mcl", HIGH))) / "small/mcl.json"
    content = json.loads(file.read_text())
    for wrong, words in (
        ("{", "cannot be read"),
        ("[]", "no object"),
        (json.dumps(dict(content, scale="medium")), "scale='medium'"),
    ):
        file.write_text(wrong)
        with pytest.raises(InputError, match=words):
            collected.read_scales(tmp_path)


def test_rows_of_different_data_are_not_compared(tmp_path):
    other = dict(row("random", LOW), data_sha256="other")
    write(tmp_path, dict(mcl=row("mcl", HIGH), random=other))
    with pytest.raises(InputError, match="data_sha256 differs.*other: random"):
        collected.read_scales(tmp_path)


def test_no_results_are_an_error_in_words(tmp_path):
    (tmp_path / "small").mkdir()
    with pytest.raises(InputError, match="there are no results.*replicate.py small"):
        report.write_report(tmp_path, tmp_path / "out.md")


# The document


def test_the_document_is_written_and_checked(tmp_path, capsys):
    results = write(tmp_path / "results", full_rows(), full_data())
    out = tmp_path / "replication.md"
    args = "--results", results, "--out", out
    run_main("tools/replication/report.py", *args)
    written = out.read_text()
    assert written == text(results)
    for kind in plots.PLOTS:
        file = tmp_path / f"replication/small-{kind}.png"
        assert f"(replication/{file.name})" in written
        assert file.stat().st_size < 150_000
        assert Image.open(file).convert("L").getextrema()[0] < 100
    run_main("tools/replication/report.py", *args, "--check")
    assert "is what the results yield" in capsys.readouterr().out
    file.unlink()
    with pytest.raises(InputError, match="detections.png missing"):
        run_main("tools/replication/report.py", *args, "--check")
    out.write_text(written.replace("better", "worse"))
    with pytest.raises(InputError, match="is not what the results yield"):
        run_main("tools/replication/report.py", *args, "--check")


def test_a_plot_that_is_no_longer_possible_goes(tmp_path):
    out, results = tmp_path / "a.md", tmp_path / "results"
    report.write_report(write(results, full_rows(), full_data()), out)
    (results / "small/data.json").unlink()
    report.write_report(results, out)
    assert not (tmp_path / "a/small-detections.png").exists()
    assert "### Detections" not in out.read_text()


def leaves(content, path=()):
    """Paths to all numbers and texts of a json."""
    if isinstance(content, dict | list):
        keys = content if isinstance(content, dict) else range(len(content))
        for key in keys:
            yield from leaves(content[key], (*path, key))
    elif content is not None:
        yield path


def changed(content, path):
    """The same with another number or text at ``path``."""
    content = copy.deepcopy(content)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    value = inner[path[-1]]
    inner[path[-1]] = f"x{value}" if isinstance(value, str) else value * 2 + 0
    return content


# What only plots show, and what names the file.
NOT_SHOWN = {"curve", "examples", "format", "row", "scale", "data_sha256", "labels"}


def test_the_document_follows_every_number_of_the_files(tmp_path):
    rows, data = full_rows(), full_data()
    write(tmp_path, rows, data, "Remark.")
    before = text(tmp_path)
    for path in leaves(rows["mcl"]):
        if not NOT_SHOWN & set(path) and path[-1] != "seed":
            write(tmp_path, dict(mcl=changed(rows["mcl"], path)))
            assert text(tmp_path) != before, path
    write(tmp_path, rows)
    for path in leaves(data):
        if not {"examples", "categories", "grounds"} & set(path):
            write(tmp_path, {}, changed(data, path))
            assert text(tmp_path) != before, path
    write(tmp_path, {}, data, "Another remark.")
    assert text(tmp_path) == before.replace("Remark.", "Another remark.")


def test_no_figure_is_typed_into_the_document(tmp_path):
    """What the documents of results without a common number share are constants."""
    found = []
    for i in range(10):
        factor = 1 + 0.137 * i
        rows, data = full_rows(factor, seed=i), full_data(factor)
        for content in rows.values():
            content["machine"] = dict(cpu="A CPU", cores=2)
            for run in content["finetuning"]:
                for name in ("images", "steps", "seconds"):
                    run[name] = round(run[name] * factor)
        data["card"]["versions"] = {}
        root = write(tmp_path / str(i), rows, data)
        # Three digits or more: shorter ones are shared by chance.
        found.append(set(re.findall(r"\d{2,}[.,]\d+|\d[.,]\d{3,}|\d{3,}", text(root))))
    assert set.intersection(*found) <= {"100", "0.001", "256"}  # points, p, SHA-256
    assert all(len(numbers) > 50 for numbers in found)
    prose = report.READING, report.card.PAPER, report.card.ONE_PRETRAINING
    assert set(re.findall(r"\d+", " ".join(prose))) == {"95", "100", "0"}


def test_claims_that_did_not_hold_come_first(tmp_path):
    write(tmp_path, {k: row(k, v) for k, v in (("mcl", HIGH), ("random", LOW))})
    write(tmp_path, {"byol": row("byol", HIGH)})
    found = text(tmp_path)
    places = [found.index(f"### Claims that {h}") for h in report.HEADINGS.values()]
    assert places == sorted(places) and list(report.HEADINGS)[0] == claims.NOT_HELD
    refuted = found[places[0] : places[1]]
    assert "**MCL is above BYOL.**" in refuted
    assert "Of 13 claims 1 did not hold, 2 held, 10 not run." in " ".join(found.split())


def test_rows_that_were_not_run_are_named(tmp_path):
    write(tmp_path, {"mcl": row("mcl", HIGH[:1])})
    found = text(tmp_path)
    assert "| MCL | 16.0 (one seed) | 14.4 (one seed) | not run | not run |" in found
    assert "| BYOL | not run | not run | not run | not run | not run |" in found
    assert "Scale `medium` was not run." in found
    assert "There is no data card beside these results." in found
    listed = " ".join(found[found.index("\nNot run: ") :].split("\n\n")[0].split())
    others = [row.title for row in titles.ROWS if row.name != "mcl"]
    assert listed == f"Not run: {'; '.join(others)}."


def test_a_row_before_its_fine_tuning_has_no_empty_table(tmp_path):
    write(tmp_path, {"mcl": row("mcl", ())})
    assert "### Against the random start\n\nNone.\n" in text(tmp_path)


def test_both_scales_are_in_one_document(tmp_path):
    for name, aps in (("medium", LOW), ("small", HIGH)):
        write(tmp_path, {"mcl": row("mcl", aps)}, name=name)
    found = text(tmp_path)
    assert 0 < found.index("## Scale `small`") < found.index("## Scale `medium`")
    assert "replicate.py medium --report" in found and "was not run" not in found


def test_a_learning_rate_at_the_edge_or_against_knn_is_told():
    rows = {name: row(name, LOW) for name in ("mcl", "mocov2", "densecl")}
    for name, content in rows.items():
        content["pretraining"] = pretraining(name)
    rows["mocov2"]["pretraining"]["search"][0]["knn"] = 0.9
    rows["densecl"]["pretraining"].update(
        lr=rows["densecl"]["pretraining"]["search"][0]["lr"]
    )
    rows["densecl"]["pretraining"]["search"][0]["knn"] = 0.9
    found = tables.edges(collected.Scale("small", rows, {}, ""))
    assert found == dict(edge=["DenseCL"], other=["MoCo v2"])


def test_what_rows_share_is_paid_once():
    rows = {name: row(name, (0.1,)) for name in ("random", "mcl", "mcl-backbone")}
    for name in ("mcl", "mcl-backbone"):
        rows[name]["pretraining"] = pretraining("mcl")
    found = report.card.hours(collected.Scale("small", rows, {}, ""))
    assert found == pytest.approx((3 * 200 + 1413 + 3 * 351) / 3600)


# Wording and plots


def test_lines_do_not_begin_a_list():
    for start in range(60, 90):
        made = wording.paragraph(f"{'x' * start} yy 1. zz - aa 2) bb = cc # dd 10 % ee")
        lines = made.split("\n")
        assert not any(re.match(r"(\d+[.)]|[-+*#=%])( |$)", line) for line in lines)
        assert " ".join(lines) == f"{'x' * start} yy 1. zz - aa 2) bb = cc # dd 10 % ee"


def test_figures_in_words():
    assert wording.with_spread([]) == "not run"
    assert wording.with_spread([0.1, 0.12]) == "11.0 ± 1.41"
    assert wording.signed(-0.00001) == "+0.00" and wording.signed(0.0123) == "+1.23"
    assert [wording.p_value(p) for p in (None, 0.0001, 0.0123)] == [
        "-",
        "< 0.001",
        "0.012",
    ]
    assert wording.listed(["a", "b", "c"]) == "a, b and c"


def test_detections_hit_one_object_of_their_class_each():
    truth = [box(10), box(50, category=2)]
    found = [
        box(10, 0.5),  # the object has gone to the better one
        box(12, 0.9),
        box(50, 0.8),  # another class
        box(62, 0.7, category=2),  # 8 of 20 pixels in common: IoU 0.25
        box(52, 0.6, category=2),
        box(10, plots.SCORE),  # not above
    ]
    hits = [(b[4], hit) for b, hit in plots.match(found, truth)]
    expected = [(0.9, True), (0.8, False), (0.7, False), (0.6, True), (0.5, False)]
    assert hits == expected
    assert plots.overlap(box(10), box(20)) == pytest.approx(1 / 3)
    assert plots.overlap(box(10), box(40)) == 0


def test_curves_and_lengths_hold_what_was_run():
    found = collected.Scale("small", full_rows(), {}, "")
    steps = [step for step, _ in plots.by_length(found, plots.LENGTHS[0][1], 100)]
    assert steps == [0, 394, 1575]
    curve = plots.learning(found, "mcl", 100)
    aps = found.values("mcl").values()
    assert [step for step, _ in curve] == [0.5, 1]
    assert curve[1][1] == pytest.approx([100 * ap for ap in aps])
    assert set(plots.plots_of(scale(mcl=HIGH))) == {"rows"}
