"""projects/speed: figures agree with one another and with plain counting."""

import copy
import json

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mcl.errors import InputError
from projects.speed import benchmark, cost_model, data, memory, report, scale, step
from projects.speed.count import count_work
from projects.speed.variants import Variant, precision

from .. import conftest
from ..conftest import PRETRAINING, TINY, write_images

SUPERVISED = PRETRAINING.with_name(PRETRAINING.name.replace("mcl_", "mcl-sup_"))
BATCH = 8


def shrunk(path, folder) -> str:
    """A shipped recipe made small, as a file."""
    cfg = Config.fromfile(path)
    cfg.model.backbone.depth = 18
    conftest.shrink_recipe(cfg)
    cfg.dump(folder / path.name)
    return str(folder / path.name)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> str:
    """The paper's recipe made small: LARS, bfloat16 on a CPU."""
    return shrunk(PRETRAINING, tmp_path_factory.mktemp("recipe"))


def in_this_process(variant: Variant, batch: int, processes: int = 0) -> list[dict]:
    return [memory.footprint(variant, batch)] * max(1, processes)


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Run the tool in this process; what it wrote as json."""
    monkeypatch.setitem(step.MATMUL_SIDE, "cpu", 64)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for module in (memory, scale):
        monkeypatch.setattr(module, "measure", in_this_process)
    # The peak of this process is that of some other test.
    monkeypatch.setattr(memory, "in_use", lambda device, peak: peak * 2**30)

    def call(*args) -> dict:
        file = tmp_path / "found.json"
        words = [str(a) for a in ("benchmark", *args, "--json", file)]
        monkeypatch.setattr("sys.argv", words)
        benchmark.main()
        found, printed = json.loads(file.read_text()), capsys.readouterr().out
        assert "threads: " in printed
        assert all(str(row["name"]) in printed for row in found["rows"])
        return found

    return call


def plain_count(model: nn.Module, batch: dict) -> tuple[int, int]:
    """Multiply-adds of forward and backward, layer by layer on real numbers."""
    forward = backward = 0

    def note(layer, inputs, output) -> None:
        nonlocal forward, backward
        work = output.numel() * layer.weight[0].numel()  # inputs that an output reads
        forward += work
        if torch.is_grad_enabled():
            backward += work * (1 + inputs[0].requires_grad)

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(note)
    model.loss(**batch)
    return forward, backward


def test_multiply_adds_equal_a_count_by_hand(recipe, run):
    field = "model.neck.computation"
    full = ("--variant", "full", f"{field}=full")
    rows = run("count", recipe, "--batch", BATCH, "--variant", "selected", *full)[
        "rows"
    ]
    for row in rows:
        ready = step.Step(Variant("a", recipe, options={field: row["name"]}), BATCH)
        forward, backward = plain_count(ready.model, ready.data)
        tiles = sum(len(i) for view in ready.data["inputs"] for i in view.image_index)
        products = tiles * BATCH * 16  # tiles by targets; targets have no gradient
        work = 1e9 * BATCH * (row["forward"] + row["target"])
        assert round(work) == forward + products
        assert round(1e9 * BATCH * row["backward"]) == backward + products
    selected, full = rows
    assert full["ratio"] == pytest.approx(selected["total"] / full["total"])
    # The target network has no predictors and runs one level of four or, in full, all.
    assert full["target"] < full["forward"] < 1.1 * full["target"]
    stem, blocks, shortcuts, levels, views = 1, 8 * 2, 3, 4, 2
    backbone = stem + blocks + shortcuts
    online = backbone + 4 + levels + levels * (4 + 2 + 1)  # laterals, outputs, tiles
    target = backbone + 1 + 1 + 4 + 2  # of P5 alone
    assert selected["norm_passes"] == views * (2 * online + target)


def test_a_step_trains_as_the_config_says(recipe):
    seen = []
    ready = step.Step(Variant("a", recipe), BATCH)
    assert type(ready.optim_wrapper).__name__ == "BFloat16OptimWrapper"
    online, target = ready.model.backbone.conv1, ready.model.target.backbone.conv1
    online.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    before = [conv.weight.clone() for conv in (online, target)]
    ready.warm_up()
    assert not any(map(torch.equal, before, [online.weight, target.weight]))
    assert ready.model.target.step == 1 and set(seen) == {torch.bfloat16}
    assert precision(Variant("b", recipe, amp="none").load()) == "float32"


def test_step_compares_options_and_configs(recipe, tmp_path, run):
    rows = run(
        *("step", recipe, "--batch", BATCH, "--pairs", 2, "--amp", "none"),
        *("--variant", "half", "amp=bfloat16"),
        *("--variant", "labels", f"config={shrunk(SUPERVISED, tmp_path)}"),
    )["rows"]
    assert [row["dtype"] for row in rows] == ["bfloat16", "float32"]
    for row in rows:
        parts = ("forward", "backward", "optimizer", "target_update")
        assert sum(row[p] for p in parts) == pytest.approx(row["total"])
        assert row["images_per_second"] == pytest.approx(BATCH / row["total"])
        flops = 2e9 * row["Gmac"] * row["images_per_second"]
        assert row["tera_flops"] * 1e12 == pytest.approx(flops)
    assert rows[0]["Gmac"] > rows[1]["Gmac"]  # labels need no target network


def test_things_are_measured_in_turn_and_paired():
    took, order = dict(a=[4.0, 6, 5], b=[2.0, 1, 5]), []

    def measure(name):
        order.append(name)
        return dict(x=took[name].pop(0), y=1)

    things = {name: lambda name=name: measure(name) for name in took}
    first, second = report.compare(things, pairs=3)
    assert order == list("ababab")
    assert (first["x"], first["total"], second["total"]) == (5, 6, 3)
    assert (first["ratio"], first["min"], first["max"]) == (1, 1, 1)
    ratios = second["ratio"], second["min"], second["max"]
    assert ratios == pytest.approx((5 / 3, 1, 7 / 2))  # of 5 / 3, 7 / 2, 6 / 6
    lines = report.Report([second], dict(name="", x=".1f", ratio=".2f"), "", {}).table()
    assert lines.splitlines() == ["name    x  ratio", "b     2.0   1.67"]


def test_what_autograd_keeps():
    weight, x = torch.rand(50, requires_grad=True), torch.rand(50)
    saved = memory.SavedTensors([weight, x])
    with saved.watch():
        y = x * weight  # keeps what is known
        assert saved.now == 0
        z = y.exp()  # keeps its result,
        (z * z).sum().backward()  # once
    assert (saved.most, saved.now) == (50 * 4, 0)
    expected = torch.autograd.grad((x * weight).exp().square().sum(), weight)
    torch.testing.assert_close(weight.grad, *expected)


def test_memory_of_a_step_adds_up(recipe, run):
    less = ("--variant", "cp", "model.backbone.with_cp=True")
    found = run("memory", recipe, "--batch", BATCH, "--variant", "a", *less)
    row, checkpointed = found["rows"]
    parts = [row[field] for field in memory.FIELDS[1:]]
    assert sum(parts) == pytest.approx(row["peak"]) and row["ratio"] == 1
    assert 0 < checkpointed["activations"] < row["activations"]
    model = step.Step(Variant("a", recipe), BATCH).model
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    # LARS keeps a momentum for each weight.
    for field in ("gradients", "optimizer_state"):
        assert row[field] * memory.MIB == trained * 4
    total = sum(t.numel() * t.element_size() for t in memory.tensors_of(model))
    assert (row["weights"] + row["target"]) * memory.MIB == total


def test_a_group_of_new_processes(recipe):
    (found,) = memory.measure(Variant("a", recipe), 2, processes=1)
    assert 0 < found["activations"] < found["peak"] and found["seconds"] > 0


def test_scale_varies_one_of_three(recipe, run):
    ranges = ("--batch", BATCH, "--batches", 4, "--processes", 2)
    rows = run("scale", recipe, *ranges)["rows"]
    levels = ["1", "1-2", "1-2-4", "1-2-4-8"]
    varied = [("1-2-4-8", 1, 4), *((name, 1, BATCH) for name in levels)]
    varied += [("1-2-4-8", 2, BATCH)]
    assert [(r["levels"], r["processes"], r["batch"]) for r in rows] == varied
    kept = [row["activations"] for row in rows]
    assert kept[0] < kept[4] and kept[1] < kept[2] and kept[1] < kept[4]
    for row in rows:
        images = row["processes"] * row["batch"]
        assert row["images_per_second"] == pytest.approx(images / row["seconds"])


def test_data_against_byol(recipe, run):
    found = run("data", recipe, "--batch", 2, "--number", 2, "--pairs", 1)
    assert [row["name"] for row in found["rows"]] == ["byol", "config"]
    assert 50_000 < found["bytes_per_image"] < 200_000  # ImageNet: 110 kB on average
    for row in found["rows"]:
        total = row["loader_ms"] + row["device_ms"]
        assert row["images_per_second"] == pytest.approx(1000 / total)


def test_the_baseline_fills_the_same_canvases(recipe, tmp_path):
    write_images(tmp_path, 8)
    shapes = []
    for change in (lambda cfg: None, data.use_byol):
        cfg = Variant("a", recipe).load()
        data.read_folder(cfg, str(tmp_path), labels=False)
        change(cfg)
        pipeline = data.Pipeline(cfg, 4, "cpu")
        views = pipeline.preprocessor(next(pipeline.batches), training=True)["inputs"]
        shapes.append([[tuple(c.shape) for c in view.canvases] for view in views])
    assert shapes[0] == shapes[1] and len(shapes[0]) == 2


def test_optimizer_against_the_hosts(recipe, run):
    found = run("optimizer", recipe, "--pairs", 2)
    assert [row["name"] for row in found["rows"]] == ["hosts", "config"]
    assert 0 <= found["difference"] < 1e-6
    for row in found["rows"]:
        total = row["lars_ms"] + row["average_ms"]
        assert row["total_ms"] == pytest.approx(total) and total > 0


def test_loop_waits_for_data(recipe, run, tmp_path):
    write_images(tmp_path / "images", 8)
    options = ("--batch", 4, "--iters", 6, "--images", tmp_path / "images")
    (row,) = run("loop", recipe, *options)["rows"]
    for name, every in (("seconds", "times"), ("waiting", "waits")):
        assert len(row[every]) == 6
        assert row[name] == pytest.approx(sum(row[every][2:]) / 4)
    assert row["share"] == row["waiting"] / row["seconds"] and 0 < row["share"] < 1
    assert row["images_per_second"] == pytest.approx(4 / row["seconds"])


@pytest.mark.parametrize(
    "words, said",
    [
        ("step none.py", "none.py: there is no such file"),
        (f"step {conftest.SMALL_DETECTOR}", "makes no canvases"),
        (f"step {TINY} --pairs 0", "--pairs: 0: give 1 or more"),
        (f"count {TINY} --batch 1", "--batch: 1: give 2 or more"),
        (f"step {TINY} --variant a=1", "a name comes first"),
        (f"step {TINY} --variant a b", "b: give it as key=value"),
        (f"step {TINY} --variant a --variant a", "is given twice"),
        (f"step {TINY} --variant a amp=int8", "amp=int8: choose one of"),
        (f"step {TINY} --variant a compile=2", "compile=2: give True or False"),
        (f"step {TINY} --amp float16", "a CPU trains in bfloat16 or none"),
        (f"step {TINY} --variant a model.nonsense=1", "variant a: "),
        (f"step {TINY} --device cuda", "--device cuda: torch finds no GPU here"),
        (f"data {TINY} --images none", "--images none: there is no such folder"),
        (f"optimizer {TINY}", "MCL with AdamW; give MCL with LARS"),
        (f"loop {TINY} --iters 2", "--iters: 2: give 3 or more"),
    ],
)
def test_wrong_options_are_named(words, said, run, capsys):
    with pytest.raises((InputError, SystemExit)) as error:
        run(*words.split())
    assert said in str(error.value) + capsys.readouterr().err


NUMBERS = json.loads((cost_model.HERE / "cost.json").read_text())
PLAIN = dict(giga_mac=10, share=0.5, norm_passes=100, mega_weights=25)
PLAIN |= dict(images_per_core=50, link_share=0.5)
CLUSTER = cost_model.Cluster("4 x X", 4, 8, 100, 10, 20, "")


def cost(**figures) -> cost_model.CostModel:
    numbers = copy.deepcopy(NUMBERS)
    for name, value in figures.items():
        numbers["figures"][name]["value"] = value
    return cost_model.CostModel(numbers)


def test_cost_of_a_step_by_hand():
    found = cost(**PLAIN).step(CLUSTER)
    # 2 x 10 G x 4,096 images by 4 GPUs at half of 100 T
    assert found.compute == pytest.approx(20e9 * 4096 / (4 * 50e12))
    # 4,096 = 8 iterations of 4 x 128 images, each 100 exchanges of 20 us
    assert found.norm == pytest.approx(8 * 100 * 20e-6)
    # three quarters come from the others, over 10 GB/s of which half is reached
    gathered = 2 * 4096 * 256 * 4
    assert found.gather == pytest.approx(8 * 20e-6 + gathered * 0.75 / 5e9)
    assert found.gradients == pytest.approx(20e-6 + 2 * 0.75 * 25e6 * 4 / 5e9)
    assert found.pipeline == pytest.approx(4096 / (4 * 8 * 50))
    assert found.communication == found.norm + found.gather + found.gradients
    alone = CLUSTER._replace(gpus=1, link_gigabytes=None, latency_us=None)
    assert cost(**PLAIN).step(alone).communication == 0


def test_hours_cores_and_communication():
    plain = cost(**PLAIN)
    assert plain.hours(3600) == 31200
    cores = plain.cores_needed(CLUSTER, "share")
    even = plain.step(CLUSTER._replace(cores_per_gpu=cores))
    assert even.pipeline == pytest.approx(even.network)
    first = plain.first_beyond(0.5)
    cluster = next(c for c in plain.clusters if c.name == cost_model.SEARCHED)
    for gpus in (first, first // 2):
        found = plain.step(cluster._replace(gpus=gpus))
        assert (found.communication / found.network > 0.5) == (gpus == first)
    assert plain.first_beyond(1.0) is None


def test_the_document_holds_the_tables():
    document, tables = cost_model.DOCUMENT.read_text(), cost_model.make_tables()
    assert document.count("<!-- end -->") == len(tables)
    blank = cost_model.insert(document, dict.fromkeys(tables, "nothing"))
    assert cost_model.insert(blank, tables) == document != blank


def test_figures_have_a_source_and_those_counted_are_the_recipes():
    for figure in NUMBERS["figures"].values():
        assert figure["kind"] in ("measured here", "published", "assumed")
        assert figure["source"]
    # per image as with 128, but for the products with targets
    found, value = count_work(Variant("a", str(PRETRAINING)), 32), cost().value
    for name in ("forward", "target", "backward"):
        assert value(f"giga_mac_{name}") == pytest.approx(found[name], abs=0.006), name
    assert value("giga_mac") == pytest.approx(found["total"], abs=0.006)
    assert value("norm_passes") == found["norm_passes"]
    assert value("mega_weights") == pytest.approx(found["mega_weights"], abs=0.006)
