"""Metrics of the embeddings, their log, and the warning of a collapse."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from PIL import Image

from mcl.config import adapt_to_cpu
from mcl.engine import EmbeddingMonitorHook, monitors
from mcl.engine.monitors import CollapseAlarm
from mcl.errors import InputError
from mcl.models.spread import spread

from .conftest import random_views, shrunk_config, shrunk_model

LEVELS = ("p5", "p4", "p3", "p2")
KEYS = {f"{kind}_{level}" for kind in ("std", "rank") for level in LEVELS}
KEYS |= {"target_std_p5", "target_rank_p5", "chance"}


def run(work_dir: Path, images: Path, monitor: dict | None, **overrides) -> Runner:
    """Train the shrunk recipe, with this monitor or with none."""
    cfg = shrunk_config(
        images, **{"default_hooks.logger.interval": 1, "seed": 0, **overrides}
    )
    adapt_to_cpu(cfg)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = cfg.visualizer.name = str(work_dir)
    hooks = [h for h in cfg.custom_hooks if h.type != "EmbeddingMonitorHook"]
    if monitor is not None:
        hooks.append(dict(type="EmbeddingMonitorHook", **monitor))
    cfg.custom_hooks = hooks
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def warnings_of(work_dir: Path) -> list[tuple[int, str]]:
    """Iteration and metric of each warning in a run's log."""
    (log,) = work_dir.glob("*/*.log")
    found = re.findall(r"WARNING - iteration (\d+), (.*)", log.read_text())
    return [
        (int(iteration), name)
        for iteration, text in found
        for name in re.findall(r"level p\d: (\w+) = ", text)
    ]


def rows_of(work_dir: Path) -> dict[int, dict]:
    """The logged metrics of each iteration."""
    (file,) = work_dir.glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return {row["step"]: row for row in rows}


@pytest.fixture(scope="module")
def black_images(tmp_path_factory) -> Path:
    """24 black images: no augmentation, so no embedding, tells them apart."""
    folder = tmp_path_factory.mktemp("black")
    for i in range(24):
        Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def patience(monkeypatch):
    """Warn after so many bad checks in a row."""
    return lambda checks: monkeypatch.setattr(monitors, "PATIENCE", checks)


def by_hand(embeddings: np.ndarray) -> tuple[float, float]:
    """Both metrics, coordinate by coordinate and direction by direction."""
    rows = np.stack([e / math.sqrt(sum(x * x for x in e)) for e in embeddings])
    count, dims = rows.shape
    deviations = []
    for column in rows.T:
        mean = sum(column) / count
        deviations.append(math.sqrt(sum((x - mean) ** 2 for x in column) / count))
    moments = sum(np.outer(row, row) for row in rows) / count
    singular = np.linalg.svd(moments, compute_uv=False)
    shares = [s / sum(singular) for s in singular]
    entropy = -sum(p * math.log(p) for p in shares if p > 0)
    return sum(deviations) / dims * math.sqrt(dims), math.exp(entropy)


@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (7, 7)])
def test_spread_is_the_formula(shape):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=shape) * np.arange(1, shape[1] + 1) + 0.5
    found = spread(torch.from_numpy(embeddings)).tolist()
    assert found == pytest.approx(by_hand(embeddings), rel=1e-4)


def test_known_spreads():
    gaussian = torch.randn(4096, 32)
    assert spread(gaussian).tolist() == pytest.approx([1, 32], rel=0.01)
    assert spread(torch.randn(1, 32).expand(64, 32)).tolist() == pytest.approx(
        [0, 1], abs=1e-3
    )
    # on a line, in both directions: as long a spread as can be, in one dimension
    line = torch.tensor([1.0, -1.0]).repeat(32)[:, None] * torch.ones(64, 16)
    assert spread(line).tolist() == pytest.approx([1, 1], abs=1e-3)
    two = torch.eye(8)[torch.arange(64) % 2]
    assert spread(two)[1].item() == pytest.approx(2, abs=1e-3)
    assert spread(torch.zeros(4, 8)).tolist() == [0, 1]
    # What rounding leaves of rows that are 0: their moments are no normal numbers.
    assert spread(torch.full((16, 16), 5e-34))[1].item() == 1


def test_a_direction_with_91_percent_leaves_a_rank_of_two():
    shares = torch.tensor([0.91] + [0.09 / 31] * 31)
    assert torch.special.entr(shares).sum().exp() == pytest.approx(1.8, abs=0.2)
    rows = torch.randn(20000, 32).sign() * shares.sqrt()
    assert spread(rows)[1].item() == pytest.approx(1.8, abs=0.2)


def test_spread_is_computed_in_float32_and_passes_nan_on():
    embeddings = torch.randn(64, 16)
    low = spread(embeddings.bfloat16())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, spread(embeddings), rtol=1e-2, atol=1e-2)
    embeddings[3, 2] = math.inf
    assert spread(embeddings).isnan().all()


@pytest.mark.parametrize("computation", ["selected", "full"])
@pytest.mark.parametrize("assignment, read", [("image", 1), ("all", 2)])
def test_metrics_are_of_what_the_loss_gets(computation, assignment, read):
    model = shrunk_model(
        **{
            "neck.computation": computation,
            "ratios": (1, 2),
            "head.loss.level_weights": (0.5, 0.5),
            "head.assignment": assignment,
        }
    ).train()
    views, given = random_views(model), []
    loss = model.head.loss

    def watch(embeddings, index, targets):
        given.append((embeddings, targets))
        return loss(embeddings, index, targets)

    model.head.loss, model.head.monitored = watch, True
    with torch.autocast("cpu", dtype=torch.bfloat16):
        metrics = model.loss(views)
    names = {"std_p5", "rank_p5", "std_p4", "rank_p4"}
    names |= {f"target_{k}_{n}" for k in ("std", "rank") for n in ("p5", "p4")[:read]}
    assert {n for n in metrics if "std" in n or "rank" in n} == names
    for level, name in enumerate(("p5", "p4")):
        rows = [spread(embeddings[level]) for embeddings, _ in given]
        if level < read:
            rows += [spread(targets.embeddings[level]) for _, targets in given]
        for k, kind in enumerate(("std", "rank")):
            values = torch.stack(rows)[:, k]
            found = metrics[f"{kind}_{name}"]
            torch.testing.assert_close(found, values[:2].mean())
            if level < read:
                found = metrics[f"target_{kind}_{name}"]
                torch.testing.assert_close(found, values[2:].mean())
    assert metrics["chance"].item() == pytest.approx(math.log(8))
    model.head.monitored = False
    assert not names & set(model.loss(views))


def test_targets_that_do_not_exist_are_no_chance():
    model = shrunk_model(**{"head.queue": 24}).train()
    chances = [model.loss(random_views(model))["chance"].item() for _ in range(3)]
    # 8 images, and the queue: nothing, both views of 8, 24
    assert chances == pytest.approx([math.log(n) for n in (8, 24, 32)])


def healthy(**changes) -> dict[str, float]:
    return dict(std_p5=0.9, rank_p5=40.0, ce_p5=3.0, chance=4.0) | changes


def test_alarm_is_given_once_per_episode(monkeypatch):
    monkeypatch.setattr(monitors, "PATIENCE", 2)
    alarm = CollapseAlarm()
    bad, good = healthy(rank_p5=1.2), healthy()
    said = [alarm.check(f) for f in (bad, good, bad, bad, bad, good, bad, bad)]
    assert [len(messages) for messages in said] == [0, 0, 0, 1, 0, 0, 0, 1]
    assert re.match(
        r"level p5: rank_p5 = 1\.2 is below 2\.0\. .*Try a lower", said[3][0]
    )


@pytest.mark.parametrize(
    "metrics, named",
    [
        (healthy(), []),
        (healthy(std_p5=0.29), ["std_p5"]),
        (healthy(std_p5=0.3), []),
        (healthy(rank_p5=1.99), ["rank_p5"]),
        (healthy(target_std_p5=0.1, target_rank_p5=1.0), ["target_std_p5",
                                                          "target_rank_p5"]),
        (healthy(ce_p5=3.99), ["ce_p5"]),
        (healthy(ce_p5=4.2), ["ce_p5"]),
        (healthy(ce_p5=3.97), []),
        (healthy(std_p5=math.nan, rank_p5=math.nan, ce_p5=math.nan), []),
        (dict(ce_p5=4.0), []),
    ],
)  # fmt: skip
def test_what_is_alarming(metrics, named, monkeypatch):
    monkeypatch.setattr(monitors, "PATIENCE", 1)
    messages = CollapseAlarm().check(metrics)
    assert re.findall(r"level p5: (\w+) = ", "".join(messages)) == named


@pytest.mark.parametrize(
    "option",
    [dict(interval=0), dict(warmup=-1)],
)
def test_options_out_of_range_are_named(option):
    (name, value), *_ = option.items()
    with pytest.raises(InputError, match=f"{name}={value}"):
        EmbeddingMonitorHook(**option)


def test_a_collapse_is_said_once_after_the_warm_up(tmp_path, black_images, patience):
    patience(2)
    monitor = dict(interval=2, warmup=3)
    run(tmp_path, black_images, monitor, **{"train_cfg.max_iters": 10})
    # looks at 2, 4, 6, 8, 10; that at 6 is the first of iterations after 3 alone
    # Tiles of the finer levels differ by their place: there ce alone tells.
    expected = {f"ce_{level}" for level in LEVELS}
    expected |= {"std_p5", "rank_p5", "target_std_p5", "target_rank_p5"}
    found = warnings_of(tmp_path)
    assert {name for _, name in found} == expected and len(found) == len(expected)
    assert {iteration for iteration, _ in found} == {8}
    last = rows_of(tmp_path)[10]
    assert last["std_p5"] < 1e-3 and last["rank_p5"] == pytest.approx(1, abs=1e-3)
    assert last["ce_p5"] == pytest.approx(last["chance"], abs=1e-5)


@pytest.mark.parametrize("kind, judged", [("Contrastive", True), ("Regression", False)])
def test_a_cross_entropy_that_is_not_trained_is_not_judged(
    kind, judged, patience, monkeypatch
):
    patience(1)
    monkeypatch.setattr(monitors, "MIN_RANK", 16)
    model = shrunk_model(**{"head.loss.type": f"MultiLevel{kind}Loss"}).train()
    warnings = []
    runner = SimpleNamespace(
        hooks=[],
        iter=0,
        model=model,
        message_hub=MessageHub(f"no negatives {kind}"),
        logger=SimpleNamespace(warning=warnings.append),
    )
    hook = EmbeddingMonitorHook(interval=1, warmup=0)
    hook.before_train_iter(runner)
    outputs = model.loss(random_views(model))
    for name, value in outputs.items():
        # far above chance, as without negatives it becomes
        runner.message_hub.update_scalar(f"train/{name}", value.item() + 9)
    hook.after_train_iter(runner, 0, None, outputs)
    said = "".join(warnings)
    assert ("ce_p5" in said) == judged and "rank_p5" in said


def test_a_healthy_run_is_not_warned_of(tmp_path, image_folder, patience, monkeypatch):
    patience(1)
    # Eight images in ten iterations teach nothing yet: ce is not judged.
    monkeypatch.setattr(monitors, "CHANCE_MARGIN", -math.inf)
    monitor = dict(interval=2, warmup=0)
    run(tmp_path, image_folder, monitor, **{"train_cfg.max_iters": 6})
    assert warnings_of(tmp_path) == []
    assert rows_of(tmp_path)[6]["rank_p5"] > 3


def test_a_collapse_in_the_default_warm_up_is_not_said(
    tmp_path, black_images, patience
):
    patience(1)
    monitor = dict(interval=1)
    runner = run(tmp_path, black_images, monitor, **{"train_cfg.max_iters": 4})
    assert warnings_of(tmp_path) == []
    hook = next(h for h in runner.hooks if isinstance(h, EmbeddingMonitorHook))
    assert hook.warmup == 500


def test_stop_ends_the_run(tmp_path, black_images, patience):
    patience(2)
    monitor = dict(interval=1, warmup=1, stop=True)
    with pytest.raises(InputError, match="iteration 3, .*level p5: std_p5 = .*stop"):
        run(tmp_path, black_images, monitor, **{"train_cfg.max_iters": 5})


def test_the_log_has_the_metrics_of_its_own_iterations(tmp_path, image_folder):
    # as shipped; interval by default: that of the logger
    shipped = [hook.type for hook in shrunk_config(image_folder).custom_hooks]
    assert shipped.count("EmbeddingMonitorHook") == 1
    overrides = {
        "default_hooks.logger.interval": 2,
        "train_cfg.max_iters": 4,
        "optim_wrapper.type": "BFloat16OptimWrapper",
        "optim_wrapper.accumulative_counts": 2,
    }
    runner = run(tmp_path, image_folder, {}, **overrides)
    rows = rows_of(tmp_path)
    assert set(rows) == {2, 4}
    for row in rows.values():
        assert KEYS <= set(row)
        assert row["chance"] == pytest.approx(math.log(8))
        assert all(0 < row[f"std_{level}"] <= 1.001 for level in LEVELS)
        assert all(1 < row[f"rank_{level}"] <= 16.001 for level in LEVELS)
    assert rows[2]["rank_p4"] != rows[4]["rank_p4"]
    (log,) = tmp_path.glob("*/*.log")
    line = next(x for x in log.read_text().splitlines() if "[4/4]" in x)
    assert f"target_rank_p5: {rows[4]['target_rank_p5']:.4f}" in line
    # Written at every second iteration only; the hub smooths none of them.
    for key in KEYS - {"chance"}:
        values, _ = runner.message_hub.get_scalar(f"train/{key}").data
        assert len(values) == 2 and rows[4][key] == values[-1]
        assert "loss" not in key


def test_nothing_is_computed_between_checks():
    head = SimpleNamespace(monitored=False)
    runner = SimpleNamespace(iter=0, model=SimpleNamespace(head=head))
    hook, monitored = EmbeddingMonitorHook(interval=3, warmup=0), []
    for runner.iter in range(5):
        hook.before_train_iter(runner)
        monitored.append(head.monitored)
    assert monitored == [False, False, True, False, False]


def test_training_is_the_same_with_and_without(tmp_path, image_folder):
    overrides = {"train_cfg.max_iters": 3}
    without = run(tmp_path / "without", image_folder, None, **overrides)
    monitor = dict(interval=1, warmup=0)
    with_it = run(tmp_path / "with", image_folder, monitor, **overrides)
    weights = with_it.model.state_dict()
    for name, weight in without.model.state_dict().items():
        assert torch.equal(weight, weights[name]), name
