"""tools/benchmark.py: its figures agree with one another and with plain counting."""

import importlib
import json
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

from mcl.config import datasets
from mcl.errors import InputError

from .conftest import (
    PRETRAINING,
    ROOT,
    SMALL_DETECTOR,
    TINY,
    run_main,
    shrink_recipe,
    write_images,
)

SUPERVISED = ROOT / "configs/mcl/mcl-sup_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"
PARTS = ("forward", "backward", "optimizer", "target_update")


def load(name: str):
    """Import a module of tools/, also for the processes it starts."""
    if str(ROOT / "tools") not in sys.path:
        sys.path.append(str(ROOT / "tools"))
    return importlib.import_module(name)


NAMES = "count data machine memory meter report scale step variants"
count, data, machine, memory, meter, report, scale, step, variants = (
    load(f"measuring.{name}") for name in NAMES.split()
)
BATCH = 8


def shrunk(path, folder) -> str:
    """A shipped recipe made small, as a file."""
    cfg = Config.fromfile(path)
    shrink_recipe(cfg)
    if cfg.model.backbone.depth == 50:
        cfg.model.backbone.depth = 18
        cfg.model.neck.in_channels = [8, 16, 32, 64]
    file = folder / path.name
    cfg.dump(file)
    return str(file)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> str:
    """The paper's recipe made small: LARS, bfloat16 on a CPU."""
    return shrunk(PRETRAINING, tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def supervised(tmp_path_factory) -> str:
    return shrunk(SUPERVISED, tmp_path_factory.mktemp("supervised"))


@pytest.fixture
def benchmark(tmp_path, capsys, monkeypatch):
    """Run the tool; what it wrote as json, and printed."""
    monkeypatch.setitem(machine.MATMUL_SIDE, "cpu", 64)

    def run(command: str, *args) -> tuple[dict, str]:
        file = tmp_path / "found.json"
        options = ("--device", "cpu", "--json", file)
        run_main("tools/benchmark.py", command, *args, *options)
        return json.loads(file.read_text()), capsys.readouterr().out

    return run


def test_a_part_within_a_part_is_not_counted_twice():
    now = iter([0, 1, 3, 6, 10, 15])
    clock = meter.Meter(lambda: next(now))
    with clock.part("outer"):  # 0
        with clock.part("inner"):  # from 1 to 3
            pass
        clock.wrap("inner", lambda: None)()  # from 6 to 10
    assert clock.parts == dict(outer=1 + 3 + 5, inner=2 + 4)


def plain_count(model: nn.Module, batch: dict) -> tuple[int, int]:
    """Multiply-adds of forward and backward, layer by layer on real numbers."""
    forward = backward = 0

    def note(layer, inputs, output) -> None:
        nonlocal forward, backward
        taps = layer.weight[0].numel()  # inputs that an output number reads
        work = output.numel() * taps
        forward += work
        if torch.is_grad_enabled():
            backward += work * (1 + inputs[0].requires_grad)

    kinds = (nn.Conv2d, nn.Linear)
    hooks = [
        m.register_forward_hook(note) for m in model.modules() if isinstance(m, kinds)
    ]
    model.loss(**batch)
    for hook in hooks:
        hook.remove()
    return forward, backward


@pytest.mark.parametrize("computation", ["selected", "full"])
def test_multiply_adds_equal_a_count_by_hand(recipe, computation):
    options = {"model.neck.computation": computation}
    variant = variants.Variant("a", recipe, options=options)
    found = count.count_work(variant, BATCH)
    ready = step.Step(variant, BATCH)
    forward, backward = plain_count(ready.model, ready.data)
    tiles = sum(len(i) for view in ready.data["inputs"] for i in view.image_index)
    products = tiles * BATCH * 16  # tiles by targets; targets have no gradient
    assert (found.forward + found.target) * BATCH == forward + products
    assert found.backward * BATCH == backward + products
    # The target network has no predictors and runs one level of four or, in full, all.
    assert found.target < found.forward
    assert (computation == "full") == (found.target > 0.9 * found.forward)
    weights = ready.optim_wrapper.optimizer.param_groups
    assert found.trained == sum(p.numel() for g in weights for p in g["params"])


def test_exchanges_of_batch_norm(recipe):
    found = count.count_work(variants.Variant("a", recipe), BATCH)
    stem, blocks, shortcuts, levels, views = 1, 8 * 2, 3, 4, 2
    backbone = stem + blocks + shortcuts
    online = backbone + 4 + levels + levels * (4 + 2 + 1)  # laterals, outputs, tiles
    target = backbone + 1 + 1 + 4 + 2  # of P5 alone
    assert found.norm_passes == views * (2 * online + target)


def test_a_step_trains_as_the_config_says(recipe):
    seen = []
    ready = step.Step(variants.Variant("a", recipe), BATCH)
    assert type(ready.optim_wrapper).__name__ == "BFloat16OptimWrapper"
    assert ready.optim_wrapper.optimizer.param_groups[1]["lars_exclude"]
    conv = ready.model.backbone.conv1
    conv.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    before = [
        p.clone() for p in (conv.weight, ready.model.target.backbone.conv1.weight)
    ]
    ready.warm_up()
    after = [conv.weight, ready.model.target.backbone.conv1.weight]
    assert not any(map(torch.equal, before, after))
    assert ready.model.target.step == 1 and set(seen) == {torch.bfloat16}
    plain = variants.Variant("b", recipe, amp="none")
    assert variants.precision(plain.load()) == "float32"


def test_step_compares_options_and_configs(recipe, supervised, benchmark):
    found, printed = benchmark(
        *("step", recipe, "--batch", BATCH, "--pairs", 2, "--amp", "none"),
        *("--variant", "full", "model.neck.computation=full"),
        *("--variant", "half", "amp=bfloat16"),
        *("--variant", "labels", f"config={supervised}"),
        *("--cfg-options", "model.backbone.with_cp=True"),
    )
    names = ["full", "half", "labels"]
    assert [row["name"] for row in found["rows"]] == names
    assert all(name in printed for name in names) and "threads: " in printed
    assert [r["dtype"] for r in found["rows"]] == ["float32", "bfloat16", "float32"]
    base = found["rows"][0]
    assert base["ratio"] == base["ratio_min"] == base["ratio_max"] == 1
    for row in found["rows"]:
        assert len(row["seconds"]) == 2
        for seconds in [row, *row["seconds"]]:
            assert sum(seconds[p] for p in PARTS) == pytest.approx(seconds["total"])
        assert row["total"] == min(s["total"] for s in row["seconds"])
        assert row["images_per_second"] == pytest.approx(BATCH / row["total"])
        flops = 2e9 * row["giga_mac_per_image"] * row["images_per_second"]
        assert row["tera_flops"] * 1e12 == pytest.approx(flops)
        peak = row["matmul_peak_tera_flops"]
        assert row["share_of_peak"] == pytest.approx(row["tera_flops"] / peak)
        ratios = [
            b["total"] / s["total"]
            for b, s in zip(base["seconds"], row["seconds"], strict=True)
        ]
        assert (row["ratio_min"], row["ratio_max"]) == (min(ratios), max(ratios))
        assert row["ratio"] == pytest.approx(sum(ratios) / 2)
    updates = [row["target_update"] > 0 for row in found["rows"]]
    assert updates == [True, True, False]  # no target network where there are labels
    macs = [row["giga_mac_per_image"] for row in found["rows"]]
    assert macs[0] > macs[1] > macs[2]


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


def test_memory_of_a_step(recipe, benchmark):
    found, printed = benchmark("memory", recipe, "--batch", BATCH, "--amp", "none")
    (row,) = found["rows"]
    parts = [row[field] for field in memory.FIELDS[1:]]
    assert sum(parts) == pytest.approx(row["peak"]) and row["ratio"] == 1
    assert row["name"] in printed and row["activations"] > 0
    ready = step.Step(variants.Variant("a", recipe), BATCH)
    trained = sum(p.numel() for p in ready.model.parameters() if p.requires_grad)
    # LARS keeps a momentum for each weight.
    for field in ("gradients", "optimizer_state"):
        assert row[field] * memory.MIB == trained * 4
    total = sum(t.numel() * t.element_size() for t in memory.tensors_of(ready.model))
    assert (row["weights"] + row["target"]) * memory.MIB == total


def test_checkpointing_keeps_less(recipe):
    def kept(**options) -> int:
        ready = step.Step(variants.Variant("a", recipe, options=options), BATCH)
        saved = memory.SavedTensors(memory.tensors_of(ready.model))
        with ready.ready(), saved.watch():
            ready.train()
        return saved.most

    assert kept(**{"model.backbone.with_cp": True}) < kept()


def test_scale_varies_one_of_three(recipe, benchmark, monkeypatch):
    monkeypatch.setattr(scale, "run_fresh", lambda function, *args: function(*args))
    found, _ = benchmark(
        *("scale", recipe, "--amp", "none", "--batch", BATCH),
        *("--batches", 4, "--processes", 2),
    )
    varied = [(r["levels"], r["processes"], r["batch"]) for r in found["rows"]]
    levels = ["1", "1-2", "1-2-4", "1-2-4-8"]
    assert varied == [
        (levels[-1], 1, 4),
        *((name, 1, BATCH) for name in levels),
        (levels[-1], 2, BATCH),
    ]
    kept = [row["activations"] for row in found["rows"]]
    assert kept[0] < kept[4] and kept[1] < kept[2] and kept[1] < kept[4]
    for row in found["rows"]:
        images = row["processes"] * row["batch"]
        assert row["images_per_second"] == pytest.approx(images / row["seconds"])


def test_data_against_byol(recipe, benchmark, tmp_path):
    write_images(tmp_path / "images", 8)
    options = ("--batch", 4, "--pairs", 2, "--images", tmp_path / "images")
    threads = torch.get_num_threads()
    found, printed = benchmark("data", recipe, *options, "--variant", "ours")
    assert torch.get_num_threads() == threads
    byol, ours = found["rows"]
    assert (byol["name"], ours["name"], byol["ratio"]) == ("byol", "ours", 1)
    assert f"images of {tmp_path}" in printed
    for row in found["rows"]:
        total = row["loader_ms"] + row["device_ms"]
        assert row["images_per_second"] == pytest.approx(1000 / total)
        alone = row["loader_images_per_second"]
        assert alone == pytest.approx(1000 / row["loader_ms"])


def test_data_draws_its_own_pictures(recipe, benchmark):
    found, printed = benchmark(
        "data", recipe, "--batch", 2, "--number", 2, "--pairs", 1
    )
    assert "2 drawn JPEGs of 500 x 375 pixels" in printed
    size = int(found["notes"][0].split("pixels, ")[1].split()[0])
    assert 50_000 < size < 200_000  # as ImageNet's, 110 kB on average


def test_the_baseline_fills_the_same_canvases(recipe, tmp_path):
    write_images(tmp_path, 8)
    views = []
    for change in (lambda cfg: None, data.byol):
        cfg = variants.Variant("a", recipe).load()
        data.read_folder(cfg, str(tmp_path), with_label=False)
        change(cfg)
        pipeline = data.Pipeline("a", cfg, 4, "cpu")
        batch = next(pipeline.batches)
        views.append(pipeline.preprocessor(batch, training=True)["inputs"])
    ours, theirs = views
    shapes = [[[tuple(c.shape) for c in v.canvases] for v in view] for view in views]
    assert len(ours) == len(theirs) == 2 and shapes[0] == shapes[1]
    crop = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    (_, small) = data.shrink_to_tiles((1, 2))(dict(img=[crop, crop]))["img"]
    for row, column in np.ndindex(2, 2):
        assert small[row, column].tolist() == crop[2 * row, 2 * column].tolist()[::-1]


def test_optimizer_against_the_hosts(recipe, benchmark):
    found, printed = benchmark("optimizer", recipe, "--pairs", 2)
    hosts, ours = found["rows"]
    assert (hosts["name"], hosts["ratio"], ours["name"]) == ("hosts", 1, "config")
    assert 0 <= found["difference"] < 1e-6 and "differ by" in printed
    for row in found["rows"]:
        total = row["optimizer_ms"] + row["average_ms"]
        assert row["total_ms"] == pytest.approx(total)


def test_loop_waits_for_data(recipe, benchmark, tmp_path):
    write_images(tmp_path / "images", 8)
    options = ("--batch", 4, "--iters", 6, "--images", tmp_path / "images")
    found, _ = benchmark("loop", recipe, "--amp", "none", *options)
    (row,) = found["rows"]
    kept = row["lines"][2:]
    assert [line["step"] for line in row["lines"]] == [1, 2, 3, 4, 5, 6]
    for field, name in (("iteration", "time"), ("waiting", "data_time")):
        assert row[field] == pytest.approx(sum(line[name] for line in kept) / 4)
    assert row["share"] == row["waiting"] / row["iteration"] and 0 < row["share"] < 1
    assert row["images_per_second"] == pytest.approx(4 / row["iteration"])


def test_a_table_lines_up():
    columns = (report.Column("a", "name"), report.Column("b", "figure", ".1f"))
    rows = [dict(a="x", b=1.25), dict(a="longer")]
    lines = report.Report(rows, columns, ["note"]).table().splitlines()
    assert lines == ["name    figure", "x          1.2", "longer       -", "note"]


@pytest.mark.parametrize(
    "args, said",
    [
        (("step", "none.py"), "none.py: there is no such file"),
        (("step", SMALL_DETECTOR), "no montage; give a pre-training config"),
        (("step", TINY, "--pairs", 0), "--pairs 0: give 1 or more"),
        (("step", TINY, "--batch", 1), "batch norm needs at least 2 images"),
        (("count", TINY, "--batch", 1), "batch norm needs at least 2 images"),
        (("step", TINY, "--variant", "a=1"), "a name comes first"),
        (("step", TINY, "--variant", "a", "b"), "--variant a: b is no key=value"),
        (("step", TINY, "--variant", "a", "--variant", "a"), "is given twice"),
        (("step", TINY, "--variant", "a", "amp=int8"), "amp=int8: choose one of"),
        (("step", TINY, "--variant", "a", "compile=2"), "compile=2: True or False"),
        (("step", TINY, "--amp", "float16"), "a CPU trains in bfloat16 or none"),
        (("step", TINY, "--variant", "a", "model.nonsense=1"), "variant a: "),
        (("data", TINY, "--images", "none"), "--images none: there is no such folder"),
        (("data", TINY, "--pairs", 0), "--pairs 0"),
        (("optimizer", TINY), "its optimizer is AdamW; give one with LARS"),
        (("loop", TINY, "--iters", 2), "--iters 2: give 3 or more"),
        (("scale", TINY, "--processes", 0), "--processes 0: give 1 or more"),
    ],
)
def test_what_is_wrong_is_said_in_words(args, said):
    with pytest.raises(InputError) as error:
        run_main("tools/benchmark.py", *args, "--device", "cpu")
    assert said in str(error.value)


def test_too_few_images(tmp_path):
    write_images(tmp_path, 2)
    for command in ("data", "loop"):
        args = (command, TINY, "--images", tmp_path, "--batch", 3, "--device", "cpu")
        with pytest.raises(InputError, match="its 2 images are fewer than one batch"):
            run_main("tools/benchmark.py", *args)


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="--device cuda: torch finds no GPU"):
        run_main("tools/benchmark.py", "count", TINY, "--device", "cuda")


def test_all_sources_of_a_config_read_the_folder(tmp_path):
    cfg = Config.fromfile(
        ROOT / "configs/mcl/mcl_resnet50-fpn_32xb128-amp-coslr-31k_coco-unlabeled.py"
    )
    data.read_folder(cfg, str(tmp_path))
    found = list(datasets(cfg.train_dataloader.dataset))
    assert len(found) == 2
    for dataset in found:
        assert (dataset.type, dataset.data_root) == ("CustomDataset", str(tmp_path))
        assert dataset.pipeline[1].type == "MultiLevelViews" and not dataset.with_label
