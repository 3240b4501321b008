"""BatchNorm statistics before an evaluation, against plain sums over all batches."""

import os
import random
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import init_default_scope
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import precise_bn
from mcl.config import adapt_to_cpu
from precise_bn import PreciseBNHook

from .conftest import SMALL_DETECTOR
from .detectors import WIDTHS
from .test_benchmarks import write_coco
from .test_distributed import WORLD, in_group

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Toy(BaseModel):
    """Two convolutions; the second and its BN see two maps per forward.

    The loss draws from torch's generator, as the samplers of a detector's heads do.
    """

    def __init__(self, frozen: bool = False) -> None:
        super().__init__()
        self.frozen, self.calls = frozen, 0
        self.conv1, self.bn1 = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
        self.conv2, self.bn2 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.idle = nn.BatchNorm1d(5)

    def train(self, mode: bool = True) -> "Toy":
        super().train(mode)
        for layer in (self.bn1, self.bn2, self.idle):
            layer.train(mode and not self.frozen)
        return self

    def forward(self, inputs, mode="tensor"):
        self.calls += mode == "loss"
        x = self.bn1(self.conv1(inputs)).relu()
        maps = [self.bn2(self.conv2(m)) for m in (x, x[..., ::2, ::2])]
        if mode == "predict":
            return [float(m.mean()) for m in maps]
        assert mode == "loss"
        return dict(loss=torch.rand(()) * sum((m - 1).pow(4).mean() for m in maps))


def seeded(**kwargs) -> Toy:
    torch.manual_seed(0)
    return Toy(**kwargs)


def random_batches(sizes, shift=0.0) -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    return [
        dict(inputs=torch.randn(n, 2, 6, 7, generator=generator) + shift) for n in sizes
    ]


def estimate(model: Toy, batches: list) -> Toy:
    """The model's copy that went through the batches, its statistics written."""
    trained = precise_bn._training_copy(model)
    moments = precise_bn._attach_moments(trained)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    with torch.no_grad():
        for batch in batches:
            precise_bn._forward(trained, batch, wrapper)
        assert precise_bn._write(moments, model) == ["idle"]
    return model


def statistics_of(inputs: list) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and unbiased variance per channel of all inputs, joined."""
    rows = torch.cat([x.double().transpose(0, 1).flatten(1) for x in inputs], 1)
    return rows.mean(1), rows.var(1)


def expected(model: Toy, batches: list) -> list[tuple]:
    """What enters both BN layers, by plain calls that normalize by the batch."""
    first, second = [], []
    for batch in batches:
        first.append(F.conv2d(batch["inputs"], model.conv1.weight, model.conv1.bias))
        x = F.batch_norm(
            first[-1], None, None, model.bn1.weight, model.bn1.bias, training=True
        ).relu()
        for part in (x, x[..., ::2, ::2]):
            second.append(F.conv2d(part, model.conv2.weight, model.conv2.bias))
    return [statistics_of(first), statistics_of(second)]


def assert_statistics(model: Toy, wanted: list, rtol=1e-6) -> None:
    for layer, (mean, variance) in zip((model.bn1, model.bn2), wanted, strict=True):
        torch.testing.assert_close(
            layer.running_mean, mean.float(), rtol=rtol, atol=1e-6
        )
        torch.testing.assert_close(
            layer.running_var, variance.float(), rtol=rtol, atol=0
        )


def test_import_needs_mmengine_alone():
    code = """
import sys
blocked = ["mcl", "mmcv", "mmdet", "mmpretrain"]
sys.modules.update(dict.fromkeys(blocked))
import precise_bn
from mmengine.registry import HOOKS, Registry
child = Registry("hook", parent=HOOKS, scope="mmdet")
assert child.get("PreciseBNHook") is precise_bn.PreciseBNHook
assert not any(sys.modules[name] for name in blocked)
"""
    root = Path(precise_bn.__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@torch.no_grad()
def test_statistics_are_those_of_all_inputs_joined():
    batches = random_batches([2, 5, 3, 1])
    model = seeded().eval()
    wanted = expected(model, batches)
    assert_statistics(estimate(model, batches), wanted)
    assert not any(module.training for module in model.modules())
    # Equal weights for batches of unequal size would miss by far more.
    parts = [expected(model, [batch])[0][0] for batch in batches]
    assert (torch.stack(parts).mean(0) - wanted[0][0]).abs().max() > 1e-3
    assert model.bn1.num_batches_tracked == 0 and model.calls == 0
    torch.testing.assert_close(model.idle.running_var, torch.ones(5))


@torch.no_grad()
def test_large_mean_does_not_cancel_the_variance():
    layer = nn.BatchNorm2d(3)
    batches = [
        torch.randn(n, 3, 5, 5, generator=torch.Generator().manual_seed(n)) + 1e4
        for n in (4, 1, 6)
    ]
    moments = precise_bn.Moments("layer", layer)
    for batch in batches:
        moments(layer, (batch,))
    moments(layer, (batch[:0],))
    moments.merge_processes()
    moments.write(layer)
    mean, variance = statistics_of(batches)
    torch.testing.assert_close(moments.mean, mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(layer.running_var, variance.float(), rtol=1e-6, atol=0)
    assert 0.7 < layer.running_var.min() and layer.running_var.max() < 1.4


class Noise(Dataset):
    """Twelve images, each time with another brightness."""

    def __init__(self) -> None:
        self.images = random_batches([12])[0]["inputs"]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict:
        return dict(inputs=self.images[i] + np.random.rand() + random.random())


class Plain(Noise):
    def __getitem__(self, i: int) -> dict:
        return dict(inputs=self.images[i])


class Nothing(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results) -> dict:
        return dict(nothing=0.0)


def steps(runner) -> int:
    """Finished iterations, or epochs where these are what the loop counts."""
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    return runner.epoch if by_epoch else runner.iter


class Probe(Hook):
    """Keeps the statistics that each evaluation finds."""

    def __init__(self) -> None:
        self.evaluated = {}

    def before_val_epoch(self, runner) -> None:
        state = statistics(runner.model.state_dict())
        self.evaluated[steps(runner)] = {k: v.clone() for k, v in state.items()}


def statistics(state: dict) -> dict:
    return {k: v for k, v in state.items() if k.endswith(STATISTICS)}


def weights(state: dict) -> dict:
    return {k: v for k, v in state.items() if not k.endswith(STATISTICS)}


def assert_equal(one: dict, other: dict) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def loader(dataset=Noise, sampler="DefaultSampler", shuffle=True) -> dict:
    return dict(
        batch_size=3,
        num_workers=0,
        dataset=dict(type=dataset),
        sampler=dict(type=sampler, shuffle=shuffle),
        collate_fn=dict(type="default_collate"),
    )


def toy_run(folder, schedule, hook=None, val=True, model=None, **kwargs) -> Runner:
    """A trained runner; ``hook`` holds the arguments of the hook, None for none."""
    by_epoch = "max_epochs" in schedule
    cfg = dict(
        model=model or seeded(),
        work_dir=str(folder),
        experiment_name=str(folder).replace("/", "_"),
        train_cfg=schedule,
        train_dataloader=loader(
            sampler="DefaultSampler" if by_epoch else "InfiniteSampler"
        ),
        optim_wrapper=dict(
            optimizer=dict(type="SGD", lr=0.01, momentum=0.9), accumulative_counts=2
        ),
        custom_hooks=[Probe()],
        default_hooks=dict(
            checkpoint=dict(type="CheckpointHook", interval=1, by_epoch=by_epoch)
        ),
        log_processor=dict(by_epoch=by_epoch),
        default_scope="mmengine",
        randomness=dict(seed=3),
        **kwargs,
    )
    if val:
        cfg.update(
            val_dataloader=loader(Plain, shuffle=False),
            val_cfg=dict(),
            val_evaluator=[Nothing()],
        )
    if hook is not None:
        cfg["custom_hooks"].append(dict(type="PreciseBNHook", **hook))
    wrapper = dict(device_ids=None, find_unused_parameters=True)
    cfg["cfg"] = dict(
        train_dataloader=cfg["train_dataloader"], model_wrapper_cfg=wrapper
    )
    runner = Runner(**cfg)
    runner.train()
    return runner


def hook_of(runner: Runner, kind: type) -> Hook:
    return next(hook for hook in runner.hooks if isinstance(hook, kind))


def logged(runner: Runner, words: str) -> int:
    """Lines of the log with these words."""
    text = next(Path(runner.log_dir).glob("*.log")).read_text()
    return sum(words in line for line in text.splitlines())


ITERATIONS = dict(type="IterBasedTrainLoop", max_iters=7)
EPOCHS = dict(type="EpochBasedTrainLoop", max_epochs=5)


@pytest.mark.parametrize(
    "schedule",
    [
        dict(ITERATIONS, val_interval=3),
        dict(ITERATIONS, val_interval=2, val_begin=4),
        dict(ITERATIONS, val_interval=3, dynamic_intervals=[(5, 1)]),
        dict(EPOCHS, val_interval=2),
        dict(EPOCHS, val_interval=1, val_begin=4),
        dict(EPOCHS, val_interval=4, dynamic_intervals=[(3, 1)]),
    ],
    ids=str,
)
def test_due_when_the_loop_will_evaluate(schedule, tmp_path, monkeypatch):
    due = []
    monkeypatch.setattr(
        PreciseBNHook, "_estimate", lambda _, runner: due.append(steps(runner) + 1)
    )
    runner = toy_run(tmp_path, schedule, {})
    assert due == list(hook_of(runner, Probe).evaluated)
    assert due[-1] == schedule.get("max_iters", schedule.get("max_epochs"))


@pytest.mark.parametrize("schedule", [ITERATIONS, EPOCHS], ids=["iters", "epochs"])
def test_without_evaluation_due_once_before_the_last_checkpoint(
    schedule, tmp_path, monkeypatch
):
    checkpoints = []
    monkeypatch.setattr(
        PreciseBNHook,
        "_estimate",
        lambda *_: checkpoints.append(len(list(tmp_path.glob("*.pth")))),
    )
    toy_run(tmp_path, schedule, {}, val=False)
    number = schedule.get("max_iters", schedule.get("max_epochs"))
    assert checkpoints == [number - 1]
    assert len(list(tmp_path.glob("*.pth"))) == number


@pytest.mark.parametrize(
    "schedule", [ITERATIONS, dict(EPOCHS, max_epochs=2)], ids=["iters", "epochs"]
)
def test_training_goes_on_as_without_the_hook(schedule, tmp_path):
    # Six batches are more than an epoch of the hook's own loader.
    schedule = dict(schedule, val_interval=1)
    one = toy_run(tmp_path / "with", schedule, dict(num_batches=6))
    other = toy_run(tmp_path / "without", schedule)
    assert logged(one, "PreciseBNHook: 2 layers, 6 batches") == steps(one)
    files = sorted(path.name for path in (tmp_path / "without").glob("*.pth"))
    assert len(files) == steps(one)
    for name in files:
        first, second = (
            torch.load(tmp_path / folder / name, weights_only=False)
            for folder in ("with", "without")
        )
        assert_equal(weights(first["state_dict"]), weights(second["state_dict"]))
        assert_equal(first["optimizer"]["state"], second["optimizer"]["state"])
    assert one.model.calls == other.model.calls == one.iter
    assert one.model.bn1.num_batches_tracked == one.iter
    assert not torch.equal(one.model.bn1.running_mean, other.model.bn1.running_mean)


def test_layers_without_input_are_named_once(tmp_path):
    runner = toy_run(tmp_path, dict(ITERATIONS, val_interval=3), dict(num_batches=1))
    assert logged(runner, "no input reached idle; their running statistics stay") == 1
    assert_equal(runner.model.idle.running_var, torch.ones(5))


def test_a_model_without_layers_that_train_is_left_alone(tmp_path):
    schedule = dict(ITERATIONS, val_interval=3)
    runner = toy_run(tmp_path, schedule, {}, model=seeded(frozen=True))
    assert logged(runner, "PreciseBNHook: ") == 1
    assert logged(runner, "no BatchNorm layer is training") == 1
    assert hook_of(runner, PreciseBNHook).batches is None
    state = runner.model.state_dict()
    assert_equal(statistics(state), statistics(seeded().state_dict()))


def test_an_input_that_is_not_finite_names_its_layer(tmp_path):
    runner = toy_run(tmp_path, dict(ITERATIONS, max_iters=1), dict(num_batches=2))
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    runner.model.conv2.weight.data[0] = before["conv2.weight"][0] = float("inf")
    with pytest.raises(FloatingPointError, match="the input of bn2 is not finite"):
        hook_of(runner, PreciseBNHook)._estimate(runner)
    torch.testing.assert_close(runner.model.state_dict(), before, rtol=0, atol=0)
    assert_equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()
    assert random.getstate() == state[2]


def test_a_method_replaced_on_the_model_is_not_called(tmp_path):
    model = seeded()
    # As torch.compile leaves it: bound to the model that trains.
    model.forward = torch.compile(model.forward, backend="eager")
    batches = random_batches([2, 3])
    with torch.no_grad():
        assert_statistics(estimate(model, batches), expected(model, batches))
    assert model.calls == 0


class HalfPrecision(OptimWrapper):
    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast("cpu", torch.bfloat16):
            yield


def test_forward_runs_in_the_precision_of_training():
    model, types = seeded(), []
    model.bn2.register_forward_pre_hook(lambda _, x: types.append(x[0].dtype))
    wrapper = HalfPrecision(torch.optim.SGD(model.parameters(), lr=0.1))
    batch = random_batches([2])[0]
    precise_bn._forward(model, batch, wrapper)
    assert types == [torch.bfloat16] * 2
    # Several optimizers have no context in common.
    precise_bn._forward(model, batch, OptimWrapperDict(one=wrapper))
    assert types[2:] == [torch.float32] * 2


def test_own_loader_is_shuffled_anew_and_not_empty():
    source = Runner.build_dataloader(loader(Plain), seed=0)
    batches = precise_bn._endless(source)
    epochs = [torch.cat([next(batches)["inputs"] for _ in range(4)]) for _ in range(2)]
    assert not torch.equal(*epochs)
    assert_equal(epochs[0].sum((1, 2, 3)).sort()[0], epochs[1].sum((1, 2, 3)).sort()[0])
    with pytest.raises(ValueError, match="dataloader yields no batch"):
        next(precise_bn._endless(torch.utils.data.DataLoader([])))


@pytest.mark.parametrize("number", [0, -3, 2.0, "200", True, None])
def test_number_of_batches_is_a_positive_integer(number):
    with pytest.raises(ValueError, match=r"num_batches=.*positive integer; give"):
        PreciseBNHook(num_batches=number)


def test_a_run_without_a_config_needs_a_dataloader(tmp_path):
    runner = toy_run(tmp_path, dict(ITERATIONS, max_iters=1))
    runner.cfg = Config()
    with pytest.raises(ValueError, match="give the hook a dataloader"):
        PreciseBNHook()._estimate(runner)


def one_process(rank: int, folder: str) -> None:
    with in_group(rank, folder):
        runner = toy_run(
            Path(folder),
            dict(ITERATIONS, max_iters=1),
            dict(num_batches=2, dataloader=loader(Plain, shuffle=False)),
            launcher="pytorch",
        )
        torch.save(runner.model.module.state_dict(), f"{folder}/rank{rank}.pth")


def test_two_processes_equal_one_that_sees_all_batches(tmp_path):
    mp.spawn(one_process, (str(tmp_path),), nprocs=WORLD)
    states = [torch.load(tmp_path / f"rank{r}.pth") for r in range(WORLD)]
    assert_equal(*states)
    model = Toy()
    model.load_state_dict(states[0])
    images = Plain().images
    # Every second image of each half: what the samplers hand the processes.
    parts = [half[r::WORLD] for half in images.chunk(2) for r in range(WORLD)]
    with torch.no_grad():
        wanted = expected(model, [dict(inputs=part) for part in parts])
    assert_statistics(model, wanted, rtol=1e-5)


HOOK = """
custom_imports = dict(imports=["precise_bn"], allow_failed_imports=False)
custom_hooks = [dict(type="PreciseBNHook", num_batches=2)]
"""


def detector_run(folder: Path, added: str) -> Runner:
    """Two iterations of a small Mask R-CNN, evaluated after each."""
    init_default_scope("mmdet")
    folder.mkdir()
    file = folder / "config.py"
    file.write_text(f'_base_ = "{SMALL_DETECTOR}"\n{added}')
    cfg = Config.fromfile(file)
    small = {"batch_size": 2, "num_workers": 0, "persistent_workers": False}
    cfg.merge_from_dict(
        {
            **WIDTHS,
            **{f"train_dataloader.{key}": value for key, value in small.items()},
            **{f"val_dataloader.{key}": value for key, value in small.items()},
            "model.backbone.norm_eval": True,
            "train_cfg": dict(max_iters=2, val_interval=1),
            "default_hooks.checkpoint.interval": 1,
            "load_from": None,
            "work_dir": str(folder),
            "visualizer.name": folder.name,
        }
    )
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = f"{folder}/"
    write_coco(cfg)
    cfg.val_evaluator.ann_file = str(folder / cfg.val_dataloader.dataset.ann_file)
    adapt_to_cpu(cfg)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Probe())
    runner.train()
    return runner


@pytest.mark.hosts
def test_mask_rcnn_trains_the_same_and_is_evaluated_with_its_statistics(tmp_path):
    runner = detector_run(tmp_path / "with", HOOK)
    detector_run(tmp_path / "without", "")
    evaluated = hook_of(runner, Probe).evaluated
    assert list(evaluated) == [1, 2]
    for step, found in evaluated.items():
        first, second = (
            torch.load(tmp_path / run / f"iter_{step}.pth", weights_only=False)
            for run in ("with", "without")
        )
        assert_equal(weights(first["state_dict"]), weights(second["state_dict"]))
        assert_equal(first["optimizer"]["state"], second["optimizer"]["state"])
        assert_equal(statistics(first["state_dict"]), found)
        changed = {
            name.rpartition(".")[0]
            for name, value in statistics(second["state_dict"]).items()
            if not torch.equal(value, found[name])
        }
        training = {
            name
            for name, layer in runner.model.named_modules()
            if isinstance(layer, nn.BatchNorm2d) and not name.startswith("backbone")
        }
        assert changed == training
        assert "roi_head.bbox_head.shared_convs.3.bn" in changed
        assert all(
            torch.equal(value, second["state_dict"][name])
            for name, value in found.items()
            if name.endswith("num_batches_tracked")
        )
