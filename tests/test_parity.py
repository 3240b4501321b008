"""Agreement with numbers of the authors' implementation (tests/data)."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmpretrain.registry import HOOKS
from torch import nn

from mcl.datasets.montage import cut_tiles, lay_tiles
from mcl.engine import LARSConstructor
from mcl.export.released import released_name
from mcl.models import MCLHead, MCLNeck, TargetNetwork

from .conftest import DATA, PRETRAINING

LEVELS = ("p5", "p4", "p3", "p2")
COUNTS = (8, 2, 1, 1)
pytestmark = pytest.mark.hosts


def numbers(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / name) as file:
        return dict(file)


class Released:
    """The authors' step on given backbone maps, run with our modules."""

    def __init__(self, temperature: str) -> None:
        self.file = numbers(f"loss_T{temperature}.npz")
        sizes = dict(hid_channels=16, out_channels=8)
        self.neck = MCLNeck([6, 8, 10, 12], 8, projector=sizes, computation="full")
        self.target = TargetNetwork(nn.Identity(), self.neck)
        loss = dict(type="MultiLevelContrastiveLoss", temperature=float(temperature))
        self.head = MCLHead(predictor=dict(in_channels=8, **sizes), loss=loss)
        self.load(self.neck, "neck.")
        self.load(self.target.neck, "target.neck.")
        self.load(self.head, "head.")
        self.maps, self.index = {}, {}
        for view in (1, 2):
            self.maps[view] = [
                torch.from_numpy(self.file[f"input/view{view}/C{i}"]).requires_grad_()
                for i in (2, 3, 4, 5)
            ]
            self.index[view] = [
                torch.from_numpy(self.file[f"input/view{view}/tile_image_r{r}"])
                for r in (1, 2, 4, 8)
            ]
        self.step()

    def load(self, module: nn.Module, prefix: str) -> None:
        module.load_state_dict(
            {
                name: torch.from_numpy(
                    np.asarray(self.file[f"state/{released_name(prefix + name)}"])
                )
                for name in module.state_dict()
            }
        )

    def step(self) -> None:
        with torch.no_grad():
            targets = {
                v: self.head.gather_targets(
                    self.target.neck(self.maps[v], COUNTS), self.index[v]
                )
                for v in (1, 2)
            }
        embeddings = {v: self.neck(self.maps[v], COUNTS) for v in (1, 2)}
        self.views = {
            "q": self.head.loss(embeddings[1], self.index[1], targets[2]),
            "k": self.head.loss(embeddings[2], self.index[2], targets[1]),
        }
        self.total = sum(
            value
            for view in self.views.values()
            for name, value in view.items()
            if name.startswith("loss")
        )
        self.total.backward()


@pytest.fixture(scope="module", params=["1.0", "0.2"])
def released(request) -> Released:
    init_default_scope("mmpretrain")  # a detector may have been built before
    return Released(request.param)


def test_losses_and_cosines(released):
    expect = released.file
    np.testing.assert_allclose(
        released.total.item(), expect["expect/total_loss"], rtol=1e-5
    )
    for view, got in released.views.items():
        for level, name in enumerate(LEVELS):
            key = f"{view}_level_{level}"
            loss = got[f"loss_{name}"].item()
            np.testing.assert_allclose(loss, expect[f"expect/loss_{key}"], rtol=1e-5)
            for ours, theirs in (("positive", "pos"), ("negative", "neg")):
                np.testing.assert_allclose(
                    got[f"{ours}_cosine_{name}"].item(),
                    expect[f"expect/{theirs}_cos_dist_{key}"],
                    rtol=1e-4,
                    atol=1e-6,
                )


def test_gradient_norms(released):
    modules = (("neck.", released.neck), ("head.", released.head))
    seen = set()
    for prefix, module in modules:
        for name, weight in module.named_parameters():
            key = f"expect/grad_norm/{released_name(prefix + name)}"
            seen.add(key)
            before_norm = name.endswith(("fc0.bias", "projector.fc1.bias"))
            tolerance = dict(atol=1e-5) if before_norm else dict(rtol=1e-4)
            expected = 0 if before_norm else released.file[key]
            np.testing.assert_allclose(
                weight.grad.norm().item(), expected, err_msg=name, **tolerance
            )
    assert seen == {k for k in released.file if k.startswith("expect/grad_norm/")}
    for view, maps in released.maps.items():
        for i, feature_map in zip((2, 3, 4, 5), maps, strict=True):
            expected = released.file[f"expect/input_grad_norm/view{view}/C{i}"]
            np.testing.assert_allclose(
                feature_map.grad.norm().item(), expected, rtol=1e-4
            )


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_montage(ratio):
    file = numbers("montage.npz")
    images = torch.from_numpy(file["images"])
    tiles = images[:, :, ::ratio, ::ratio][file[f"r{ratio}/tile_image"]]
    canvases = lay_tiles(tiles, ratio)
    assert torch.equal(canvases, torch.from_numpy(file[f"r{ratio}/montage"]))
    assert torch.equal(cut_tiles(canvases, ratio), tiles)


def module_with(weights: dict[str, torch.Tensor]) -> nn.Module:
    """A tree of plain modules whose parameters have the given dotted names."""
    root = nn.Module()
    for name, value in weights.items():
        *path, leaf = name.split(".")
        node = root
        for step in path:
            if step not in node._modules:
                node.add_module(step, nn.Module())
            node = node._modules[step]
        node.register_parameter(leaf, nn.Parameter(value))
    return root


def test_lars_with_the_released_exclusion():
    file = numbers("lars.npz")
    names = [k.removeprefix("param0/") for k in file if k.startswith("param0/")]
    model = module_with({n: torch.from_numpy(file[f"param0/{n}"]) for n in names})
    schedule = Config.fromfile(PRETRAINING).optim_wrapper.optimizer
    assert (schedule.lr, schedule.momentum, schedule.weight_decay) == (16, 0.9, 1e-5)
    wrapper = LARSConstructor(
        dict(type="OptimWrapper", optimizer=dict(schedule)),
        paramwise_cfg=dict(lars_exclude="released"),
    )(model)
    weights = dict(model.named_parameters())
    excluded = {
        name: any(
            group.get("lars_exclude", False)
            and any(p is weights[name] for p in group["params"])
            for group in wrapper.optimizer.param_groups
        )
        for name in names
    }
    assert excluded == {n: bool(file[f"excluded/{n}"]) for n in names}
    for step in range(3):
        for name in names:
            weights[name].grad = torch.from_numpy(file[f"grad{step}/{name}"])
        wrapper.optimizer.step()
        for name in names:
            np.testing.assert_allclose(
                weights[name].detach(), file[f"param{step + 1}/{name}"], rtol=1e-5
            )


def built_schedule(config, accumulation: int, steps: list[int]) -> dict[int, float]:
    """Learning rate that the built schedulers give at chosen optimizer steps."""
    cfg = Config.fromfile(config)
    optimizer = torch.optim.SGD(
        [nn.Parameter(torch.zeros(1))], cfg.optim_wrapper.optimizer.lr
    )
    options = dict(cfg.default_hooks.param_scheduler)
    hook = HOOKS.build(options)
    wrapper = SimpleNamespace(count=0)
    wrapper.should_update = lambda: wrapper.count % accumulation == 0
    runner = SimpleNamespace(
        cfg=cfg,
        logger=SimpleNamespace(info=print),
        max_iters=31200 * accumulation,
        optim_wrapper=wrapper,
        param_schedulers=[
            PARAM_SCHEDULERS.build(s, default_args=dict(optimizer=optimizer))
            for s in cfg.param_scheduler
        ],
        train_dataloader=SimpleNamespace(batch_size=128, dataset=range(1_281_167)),
        world_size=32 // accumulation,
    )
    hook.before_run(runner)
    rates, wanted = {}, set(steps)
    for iteration in range((max(steps) + 1) * accumulation):
        wrapper.count = iteration + 1
        step, last = divmod(iteration, accumulation)
        if last == accumulation - 1 and step in wanted:
            rates[step] = optimizer.param_groups[0]["lr"]
        hook.after_train_iter(runner, iteration)
    return rates


@pytest.mark.parametrize(
    "config, accumulation",
    [
        (PRETRAINING, 1),
        (
            PRETRAINING.with_name(PRETRAINING.name.replace("32xb128", "8xb128-accum4")),
            4,
        ),
    ],
)
def test_learning_rate(config, accumulation):
    rows = json.loads((DATA / "schedule.json").read_text())["rows"]
    assert Config.fromfile(config).optim_wrapper.get("accumulative_counts", 1) == (
        accumulation
    )
    rates = built_schedule(config, accumulation, [row["iter"] for row in rows])
    for row in rows:
        np.testing.assert_allclose(rates[row["iter"]], row["lr"], rtol=1e-5)


def test_target_schedule():
    schedule = json.loads((DATA / "schedule.json").read_text())
    target = TargetNetwork(nn.Linear(1, 1), nn.Linear(1, 1), base_momentum=0.01)
    for row in schedule["rows"]:
        kept = 1 - target.momentum(row["iter"], schedule["total_iters"])
        np.testing.assert_allclose(kept, row["target_keep"], rtol=1e-5)
        np.testing.assert_allclose(
            1 - kept, 1 - row["target_keep"], rtol=1e-4, atol=1e-15
        )
