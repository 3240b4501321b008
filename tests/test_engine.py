from types import SimpleNamespace

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper
from torch import nn

from mcl.engine import (
    BFloat16OptimWrapper,
    IterationSeedHook,
    LARSConstructor,
    NonFiniteLossHook,
    TargetUpdateHook,
    UnreadableImageHook,
)
from mcl.errors import InputError
from mcl.models import TargetNetwork


class Toy(nn.Module):
    """Something with an online part and a target."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Linear(2, 1)
        self.target = TargetNetwork(self.online, nn.Identity())
        self.totals = []

    def update_target(self, total_steps: int) -> None:
        self.totals.append(total_steps)
        self.target.update(self.online, nn.Identity(), total_steps)


def runner_for(model, wrapper, max_iters, accumulation=1, interval=-1, done=0):
    cfg = ConfigDict(
        optim_wrapper=dict(accumulative_counts=accumulation),
        default_hooks=dict(checkpoint=dict(by_epoch=False, interval=interval)),
    )
    return SimpleNamespace(
        model=model, optim_wrapper=wrapper, max_iters=max_iters, cfg=cfg, iter=done
    )


@pytest.mark.parametrize("accumulation, updates", [(1, 6), (2, 3), (4, 2)])
def test_target_moves_once_per_optimizer_step(accumulation, updates):
    model = Toy()
    optimizer = torch.optim.SGD(model.online.parameters(), lr=0.1)
    wrapper = OptimWrapper(optimizer, accumulative_counts=accumulation)
    wrapper.initialize_count_status(model, 0, 6)
    TargetUpdateHook().before_train(runner_for(model, wrapper, 6, accumulation))
    for _ in range(6):
        wrapper.update_params(model.online(torch.rand(4, 2)).sum())
    # with accumulation 4 the last two iterations make a step of their own
    assert model.target.step == updates
    assert model.totals == [updates] * updates


def test_target_follows_the_formula_under_accumulation():
    model = Toy()
    optimizer = torch.optim.SGD(model.online.parameters(), lr=0.1)
    wrapper = OptimWrapper(optimizer, accumulative_counts=2)
    TargetUpdateHook().before_train(runner_for(model, wrapper, 8, 2))
    expected = model.online.weight.detach().clone()
    for iteration in range(6):
        wrapper.update_params(model.online(torch.rand(4, 2)).sum())
        if iteration % 2:
            kept = (0.99, 0.9914644660940673, 0.995)[iteration // 2]
            expected = kept * expected + (1 - kept) * model.online.weight.detach()
        torch.testing.assert_close(model.target.backbone.weight, expected)


@pytest.mark.parametrize("done, weight", [(0, 0.01), (3, 0.005)])
def test_a_loaded_schedule_goes_on_only_where_the_run_is_resumed(done, weight):
    """Of 6 steps 3 were made: half a cosine falls to half there."""
    trained, model = Toy(), Toy()
    trained.target.step.fill_(3)
    model.load_state_dict(trained.state_dict())
    optimizer = torch.optim.SGD(model.online.parameters(), lr=0.1)
    wrapper = OptimWrapper(optimizer)
    TargetUpdateHook().before_train(runner_for(model, wrapper, 6, done=done))
    before = model.target.backbone.weight.clone()
    wrapper.update_params(model.online(torch.ones(4, 2)).sum())
    expected = before.lerp(model.online.weight.detach(), weight)
    torch.testing.assert_close(model.target.backbone.weight, expected)
    assert model.target.step == done + 1


def test_a_step_that_the_loss_scaler_skips_does_not_count():
    model = Toy()
    optimizer = torch.optim.SGD(model.online.parameters(), lr=0.1)
    wrapper = OptimWrapper(optimizer)
    TargetUpdateHook().before_train(runner_for(model, wrapper, 4))
    scaler = torch.amp.GradScaler("cpu")
    for factor in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(factor * model.online(torch.ones(4, 2)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert model.target.step == 2


def test_checkpoints_between_optimizer_steps_are_refused():
    model = Toy()
    wrapper = OptimWrapper(torch.optim.SGD(model.online.parameters(), lr=0.1))
    with pytest.raises(InputError, match="interval=6.*multiple of 4"):
        TargetUpdateHook().before_train(runner_for(model, wrapper, 8, 4, interval=6))


def test_a_file_without_a_target_gives_it_the_online_weights():
    weights = {"backbone.w": torch.ones(1), "neck.w": torch.ones(1), "head.w": 0}
    TargetUpdateHook().after_load_checkpoint(None, dict(state_dict=weights))
    assert sorted(k for k in weights if k.startswith("target.")) == [
        "target.backbone.w",
        "target.neck.w",
    ]


def parameter_groups(rule: str) -> tuple[set[str], set[str]]:
    from .conftest import shrunk_model

    model = shrunk_model()
    wrapper = LARSConstructor(
        dict(
            type="OptimWrapper",
            optimizer=dict(type="MultiTensorLARS", lr=1.0, weight_decay=1e-5),
        ),
        paramwise_cfg=dict(lars_exclude=rule),
    )(model)
    names = {id(p): n for n, p in model.named_parameters()}
    adapted, excluded = (
        {names[id(p)] for p in group["params"]}
        for group in wrapper.optimizer.param_groups
    )
    assert wrapper.optimizer.param_groups[0]["weight_decay"] == 1e-5
    assert wrapper.optimizer.param_groups[1]["weight_decay"] == 0
    assert wrapper.optimizer.param_groups[1]["lars_exclude"]
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert adapted | excluded == trainable and not adapted & excluded
    return adapted, excluded


def test_lars_leaves_norms_and_biases_by_type():
    adapted, excluded = parameter_groups("norm_and_bias")
    assert "backbone.layer2.0.downsample.1.weight" in excluded
    assert "neck.projector.bn0.weight" in excluded
    assert all(n.endswith("weight") for n in adapted)
    assert not any("bn" in n or "downsample.1" in n for n in adapted)


def test_lars_as_released_misses_two_kinds_of_norm():
    adapted, excluded = parameter_groups("released")
    assert "backbone.layer2.0.downsample.1.weight" in adapted
    assert "neck.projector.bn0.weight" in adapted
    assert "head.predictors.0.bn0.weight" in adapted
    assert "backbone.bn1.weight" in excluded
    assert "neck.lateral_convs.0.bn.weight" in excluded
    assert all(n in excluded for n in excluded | adapted if n.endswith("bias"))


def test_an_unknown_exclusion_is_named():
    with pytest.raises(InputError, match="lars_exclude='none'"):
        parameter_groups("none")


def test_bfloat16_autocast_on_a_cpu():
    model = nn.Linear(4, 4)
    wrapper = BFloat16OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    with wrapper.optim_context(model):
        out = model(torch.rand(2, 4))
    assert out.dtype == torch.bfloat16
    before = model.weight.detach().clone()
    wrapper.update_params(out.float().sum())
    assert model.weight.dtype == torch.float32
    assert not torch.equal(model.weight, before)


def sample(path, replaced=()):
    metainfo = dict(img_path=path, replaced={p: f"{p}: broken" for p in replaced})
    return SimpleNamespace(get=metainfo.get)


def test_a_loss_that_is_not_finite_stops_before_a_checkpoint():
    hook, runner = NonFiniteLossHook(interval=10), SimpleNamespace(iter=6)
    batch = dict(data_samples=[sample("a.jpg")])
    hook.after_train_iter(runner, 6, batch, dict(loss=torch.tensor(1.0)))
    hook.before_save_checkpoint(runner, {})
    hook.pending.append((7, torch.tensor(float("nan")), ["b.jpg"]))
    with pytest.raises(InputError, match="nan at iteration 7.*b.jpg"):
        hook.before_save_checkpoint(runner, {})


def test_unreadable_images_are_counted_once_and_limited():
    lines = []
    runner = SimpleNamespace(
        logger=SimpleNamespace(warning=lines.append),
        train_dataloader=SimpleNamespace(dataset=range(100)),
    )
    hook = UnreadableImageHook(max_fraction=0.01)
    for _ in range(2):
        batch = dict(data_samples=[sample("a.jpg", ["x.jpg"]), sample("b.jpg")])
        hook.after_train_iter(runner, 0, batch, {})
    assert len(lines) == 1 and "x.jpg" in lines[0]
    batch = dict(data_samples=[sample("a.jpg", ["y.jpg"])])
    with pytest.raises(InputError, match="(?s)2 of 100.*x.jpg.*y.jpg"):
        hook.after_train_iter(runner, 1, batch, {})


def test_montages_follow_seed_iteration_and_rank(monkeypatch):
    from .conftest import random_views, shrunk_model

    model = shrunk_model()

    def draw(seed, iteration, rank):
        monkeypatch.setattr("mcl.engine.steps.get_rank", lambda: rank)
        runner = SimpleNamespace(model=model, seed=seed, iter=iteration)
        IterationSeedHook().before_train_iter(runner)
        state = model.data_preprocessor.generator.get_state()
        return state, torch.rand(1)

    first = draw(0, 5, 1)
    assert all(torch.equal(a, b) for a, b in zip(first, draw(0, 5, 1), strict=True))
    for other in ((1, 5, 1), (0, 6, 1), (0, 5, 0)):
        assert not torch.equal(first[0], draw(*other)[0])
    model.data_preprocessor.seed(0, 5, 1)
    one = random_views(model, seed=3)[0].image_index[1]
    assert torch.equal(one, random_views(model, seed=3)[0].image_index[1])
    assert not torch.equal(one, random_views(model, seed=4)[0].image_index[1])


def test_weights_that_are_not_finite_are_not_saved():
    runner = SimpleNamespace(iter=3)
    checkpoint = dict(state_dict={"w": torch.tensor([1.0, float("inf")])})
    with pytest.raises(InputError, match="w is not finite at iteration 4"):
        NonFiniteLossHook().before_save_checkpoint(runner, checkpoint)


def test_options_that_lars_does_not_know_are_named():
    with pytest.raises(InputError, match="custom_keys"):
        LARSConstructor(
            dict(type="OptimWrapper", optimizer=dict(type="MultiTensorLARS", lr=1.0)),
            paramwise_cfg=dict(custom_keys={}),
        )(nn.Linear(1, 1))
