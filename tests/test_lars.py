"""LARS against the formula weight by weight, and against the host's."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.engine.optimizers.lars import LARS
from torch import Tensor, nn

from mcl.engine import MultiTensorLARS
from mcl.errors import InputError
from mcl.models import TargetNetwork

from .conftest import DATA

OPTIONS = dict(lr=0.7, momentum=0.9, weight_decay=1e-2, eta=1e-3)
LAYOUTS = ["contiguous", "channels_last", "gradient_differs", "with_gaps"]


def make_weights(layout: str = "contiguous") -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 4, 3, 3), (5, 7, 1, 1), (100, 90), (11,), (3,), (4, 5), (2, 2)]
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    values[4].zero_()
    if layout == "channels_last":
        values[:2] = [v.to(memory_format=torch.channels_last) for v in values[:2]]
    if layout == "with_gaps":
        values = [torch.stack((v, v), dim=-1)[..., 0] for v in values]
    return [nn.Parameter(v) for v in values]


def groups(weights: list) -> list[dict]:
    excluded = dict(params=weights[3:4], weight_decay=0.0, lars_exclude=True)
    return [dict(params=weights[:3] + weights[4:]), excluded]


def give_gradients(weights: list, step: int, layout: str = "contiguous") -> None:
    """Random ones; of weight 5 zero, of weight 6 none at first."""
    generator = torch.Generator().manual_seed(1 + step)
    for i, weight in enumerate(weights):
        values = torch.randn(weight.shape, generator=generator) * 10.0 ** (step - 1)
        if layout in ("contiguous", "channels_last"):
            values = torch.empty_like(weight).copy_(values)
        elif weight.dim() == 4:
            values = values.to(memory_format=torch.channels_last)
        weight.grad = values.to(weight.dtype)
        if i == 5:
            weight.grad.zero_()
        if i == 6 and step == 0:
            weight.grad = None


def by_the_formula(weights: list[Tensor], buffers: list, lr: float) -> None:
    """One step in float64, with the weights' own gradients."""
    for i, weight in enumerate(weights):
        if weight.grad is None:
            continue
        gradient, adapted = weight.grad, i != 3
        decay = OPTIONS["weight_decay"] if adapted else 0.0
        ratio = 1.0
        if adapted and weight.any() and gradient.any():
            norm = weight.square().sum().sqrt()
            below = gradient.square().sum().sqrt() + decay * norm + 1e-8
            ratio = OPTIONS["eta"] * norm / below
        buffers[i] = 0.9 * buffers[i] + lr * ratio * (gradient + decay * weight)
        weight -= buffers[i]


def close(mine: list, other: list) -> None:
    for got, expected in zip(mine, other, strict=True):
        got, expected = got.detach().double(), expected.detach().double()
        assert (got - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_follow_the_formula_and_the_hosts(layout):
    weights, theirs = make_weights(layout), make_weights()
    exact = [w.detach().double() for w in theirs]
    buffers = [torch.zeros_like(w) for w in exact]
    mine = MultiTensorLARS(groups(weights), **OPTIONS)
    host = LARS(groups(theirs), **OPTIONS)
    for step, lr in enumerate((0.7, 16.0, 1e-4)):
        give_gradients(weights, step, layout)
        for ours, its, double in zip(weights, theirs, exact, strict=True):
            its.grad = None if ours.grad is None else ours.grad.clone()
            double.grad = None if ours.grad is None else ours.grad.double()
        before = [copy.deepcopy(w.grad) for w in weights]
        for optimizer in (mine, host):
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
        by_the_formula(exact, buffers, lr)
        close(weights, exact)
        close(weights, theirs)
        for weight, gradient in zip(weights, before, strict=True):
            assert gradient is None or torch.equal(weight.grad, gradient)
        if step == 0:
            assert weights[6] not in mine.state
            assert torch.equal(weights[6], make_weights()[6])
    close([mine.state[w]["momentum_buffer"] for w in weights], buffers)
    strides = [w.stride() for w in make_weights(layout)]
    assert [w.stride() for w in weights] == strides


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types(dtype):
    weights = [nn.Parameter(w.detach().to(dtype)) for w in make_weights()]
    theirs = copy.deepcopy(weights)
    give_gradients(weights, 1)
    for ours, its in zip(weights, theirs, strict=True):
        its.grad = ours.grad.clone()
    MultiTensorLARS(groups(weights), **OPTIONS).step()
    LARS(groups(theirs), **OPTIONS).step()
    tolerance = dict(rtol=1e-12, atol=1e-14) if dtype == torch.float64 else {}
    torch.testing.assert_close(weights, theirs, **tolerance)


def test_released_numbers():
    with np.load(DATA / "lars.npz") as stored:
        file = {name: torch.from_numpy(np.asarray(stored[name])) for name in stored}
    names = [k.removeprefix("param0/") for k in file if k.startswith("param0/")]
    excluded = [n for n in names if file[f"excluded/{n}"]]
    weights = {n: nn.Parameter(file[f"param0/{n}"].clone()) for n in names}
    optimizer = MultiTensorLARS(
        [
            dict(params=[weights[n] for n in names if n not in excluded]),
            dict(
                params=[weights[n] for n in excluded], weight_decay=0, lars_exclude=True
            ),
        ],
        lr=16.0,
        momentum=0.9,
        weight_decay=1e-5,
    )
    for step in (0, 1, 2):
        for name, weight in weights.items():
            weight.grad = file[f"grad{step}/{name}"]
        optimizer.step()
        close(weights.values(), [file[f"param{step + 1}/{n}"] for n in names])


@pytest.mark.parametrize("writer", [LARS, MultiTensorLARS])
def test_a_stored_state_goes_on(writer):
    """One step, then the state into a new optimizer, against two steps of the host."""
    weights, theirs = make_weights(), make_weights()
    first, host = writer(groups(weights), **OPTIONS), LARS(groups(theirs), **OPTIONS)
    for step in (0, 1):
        for values in (weights, theirs):
            give_gradients(values, step)
        host.step()
        if step == 1:
            state = copy.deepcopy(first.state_dict())
            first = MultiTensorLARS(groups(weights), lr=99.0)
            first.load_state_dict(state)
        first.step()
    close(weights, theirs)


def test_no_momentum():
    weights, theirs = make_weights(), make_weights()
    options = dict(lr=0.5, weight_decay=1e-2)
    optimizers = MultiTensorLARS(weights, **options), LARS(theirs, **options)
    for step in (0, 1):
        for values, optimizer in zip((weights, theirs), optimizers, strict=True):
            give_gradients(values, step)
            optimizer.step()
    close(weights, theirs)


def test_a_closure_gives_the_loss():
    weight = nn.Parameter(torch.ones(2))
    optimizer = MultiTensorLARS([weight], lr=1.0)

    def closure() -> Tensor:
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 2
    assert weight.norm() < 2**0.5


def test_a_step_does_not_wait_for_the_device(monkeypatch):
    """Nothing turns a tensor into a number."""
    weights = make_weights()
    give_gradients(weights, 1)
    optimizer = MultiTensorLARS(groups(weights), **OPTIONS)

    def refuse(*_):
        raise AssertionError("waits for the device")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu"):
        monkeypatch.setattr(Tensor, name, refuse)
    optimizer.step()


@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay", "eta", "eps"])
def test_negative_values_are_refused(name):
    with pytest.raises(InputError, match=f"optimizer.{name}=-1"):
        MultiTensorLARS([nn.Parameter(torch.ones(1))], **{"lr": 1.0, name: -1})


def expected_target(count: int, total: int) -> tuple[TargetNetwork, nn.Linear, Tensor]:
    online = nn.Linear(3, 2)
    target = TargetNetwork(online, nn.Identity())
    for _ in range(count):
        target.update(online, nn.Identity(), total)
    nn.init.normal_(online.weight)
    momentum = target.momentum(count, total)
    moved = torch.lerp(target.backbone.weight, online.weight.detach(), momentum)
    return target, online, moved


def load_as_torch(target: TargetNetwork, state: dict) -> None:
    target.load_state_dict(state)


def load_as_mmengine(target: TargetNetwork, state: dict) -> None:
    model = nn.Module()
    model.target = target
    load_state_dict(model, {f"target.{k}": v for k, v in state.items()}, strict=True)


@pytest.mark.parametrize("load", [load_as_torch, load_as_mmengine])
def test_a_loaded_target_goes_on_at_its_step(load):
    source, online, moved = expected_target(count=3, total=5)
    fresh = TargetNetwork(nn.Linear(3, 2), nn.Identity())
    load(fresh, copy.deepcopy(source.state_dict()))
    for target in (fresh, copy.deepcopy(source), copy.deepcopy(fresh)):
        target.update(online, nn.Identity(), 5)
        torch.testing.assert_close(target.backbone.weight, moved, rtol=1e-6, atol=0)
        assert target.step == 4
    assert source.step == 3


def test_a_reset_target_starts_anew():
    target, online, _ = expected_target(count=3, total=5)
    target.reset(online, nn.Identity())
    kept = target.backbone.weight.clone()
    nn.init.normal_(online.weight)
    target.update(online, nn.Identity(), 5)
    expected = torch.lerp(kept, online.weight.detach(), 0.01)
    torch.testing.assert_close(target.backbone.weight, expected, rtol=1e-6, atol=0)


def test_the_step_buffer_is_read_only_after_loading(monkeypatch):
    target, online, _ = expected_target(count=1, total=9)
    reads = SimpleNamespace(count=0)
    read = Tensor.__int__

    def counted(tensor: Tensor) -> int:
        reads.count += 1
        return read(tensor)

    monkeypatch.setattr(Tensor, "__int__", counted)
    target.update(online, nn.Identity(), 9)
    assert reads.count == 0
    target.load_state_dict(target.state_dict())
    for _ in range(2):
        target.update(online, nn.Identity(), 9)
    assert reads.count == 1
