"""The replication's document: the files alone feed it, and what it says and draws."""

import copy
import importlib
import json
import re

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from mcl.errors import InputError

from .conftest import ROOT, run_main
from .replication_results import (
    HIGH,
    LOW,
    box,
    collected,
    finetuning,
    full_data,
    full_rows,
    pretraining,
    row,
    scale,
    tables,
    titles,
    write,
)

claims = importlib.import_module("claims")
measure = importlib.import_module("measure")
plots = importlib.import_module("report_plots")
report = importlib.import_module("report")
card = importlib.import_module("report_card")
wording = importlib.import_module("wording")


def text(root):
    return report.document(collected.read_scales(root), root / "replication.md")


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


def test_rows_of_other_data_than_the_cards_are_refused(tmp_path):
    data = full_data()
    write(tmp_path, {"mcl": row("mcl", HIGH)}, data)
    assert collected.read_scales(tmp_path)
    data["card"]["sha256"] = {"val": "other"}
    write(tmp_path, {}, data)
    with pytest.raises(InputError, match="data_sha256 differs.*: data.json"):
        collected.read_scales(tmp_path)


def test_the_projects_document_is_of_its_results():
    assert report.differences(report.RESULTS, report.DOCUMENT) == ""


def test_rows_of_different_data_are_not_compared(tmp_path):
    other = dict(row("random", LOW), data_sha256="other")
    write(tmp_path, dict(mcl=row("mcl", HIGH), random=other))
    with pytest.raises(InputError, match="data_sha256 differs.*other: random"):
        collected.read_scales(tmp_path)


@pytest.mark.parametrize("field, value", [("steps", 401), ("images", 49)])
@pytest.mark.parametrize("labels", collected.LABELS)
def test_fine_tunings_of_different_protocols_are_not_compared(
    tmp_path, field, value, labels
):
    rows = {name: row(name, HIGH, LOW) for name in ("random", "mcl")}
    collected.read_scales(write(tmp_path, rows))
    runs = [r for r in rows["mcl"]["finetuning"] if r["labels"] == labels]
    for run in runs:
        run[field] = value
    write(tmp_path, rows)
    words = f"labels={labels} differs .*: random; .*{value} {field}.*: mcl"
    with pytest.raises(InputError, match=words):
        collected.read_scales(tmp_path)
    runs[1][field] = 7
    write(tmp_path, rows)
    words = f"mcl.json: .*labels={labels} differs .*: seed 0, seed 2; .*: seed 1"
    with pytest.raises(InputError, match=words):
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
    assert written == report.document(collected.read_scales(results), out)
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
    write(tmp_path, rows, data)
    before = text(tmp_path)
    for path in leaves(rows["mcl"]):
        # Steps and images of one fine-tuning are those of all.
        common = "finetuning" in path and path[-1] in ("steps", "images")
        if not NOT_SHOWN & set(path) and path[-1] != "seed" and not common:
            write(tmp_path, dict(mcl=changed(rows["mcl"], path)))
            assert text(tmp_path) != before, path
    for field in ("steps", "images"):
        others = copy.deepcopy(rows)
        for content in others.values():
            for run in content["finetuning"]:
                run[field] += run["labels"] == 10
        write(tmp_path, others)
        assert text(tmp_path) != before, field
    write(tmp_path, rows)
    for path in leaves(data):
        drawn = path == ("scene_size",)  # of the plots; the text has the card's
        # Other checksums are other data, which are refused.
        own = {"examples", "categories", "grounds", "sha256"}
        if not drawn and not own & set(path):
            write(tmp_path, {}, changed(data, path))
            assert text(tmp_path) != before, path


def test_remarks_by_hand_are_linked_and_not_part_of_it(tmp_path):
    results = write(tmp_path / "docs/results", full_rows(), full_data(), "Some 4.321.")
    written = report.document(collected.read_scales(results), tmp_path / "docs/r.md")
    assert "[notes](results/small/notes.md)" in written and "4.321" not in written
    (results / "small/notes.md").unlink()
    assert "notes.md" not in text(results)


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
    scales = importlib.import_module("report_scales")
    prose = [report.READING, report.RULES, report.NOTES, report.MEASURES]
    prose += [scales.LEADS, scales.SAME_WEIGHTS, scales.OTHER_WEIGHTS]
    prose += [scales.OWN_CYCLES, scales.OTHER_CYCLES, scales.PLANNED]
    prose += [*card.PURPOSES.values(), *card.GIVEN_RATES.values()]
    names = "ONE_SET PAPER MOVED ONE_PRETRAINING PRETRAININGS VIEWS AGNOSTIC BY_HAND"
    prose += [getattr(card, name) for name in (*names.split(), "THE_REST", "WITHIN")]
    paper = {"1608", "03983"}  # arXiv's number
    assert set(re.findall(r"\b\d+", " ".join(prose))) == {"95", "100", "0"} | paper
    known = {str(measure.NEIGHBORS), str(measure.BANK_PER_CUTOUT), "1"}  # top-1
    assert set(re.findall(r"\d+", card.RECOGNITION)) == known


def test_claims_that_did_not_hold_come_first(tmp_path):
    write(tmp_path, {k: row(k, v) for k, v in (("mcl", HIGH), ("random", LOW))})
    write(tmp_path, {"byol": row("byol", HIGH)})
    found = text(tmp_path)
    places = [found.index(f"### Claims that {h}") for h in report.HEADINGS.values()]
    assert places == sorted(places) and list(report.HEADINGS)[0] == claims.NOT_HELD
    refuted = found[places[0] : places[1]]
    assert "**MCL is above BYOL.**" in refuted
    words = " ".join(found.split())
    assert (
        "Of 15 claims, 1 did not hold (MCL is above BYOL), 2 held and 12 could not "
        "be judged." in words
    )
    assert found.index("(MCL is above BYOL)") < found.index("**MCL against random")


def test_rows_that_were_not_run_are_named(tmp_path):
    write(tmp_path, {"mcl": row("mcl", HIGH[:1])})
    found = text(tmp_path)
    assert "| MCL | 16.0 (one seed) | 14.4 (one seed) | not run | not run |" in found
    assert "| BYOL | not run | not run | not run | not run | not run |" in found
    assert "Scale `medium` was not run." in found
    assert "There is no data card beside these results." in found
    listed = " ".join(found[found.index("\nNot run: ") :].split("\n\n")[0].split())
    others = [row.title for row in titles.ROWS if row.name != "mcl"]
    part = "Not complete: MCL (1 of 6 fine-tunings)."
    assert listed == f"Not run: {'; '.join(others)}. {part}"


def test_a_row_before_its_fine_tuning_has_no_empty_table(tmp_path):
    write(tmp_path, {"mcl": row("mcl", ())})
    assert "### Against the random start\n\nNone.\n" in text(tmp_path)


def test_all_scales_are_in_one_document(tmp_path):
    for name in collected.SCALES:
        write(tmp_path, {"random": row("random", HIGH)}, name=name)
    found = text(tmp_path)
    places = [found.index(f"## Scale `{name}`") for name in collected.SCALES]
    assert places == sorted(places) and len(places) == 5
    assert "replicate.py medium --report" in found and "Scale `medium` was" not in found


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


def test_the_cost_tells_how_stages_shared_the_machine(tmp_path):
    rows = {name: row(name, (0.1,)) for name in ("random", "mcl", "byol", "sup")}
    rows["mcl"]["machine"] |= dict(jobs=1, threads=2)
    for key in ("jobs", "threads", "cpu_flags"):
        del rows["byol"]["machine"][key]
    write(tmp_path, rows)
    found = " ".join(text(tmp_path).split())
    versions = "2 cores, PyTorch 2.15.0, Python 3.11.7"
    for line in (
        f"- A: A CPU (avx2), {versions}; 2 stages at a time, 1 thread each.",
        f"- B: A CPU (avx2), {versions}; 1 stage at a time, 2 threads each.",
        f"- C: A CPU, {versions}; how many stages ran at a time was not recorded.",
    ):
        assert line in found
    assert re.search(r"\| supervised classification \|[^|]*(\|[^|]*){6}\| A \|", found)
    assert "how many stages ran at a time there is said below" in found


def test_the_protocol_names_what_the_configs_set(monkeypatch, tmp_path):
    assert "0.1 for MCL and BYOL, 0.01 for MoCo v2 and DenseCL;" in card.momenta()
    for name in card.AVERAGED:
        key = "momentum" if name == "mocov2" else "base_momentum"
        (tmp_path / f"{name}.py").write_text(f"model = dict({key}=0.{len(name)})")
    monkeypatch.setattr(card, "CONFIGS", tmp_path)
    assert "0.3 for MCL, 0.4 for BYOL, 0.6 for MoCo v2, 0.7 for DenseCL;" in (
        card.momenta()
    )


def test_how_to_run_it_again(tmp_path):
    found = text(write(tmp_path, {"mcl": row("mcl", HIGH)}))
    assert "    python tools/replicate.py small --root packages  # data" in found
    assert "    python tools/replicate.py small --report         # this" in found
    assert "materials.py" not in found
    target = re.search(r"\(\.\./README\.md#(.+)\)", found).group(1)
    titles_there = re.findall(r"^## (.+)", (ROOT / "README.md").read_text(), re.M)
    anchors = [
        re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles_there
    ]
    assert target in anchors


def test_the_rows_name_configs_that_are_there():
    planned = importlib.import_module("rows").ROWS
    for name, planned_row in planned.items():
        if planned_row.config:
            assert (card.CONFIGS / planned_row.config).is_file(), name
    half = planned["mcl-half-batch"]
    assert (half.config, half.batch) == ("mcl.py", 0.5)


def test_what_rows_share_is_paid_once():
    rows = {name: row(name, (0.1,)) for name in ("random", "mcl", "mcl-backbone")}
    for name in ("mcl", "mcl-backbone"):
        rows[name]["pretraining"] = pretraining("mcl")
    found = card.hours(collected.Scale("small", rows, {}, ""))
    assert found == pytest.approx((3 * 200 + 1413 + 3 * 351) / 3600)


def seeded(root):
    """Results of a scale where every seed was pre-trained anew."""
    found = {name: row(name, LOW) for name in ("random", "densecl", "mcl-backbone")}
    found["mcl"] = row("mcl", HIGH)
    rates = importlib.import_module("rows").SCALES["small-seeds"].rates
    for name in ("mcl", "mcl-backbone", "densecl"):
        before = pretraining("densecl" if name == "densecl" else "mcl")
        for key in ("search", "seed", "knn", "seconds", "curve"):
            before.pop(key)
        before["lr"] = rates[before["config"].rpartition("/")[2]]
        longer = 1000.0 * (name == "densecl")
        before["runs"] = [
            dict(seed=s, knn=0.1 + s / 10, seconds=1000.0 * (s + 1) + longer, key=name)
            for s in range(3)
        ]
        found[name]["pretraining"] = before
    return write(root, found, name="small-seeds")


def retune(file, values):
    """Give a row other fine-tunings: box AP with all labels by seed."""
    content = json.loads(file.read_text())
    content["finetuning"] = [finetuning(100, *both) for both in values.items()]
    file.write_text(json.dumps(content))


def test_several_pretrainings_are_told_from_one(tmp_path):
    root = seeded(tmp_path)
    found = " ".join(text(root).split())
    assert card.PURPOSES["small-seeds"] in found
    assert card.GIVEN_RATES["small-seeds"] in found
    assert card.PRETRAININGS in found and card.ONE_PRETRAINING not in found
    assert "| 0.003 | 0, 1, 2 |" in found  # rate and seeds of pre-training
    assert "| 20.0 ± 10.00 | 0.003 | 3 |" in found  # kNN
    assert re.search(r"\| MCL \| 2,000 \| - \| 200 \|", found)  # mean seconds
    # Four rows of three fine-tunings; MCL's pre-trainings count once.
    (scale,) = collected.read_scales(root)
    assert card.hours(scale) == pytest.approx((12 * 200 + 6000 + 9000) / 3600)


def test_a_value_is_the_mean_of_a_pretrainings_fine_tunings(tmp_path):
    values = {0: 0.1, 3: 0.12, 6: 0.14, 1: 0.2, 4: 0.26, 7: 0.2, 2: 0.3, 5: 0.3}
    retune(seeded(tmp_path) / "small-seeds/mcl.json", values)
    (scale,) = collected.read_scales(tmp_path)
    assert scale.values("mcl") == pytest.approx({0: 0.12, 1: 0.22, 2: 0.3})
    assert scale.compare("mcl", "random").seeds == (0, 1, 2)
    # Squares of the distances from three means, over 8 - 3 degrees of freedom.
    within = ((2 * 2**2 + 2 * 2**2 + 4**2) / 5) ** 0.5
    means = (((12 - 64 / 3) ** 2 + (22 - 64 / 3) ** 2 + (30 - 64 / 3) ** 2) / 2) ** 0.5
    alone = within * ((1 / 3 + 1 / 3 + 1 / 2) / 3) ** 0.5
    line = "| MCL | 10.0, 12.0, 14.0 | 20.0, 26.0, 20.0 | 30.0, 30.0 |"
    found = text(tmp_path)
    spreads = f"{within:.2f} | {alone:.2f} | {means:.2f}"
    assert f"{line} {spreads} | 10.0, 20.0, 30.0 |" in found
    assert f"| 21.3 ± {means:.2f} |" in found and "| 8 |" in found
    # One fine-tuning each has no spread within.
    assert re.search(r"\| DenseCL \| [\d.]+ \| [\d.]+ \| [\d.]+ \| - \| - \| \d", found)


def test_rows_are_compared_over_the_fine_tunings_that_both_have(tmp_path):
    folder = seeded(tmp_path) / "small-seeds"
    values = {0: 0.1, 3: 0.4, 6: 0.7, 1: 0.2, 4: 0.5, 7: 0.8, 2: 0.3, 5: 0.6}
    retune(folder / "mcl.json", values)
    retune(folder / "densecl.json", {3: 0.2, 6: 0.22, 4: 0.19, 8: 0.9})
    (scale,) = collected.read_scales(tmp_path)
    compared = scale.compare("mcl", "densecl")
    assert compared.seeds == (0, 1) and compared.first == pytest.approx((0.55, 0.5))
    assert compared.second == pytest.approx((0.21, 0.19))
    assert scale.values("densecl") == pytest.approx({0: 0.21, 1: 0.19, 2: 0.9})
    # Beside a difference are the means that it is of.
    cells = tables.compared_cells(scale, "mcl", "densecl", 100)
    assert cells[:3] == ["52.5 ± 3.54", "20.0 ± 1.41", "+32.50"]


def test_one_pretraining_is_told_of_several(tmp_path):
    found = {"mcl": row("mcl", [2 * v for v in HIGH]), "random": row("random", LOW)}
    write(seeded(tmp_path), found)
    words = " ".join(text(tmp_path).split())
    small, seeds = words.split("## Scale `small-seeds`")
    ratio = sum(HIGH) / sum(LOW)
    several = (
        "In `small-seeds`, over 3 pre-trainings of 1,575 steps for each row and with "
        "400 steps of fine-tuning, MCL's box AP is 16.5 ± 0.50, "
        f"{ratio:.2f} (1.51 to 1.64) times that of random start and "
        f"{ratio:.2f} (1.51 to 1.64) times that of DenseCL."
    )
    assert several in small and "over 3 pre-trainings" not in seeds
    (tmp_path / "small-seeds/random.json").unlink()
    (tmp_path / "small-seeds/densecl.json").unlink()
    assert "over 3 pre-trainings" not in text(tmp_path)


def lengthened(root, factor):
    """Results of the same pre-trainings, fine-tuned for longer; MCL by a factor."""
    seeded(root)
    found = {}
    for name in ("random", "mcl", "densecl"):
        content = json.loads((root / f"small-seeds/{name}.json").read_text())
        for run in content["finetuning"]:
            run["steps"], run["seconds"] = 800, 431.0
            run["bbox"] *= 2 * (factor if name == "mcl" else 1)
        found[name] = content
    return write(root, found, name="small-longer")


def section(found, heading):
    """What is under a heading, in one line."""
    (inner,) = re.findall(rf"### {heading}\n\n(.*?)\n\n#", found, re.S)
    return " ".join(inner.split())


def test_longer_fine_tunings_are_compared_with_shorter_ones(tmp_path):
    found = text(lengthened(tmp_path, 0.75))
    words = section(found, "What longer fine-tuning changes")
    before, after = sum(HIGH) / sum(LOW), 0.75 * sum(HIGH) / sum(LOW)
    # Every pre-training's ratio is 0.75 of what it was: no spread, so no p of pairs.
    logs = np.log(np.divide(HIGH, LOW))
    p = stats.ttest_ind(logs + np.log(0.75), logs, equal_var=False).pvalue
    quotient = f"0.75 | 0.75 to 0.75 | - | {wording.p_value(p)}"
    ratios = f"{before:.2f} | {after:.2f} | {quotient}"
    for title in ("random start", "DenseCL"):
        assert f"| {title} | {ratios} | +6.00 | +3.75 | 3 |" in words
    assert words.startswith(
        "The weights of `small-seeds`, fine-tuned for longer. Ratio"
    )
    p = stats.ttest_ind([2 * v for v in LOW], HIGH, equal_var=False).pvalue
    assert (
        "From the random start 800 steps lead to 21.0 ± 1.00 box AP, from MCL's "
        f"weights 400 steps to 16.5 ± 0.50 (difference +4.50, unpaired p = {p:.2g}), "
        "after 1,575 steps of pre-training." in words
    )
    hours = "Of these hours 4.2 are those of trainings that are counted in `small-s"
    assert hours in " ".join(found.split())
    assert found.count("### What longer") == 1


def test_longer_fine_tunings_of_other_pretrainings_are_said_to_be_so(tmp_path):
    file = lengthened(tmp_path, 1) / "small-longer/mcl.json"
    content = json.loads(file.read_text())
    content["pretraining"]["runs"][1]["knn"] = 0.987
    file.write_text(json.dumps(content))
    words = section(text(tmp_path), "What longer fine-tuning changes")
    assert words.startswith("Other pre-trainings with the settings of `small-seeds`, ")


def test_what_cannot_be_said_of_longer_fine_tunings_is_left_out(tmp_path):
    lengthened(tmp_path, 1)

    def change(name, values):
        file = tmp_path / f"small-longer/{name}.json"
        content = json.loads(file.read_text())
        runs = zip(content["finetuning"], values, strict=False)
        content["finetuning"] = [run | dict(bbox=ap) for run, ap in runs]
        file.write_text(json.dumps(content))

    change("densecl", (0.0, 0.2, 0.2))  # no ratio
    change("random", (0.2, 0.22))  # two seeds of three, of which all is said
    words = section(text(tmp_path), "What longer fine-tuning changes")
    ratio = f"{sum(HIGH[:2]) / sum(LOW[:2]):.2f}"
    assert f"| random start | {ratio} | " in words and " | 2 |" in words
    assert "| DenseCL |" not in words and "(difference +4.50" in words
    change("random", (0.2,))
    assert "### What longer" not in text(tmp_path)


def restarted(root):
    """Results of second cycles, by which MCL gains and DenseCL loses."""
    lengthened(root, 1)
    for name, factor in (("random", 1), ("mcl", 1.5), ("densecl", 0.5)):
        content = json.loads((root / f"small-longer/{name}.json").read_text())
        for run in content["finetuning"]:
            run["bbox"] *= factor
        if content["pretraining"]:
            content["pretraining"]["steps"] *= 2
            for k, run in enumerate(content["pretraining"]["runs"]):
                run["earlier"] = [dict(run)]
                run |= dict(knn=0.5 + k / 10, seconds=run["seconds"] + 3600)
        write(root, {name: content}, name="small-restart")
    return root


def test_a_second_cycle_is_compared_with_the_first(tmp_path):
    root = restarted(tmp_path)
    words = section(text(root), "What a second cycle of pre-training changes")
    assert words.startswith("The second cycle starts from the weights that `small-l")
    reach = 4.302653 * np.std(HIGH, ddof=1) / 3**0.5
    ends = wording.bounds((0.165 - reach, 0.165 + reach))
    p = wording.p_value(stats.ttest_1samp(HIGH, 0).pvalue)
    line = f"| MCL | box AP | 33.0 ± 1.00 | 49.5 ± 1.50 | +16.50 | {ends} | {p} | "
    assert line in words and "| 1.50 | 1.50 to 1.50 | 3 |" in words
    # From 0.1, 0.2 and 0.3 to 0.5, 0.6 and 0.7.
    assert "| MCL | kNN | 20.0 ± 10.00 | 60.0 ± 10.00 | +40.00 |" in words
    assert "| start | by | 1,575 steps | 3,150 steps |" in words
    assert "| DenseCL | box AP | 21.0 ± 1.00 | 10.5 ± 0.50 | -10.50 |" in words
    assert "class-agnostic" not in words  # which these results lack
    ratio = sum(HIGH) / sum(LOW)
    assert f"| DenseCL | {ratio:.2f} | {3 * ratio:.2f} | 3.00 | 3.00 to 3.00 " in words
    assert "random start" not in words
    assert text(root).count("### What a second cycle") == 1
    assert text(root).count("### What longer") == 1
    (root / "small-restart/mcl.json").unlink()
    assert "| start | by | 1,575 steps | 3,150 steps |" in text(root)
    (root / "small-restart/densecl.json").unlink()
    assert "### What a second cycle" not in text(root)


def test_second_cycles_of_other_pretrainings_are_said_to_be_so(tmp_path):
    file = restarted(tmp_path) / "small-restart/mcl.json"
    content = json.loads(file.read_text())
    content["pretraining"]["runs"][2]["earlier"][0]["knn"] = 0.987
    file.write_text(json.dumps(content))
    words = section(text(tmp_path), "What a second cycle of pre-training changes")
    assert words.startswith("The first cycles are other pre-trainings than those of")


def test_hours_of_first_cycles_are_counted_before(tmp_path):
    """Six cycles of an hour, and the fine-tunings whose figures are others."""
    root = restarted(tmp_path)
    scales = collected.read_scales(root)
    longer, again = (s for s in scales if s.name in ("small-longer", "small-restart"))
    own = 6 + 6 * 431 / 3600  # the random start's fine-tunings are those of longer
    common = card.hours(longer) - 6 * 431 / 3600
    assert card.hours(again) == pytest.approx(own + common)
    assert card.counted_before(again, scales) == (
        f" Of these hours {common:.1f} are those of trainings that are counted in "
        "`small-seeds` or `small-longer`, too."
    )


def test_data_of_several_scales_are_told_once(tmp_path):
    for name in ("small", "small-seeds", "small-longer"):
        content = row("random", HIGH) | dict(data_sha256=digest(full_data()))
        write(tmp_path, {"random": content}, name=name)
    for name in ("small-seeds", "small-longer"):
        (tmp_path / name / "data.json").write_text(json.dumps(full_data()))
    words = " ".join(text(tmp_path).split())
    assert words.count("is composed by") == 1
    assert words.count("The data set is that of `small-seeds`, of the same") == 2


def digest(data):
    return collected.data_digest(data["card"]["sha256"])


def test_other_measures_by_hand(tmp_path):
    rows = dict(mcl=row("mcl", HIGH), mocov2=row("mocov2", LOW))
    for name, values in (("mcl", (0.3, 0.5, 0.4)), ("mocov2", (0.2, 0.3, 0.1))):
        for run, value in zip(rows[name]["finetuning"], values, strict=True):
            run["bbox_75"] = value
    reach = 4.302653 * 10 / 3**0.5  # of differences of 10, 20 and 30 points
    words = section(text(write(tmp_path, rows)), "By other measures")
    means = "40.0 ± 10.00 | 20.0 ± 10.00 | +20.00"
    assert f"| MoCo v2 | box AP75 | {means} | {20 - reach:.2f} to +" in words
    assert words.count("| MoCo v2 |") == 1


def test_a_quotient_of_ratios_by_hand(tmp_path):
    lengthened(tmp_path, 1)
    file = tmp_path / "small-longer/mcl.json"
    content, factors = json.loads(file.read_text()), (0.5, 0.8, 0.9)
    for run, factor in zip(content["finetuning"], factors, strict=True):
        run["bbox"] *= factor
    file.write_text(json.dumps(content))
    logs = np.log(factors)
    reach = 4.302653 * logs.std(ddof=1) / 3**0.5
    low, middle, high = np.exp([logs.mean() - reach, logs.mean(), logs.mean() + reach])
    p = stats.ttest_1samp(logs, 0).pvalue
    line = f"| {middle:.2f} | {low:.2f} to {high:.2f} | {p:.2g} | "
    assert text(tmp_path).count(line) == 2


def test_searches_within_their_noise_are_named():
    rows = {name: row(name, LOW) for name in ("mcl", "mocov2")}
    for name, content in rows.items():
        content["pretraining"] = pretraining(name)
    # Two shares of about 0.4 over 100 pictures differ by 0.07 by chance. The best two
    # are 0.42 and 0.31, here 0.36.
    data = dict(card=dict(images=dict(probe=100)))
    rows["mocov2"]["pretraining"]["search"][0]["knn"] = 0.36
    assert tables.close_searches(collected.Scale("small", rows, data)) == ["MoCo v2"]
    assert tables.close_searches(collected.Scale("small", rows, {})) == []


def test_hours_of_a_whole_row(tmp_path):
    one = row("mcl", (0.1, 0.2), pretraining=pretraining("mcl"))
    one["pretraining"]["stage_seconds"] = 3600.0
    one["finetuning"][0]["stage_seconds"] = 7200.0
    # Its other fine-tuning and its search have seconds of training alone, and a stage
    # that was resumed has fewer than its training.
    one["finetuning"][1]["stage_seconds"] = 100.0
    assert tables.whole_hours(one) == pytest.approx(3 + (200 + 3 * 351) / 3600)
    cycles = dict(earlier=[dict(seconds=1000.0, stage_seconds=1100.0)])
    cycles |= dict(seconds=2000.0, stage_seconds=1300.0)  # the second was resumed
    assert tables.whole_hours(dict(pretraining=cycles)) == pytest.approx(2100 / 3600)
    assert "the longest row has 3.3" in " ".join(
        text(write(tmp_path, {"mcl": one})).split()
    )


def test_a_scale_speaks_of_its_own_rows_and_labels(tmp_path):
    found = text(seeded(tmp_path))
    for words in ("10 % of the", "part of the labels", "BYOL", "supervised class"):
        assert words not in found[: found.index("Scale `small` was not run")]
    assert "Of 8 claims," in " ".join(found.split())
    assert "Not run: MoCo v2; supervised MCL; MCL with one level;" in found


def test_rows_that_their_scale_does_not_have_are_refused(tmp_path):
    folder = seeded(tmp_path) / "small-seeds"
    good = json.loads((folder / "mcl.json").read_text())
    few = dict(good, finetuning=[finetuning(10, 0, 0.1)])
    other_rate = dict(good, pretraining=good["pretraining"] | dict(lr=0.5))
    one = dict(good, pretraining=good["pretraining"] | dict(runs=[dict(seed=0)]))
    one["finetuning"] = [finetuning(100, seed, 0.1) for seed in (3, 4)]
    for words, content in {
        "labels=10; give 100": few,
        "lr of mcl.py=0.5; give 0.003": other_rate,
        "runs has no seed 1, which was fine-tuned": one,
    }.items():
        (folder / "mcl.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=words):
            collected.read_scales(tmp_path)
    (folder / "mcl.json").write_text(json.dumps(good))
    write(tmp_path, {"byol": row("byol", LOW)}, name="small-seeds")
    with pytest.raises(InputError, match="byol.json: there is no such row"):
        collected.read_scales(tmp_path)


def test_scales_of_one_data_set_have_it_in_common(tmp_path):
    write(seeded(tmp_path), {"mcl": row("mcl", HIGH)})
    assert len(collected.read_scales(tmp_path)) == 2
    write(tmp_path, {"mcl": dict(row("mcl", HIGH), data_sha256="other")})
    with pytest.raises(InputError, match="data_sha256 differs.*other: small;"):
        collected.read_scales(tmp_path)


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
    truth = [box(10), box(50, category=2), *(box(200 + k) for k in range(3))]
    found = [
        box(10, 0.5),  # the object has gone to the better one
        box(12, 0.9),
        box(50, 0.8),  # another class
        box(62, 0.7, category=2),  # 8 of 20 pixels in common: IoU 0.25
        box(52, 0.6, category=2),
        box(200, 0.1),  # the sixth of five
    ]
    meetings = [(b[4], meeting) for b, meeting in plots.match(found, truth)]
    assert meetings == [
        (0.9, "hit"),
        (0.8, "place"),
        (0.7, "miss"),
        (0.6, "hit"),
        (0.5, "place"),
    ]
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
    assert plots.with_curves(found) == [100, 10]
    for run in found.runs("mcl", 10):
        del run["curve"][:-1]
    assert plots.with_curves(
        collected.Scale("small", dict(mcl=found.rows["mcl"]), {}, "")
    ) == [100]
    assert set(plots.plots_of(scale(mcl=HIGH))) == {"rows"}
