"""docs/cost.md holds what tools/cost_model.py computes, in plain arithmetic."""

import copy
import importlib
import json
import sys

import pytest

from .conftest import PRETRAINING, ROOT, run_main
from .test_benchmark import count, variants

if str(ROOT / "tools") not in sys.path:
    sys.path.append(str(ROOT / "tools"))
cost_model = importlib.import_module("cost_model")

NUMBERS = json.loads((ROOT / "docs/cost.json").read_text())
KINDS = ("measured here", "published", "assumed")


def model(**figures) -> "cost_model.Model":
    numbers = copy.deepcopy(NUMBERS)
    for name, value in figures.items():
        numbers["figures"][name]["value"] = value
    return cost_model.Model(numbers)


PLAIN = dict(
    giga_mac=10,
    share=0.5,
    norm_passes=100,
    mega_weights=25,
    images_per_core=50,
    link_share=0.5,
)
CLUSTER = cost_model.Cluster("4 x X", 4, 8, 100, 10, 20, "")


def test_the_document_holds_the_tables(capsys):
    document = (ROOT / "docs/cost.md").read_text()
    tables = cost_model.blocks()
    for name, table in tables.items():
        assert f"<!-- {name} -->\n{table}\n<!-- end -->" in document
    assert document.count("<!-- end -->") == len(tables)
    assert cost_model.insert(document, tables) == document
    run_main("tools/cost_model.py")
    printed = capsys.readouterr().out
    assert all(table in printed for table in tables.values())


def test_insert_replaces_what_is_between_the_marks():
    text = "a\n<!-- x -->\nold\n<!-- end -->\nb\n<!-- y -->\n<!-- end -->\n"
    expected = "a\n<!-- x -->\n1\\1\n<!-- end -->\nb\n<!-- y -->\n2\n<!-- end -->\n"
    assert cost_model.insert(text, dict(x="1\\1", y="2")) == expected


def test_a_step_by_hand():
    step = model(**PLAIN).step(CLUSTER)
    # 2 x 10 G x 4,096 images by 4 GPUs at half of 100 T
    assert step.compute == pytest.approx(20e9 * 4096 / (4 * 50e12))
    # 4,096 = 8 iterations of 4 x 128 images, each 100 exchanges of 20 us
    assert step.norm == pytest.approx(8 * 100 * 20e-6)
    # three quarters come from the others, over 10 GB/s of which half is reached
    gathered = 2 * 4096 * 256 * 4
    assert step.gather == pytest.approx(8 * 20e-6 + gathered * 0.75 / 5e9)
    assert step.gradients == pytest.approx(20e-6 + 2 * 0.75 * 25e6 * 4 / 5e9)
    assert step.pipeline == pytest.approx(4096 / (4 * 8 * 50))
    assert step.communication == step.norm + step.gather + step.gradients
    assert step.total == max(step.compute + step.communication, step.pipeline)
    assert step.limit == "pipeline"
    assert (
        model(**PLAIN, share_low=0.0001).step(CLUSTER, "share_low").limit == "network"
    )


def test_one_gpu_talks_to_nobody():
    alone = CLUSTER._replace(gpus=1, link_gigabytes=None, latency_us=None)
    step = model(**PLAIN).step(alone)
    assert step.communication == 0 and step.network == step.compute


def test_hours_and_cores():
    plain = model(**PLAIN)
    assert plain.steps == 31200 and plain.hours(3600) == 31200
    cores = plain.cores_needed(CLUSTER, "share")
    even = plain.step(CLUSTER._replace(cores_per_gpu=cores))
    assert even.pipeline == pytest.approx(even.network)


def test_where_communication_passes_a_share():
    found = cost_model.first_beyond(model(), 0.5)
    cluster = next(c for c in model().clusters if c.name == cost_model.SEARCHED)
    for gpus in cost_model.NUMBERS:
        step = model().step(cluster._replace(gpus=gpus))
        beyond = step.communication / step.network > 0.5
        assert beyond == (gpus >= found)
    assert cost_model.first_beyond(model(), 1.0) is None


def test_every_figure_has_a_kind_and_a_source():
    for name, figure in NUMBERS["figures"].items():
        assert figure["kind"] in KINDS and figure["source"], name
    assert all(cluster["source"] for cluster in NUMBERS["clusters"])


def test_the_counted_figures_are_those_of_the_recipe():
    found = count.count_work(variants.Variant("a", str(PRETRAINING)), 128)
    value = model().value
    for name, counted in dict(
        giga_mac=found.total,
        giga_mac_forward=found.forward,
        giga_mac_target=found.target,
        giga_mac_backward=found.backward,
    ).items():
        assert value(name) == pytest.approx(counted / 1e9, abs=0.006), name
    assert value("norm_passes") == found.norm_passes
    assert value("mega_weights") == pytest.approx(found.trained / 1e6, abs=0.006)
